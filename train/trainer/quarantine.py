"""Utterances that training cannot digest: found, named, and after a while left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from headrace.train import distributed
from headrace.train.data.batch import Batch
from headrace.train.precision import Precision

REPEATS = 2
"""Updates that an utterance may spoil before it is left out."""
NAMED = 8
"""Utterances that are named in a line; metrics.jsonl names all."""


class Validates(Protocol):
    precision: Precision

    def validate(self, batch: Batch) -> dict[str, Tensor]: ...


class Quarantine:
    """Counts for which utterances updates came to nothing, because gradients were not finite. Ranks agree on it."""

    def __init__(self, names: np.ndarray, marks: Mapping[str, int] | None = None) -> None:
        """
        Args:
            names: (N,) str, of all utterances of the store.
            marks: what `to_json` gave.
        """
        self._names = names
        self._marks = Counter({int(number): count for number, count in (marks or {}).items()})

    @property
    def held(self) -> list[int]:
        """Utterances that are left out, ascending."""
        return sorted(number for number, count in self._marks.items() if count >= REPEATS)

    def without(self, batch: Batch) -> Batch:
        """The batch without those that are held; as it is where nothing would be left, for ranks step together: such an
        update comes to nothing once more."""
        good = np.flatnonzero(~np.isin(batch.numbers, self.held))
        return batch if len(good) in (0, len(batch)) else batch.take(good)

    def blame(
        self, stage: Validates, batches: Sequence[Batch], values: Mapping[str, float], device: torch.device
    ) -> list[str]:
        """An update came to nothing: count against those whose own losses are not finite, or against all.

        Against nobody where losses are finite and only their gradients, scaled for float16, are not: then the scale was
        too large, and has been lowered.

        Args:
            values: what the step returned.
        Returns:
            What a person should know, in lines.
        """
        precision = stage.precision
        finite = all(isfinite(value) for name, value in values.items() if not name.startswith("grad_norm"))
        if finite and precision.halved and precision.scaler.is_enabled():
            return []
        alone = _over_ranks(_suspects(stage, batches, device))
        before = set(self.held)
        blamed = [number for number in alone or members(batches) if number not in before]
        if not blamed:
            return []
        self._marks.update(blamed)
        whose = "because" if alone else "one"
        said = [f"gradients are not finite, the update is left out: {whose} of {self._listed(blamed)}"]
        if held := sorted(set(self.held) - before):
            said.append(f"quarantined, no longer trained on: {self._listed(held)}")
        return said

    def suspicion(self, batches: Sequence[Batch]) -> str:
        """What a person should know of an update that exploded: counted against nobody."""
        whose = self._listed(members(batches))
        return f"gradients are far larger than usual, the update is scaled down: one of {whose}"

    def names(self, numbers: Sequence[int]) -> list[str]:
        return [str(self._names[number]) for number in numbers]

    def to_json(self) -> dict[str, Any]:
        return {str(number): count for number, count in sorted(self._marks.items())}

    def _listed(self, numbers: Sequence[int]) -> str:
        more = len(numbers) - NAMED
        return ", ".join(self.names(numbers[:NAMED])) + (f" and {more} more" if more > 0 else "")


def members(batches: Sequence[Batch]) -> list[int]:
    """The utterances of an update, over all ranks."""
    return _over_ranks(np.concatenate([batch.numbers for batch in batches]).tolist())


def _suspects(stage: Validates, batches: Sequence[Batch], device: torch.device) -> list[int]:
    """Utterances whose own losses are not finite."""
    found = []
    for batch in batches:
        for row, number in enumerate(batch.numbers.tolist()):
            terms = stage.validate(batch.take(slice(row, row + 1)).to(device))
            if not all(bool(term.isfinite()) for term in terms.values()):
                found.append(number)
    return found


def _over_ranks(numbers: list[int]) -> list[int]:
    return [number for of_rank in distributed.gathered(numbers) for number in of_rank]
