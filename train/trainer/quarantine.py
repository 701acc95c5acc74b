"""Quarantine of utterances that make gradients infinite or NaN: they are named, and left out after two updates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from headrace.train import distributed
from headrace.train.data.batch import Batch
from headrace.train.distributed.phases import PHASES
from headrace.train.precision import Precision

MAX_FAILURES = 2
"""Failed updates after which an utterance is left out."""
MAX_NAMED = 8
"""Utterances that are named in a line; metrics.jsonl names all."""


class Validatable(Protocol):
    """The part of a stage that the quarantine uses."""

    @property
    def precision(self) -> Precision:
        """What it computes in."""

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean losses of a batch on the device."""

    def gradient_norms(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the norm of the own gradient of a batch on the device, for each network."""


class Quarantine:
    """Counts, for each utterance, updates whose gradients were not finite. The same on all ranks."""

    def __init__(self, ids: np.ndarray, failures: Mapping[str, int] | None = None) -> None:
        """
        Args:
            ids: (N,) str: ids of all utterances of the store.
            failures: counts to continue from, as `to_json` returned them.
        """
        self._ids = ids
        self._failures = Counter({int(number): count for number, count in (failures or {}).items()})

    @property
    def quarantined(self) -> list[int]:
        """Numbers of the utterances that are left out, ascending."""
        return sorted(number for number, count in self._failures.items() if count >= MAX_FAILURES)

    def without_quarantined(self, batch: Batch) -> Batch:
        """Return the batch without quarantined utterances.

        It stays as it is if none would be left, since ranks step together: such an update is skipped again.
        """
        good = np.flatnonzero(~np.isin(batch.numbers, self.quarantined))
        return batch if len(good) in (0, len(batch)) else batch.select(good)

    def record_failure(
        self, stage: Validatable, batches: Sequence[Batch], values: Mapping[str, float], device: torch.device
    ) -> list[str]:
        """Count a skipped update against the utterances whose own losses are not finite, each computed by itself.

        Where there is none, those count whose own gradients are not finite, and where there is none either, it counts
        against none. Nothing is said of that if losses are finite and gradients are scaled for float16: then the loss
        scale was too large, and has been lowered.

        Args:
            values: metrics of the update.
        Returns:
            Messages for the user.
        """
        precision = stage.precision
        finite = all(isfinite(value) for name, value in values.items() if not name.startswith("grad_norm"))
        scaled = finite and precision.is_half and precision.scaler.is_enabled()
        losses = _find_not_finite(batches, device, lambda one: stage.validate(one).values()) if not scaled else []
        culprits = _gather(losses) or _gather(_find_not_finite(batches, device, stage.gradient_norms))
        known = set(self.quarantined)
        if not culprits:
            if scaled:
                return []
            whose = self._join_ids(utterances_of(batches))
            return [f"gradients are not finite, the update is left out; none by itself is why: {whose}"]
        counted = [number for number in culprits if number not in known]
        if not counted:
            return []
        self._failures.update(counted)
        messages = [f"gradients are not finite, the update is left out: because of {self._join_ids(counted)}"]
        if added := sorted(set(self.quarantined) - known):
            messages.append(f"quarantined, no longer trained on: {self._join_ids(added)}")
        return messages

    def describe_explosion(self, batches: Sequence[Batch]) -> str:
        """Return a message about an update whose gradients exploded. It counts against no utterance."""
        whose = self._join_ids(utterances_of(batches))
        return f"gradients are far larger than usual, the update is scaled down: one of {whose}"

    def ids(self, numbers: Sequence[int]) -> list[str]:
        """Return the ids of utterances."""
        return [str(self._ids[number]) for number in numbers]

    def to_json(self) -> dict[str, Any]:
        """Return the number of failed updates by utterance, as a JSON object."""
        return {str(number): count for number, count in sorted(self._failures.items())}

    def _join_ids(self, numbers: Sequence[int]) -> str:
        """Return the first MAX_NAMED ids, and how many more there are."""
        more = len(numbers) - MAX_NAMED
        return ", ".join(self.ids(numbers[:MAX_NAMED])) + (f" and {more} more" if more > 0 else "")


def utterances_of(batches: Sequence[Batch]) -> list[int]:
    """Return the numbers of the utterances of an update, over all ranks."""
    return _gather(np.concatenate([batch.numbers for batch in batches]).tolist())


def _find_not_finite(
    batches: Sequence[Batch], device: torch.device, compute: Callable[[Batch], Iterable[Tensor]]
) -> list[int]:
    """Return the utterances for which, each by itself on the device, not all that is computed is finite.

    A batch is computed as a whole, and only where that is not finite or does not fit, in halves. Of an utterance that
    does not fit by itself, nothing is known.
    """
    found = []
    for batch in batches:
        PHASES.beat()
        try:
            if all(bool(value.isfinite()) for value in compute(batch.to(device))):
                continue
            known = True
        except torch.OutOfMemoryError:
            known = False
        if len(batch) > 1:
            found += _find_not_finite(batch.split(2), device, compute)
        elif known:
            found += batch.numbers.tolist()
    return found


def _gather(numbers: list[int]) -> list[int]:
    """Return the numbers of all ranks."""
    return list(dict.fromkeys(number for of_rank in distributed.all_gather(numbers) for number in of_rank))
