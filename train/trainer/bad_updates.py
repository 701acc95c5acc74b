"""Handling of updates whose gradients are not finite or explode: name their utterances, or stop the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from headrace.store.errors import RunError
from headrace.train.data.batch import Batch
from headrace.train.monitoring.observer import Observer
from headrace.train.stages.registry import Stage
from headrace.train.trainer.quarantine import Quarantine, utterances_of

MAX_SKIPPED_IN_A_ROW = 50
"""Updates that may be skipped in a row because gradients are not finite. Finding the loss scale of fp16 takes a
dozen."""


class BadUpdates:
    """Reports updates that were skipped or scaled down, and detects divergence."""

    def __init__(self, stage: Stage, quarantine: Quarantine, device: torch.device, observer: Observer) -> None:
        self._stage, self._quarantine, self._device, self._observer = stage, quarantine, device, observer
        self._skipped_in_a_row = 0

    def report(self, step: int, batches: Sequence[Batch], values: Mapping[str, float]) -> dict[str, Any]:
        """Log which utterances may have caused an update to be skipped or scaled down.

        Args:
            values: metrics of the update.
        Returns:
            The ids of its utterances, as fields for metrics.jsonl; empty for an ordinary update.
        """
        if not values["skipped"] and not values["exploded"]:
            return {}
        ids = self._quarantine.ids(utterances_of(batches))
        if not values["skipped"]:
            self._observer.log(f"step {step}: {self._quarantine.describe_explosion(batches)}")
            return {"scaled_down": ids}
        with self._stage.whole():
            lines = self._quarantine.record_failure(self._stage, batches, values, self._device)
        for line in lines:
            self._observer.log(f"step {step}: {line}")
        return {"left_out": ids}

    def check_divergence(self, step: int, values: Mapping[str, float]) -> None:
        """Count updates that are skipped in a row.

        Raises:
            RunError: so many were skipped in a row that the run no longer learns.
        """
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if values["skipped"] else 0
        if self._skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise RunError(
                f"Training diverged: the gradients of {MAX_SKIPPED_IN_A_ROW} steps up to step {step} were not finite. "
                "Resume the run with --precision fp32, or from an earlier checkpoint."
            )
