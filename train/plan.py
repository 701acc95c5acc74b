"""The epoch as integers: which utterances form a batch, and which batch goes to which rank at which step.

Pure functions of lengths, a frame budget, a seed, an epoch and a world size; no torch, no I/O. Held by tests:

- over all ranks of an epoch every utterance comes exactly once, for any world size up to the number of utterances;
- every rank has the same number of steps, and the batches of one step are of similar length, so no rank waits long;
- a run resumed in mid-epoch, on as many ranks as before or on others, sees exactly what remained.

Utterances are shuffled by jitter: ranked by length, each one moves up by a random part of a window, and the result is
cut into batches. The window holds 16 batches or all utterances up to 10 % longer, whichever is less. With log-normal
lengths and batches of about 32, this share of all frames is padding, and two utterances that met meet again in the next
epoch with this chance (fixed blocks of 16 batches, shuffled inside, for comparison):

    utterances   padding   meet again   padding in blocks
           550    8.5 %       0.70             43 %
        20,000    2.7 %       0.12            4.6 %
       200,000    0.4 %       0.05            0.6 %

N utterances, S steps, W world size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from store.errors import UsageError

BLOCK = 16
"""Batches' worth of utterances that mix."""
TOLERANCE = 0.1
"""Share by which an utterance may be longer than one it is batched with on account of shuffling."""
VALIDATION_SHARE = 0.01
VALIDATION_MOST = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place between two steps of a run. Plain integers, so that a checkpoint holds it as JSON."""

    epoch: int
    history: tuple[tuple[int, int], ...]
    """(world size, steps done) of every stretch of this epoch. The last one is under way; those before it ended when
    the run was interrupted and went on with another number of ranks."""

    @classmethod
    def start(cls, world: int = 1, epoch: int = 0) -> Position:
        return cls(epoch=epoch, history=((world, 0),))

    @property
    def steps(self) -> int:
        """Done in the stretch under way."""
        return self.history[-1][1]

    def on(self, world: int) -> Position:
        """The same place for a run on `world` ranks: goes on with the last stretch, or begins another."""
        done = [stretch for stretch in self.history if stretch[1]]
        if not done or done[-1][0] != world:
            done.append((world, 0))
        return Position(epoch=self.epoch, history=tuple(done))

    def after_step(self) -> Position:
        *before, (world, steps) = self.history
        return Position(epoch=self.epoch, history=(*before, (world, steps + 1)))

    def next_epoch(self) -> Position:
        return Position.start(self.history[-1][0], self.epoch + 1)

    def to_json(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "history": [list(stretch) for stretch in self.history]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Position:
        return cls(epoch=data["epoch"], history=tuple((world, steps) for world, steps in data["history"]))


@dataclass(frozen=True, slots=True)
class Plan:
    """The batches of an epoch, or of what is left of one, in the order in which they are used."""

    order: np.ndarray
    """(N,) int64: every utterance once."""
    bounds: np.ndarray
    """(S * W + 1,) int64: batch i is order[bounds[i]:bounds[i + 1]], never empty. Step s has the batches s * W to
    s * W + W - 1, one for each rank."""
    world: int

    @property
    def steps(self) -> int:
        return (len(self.bounds) - 1) // self.world

    def batch(self, step: int, rank: int) -> np.ndarray:
        """(B,) int64, ascending: the utterances of one rank at one step."""
        batch = step * self.world + rank
        return np.sort(self.order[self.bounds[batch] : self.bounds[batch + 1]])

    def rest(self, steps: int) -> np.ndarray:
        """(R,) int64, ascending: the utterances that remain after that many steps of all ranks."""
        return np.sort(self.order[self.bounds[steps * self.world] :])


def plan_epoch(
    lengths: np.ndarray,
    position: Position,
    *,
    batch_frames: int,
    seed: int,
    max_utterances: int | None = None,
) -> Plan:
    """Plan the epoch that `position` is in, or the part of it that remained at the last change of the world size.

    Args:
        lengths: (N,) frames of each utterance, at least 1.
        batch_frames: most padded frames of a batch: its utterances times the longest of them. A longer utterance is a
            batch of its own. Where fewer utterances are left than would fill a step with such batches, the shortest
            are joined and exceed it.
        seed: not negative.
        max_utterances: most utterances of a batch; None for no limit.
    Returns:
        The plan; `position.steps` of its steps are done.
    Raises:
        UsageError: fewer utterances are left than there are ranks.
    """
    left = np.arange(len(lengths))
    for stretch, (world, steps) in enumerate(position.history):
        if len(left) < world:
            raise UsageError(
                f"{len(left)} utterances are left of epoch {position.epoch} and cannot be dealt to {world} ranks: "
                f"use {max(len(left), 1)} or fewer until the next epoch."
            )
        random = np.random.Generator(np.random.PCG64([seed, position.epoch, stretch]))
        order = left[_jittered(lengths[left], batch_frames, max_utterances or len(left), random)]
        bounds = _cut(lengths[order], batch_frames, max_utterances or len(left))
        plan = _shuffled(Plan(order, _dealt(bounds, world), world), random)
        left = plan.rest(steps)
    return plan


def padding(lengths: np.ndarray, plan: Plan) -> float:
    """Share of padded frames over all batches of a plan, 0 to 1."""
    ordered, counts = lengths[plan.order].astype(np.int64), np.diff(plan.bounds)
    return 1 - ordered.sum() / (np.maximum.reduceat(ordered, plan.bounds[:-1]) * counts).sum()


def _jittered(lengths: np.ndarray, batch_frames: int, most: int, random: np.random.Generator) -> np.ndarray:
    """(N,) order by length in which each utterance was moved up by a random part of its window."""
    ranked = np.argsort(lengths, kind="stable")
    ascending = lengths[ranked]
    rank = np.arange(len(ranked))
    worth = BLOCK * np.clip(batch_frames // ascending, 1, most)
    alike = np.searchsorted(ascending, ascending * (1 + TOLERANCE), side="right") - rank
    return ranked[np.argsort(rank + np.minimum(worth, alike) * random.random(len(rank)), kind="stable")]


def _cut(lengths: np.ndarray, batch_frames: int, most: int) -> np.ndarray:
    """(M + 1,) bounds of batches, each as large as the budget and `most` allow, at least one utterance."""
    bounds = [0]
    while (start := bounds[-1]) < len(lengths):
        candidates = lengths[start : start + min(most, max(1, batch_frames // int(lengths[start])))]
        padded = np.maximum.accumulate(candidates) * np.arange(1, len(candidates) + 1)
        bounds.append(start + max(1, int(np.searchsorted(padded, batch_frames, side="right"))))
    return np.asarray(bounds, np.int64)


def _dealt(bounds: np.ndarray, world: int) -> np.ndarray:
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
    pieces = np.ones_like(counts)
    for _ in range(more):
        pieces[np.argmax(counts / pieces)] += 1
    starts = [start + n * np.arange(k) // k for start, n, k in zip(bounds, counts, pieces, strict=False)]
    return np.concatenate((*starts, bounds[-1:]))


def _shuffled(plan: Plan, random: np.random.Generator) -> Plan:
    """The same steps in random order."""
    W = plan.world
    shuffled = np.argsort(random.random(plan.steps), kind="stable")
    batches = (shuffled[:, None] * W + np.arange(W)).reshape(-1)
    pieces = [plan.order[plan.bounds[i] : plan.bounds[i + 1]] for i in batches]
    return Plan(np.concatenate(pieces), np.append(0, np.cumsum(np.diff(plan.bounds)[batches])), W)


def held_out(ids: Iterable[str], share: float = VALIDATION_SHARE, most: int = VALIDATION_MOST) -> np.ndarray:
    """Choose the utterances to validate on by a hash of their ids.

    Those with the smallest hashes: `share` of all, at least one, at most `most`, and never all. Adding utterances to
    a corpus never moves one that was trained on into the validation set.

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
