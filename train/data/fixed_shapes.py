"""Fixed shapes of batches: a few lengths to pad to, for models that are compiled or captured once per shape.

Batches of one length hold equally many utterances, except about one batch per length and those that were split to fill
the last step of an epoch.

N utterances, D candidate lengths, K chosen ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

CANDIDATES = 512
"""Candidate lengths: evenly spaced quantiles where there are more different lengths."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """The fixed lengths along every ragged axis, K of each."""

    rows: Mapping[str, np.ndarray]
    """Axis to (K,) ascending lengths. Those of `frames` are the chosen ones; along another axis it is the length of the
    longest utterance that has no more frames."""

    def round_up(self, frames: np.ndarray) -> np.ndarray:
        """Return (N,): the fixed length of each utterance."""
        chosen = self.rows["frames"]
        return chosen[np.searchsorted(chosen, frames)]

    def for_batch(self, longest: int) -> dict[str, int]:
        """Return the length along each axis of a batch whose longest utterance has `longest` frames."""
        which = int(np.searchsorted(self.rows["frames"], longest))
        return {axis: int(lengths[which]) for axis, lengths in self.rows.items()}


def choose(lengths: Mapping[str, np.ndarray], count: int) -> Shapes:
    """Choose the `count` shapes that cost the least padding.

    Args:
        lengths: axis to (N,) int lengths, `frames` among them; N at least 1.
        count: at least 1.
    """
    frames = lengths["frames"]
    chosen = _cheapest(frames, count)
    which = np.searchsorted(chosen, frames)
    rows = {"frames": chosen}
    for axis in lengths.keys() - rows.keys():
        longest = np.zeros(len(chosen), np.int64)
        np.maximum.at(longest, which, lengths[axis])
        rows[axis] = np.maximum.accumulate(longest)
    return Shapes(rows)


def _cheapest(lengths: np.ndarray, count: int) -> np.ndarray:
    """Return (K,) ascending lengths, K <= count, the last one the longest of all.

    Dynamic programming over how many of the candidates are covered by how many shapes.
    """
    ranks = np.unique(np.linspace(0, len(lengths) - 1, CANDIDATES).round().astype(np.int64))
    different = np.unique(lengths)
    values = (different if len(different) <= CANDIDATES else np.unique(np.sort(lengths)[ranks])).astype(np.int64)
    covered = np.append(0, np.searchsorted(np.sort(lengths), values, side="right"))
    # step[i, j]: padded frames of the utterances after the i-th candidate up to the j-th, at the j-th one's length
    step = np.maximum(covered[1:] - covered[:-1, None], 0) * values
    impossible = np.iinfo(np.int64).max // 4
    step[np.tri(len(values), k=-1, dtype=bool)] = impossible
    cost, before = step[0], []
    for _ in range(min(count, len(values)) - 1):
        through = np.append(impossible, cost[:-1])[:, None] + step
        before.append(through.argmin(0))
        cost = np.minimum(through.min(0), impossible)
    last, chosen = len(values), []
    for origin in reversed(before):
        chosen.append(values[last - 1])
        last = int(origin[last - 1])
    return np.asarray([*reversed([*chosen, values[last - 1]])], np.int64)
