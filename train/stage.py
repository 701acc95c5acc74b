"""Training of SoVITS: one step of discriminator and generator.

Shapes: B batch, F spectrogram bins, N frames of a segment, S = N * hop samples, M mel bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featurize.dsp import Spectral
from store.errors import RecipeMismatch
from train import losses, sizes
from train.batch import Batch
from train.discriminator import MultiPeriodDiscriminator
from train.inputs import Draw, Inputs, draw, prepare
from train.layers import segments
from train.precision import Precision
from train.sizes import SovitsConfig
from train.sovits import Synthesis, SynthesizerTrn
from train.weights import load_exactly

SLOWED = ("enc_p.text_embedding.", "enc_p.encoder_text.", "enc_p.mrte.")
"""Parameters that train at a fraction of the learning rate: one optimiser group each, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """AdamW (Loshchilov and Hutter 2019) for both networks, and weights of losses. Defaults are GPT-SoVITS v2."""

    learning_rate: float = 1e-4
    text_rate_factor: float = 0.4
    """On the learning rate of everything that reads phones."""
    decay_per_epoch: float = 0.999875
    """On the learning rate, the first epoch included."""
    betas: tuple[float, float] = (0.8, 0.99)
    eps: float = 1e-9
    weight_decay: float = 0.01
    mel_weight: float = 45.0
    kl_weight: float = 1.0


PRESETS = {
    "tiny": (sizes.tiny(), OptimConfig(learning_rate=1e-3)),
    "v1": (sizes.v1(), OptimConfig()),
    "v2": (sizes.v2(), OptimConfig()),
    "v2Pro": (sizes.v2Pro(), OptimConfig()),
    "v2ProPlus": (sizes.v2ProPlus(), OptimConfig()),
}


