"""Optimisation of the text-to-semantic decoder: ScaledAdam, as published, or AdamW, and their learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from headrace.train.config import RunConfig
from headrace.train.stages.scaled_adam import ScaledAdam
from headrace.train.stages.stage import INT8_RATE, given_update_options

PUBLISHED_RATE = 0.002
"""Learning rate of published decoders, from the second update on."""
ADAMW: dict[str, Any] = {"optimizer": "adamw", "first_rate": 1e-6, "peak_rate": 3e-4, "last_rate": 1e-5}
"""Learning rates of AdamW. Those of ScaledAdam are relative to the size of each tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GptOptimConfig:
    """Optimiser, learning rates and updates of the decoder. Defaults are those of GPT-SoVITS."""

    optimizer: Literal["scaled_adam", "adamw"] = "scaled_adam"
    schedule: Literal["published", "warmup_cosine"] = "published"
    """`published`: 0.01 for the first update and 0.002 from then on. `warmup_cosine`: as the next fields say."""
    learning_rate: float = 0.0
    """The highest rate, or the constant one of the published schedule; others keep their proportion to it. 0 leaves all
    as they are."""
    first_rate: float = 1e-5
    peak_rate: float = 0.01
    last_rate: float = 1e-4
    warmup_steps: int = 2000
    """Updates until the peak rate."""
    total_steps: int = 40_000
    """Updates until the last rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    grad_accum: int = 4
    """Batches of one update."""
    teacher_weight: float = 0.5
    """Share of the teacher in the loss, where there is one."""
    max_grad_norm: float = 0.0
    """The mean gradient of a code's loss is clipped to this norm; 0 does not clip."""
    dpo: bool = False
    """Add the preference loss. Updates take twice the time."""
    upstream_mask: bool = False
    """Mask as upstream's training code does, see `Text2SemanticDecoder.forward`. Padding counts in the loss."""
    activation_checkpointing: bool = False
    """Recompute the activations of each layer in the backward pass instead of storing them."""

    @classmethod
    def for_preset(cls, name: str) -> GptOptimConfig:
        """Return the config for a model of `headrace.train.models.presets`."""
        if name == "tiny":
            return cls(schedule="warmup_cosine", warmup_steps=100, total_steps=2000, grad_accum=1)
        return cls()

    @classmethod
    def from_config(cls, config: RunConfig) -> GptOptimConfig:
        """Return the preset's config, changed by the options of a run.

        A warm-up and AdamW, whose published learning rates do not suit it, take the cosine schedule. It falls until
        `max_steps`, or else over `max_epochs`. A model that is trained for INT8 learns only from its teacher, if no
        other weight is given.
        """
        preset, optim, schedule = cls.for_preset(config.model.preset), config.optim, config.schedule
        changes = given_update_options(optim) | {"dpo": optim.dpo, "upstream_mask": optim.upstream_mask}
        if optim.optimizer == "adamw":
            changes |= ADAMW
        if falls_to_its_end(config):
            end = schedule.max_steps or schedule.max_epochs * schedule.epoch_steps
            changes |= {"schedule": "warmup_cosine", "total_steps": end or preset.total_steps}
        if config.model.quantize:
            rates = {"published": PUBLISHED_RATE, "warmup_cosine": changes.get("peak_rate", preset.peak_rate)}
            rate = rates[changes.get("schedule", preset.schedule)]
            changes = {"learning_rate": INT8_RATE * rate, "teacher_weight": 1.0} | changes
        return replace(preset, **changes, activation_checkpointing=config.compute.activation_checkpointing)

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """Construct the optimiser of a model's parameters."""
        if self.optimizer == "scaled_adam":
            return ScaledAdam(model.parameters(), lr=self.rate(0), betas=self.betas)
        return torch.optim.AdamW(
            model.parameters(), lr=self.rate(0), betas=self.betas, weight_decay=self.weight_decay, fused=True
        )

    def rate(self, update: int) -> float:
        """Return the learning rate of an update, counted from 0."""
        if self.schedule == "published":
            return published_rate(update) * (self.learning_rate / PUBLISHED_RATE if self.learning_rate else 1)
        return (self.learning_rate / self.peak_rate if self.learning_rate else 1) * warmup_cosine(
            update,
            first=self.first_rate,
            peak=self.peak_rate,
            last=self.last_rate,
            warmup_steps=self.warmup_steps,
            total_steps=self.total_steps,
        )


def falls_to_its_end(config: RunConfig) -> bool:
    """Return whether the learning rate of a run falls until it ends."""
    optim = config.optim
    return config.model.stage == "gpt" and bool(optim.warmup_steps or optim.optimizer == "adamw")


def describe_new_end(saved: RunConfig, now: RunConfig, update: int) -> str:
    """Return what another end does to the learning rate of a run that is resumed before this update; empty for nothing.

    Only the cosine of gpt depends on the end of a run.
    """
    if now.model.stage != "gpt":
        return ""
    before, after = GptOptimConfig.from_config(saved), GptOptimConfig.from_config(now)
    if after.schedule == "published" or before.total_steps == after.total_steps:
        return ""
    return (
        f"the learning rate falls until step {after.total_steps:,}, and no longer until {before.total_steps:,}: it is "
        f"{after.rate(update):.3g} now, and would have been {before.rate(update):.3g}"
    )


def published_rate(step: int) -> float:
    """Return the learning rate with which published decoders were trained: 0.01 for update 0, then 0.002."""
    return 0.01 if step == 0 else PUBLISHED_RATE


def warmup_cosine(step: int, *, first: float, peak: float, last: float, warmup_steps: int, total_steps: int) -> float:
    """Return the learning rate of an update, counted from 0.

    It rises linearly from `first` to `peak` in `warmup_steps` updates, and then falls along half a cosine to `last`,
    reached at `total_steps` (Loshchilov and Hutter 2017, without restarts).
    """
    if step < warmup_steps:
        return first + (peak - first) * step / warmup_steps
    done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return last + (peak - last) * 0.5 * (1 + math.cos(math.pi * done))
