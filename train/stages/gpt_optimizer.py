"""How the text-to-semantic decoder is optimised: ScaledAdam as published, or AdamW, and their learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class GptOptimConfig:
    """How the decoder is trained. Defaults are GPT-SoVITS's."""

    optimizer: Literal["scaled_adam", "adamw"] = "scaled_adam"
    schedule: Literal["published", "warmup_cosine"] = "published"
    """Learning rates of the updates: 0.01 once and 0.002 from then on, or what the fields below say."""
    first_rate: float = 1e-5
    peak_rate: float = 0.01
    last_rate: float = 1e-4
    warmup: int = 2000
    """Updates until the peak."""
    total: int = 40_000
    """Updates until the last rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    """Of AdamW."""
    accumulate: int = 4
    """Batches of one update."""
    max_norm: float = 0.0
    """Largest norm of the mean gradient of a code's loss; 0 does not clip."""
    preference: bool = False
    """Add the preference loss, for twice the time."""
    misaligned: bool = False
    """Mask and count as upstream's training code: see `Text2SemanticDecoder.forward`. Padding counts in the loss."""
    recompute: bool = False
    """Run each layer again in the backward pass instead of keeping what it made."""

    @classmethod
    def for_preset(cls, name: str) -> GptOptimConfig:
        """Return the policy for a model of `headrace.train.models.presets`."""
        if name == "tiny":
            return cls(schedule="warmup_cosine", warmup=100, total=2000, accumulate=1)
        return cls()

    def rate(self, update: int) -> float:
        """Learning rate of an update, counted from 0."""
        if self.schedule == "published":
            return published_rate(update)
        return warmup_cosine(
            update,
            first=self.first_rate,
            peak=self.peak_rate,
            last=self.last_rate,
            warmup=self.warmup,
            total=self.total,
        )


def published_rate(step: int) -> float:
    """Learning rate of an update, counted from 0, as published decoders were trained: 0.01 once, then 0.002."""
    return 0.01 if step == 0 else 0.002


def warmup_cosine(step: int, *, first: float, peak: float, last: float, warmup: int, total: int) -> float:
    """Learning rate of an update, counted from 0: from `first` straight up to `peak` in `warmup` updates, and down half
    a cosine to `last`, reached at `total` (Loshchilov and Hutter 2017, without restarts)."""
    if step < warmup:
        return first + (peak - first) * step / warmup
    done = min((step - warmup) / max(total - warmup, 1), 1.0)
    return last + (peak - last) * 0.5 * (1 + math.cos(math.pi * done))
