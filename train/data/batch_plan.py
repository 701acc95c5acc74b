"""The plan of an epoch: which utterances form a batch, and which batch goes to which rank at which step.

Pure functions of lengths, limits, a seed, an epoch and a world size; no torch, no I/O. Tests check that:

- over all ranks of an epoch every utterance comes exactly once, for any world size up to the number of utterances;
- every rank has the same number of steps, and the batches of one step are of similar length, so no rank waits long;
- a run resumed in mid-epoch, on as many ranks as before or on others, sees exactly what remained;
- all of this holds for ranks of different speeds too, whenever these change (`rank_shares`).

`shuffle` orders utterances and cuts the order into batches. They are shuffled as far as padding stays within 1 % of all
frames, or within 1.5 times the padding of sorted batches, whichever is more. `python -m benchmarks.plan` measures it.

N utterances, M = S * W batches, S steps, W world size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from headrace.store.errors import UsageError
from headrace.train.data.rank_shares import cut_for_speeds
from headrace.train.data.shuffle import Limits, cut, random_of, shuffled
from headrace.train.speeds import Speeds

PADDING = 0.0098
"""Share of padded frames up to which utterances are shuffled. Single epochs deviate from it, but stay under 1 %."""
VALIDATION_SHARE = 0.01
MAX_VALIDATION = 512


class Stretch(NamedTuple):
    """Steps of an epoch that were planned together."""

    world: int
    """Number of ranks."""
    steps: int
    """Steps done."""
    speeds: Speeds = ()
    """Speeds of the ranks, by which the frames of a step are shared out; empty for equal shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A position between two steps of a run. Plain integers, so that a checkpoint holds it as JSON."""

    epoch: int
    history: tuple[Stretch, ...]
    """Every stretch of this epoch. The last one is in progress; an earlier one ended when the run was interrupted and
    resumed on another number of ranks, or when their speeds were measured."""

    @classmethod
    def start(cls, world: int = 1, epoch: int = 0, speeds: Speeds = ()) -> Position:
        """Return the beginning of an epoch."""
        return cls(epoch=epoch, history=(Stretch(world, 0, speeds),))

    @property
    def steps(self) -> int:
        """Steps done in the current stretch."""
        return self.history[-1].steps

    @property
    def speeds(self) -> Speeds:
        """Speeds of the ranks in the current stretch."""
        return self.history[-1].speeds

    def for_world(self, world: int, speeds: Speeds | None = None) -> Position:
        """Return this position for a run on `world` ranks: in the last stretch, or at the beginning of another.

        Args:
            speeds: of the ranks; None for those that so many ranks had in this epoch, or equal ones.
        """
        if speeds is None:
            speeds = next((stretch.speeds for stretch in reversed(self.history) if stretch.world == world), ())
        done = [stretch for stretch in self.history if stretch.steps]
        if not done or (done[-1].world, done[-1].speeds) != (world, speeds):
            done.append(Stretch(world, 0, speeds))
        return Position(epoch=self.epoch, history=tuple(done))

    def after_step(self) -> Position:
        """Return the position one step later in the same epoch."""
        *before, last = self.history
        return Position(epoch=self.epoch, history=(*before, last._replace(steps=last.steps + 1)))

    def next_epoch(self) -> Position:
        """Return the beginning of the next epoch."""
        return Position.start(self.history[-1].world, self.epoch + 1, self.speeds)

    def to_json(self) -> dict[str, Any]:
        """Return the position as a JSON object."""
        history = [[world, steps, *([list(speeds)] if speeds else [])] for world, steps, speeds in self.history]
        return {"epoch": self.epoch, "history": history}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Position:
        """Return the position that `to_json` described."""
        history = (Stretch(world, steps, tuple(*speeds)) for world, steps, *speeds in data["history"])
        return cls(epoch=data["epoch"], history=tuple(history))


@dataclass(frozen=True, slots=True)
class Plan:
    """The batches of an epoch, or of what is left of one."""

    order: np.ndarray
    """(N,) int64: every utterance once, in order of length as far as they are not shuffled."""
    bounds: np.ndarray
    """(M + 1,) int64: batch i is order[bounds[i]:bounds[i + 1]], never empty."""
    turns: np.ndarray
    """(S, W) int64: the batch that each rank has at each step. Those of one step are neighbours."""

    @property
    def steps(self) -> int:
        """Number of steps, which is the same on all ranks."""
        return self.turns.shape[0]

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.turns.shape[1]

    def batch(self, step: int, rank: int) -> np.ndarray:
        """Return (B,) int64, ascending: the utterances of one rank at one step."""
        batch = self.turns[step, rank]
        return np.sort(self.order[self.bounds[batch] : self.bounds[batch + 1]])

    def remaining(self, steps: int) -> np.ndarray:
        """Return (R,) int64, ascending: the utterances that remain after that many steps of all ranks."""
        remains = np.ones(len(self.bounds) - 1, bool)
        remains[self.turns[:steps]] = False
        return np.sort(self.order[np.repeat(remains, np.diff(self.bounds))])


def plan_epoch(
    lengths: np.ndarray,
    position: Position,
    *,
    batch_frames: int | None,
    seed: int,
    max_utterances: int | None = None,
    padding: float = PADDING,
    chunk_locality: int = 1,
    adjacent_batches: bool = False,
) -> Plan:
    """Plan the epoch of `position`, or the part of it that remained when the last stretch of it began.

    Args:
        lengths: (N,) frames of each utterance, at least 1.
        position: `position.steps` steps of the plan are done.
        batch_frames, max_utterances, padding, chunk_locality, adjacent_batches: as in `StreamConfig`. A longer
            utterance is a batch of its own. Where fewer utterances are left than would fill a step, the shortest
            batches are joined and exceed the limits. Ranks with speeds share out the sum of their limits.
        seed: not negative.
    Returns:
        The plan, from its first step.
    Raises:
        UsageError: fewer utterances are left than there are ranks, or a batch has neither limit.
    """
    if not batch_frames and not max_utterances:
        raise UsageError("A batch has no limit: give batch_frames, max_utterances or both.")
    left = np.arange(len(lengths))
    limits = Limits(
        frames=batch_frames or int(lengths.max(initial=1)) * len(lengths),
        utterances=max_utterances or len(lengths),
        padding=padding,
    )
    for stretch, (world, steps, speeds) in enumerate(position.history):
        if len(left) < world:
            raise UsageError(
                f"{len(left)} utterances are left of epoch {position.epoch} and cannot be dealt to {world} ranks: "
                f"use {max(len(left), 1)} or fewer until the next epoch."
            )
        order, bounds = _batches(lengths, left, limits, (seed, stretch), position.epoch, adjacent_batches, speeds)
        bounds = bounds if speeds else _fit_to_ranks(bounds, world)
        turns = np.arange(len(bounds) - 1).reshape(-1, world)
        random = random_of(seed, stretch, position.epoch, 2)
        plan = Plan(order, bounds, turns[_shuffled_steps(len(turns), chunk_locality, random)])
        left = plan.remaining(steps)
    return plan


def _batches(
    lengths: np.ndarray,
    left: np.ndarray,
    limits: Limits,
    seed: tuple[int, int],
    epoch: int,
    adjacent: bool,
    speeds: Speeds,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the utterances that are left in the order of batches, and the bounds of these batches."""
    share = random_of(*seed, epoch, 4).random() if adjacent else 1.0
    order = np.argsort(lengths[left], kind="stable") if adjacent else shuffled(lengths[left], limits, epoch, seed)
    order = left[order]
    if speeds:
        return order, cut_for_speeds(lengths[order], limits, speeds, share)
    return order, cut(lengths[order], limits, share)


