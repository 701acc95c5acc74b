"""Training of SoVITS: one step of discriminator and generator.

Shapes: B batch, F spectrogram bins, N frames of a segment, S = N * hop samples, M mel bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headrace.featurize.spectral.dsp import Spectral
from headrace.store.errors import RecipeMismatch
from headrace.train import distributed
from headrace.train.checkpoints.load_weights import load_exactly
from headrace.train.data.batch import Batch
from headrace.train.models import losses
from headrace.train.models.discriminator import MultiPeriodDiscriminator
from headrace.train.models.layers import slice_segments
from headrace.train.models.sovits import Synthesis, SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.precision import Precision
from headrace.train.stages.microbatch import Pieces
from headrace.train.stages.sovits_inputs import Draw, Inputs, draw, prepare
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig, parameter_groups

Made = tuple[Synthesis, tuple[Tensor, Tensor]]
"""A forward pass, and the log-mel of the real and of the generated segments, (B, N, M) each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Utterances that are computed together, and how much they count in an update: their losses are means."""

    inputs: Inputs
    drawn: Draw
    of_utterances: Tensor | float = 1.0
    of_frames: Tensor | float = 1.0
    """Share of the update's utterances and frames, over all pieces and ranks: () float32."""


class SovitsStage:
    """Generator, discriminator and their optimisers.

    Utterances shorter than a segment are kept: theirs starts at frame 0, and the losses see silence after their end.
    """

    shown = ("loss_mel",)

    def __init__(
        self,
        config: SovitsConfig,
        spectral: Spectral,
        *,
        precision: Precision,
        device: torch.device,
        optim: SovitsOptimConfig,
        content: Literal["mfcc", "content", "semantic"] = "mfcc",
    ) -> None:
        """
        Args:
            content: the feature that says what is spoken. `semantic` are codes of the quantiser that the model begins
                with, and takes one that is frozen.
        Raises:
            RecipeMismatch: the spectrogram is not the one that the model is built for.
        """
        _check_recipe(config, spectral)
        self.config = config
        self.features: tuple[str, ...] = ("wave", content, "phones")
        if config.speaker_channels:
            self.features = (*self.features, "speaker_vector")
        self.limits = {"phones": config.symbols, "semantic": config.codebook_size}
        self.optim = optim
        self.precision = precision
        self.pieces = Pieces()
        self.epoch = 1
        self.updates = 0
        self.spectral = spectral.to(device)
        self.generator = SynthesizerTrn(config).to(device)
        self.discriminator = MultiPeriodDiscriminator(config.periods, config.discriminator_width).to(device)
        self.optim_g = optim.adamw(parameter_groups(self.generator))
        self.optim_d = optim.adamw([{"params": list(self.discriminator.parameters())}])
        self._device = device
        self._judged: dict[str, Tensor] | None = None  # of a step whose generator ran out of memory
        self._set_rates()

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """One update of the discriminator, then one of the generator against the updated discriminator, from all of
        these batches together, on all ranks.

        Never waits for the device. If a gradient is not finite, the network that it belongs to stays as it was.

        Args:
            batches: one at least, every utterance of at least `spectral.recipe.min_frames` frames.
        Returns:
            0-d tensors without gradient, over all batches and ranks: loss_disc, loss_gen, loss_fm, loss_mel and loss_kl
            (weighted), loss_commit, loss_gen_all (the sum of the generator's), grad_norm_d, grad_norm_g, skipped (1 if
            a network was not updated), exploded (1 if a gradient was far larger than usual, and scaled down).
        """
        frames = torch.stack([batch.frames.sum() for batch in batches]).sum()
        counts = torch.stack((torch.tensor(sum(map(len, batches))), frames)).float()
        totals = distributed.total(counts.to(self._device, non_blocking=True))
        return self.pieces.fit(batches, lambda cut: self.update([self._prepared(piece, totals) for piece in cut]))

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """loss_mel and loss_kl, weighted as in training, of the same noise and segments whenever a batch comes back.

        Uses no global random numbers, and leaves the networks in the mode in which it found them.

        Args:
            batch: on the stage's device.
        """
        inputs = prepare(batch, self.spectral, self.config)
        same_each_time = torch.Generator(inputs.spec.device).manual_seed(0)
        training = self.generator.training
        self.generator.eval()
        out, mels = self._synthesise(Piece(inputs=inputs, drawn=draw(inputs, self.config, same_each_time)))
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
            "updates": self.updates,
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
        self.epoch, self.updates = state["epoch"], state["updates"]
        self._set_rates()

    def update(self, pieces: Sequence[Piece]) -> dict[str, Tensor]:
        """`step`, once inputs are prepared and randomness is drawn."""
        # Several pieces are synthesised once for each network: all of them at once would not fit into memory.
        made = self._synthesise(pieces[0]) if len(pieces) == 1 else None
        if self._judged is None:
            self._judged = self._update_discriminator(pieces, made)
        metrics = self._update_generator(pieces, made)
        judged, self._judged = self._judged, None
        self.precision.scaler.update()
        self.updates += 1
        self._set_rates()
        either = {name: (judged[name] | metrics[name]).float() for name in ("skipped", "exploded")}
        return judged | metrics | either

    def _prepared(self, batch: Batch, totals: Tensor) -> Piece:
        there = batch.to(self._device)
        inputs = prepare(there, self.spectral, self.config)
        shares = len(batch) / totals[0], there.frames.sum() / totals[1]
        return Piece(inputs=inputs, drawn=draw(inputs, self.config), of_utterances=shares[0], of_frames=shares[1])

    def _synthesise(self, piece: Piece) -> Made:
        """The generator's forward pass, and the log-mel of the real and of the generated segments."""
        inputs, drawn = piece.inputs, piece.drawn
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
                codes_BQ=inputs.codes,
            )
        real_BFN = slice_segments(inputs.spec, drawn.starts, self.config.segment_frames)
        fake_BNF = self.spectral.magnitude(out.wave.float()[:, 0])
        return out, (self.spectral.log_mel(real_BFN.mT), self.spectral.log_mel(fake_BNF))

    @torch.no_grad()
    def _reconstructed(self, piece: Piece) -> Tensor:
        """(B, 1, S), the generated segments and no more."""
        inputs, drawn = piece.inputs, piece.drawn
        with self.precision.autocast():
            return self.generator.reconstruct(
                inputs.spec,
                inputs.frames,
                noise_BCT=drawn.noise,
                starts_B=drawn.starts,
                speaker_BV=inputs.speaker,
            )

    def _real(self, piece: Piece) -> Tensor:
        """(B, 1, S), the recorded segments."""
        return slice_segments(piece.inputs.wave, piece.drawn.starts, self.config.segment_frames).mT.flatten(1)[:, None]

    def _update_discriminator(self, pieces: Sequence[Piece], made: Made | None) -> dict[str, Tensor]:
        self.optim_d.zero_grad()
        terms = []
        for piece in pieces:
            fake_B1S = made[0].wave.detach() if made else self._reconstructed(piece)
            with self.precision.autocast():
                judgements = self.discriminator(torch.cat((self._real(piece), fake_B1S.float())))
            scores = [score.chunk(2) for score, _ in judgements]
            loss = losses.discriminator_loss([real for real, _ in scores], [fake for _, fake in scores])
            terms.append(self._backward({"loss_disc": loss * piece.of_utterances}))
        norm, skipped, exploded = self.precision.descend(self.optim_d, self.optim.max_norm)
        return _summed(terms) | {"grad_norm_d": norm, "skipped": skipped, "exploded": exploded}

    def _update_generator(self, pieces: Sequence[Piece], made: Made | None) -> dict[str, Tensor]:
        self.optim_g.zero_grad()
        terms = []
        for piece in pieces:
            out, mels = made or self._synthesise(piece)
            terms.append(self._backward(self._losses(piece, out, mels)))
        norm, skipped, exploded = self.precision.descend(self.optim_g, self.optim.max_norm)
        distributed.share_buffers(self.generator)
        metrics = _summed(terms)
        metrics["loss_gen_all"] = torch.stack(list(metrics.values())).sum()
        return metrics | {"grad_norm_g": norm, "skipped": skipped, "exploded": exploded}

    def _losses(self, piece: Piece, out: Synthesis, mels: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """What the generator minimises, each as far as this piece counts."""
        # Gradients of the discriminator's weights would be thrown away, and cost 10 % of this update at v2's sizes.
        with _frozen(self.discriminator), self.precision.autocast():
            with torch.no_grad():
                real = self.discriminator(self._real(piece))
            fake = self.discriminator(out.wave.float())
        return {
            "loss_gen": losses.generator_loss([score for score, _ in fake]) * piece.of_utterances,
            "loss_fm": losses.feature_matching_loss([maps for _, maps in real], [maps for _, maps in fake])
            * piece.of_utterances,
            "loss_mel": self._mel_loss(*mels) * piece.of_utterances,
            "loss_kl": self._kl_loss(out) * piece.of_frames,
            "loss_commit": out.commitment * piece.of_frames,
        }

    def _backward(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the gradient of the sum. Returns the terms without theirs."""
        self.precision.scaler.scale(torch.stack(list(terms.values())).sum()).backward()
        return {name: term.detach() for name, term in terms.items()}

    def _set_rates(self) -> None:
        rate = self.optim.rate(self.epoch, self.updates)
        fast, *slowed = self.optim_g.param_groups
        for group in (fast, *self.optim_d.param_groups):
            group["lr"] = rate
        for group in slowed:
            group["lr"] = rate * self.optim.text_rate_factor

    def _mel_loss(self, real_BNM: Tensor, fake_BNM: Tensor) -> Tensor:
        return self.optim.mel_weight * losses.mel_loss(real_BNM, fake_BNM)

    def _kl_loss(self, out: Synthesis) -> Tensor:
        return self.optim.kl_weight * losses.kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.mask)


def _summed(terms: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Each term, over all pieces and ranks."""
    names = terms[0].keys()
    totals = distributed.total(torch.stack([torch.stack([term[name] for name in names]) for term in terms]).sum(0))
    return dict(zip(names, totals.unbind(), strict=True))


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
