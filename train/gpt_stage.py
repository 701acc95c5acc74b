"""Training of the text-to-semantic decoder: next code, and preference for right codes over spoilt ones if asked.

Shapes: B batch, X phones of the longest, Y codes of the longest, E channels of BERT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from store.errors import UsageError
from train import gpt, semantic
from train.batch import Batch
from train.gpt import GptConfig, Text2SemanticDecoder
from train.optim import ScaledAdam, published_rate, warmup_cosine
from train.precision import Precision
from train.semantic import Spoiling
from train.weights import load_exactly


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
    """Batches whose gradients are summed for one update. What is left at the end of an epoch makes one too."""
    max_norm: float = 0.0
    """Largest norm of the mean gradient of a code's loss; 0 does not clip."""
    preference: bool = False
    """Add the preference loss, for twice the time."""
    misaligned: bool = False
    """Mask and count as upstream's training code: see `Text2SemanticDecoder.forward`. Padding counts in the loss."""
    recompute: bool = False
    """Run each layer again in the backward pass instead of keeping what it made."""

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


GPT_PRESETS = {
    "tiny": (gpt.tiny(), GptOptimConfig(schedule="warmup_cosine", warmup=100, total=2000, accumulate=1)),
    "v1": (gpt.v1(), GptOptimConfig()),
    "v2": (gpt.v2(), GptOptimConfig()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GptInputs:
    phones: Tensor
    """(B, X) int64."""
    phones_n: Tensor
    """(B,) int64."""
    codes: Tensor
    """(B, Y) int64."""
    codes_n: Tensor
    """(B,) int64."""
    bert: Tensor | None = None
    """(B, X, E) float32, zero past each utterance's end and for languages that have none."""


class GptStage:
    """Decoder and optimiser. Gradients of several batches make one update."""

    def __init__(
        self,
        config: GptConfig,
        *,
        precision: Precision,
        device: torch.device,
        optim: GptOptimConfig,
        bert: bool = False,
    ) -> None:
        """
        Args:
            bert: whether the store has BERT features of phones.
        """
        self.config = config
        self.optim = optim
        self.precision = precision
        self.features: tuple[str, ...] = ("phones", "semantic", "bert") if bert else ("phones", "semantic")
        """What it reads from a store."""
        self.epoch = 1
        self.updates = 0
        self.model = Text2SemanticDecoder(config).to(device)
        self.optimizer = self._optimizer()
        self._batches = 0  # since the last update
        self._codes = torch.zeros((), device=device)  # predictions that their losses are sums over

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from one batch; every `accumulate`-th also updates the weights.

        Waits for the device once an update, to leave one out whose gradients are not finite.

        Args:
            batch: on the stage's device, with phones, semantic, and bert if the stage reads it.
        Returns:
            0-d tensors without gradient: loss (mean over predictions), loss_dpo if asked for, accuracy (share of codes
            among the three likeliest), grad_norm (of the mean gradient of a prediction; not a number between two
            updates), skipped (1 if an update was left out).
        """
        inputs = prepare(batch)
        spoiling = Spoiling.draw(inputs.codes_n, inputs.codes.shape[1]) if self.optim.preference else None
        metrics = self.learn(inputs, spoiling)
        if self._batches == self.optim.accumulate:
            return metrics | self.update()
        zero = metrics["loss"].new_zeros(())
        return metrics | {"grad_norm": zero + math.nan, "skipped": zero}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """loss and accuracy. Leaves weights, random numbers and the model's mode as they are."""
        training = self.model.training
        self.model.eval()
        *_, metrics = self._likelihood(prepare(batch))
        self.model.train(training)
        return metrics

    def end_epoch(self) -> None:
        """Update from the batches that are left."""
        if self._batches:
            self.update()
        self.epoch += 1

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        return self.optim.rate(self.updates)

    def learn(self, inputs: GptInputs, spoiling: Spoiling | None = None) -> dict[str, Tensor]:
        """Add the gradient of a batch: of the sum over its predictions, so that batches weigh by what they hold."""
        chosen_B, count, metrics = self._likelihood(inputs)
        loss = -chosen_B.sum()
        if spoiling is not None:
            codes, codes_n = spoiling.apply(inputs.codes, inputs.codes_n)
            rejected_B, *_ = self._likelihood(replace(inputs, codes=codes, codes_n=codes_n))
            preference = semantic.preference_loss(chosen_B, rejected_B)
            loss = loss + preference
            metrics["loss_dpo"] = preference.detach()
        self.precision.scaler.scale(loss).backward()
        self._batches, self._codes = self._batches + 1, self._codes + count
        return metrics

    def update(self) -> dict[str, Tensor]:
        """One step down the gradient gathered since the last. grad_norm and skipped of `step`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.precision.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.optim.max_norm:
            limit = self.optim.max_norm * self._codes
            nn.utils.clip_grads_with_norm_(self.model.parameters(), 1.0, norm / limit)
        self.precision.step(self.optimizer, norm)
        self.precision.scaler.update()
        self.optimizer.zero_grad()
        metrics = {"grad_norm": norm / self._codes, "skipped": (~norm.isfinite()).float()}
        self.updates, self._batches, self._codes = self.updates + 1, 0, torch.zeros_like(self._codes)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "updates": self.updates,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state_dict(),
            "batches": self._batches,
            "codes": self._codes,
            "gradients": {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Raises:
            RunError: the state is of a model of other sizes.
        """
        load_exactly(self.model, state["model"], "the checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        for name, parameter in self.model.named_parameters():
            gradient = state["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        self.epoch, self.updates, self._batches = state["epoch"], state["updates"], state["batches"]
        self._codes = state["codes"].to(self._codes.device)

    def _likelihood(self, inputs: GptInputs) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Log likelihood of each sequence (B,), the predictions that it is a sum over (), and loss and accuracy."""
        with self.precision.autocast():
            logits = self.model(
                inputs.phones,
                inputs.phones_n,
                inputs.codes,
                inputs.codes_n,
                inputs.bert,
                misaligned=self.optim.misaligned,
                recompute=self.optim.recompute,
            )
        targets, counted = semantic.targets(inputs.codes, inputs.codes_n, self.config.end)
        if self.optim.misaligned:
            counted = torch.ones_like(counted)
        likelihood_B, count = semantic.log_likelihood(logits, targets, counted), counted.sum()
        accuracy = semantic.accuracy(logits, targets, self.config.end)
        return likelihood_B, count, {"loss": -likelihood_B.detach().sum() / count, "accuracy": accuracy}

    def _optimizer(self) -> torch.optim.Optimizer:
        config, parameters = self.optim, self.model.parameters()
        if config.optimizer == "scaled_adam":
            return ScaledAdam(parameters, lr=config.rate(0), betas=config.betas)
        return torch.optim.AdamW(
            parameters, lr=config.rate(0), betas=config.betas, weight_decay=config.weight_decay, fused=True
        )


def prepare(batch: Batch) -> GptInputs:
    """What the decoder reads of a batch.

    Args:
        batch: with phones and semantic, and bert or not.
    """
    if batch.tokens_n is None:
        raise UsageError("The batch was read without the token axis: read semantic with it.")
    return GptInputs(
        phones=batch["phones"].long(),
        phones_n=batch.phones_n,
        codes=batch["semantic"].long(),
        codes_n=batch.tokens_n,
        bert=batch["bert"].float() if "bert" in batch.tensors else None,
    )