class SovitsStage:
    """Generator, discriminator and their optimisers.

    Utterances shorter than a segment are kept: theirs starts at frame 0, and the losses see silence after their end.
    """

    features: tuple[str, ...] = ("wave", "mfcc", "phones")
    """What it reads from a store; `speaker` too where the model does."""

    def __init__(
        self,
        config: SovitsConfig,
        spectral: Spectral,
        *,
        precision: Precision,
        device: torch.device,
        optim: OptimConfig,
    ) -> None:
        """
        Raises:
            RecipeMismatch: the spectrogram is not the one that the model is built for.
        """
        _check_recipe(config, spectral)
        self.config = config
        if config.speaker_channels:
            self.features = (*self.features, "speaker")
        self.optim = optim
        self.precision = precision
        self.epoch = 1
        self.spectral = spectral.to(device)
        self.generator = SynthesizerTrn(config).to(device)
        self.discriminator = MultiPeriodDiscriminator(config.periods, config.discriminator_width).to(device)
        self.optim_g = self._adamw(_groups(self.generator))
        self.optim_d = self._adamw([{"params": list(self.discriminator.parameters())}])
        self._set_rates()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the discriminator, then one of the generator against the updated discriminator.

        Never waits for the device. If a gradient is not finite, the network that it belongs to stays as it was.

        Args:
            batch: on the stage's device, every utterance of at least `spectral.recipe.min_frames` frames.
        Returns:
            0-d tensors without gradient: loss_disc, loss_gen, loss_fm, loss_mel and loss_kl (weighted), loss_commit,
            loss_gen_all (the sum of the generator's), grad_norm_d, grad_norm_g, skipped (1 if a network was not
            updated).
        """
        inputs = prepare(batch, self.spectral, self.config)
        return self.update(inputs, draw(inputs, self.config))

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """loss_mel and loss_kl, weighted as in training, of the same noise and segments whenever a batch comes back.

        Uses no global random numbers, and leaves the networks in the mode in which it found them.
        """
        inputs = prepare(batch, self.spectral, self.config)
        same_each_time = torch.Generator(inputs.spec.device).manual_seed(0)
        training = self.generator.training
        self.generator.eval()
        out, mels = self._synthesise(inputs, draw(inputs, self.config, same_each_time))
        self.generator.train(training)
        return {"loss_mel": self._mel_loss(*mels), "loss_kl": self._kl_loss(out)}

    def end_epoch(self) -> None:
        """Lower the learning rates."""
        self.epoch += 1
        self._set_rates()

    @property
    def learning_rate(self) -> float:
        """Of all parameters but those of the text side."""
        return float(self.optim_g.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optim_g": self.optim_g.state_dict(),
            "optim_d": self.optim_d.state_dict(),
            "precision": self.precision.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Raises:
            RunError: the state is of a model of other sizes.
        """
        load_exactly(self.generator, state["generator"], "the checkpoint")
        load_exactly(self.discriminator, state["discriminator"], "the checkpoint")
        self.optim_g.load_state_dict(state["optim_g"])
        self.optim_d.load_state_dict(state["optim_d"])
        self.precision.load_state_dict(state["precision"])
        self.epoch = state["epoch"]
        self._set_rates()

    def update(self, inputs: Inputs, drawn: Draw) -> dict[str, Tensor]:
        """`step`, once inputs are prepared and randomness is drawn."""
        out, mels = self._synthesise(inputs, drawn)
        real_B1S = segments(inputs.wave, drawn.starts, self.config.segment_frames).mT.flatten(1)[:, None]
        fake_B1S = out.wave.float()
        metrics = self._update_discriminator(real_B1S, fake_B1S.detach())
        generator_metrics = self._update_generator(real_B1S, fake_B1S, out, mels)
        skipped = metrics.pop("skipped") | generator_metrics.pop("skipped")
        self.precision.scaler.update()
        return metrics | generator_metrics | {"skipped": skipped.float()}

    def _synthesise(self, inputs: Inputs, drawn: Draw) -> tuple[Synthesis, tuple[Tensor, Tensor]]:
        """The generator's forward pass, and the log-mel of the real and of the generated segments."""
        with self.precision.autocast():
            out: Synthesis = self.generator(
                inputs.content,
                inputs.spec,
                inputs.frames,
                inputs.phones,
                inputs.phones_n,
                noise_BCT=drawn.noise,
                starts_B=drawn.starts,
                speaker_BV=inputs.speaker,
            )
        real_BFN = segments(inputs.spec, drawn.starts, self.config.segment_frames)
        fake_BNF = self.spectral.magnitude(out.wave.float()[:, 0])
        return out, (self.spectral.log_mel(real_BFN.mT), self.spectral.log_mel(fake_BNF))

    def _update_discriminator(self, real_B1S: Tensor, fake_B1S: Tensor) -> dict[str, Tensor]:
        with self.precision.autocast():
            judgements = self.discriminator(torch.cat((real_B1S, fake_B1S)))
        scores = [score.chunk(2) for score, _ in judgements]
        loss = losses.discriminator_loss([real for real, _ in scores], [fake for _, fake in scores])
        norm = self._descend(self.optim_d, loss)
        return {"loss_disc": loss.detach(), "grad_norm_d": norm, "skipped": ~norm.isfinite()}

    def _update_generator(
        self, real_B1S: Tensor, fake_B1S: Tensor, out: Synthesis, mels: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        # Gradients of the discriminator's weights would be thrown away, and cost 10 % of this update at v2's sizes.
        with _frozen(self.discriminator), self.precision.autocast():
            with torch.no_grad():
                real = self.discriminator(real_B1S)
            fake = self.discriminator(fake_B1S)
        terms = {
            "loss_gen": losses.generator_loss([score for score, _ in fake]),
            "loss_fm": losses.feature_matching_loss([maps for _, maps in real], [maps for _, maps in fake]),
            "loss_mel": self._mel_loss(*mels),
            "loss_kl": self._kl_loss(out),
            "loss_commit": out.commitment,
        }
        loss = torch.stack(list(terms.values())).sum()
        norm = self._descend(self.optim_g, loss)
        terms["loss_gen_all"] = loss
        metrics = {name: term.detach() for name, term in terms.items()}
        return metrics | {"grad_norm_g": norm, "skipped": ~norm.isfinite()}

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
        """One step down the gradient. Returns the gradient's norm."""
        optimizer.zero_grad()
        self.precision.scaler.scale(loss).backward()
        self.precision.scaler.unscale_(optimizer)
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.precision.step(optimizer, norm)
        return norm

    def _mel_loss(self, real_BNM: Tensor, fake_BNM: Tensor) -> Tensor:
        return self.optim.mel_weight * losses.mel_loss(real_BNM, fake_BNM)

    def _kl_loss(self, out: Synthesis) -> Tensor:
        return self.optim.kl_weight * losses.kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.mask)

    def _adamw(self, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
        config = self.optim
        return torch.optim.AdamW(
            groups, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
        )

    def _set_rates(self) -> None:
        rate = self.optim.learning_rate * self.optim.decay_per_epoch**self.epoch
        fast, *slowed = self.optim_g.param_groups
        for group in (fast, *self.optim_d.param_groups):
            group["lr"] = rate
        for group in slowed:
            group["lr"] = rate * self.optim.text_rate_factor


def _groups(generator: nn.Module) -> list[dict[str, Any]]:
    """Optimiser groups of the generator: the rest, then SLOWED."""
    named = list(generator.named_parameters())
    rest = [parameter for name, parameter in named if not name.startswith(SLOWED)]
    slowed = [[parameter for name, parameter in named if name.startswith(prefix)] for prefix in SLOWED]
    return [{"params": parameters} for parameters in (rest, *slowed)]


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Parameters take part in the computation but get no gradient."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def _check_recipe(config: SovitsConfig, spectral: Spectral) -> None:
    recipe = spectral.recipe
    given, expected = (recipe.hop, recipe.n_fft // 2 + 1), (config.hop, config.spec_bins)
    if given != expected:
        raise RecipeMismatch(
            f"The store's spectra have hop {given[0]} and {given[1]} bins, the model expects hop {expected[0]} and "
            f"{expected[1]} bins: build the store with the preset of the model."
        )
