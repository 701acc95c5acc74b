"""Optimisation of SoVITS: AdamW for both networks, with a lower learning rate for the text encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from headrace.train.config import RunConfig
from headrace.train.stages.stage import INT8_RATE, given_update_options

SLOW_TEXT_PARTS = ("enc_p.text_embedding.", "enc_p.encoder_text.", "enc_p.mrte.")
"""Name prefixes of parameters with a lower learning rate: one optimiser group each, in this order."""
MEL_WEIGHT, KL_WEIGHT = 45.0, 1.0
"""Weights of losses as published. Validation losses always have these, so that those of runs can be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SovitsOptimConfig:
    """AdamW (Loshchilov and Hutter 2019) for both networks, and weights of losses. Defaults are GPT-SoVITS v2."""

    learning_rate: float = 1e-4
    text_rate_factor: float = 0.4
    """Factor on the learning rate of the parts that read phones."""
    decay_per_epoch: float = 0.999875
    """Factor on the learning rate for each epoch, the first one included."""
    betas: tuple[float, float] = (0.8, 0.99)
    eps: float = 1e-9
    weight_decay: float = 0.01
    mel_weight: float = MEL_WEIGHT
    kl_weight: float = KL_WEIGHT
    grad_accum: int = 1
    """Batches of one update."""
    warmup_steps: int = 0
    """Updates over which learning rates rise from 0."""
    teacher_weight: float = 0.5
    """Factor on the losses against the teacher's speech, where there is one."""
    max_grad_norm: float = 0.0
    """The gradient of each network is clipped to this norm; 0 does not clip."""

    @classmethod
    def for_preset(cls, name: str) -> SovitsOptimConfig:
        """Return the config for a model of `headrace.train.models.presets`."""
        return cls(learning_rate=1e-3) if name == "tiny" else cls()

    @classmethod
    def from_config(cls, config: RunConfig) -> SovitsOptimConfig:
        """Return the preset's config, changed by the options of a run."""
        optim = config.optim
        given = {"text_rate_factor": optim.text_rate_factor, "decay_per_epoch": optim.lr_decay}
        given |= {"mel_weight": optim.mel_weight, "kl_weight": optim.kl_weight}
        changes = given_update_options(optim) | {name: value for name, value in given.items() if value}
        preset = cls.for_preset(config.model.preset)
        if config.model.quantize:
            changes = {"learning_rate": INT8_RATE * preset.learning_rate} | changes
        return replace(preset, **changes)

    def rate(self, epoch: int, update: int) -> float:
        """Return the learning rate of an update. Epochs are counted from 1, updates from 0."""
        warm = min(1.0, (update + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.learning_rate * self.decay_per_epoch**epoch * warm

    def set_rates(
        self, optim_g: torch.optim.Optimizer, optim_d: torch.optim.Optimizer, epoch: int, update: int
    ) -> None:
        """Set the learning rates of an update.

        Args:
            optim_g: of the generator, with the groups of `parameter_groups`.
            optim_d: of the discriminator.
        """
        rate = self.rate(epoch, update)
        fast, *slow = optim_g.param_groups
        for group in (fast, *optim_d.param_groups):
            group["lr"] = rate
        for group in slow:
            group["lr"] = rate * self.text_rate_factor

    def adamw(self, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
        """Construct the optimiser of these parameter groups."""
        return torch.optim.AdamW(groups, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True)


ORDER_OF_USE = (
    "ref_enc", "sv_emb", "prelu", "ge_to512", "ssl_proj", "quantizer", "enc_p", "enc_q", "flow", "dec"
)  # fmt: skip
"""Parts of the generator in the order in which a forward pass uses them."""


def in_order_of_use(generator: nn.Module) -> list[nn.Parameter]:
    """Return the generator's parameters in the order in which a forward pass uses them."""
    named = sorted(generator.named_parameters(), key=lambda item: ORDER_OF_USE.index(item[0].partition(".")[0]))
    return [parameter for _, parameter in named]


def parameter_groups(generator: nn.Module) -> list[dict[str, Any]]:
    """Return the optimiser's parameter groups of the generator: all others, then those of `SLOW_TEXT_PARTS`."""
    named = list(generator.named_parameters())
    rest = [parameter for name, parameter in named if not name.startswith(SLOW_TEXT_PARTS)]
    slow = [[parameter for name, parameter in named if name.startswith(prefix)] for prefix in SLOW_TEXT_PARTS]
    return [{"params": parameters} for parameters in (rest, *slow)]
