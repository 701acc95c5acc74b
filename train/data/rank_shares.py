"""How the utterances of a step are shared out over ranks whose devices differ in speed.

Without speeds every rank has a batch of the same limits. With them a step has as many frames as before, and each rank
a part of them: the steps are cut first, and then each of them is cut into one batch a rank, so that the slowest rank is
done as early as whole utterances allow. Which utterances are in an epoch, and in which order of length, stays the same.

W ranks, S steps.
"""

from __future__ import annotations

import numpy as np

from headrace.train.data.shuffle import Limits
from headrace.train.speeds import Speeds


def cut_for_speeds(lengths: np.ndarray, limits: Limits, speeds: Speeds, first_share: float = 1.0) -> np.ndarray:
    """Return (S * W + 1,) int64: bounds of batches, W of neighbouring ones for each step, none of them empty.

    Steps are cut from the long end, so that what is left over at the end is a step of short utterances.

    Args:
        lengths: (N,) frames in the order of `shuffled`, N at least W.
        limits: of a batch, were all ranks equal. A step has as many frames and utterances as W of such batches.
        first_share: of what the limits allow, in the step of the longest: 0 to 1.
    """
    world, count = len(speeds), len(lengths)
    longest = np.maximum.accumulate(lengths)
    room = np.maximum(world, np.minimum(limits.frames * world // longest.astype(np.int64), limits.utterances * world))
    bounds = [count, max(0, count - max(world, int(first_share * room[-1])))]
    while bounds[-1] > 0:
        bounds.append(max(0, bounds[-1] - int(room[bounds[-1] - 1])))
    steps = _without_small_first_step(np.asarray(bounds[::-1], np.int64), world)
    return np.concatenate(([0], np.cumsum(_share_out(np.diff(steps), speeds).ravel())))


def _without_small_first_step(steps: np.ndarray, world: int) -> np.ndarray:
    """Give the first step an utterance for each rank: from the second step, or by joining both."""
    if steps[1] >= world:
        return steps
    if steps[2] < 2 * world:
        return np.delete(steps, 1)
    steps[1] = world
    return steps


def _share_out(counts: np.ndarray, speeds: Speeds) -> np.ndarray:
    """Return (S, W) int64: how many of the utterances of each step each rank has, at least one.

    Args:
        counts: (S,) utterances of each step, at least W.
    """
    different, which = np.unique(counts, return_inverse=True)
    return np.array([_share_out_one(int(count), np.asarray(speeds)) for count in different])[which]


def _share_out_one(count: int, speeds: np.ndarray) -> np.ndarray:
    """Return (W,) int64 for one step: of all ways to share it out, one whose slowest rank is done first."""
    parts = np.maximum(1, (count - len(speeds)) * speeds // speeds.sum())
    for _ in range(count - int(parts.sum())):
        parts[np.argmin((parts + 1) / speeds)] += 1
    return parts
