"""Utterances in order of length, shuffled as far as padding allows, and cut into batches.

Ranked by length, utterances fall into two halves: the even ranks and the odd ones. In each epoch one half stays where
it is and the other moves up by random distances; in the next epoch they change roles. So two utterances of a batch
separate: one that moved and one that stayed, because now the other one moves; two that stayed, because they move by
different distances; two that moved, because each goes back to where it belongs. Moving all of them in every epoch takes
2.6 times the padding for the same chance to meet again in the next epoch. The price: two that stayed are likelier to
meet again in the epoch after that, when both stay again.

The farthest that an utterance moves is its window. Windows are proportional to the utterances of a batch, times the
square root of how many utterances there are per frame of length: the fewest meetings for the padding spent. They grow
together until the padding to be expected reaches what is allowed.

All is computed in integers, and in float64 by single operations that IEEE 754 defines to the last bit: every machine
computes the same order.

N utterances, M batches, R ranks sampled to choose the windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WIDEST = 32
"""Batches in a window at most: more cost padding for meetings that are rare already."""
RELATIVE = 1.5
"""Padding that is allowed in any case, in relation to that of sorted batches: so that a small corpus mixes too."""
SAMPLES = 1024
"""At least this many ranks are sampled to choose the windows, if there are more."""
BISECTIONS = 30
"""Bisections of the interval in which the windows' common factor is searched."""
SIMILAR = 1.05
"""Lengths within this factor count as similar, to estimate how many utterances there are per frame of length."""
STRIDE = 0.718281828
"""Difference of the uniform numbers of one moving utterance and the next. The fractional part of e spreads neighbours
more evenly over typical windows than other irrational numbers that were tried; with the golden ratio, 8 % more meet."""
CUTS = (np.arange(4) + 0.5) / 4
"""Positions within a batch, as shares of it, over which the expected padding is averaged."""
DRAWS = (np.arange(8) + 0.5) / 8
"""Evenly spaced numbers that stand for the uniform random ones in the expected padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a batch."""

    frames: int
    """Upper limit of padded frames: utterances times the longest of them. A longer utterance is a batch of its own."""
    utterances: int
    """Upper limit of utterances."""
    padding: float
    """Share of padded frames up to which utterances are shuffled, 0 to 1."""

    def max_utterances(self, longest: np.ndarray) -> np.ndarray:
        """Return how many utterances fit into a batch whose longest has this length."""
        return np.clip(self.frames // longest.astype(np.int64), 1, self.utterances)


def random_of(*seed: int) -> np.random.Generator:
    """Return a generator of random numbers that is seeded by a sequence of integers."""
    return np.random.Generator(np.random.PCG64(seed))


def shuffled(lengths: np.ndarray, limits: Limits, epoch: int, seed: tuple[int, ...]) -> np.ndarray:
    """Return (N,) int64: every utterance once, in order of length as far as they are not shuffled.

    Args:
        lengths: (N,) int frames, at least 1.
        seed: determines the order, together with `epoch` and the lengths.
    """
    ranked = np.argsort(lengths, kind="stable")
    widths = _windows(lengths[ranked], limits)[epoch % 2 :: 2]
    # Those that move are ordered as when they stayed, one epoch ago: neighbours of that epoch get unlike distances.
    moving = _shuffle_equals(ranked[epoch % 2 :: 2], lengths, random_of(*seed, epoch))
    staying = _shuffle_equals(ranked[1 - epoch % 2 :: 2], lengths, random_of(*seed, epoch + 1))
    places = 2.0 * np.arange(len(moving))
    drawn = (np.arange(len(moving)) * STRIDE + random_of(*seed, epoch, 1).random()) % 1
    places += widths * _share_of_window(drawn)
    order = np.argsort(np.concatenate((places, 2.0 * np.arange(len(staying)) + 1)), kind="stable")
    return np.concatenate((moving, staying))[order]


def cut(lengths: np.ndarray, limits: Limits, first_share: float = 1.0) -> np.ndarray:
    """Return (M + 1,) int64: bounds of batches, each as large as the limits allow and of at least one utterance.

    Args:
        lengths: (N,) frames in the order of `shuffled`: nothing is much longer than what comes later.
        first_share: of what the limits allow, in the first batch: 0 to 1.
    """
    count = len(lengths)
    longest = np.maximum.accumulate(lengths)  # so far, and nearly always in the batch
    first = np.arange(1, count + 1) - limits.max_utterances(
        longest
    )  # where the batch that ends here may begin; ascending
    ends = np.searchsorted(first, np.arange(count), side="right")
    bounds = [0, *(max(1, int(first_share * end)) for end in ends[:1].tolist())]
    while bounds[-1] < count:
        bounds.append(int(ends[bounds[-1]]))
    return np.asarray(bounds, np.int64)


def _shuffle_equals(ranked: np.ndarray, lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shuffle utterances of equal length."""
    keys = random.random(len(lengths))[ranked]
    keys += lengths[ranked]
    return ranked[np.argsort(keys, kind="stable")]


def _share_of_window(drawn: np.ndarray) -> np.ndarray:
    """Map uniform random numbers to distances, as shares of the window.

    The density falls linearly to 0 at the end of the window: of all distributions of the same mean, this one lets the
    fewest utterances meet again.
    """
    return 1 - np.sqrt(1 - drawn)


def _windows(ascending: np.ndarray, limits: Limits) -> np.ndarray:
    """Return (N,) float64: the window of each rank, in ranks, as wide as the padding allows."""
    every = max(1, len(ascending) // SAMPLES)
    at = np.arange(0, len(ascending), every)
    length, room = ascending[at], limits.max_utterances(ascending[at])
    similar = np.searchsorted(ascending, length * SIMILAR, "right") - np.searchsorted(ascending, length / SIMILAR)
    widths, widest = room * np.sqrt(similar / length), float(WIDEST) * room
    allowed = max(limits.padding, RELATIVE * _padding(ascending, at, room, np.zeros(len(at))))
    low, high = 0.0, float((widest / widths).max())
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        within = _padding(ascending, at, room, np.minimum(middle * widths, widest)) <= allowed
        low, high = (middle, high) if within else (low, middle)
    return np.repeat(np.minimum(low * widths, widest), every)[: len(ascending)]


def _padding(ascending: np.ndarray, at: np.ndarray, room: np.ndarray, widths: np.ndarray) -> float:
    """Return the expected share of padding at these ranks when every other utterance moves.

    Batches may begin at any rank.
    """
    moves = np.concatenate((np.zeros(len(DRAWS)), _share_of_window(DRAWS)))
    ends = np.multiply.outer(CUTS, room - 1)
    last = at + ends[:, None] + moves[None, :, None] * widths  # ranks of the longest: (4, 16, R)
    longest = ascending[np.minimum(last.astype(np.int64), len(ascending) - 1)]
    true = int(ascending[at].sum(dtype=np.int64)) * (longest.size // len(at))
    return 1 - true / int(longest.sum(dtype=np.int64))