def padding_of(lengths: np.ndarray, plan: Plan, padded: np.ndarray | None = None) -> float:
    """Return the share of padded frames over all batches of a plan, 0 to 1.

    Args:
        lengths: (N,) true frames.
        padded: (N,) frames that each utterance needs at least, where batches are padded to fixed shapes.
    """
    longest = np.maximum.reduceat((lengths if padded is None else padded)[plan.order], plan.bounds[:-1])
    return 1 - int(lengths.sum(dtype=np.int64)) / int((longest * np.diff(plan.bounds)).sum())


def _shuffled_steps(steps: int, group_size: int, random: np.random.Generator) -> np.ndarray:
    """Return (S,) int64: all steps, shuffled within groups of adjacent ones, and the groups shuffled."""
    turn = np.argsort(random.permutation((steps + 2 * group_size - 2) // group_size))  # of each group
    group = (np.arange(steps) + random.integers(group_size)) // group_size
    return np.lexsort((random.random(steps), turn[group]))


def _fit_to_ranks(bounds: np.ndarray, world: int) -> np.ndarray:
    """Make the number of batches a multiple of the world size; nothing is dropped or repeated.

    The batches at the short end that do not fill a step are split until they do. Where they are too few utterances for
    that, the steps after them are split too; where all are, they are joined with the step after them.
    """
    batches = len(bounds) - 1
    over, missing = batches % world, -batches % world
    for head in range(over, batches + 1, world):
        if bounds[head] >= head + missing:
            return np.concatenate((_split(bounds[: head + 1], missing), bounds[head + 1 :]))
    joined = np.arange(world) * (world + over) // world
    return np.concatenate((bounds[joined], bounds[world + over :]))


def _split(bounds: np.ndarray, more: int) -> np.ndarray:
    """Split batches, largest share first, until there are `more` of them. They hold enough utterances for that."""
    counts = np.diff(bounds)
    splits = np.ones_like(counts)
    for _ in range(more):
        splits[np.argmax(counts / splits)] += 1
    starts = [start + n * np.arange(k) // k for start, n, k in zip(bounds, counts, splits, strict=False)]
    return np.concatenate((*starts, bounds[-1:]))


def held_out(ids: Iterable[str], share: float = VALIDATION_SHARE, most: int = MAX_VALIDATION) -> np.ndarray:
    """Choose the utterances to validate on by a hash of their ids.

    Those with the smallest hashes are chosen: `share` of all, at least one, at most `most`, and never all. Adding
    utterances to a corpus never moves one that was trained on into the validation set.

    Returns:
        (N,) bool.
    """
    hashes = np.array([_hash(name) for name in ids], np.uint64)
    under = int(np.count_nonzero(hashes < np.uint64(share * 2**64)))
    count = min(max(under, 1), most, len(hashes) - 1)
    chosen = np.zeros(len(hashes), bool)
    chosen[np.argsort(hashes, kind="stable")[:count]] = True
    return chosen


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
