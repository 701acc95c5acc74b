"""Training of the text-to-semantic decoder: next code, and preference for right codes over spoilt ones if asked.

Shapes: B batch, X phones of the longest, Y codes of the longest, E channels of BERT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from headrace.store.errors import UsageError
from headrace.train import distributed
from headrace.train.checkpoints.load_weights import load_exactly
from headrace.train.data.batch import Batch
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.precision import Precision
from headrace.train.stages import gpt_losses
from headrace.train.stages.gpt_losses import Spoiling
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.stages.microbatch import Pieces
from headrace.train.stages.scaled_adam import ScaledAdam


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

    shown = ("loss", "accuracy")

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
        self.limits = {"phones": config.symbols, "semantic": config.codes}
        self.pieces = Pieces()
        self.epoch = 1
        self.updates = 0
        self.model = Text2SemanticDecoder(config).to(device)
        self.model.bert_proj.weight.requires_grad_(bert)
        self.optimizer = self._optimizer()
        self._device = device

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """One update from all of these batches together, on all ranks.

        ScaledAdam waits for the device once, to leave out an update whose gradients are not finite; AdamW never does.

        Args:
            batches: one at least, with phones, semantic, and bert if the stage reads it.
        Returns:
            0-d tensors without gradient, over all batches and ranks: loss (mean over predictions), loss_dpo if asked
            for, accuracy (share of codes among the three likeliest), grad_norm (of the mean gradient of a prediction),
            skipped (1 if the update was left out), exploded (1 if it was far larger than usual, and scaled down).
        """
        return self.pieces.fit(batches, lambda cut: self.update([prepare(piece.to(self._device)) for piece in cut]))

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """loss and accuracy. Leaves weights, random numbers and the model's mode as they are.

        Args:
            batch: on the stage's device.
        """
        training = self.model.training
        self.model.eval()
        _, sums = self._likelihood(prepare(batch))
        self.model.train(training)
        return _means(sums)

    def end_epoch(self) -> None:
        self.epoch += 1

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        return self.optim.rate(self.updates)

    def update(self, pieces: Sequence[GptInputs]) -> dict[str, Tensor]:
        """`step`, once inputs are prepared."""
        self.optimizer.zero_grad()
        learnt = [self.learn(inputs, self._spoiling(inputs)) for inputs in pieces]
        sums = {name: distributed.total(torch.stack([sums[name] for sums in learnt]).sum()) for name in learnt[0]}
        return _means(sums) | self.descend(sums["predictions"])

    def learn(self, inputs: GptInputs, spoiling: Spoiling | None = None) -> dict[str, Tensor]:
        """Add the gradient of the sum over a batch's predictions, so that batches weigh by what they hold.

        Returns:
            0-d sums: loss, predictions, right, codes, and loss_dpo and sequences where they are spoilt.
        """
        chosen_B, sums = self._likelihood(inputs)
        loss = -chosen_B.sum()
        if spoiling is not None:
            codes, codes_n = spoiling.apply(inputs.codes, inputs.codes_n)
            rejected_B, _ = self._likelihood(replace(inputs, codes=codes, codes_n=codes_n))
            preference = gpt_losses.preference_loss(chosen_B, rejected_B)
            loss = loss + preference
            sums["loss_dpo"] = preference.detach() * len(chosen_B)
            sums["sequences"] = preference.new_full((), len(chosen_B))
        self.precision.scaler.scale(loss).backward()
        return sums

    def descend(self, predictions: Tensor) -> dict[str, Tensor]:
        """One step down the gradient that was added up over so many predictions. The last three terms of `step`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        limit = self.optim.max_norm and self.optim.max_norm * predictions
        norm, skipped, exploded = self.precision.descend(self.optimizer, limit)
        self.precision.scaler.update()
        self.updates += 1
        return {"grad_norm": norm / predictions, "skipped": skipped.float(), "exploded": exploded.float()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "updates": self.updates,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Raises:
            RunError: the state is of a model of other sizes.
        """
        load_exactly(self.model, state["model"], "the checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        self.epoch, self.updates = state["epoch"], state["updates"]

    def _spoiling(self, inputs: GptInputs) -> Spoiling | None:
        return Spoiling.draw(inputs.codes_n, inputs.codes.shape[1]) if self.optim.preference else None

    def _likelihood(self, inputs: GptInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Log likelihood of each sequence (B,), and the first four of the sums of `learn`."""
        with self.precision.autocast():
            logits = self.model(
                inputs.phones,
                inputs.phones_n,
                inputs.codes,
                inputs.codes_n,
                inputs.bert,
                upstream_mask=self.optim.misaligned,
                activation_checkpointing=self.optim.recompute,
            )
        targets, counted = gpt_losses.targets(inputs.codes, inputs.codes_n, self.config.end)
        if self.optim.misaligned:
            counted = torch.ones_like(counted)
        likelihood_B = gpt_losses.log_likelihood(logits, targets, counted)
        right, codes = gpt_losses.hits(logits, targets, self.config.end)
        sums = {"loss": -likelihood_B.detach().sum(), "predictions": counted.sum(), "right": right, "codes": codes}
        return likelihood_B, {name: value.float() for name, value in sums.items()}

    def _optimizer(self) -> torch.optim.Optimizer:
        config, parameters = self.optim, self.model.parameters()
        if config.optimizer == "scaled_adam":
            return ScaledAdam(parameters, lr=config.rate(0), betas=config.betas)
        return torch.optim.AdamW(
            parameters, lr=config.rate(0), betas=config.betas, weight_decay=config.weight_decay, fused=True
        )


def _means(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """From sums over a step to what is reported of it."""
    means = {"loss": sums["loss"] / sums["predictions"], "accuracy": sums["right"] / sums["codes"]}
    return means | ({"loss_dpo": sums["loss_dpo"] / sums["sequences"]} if "loss_dpo" in sums else {})


def prepare(batch: Batch) -> GptInputs:
    """What the decoder reads of a batch. The last code of an odd number of frames is half of silence: that one is for
    SoVITS alone.

    Args:
        batch: with phones and semantic, and bert or not.
    """
    if batch.tokens_n is None:
        raise UsageError("The batch was read without the token axis: read semantic with it.")
    return GptInputs(
        phones=batch["phones"].long(),
        phones_n=batch.phones_n,
        codes=batch["semantic"].long(),
        codes_n=batch.tokens_n.minimum(batch.frames // 2),
        bert=batch["bert"].float() if "bert" in batch.tensors else None,
    )
