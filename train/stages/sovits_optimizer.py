"""How SoVITS is optimised: AdamW for both networks, the text side slower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SLOW_TEXT_PARTS = ("enc_p.text_embedding.", "enc_p.encoder_text.", "enc_p.mrte.")
"""Parameters that train at a fraction of the learning rate: one optimiser group each, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SovitsOptimConfig:
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
    accumulate: int = 1
    """Batches of one update."""
    warmup: int = 0
    """Updates over which learning rates rise from 0 to what they should be."""
    max_norm: float = 0.0
    """Largest norm of the gradient of each network; 0 does not clip."""

    @classmethod
    def for_preset(cls, name: str) -> SovitsOptimConfig:
        """Return the policy for a model of `headrace.train.models.presets`."""
        return cls(learning_rate=1e-3) if name == "tiny" else cls()

    def rate(self, epoch: int, update: int) -> float:
        """Learning rate of an update; epochs are counted from 1, updates from 0."""
        warm = min(1.0, (update + 1) / self.warmup) if self.warmup else 1.0
        return self.learning_rate * self.decay_per_epoch**epoch * warm

    def adamw(self, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
        return torch.optim.AdamW(groups, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True)


def parameter_groups(generator: nn.Module) -> list[dict[str, Any]]:
    """Optimiser groups of the generator: the rest, then SLOWED."""
    named = list(generator.named_parameters())
    rest = [parameter for name, parameter in named if not name.startswith(SLOW_TEXT_PARTS)]
    slowed = [[parameter for name, parameter in named if name.startswith(prefix)] for prefix in SLOW_TEXT_PARTS]
    return [{"params": parameters} for parameters in (rest, *slowed)]
