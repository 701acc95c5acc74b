"""Find which words of a text were said, in which order, and where something else was: by the best path of their phones.

The units of a text form a chain, as in `hmm`. Here a path may jump from the end of any word to the beginning of any
other one, and it may leave the text and come back at any word. Both cost so much that hardly any speech pays it that
was read as it is written; a word that was cut out, or said twice, costs more (`benchmarks.spoken`).

Shapes: T frames of 10 ms, S states, U units, W words.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from headrace.featurize.forced_alignment.hmm import PAUSE, SKIP, STATES
from headrace.featurize.spectral.simd import compiled

NO_WORD = -1
"""Instead of the number of a word: a pause, or something else than the text."""
JUMP = 40.0
"""What it costs, in nats, that a word does not follow the one before it."""
LEAVE = 120.0
"""What it costs to leave the text. At which word it goes on is free."""
OUTSIDE = 4.0
"""What each frame outside of the text costs. One in the text costs what its state is below the best state."""
WORST = 12.0
"""The most that a frame in the text costs, so that a click or a breath does not decide."""


class Stretch(NamedTuple):
    """Frames in which a word was said, or something else."""

    word: int
    """Number of the word; NO_WORD for something else."""
    start: int
    """The first frame."""
    stop: int
    """One past the last one."""


def spoken_words(scores_TS: np.ndarray, units_U: np.ndarray, words_U: np.ndarray) -> list[Stretch]:
    """Return what was said, in its order, without the pauses.

    Args:
        scores_TS: float32 log-likelihoods, of a `Scorer`.
        units_U: int32 classes, of which no two pauses follow one another.
        words_U: ascending numbers of their words; NO_WORD for pauses.
    """
    costs_TS = np.minimum(scores_TS.max(1, keepdims=True) - scores_TS, np.float32(WORST))
    numbers, first_W = np.unique(words_U[words_U != NO_WORD], return_index=True)
    first_W = np.flatnonzero(words_U != NO_WORD)[first_W]
    last_W = np.array([np.flatnonzero(words_U == number)[-1] for number in numbers])
    path = _search(costs_TS, units_U, first_W, last_W)
    return _stretches(path, np.append(words_U, NO_WORD), first_W)


def _stretches(path: np.ndarray, words: np.ndarray, first_W: np.ndarray) -> list[Stretch]:
    """Return the stretches of a (T,) path of positions; the unit that follows the last one is outside of the text."""
    outside, beginnings = len(words) - 1, {STATES * int(unit) for unit in first_W}
    found: list[Stretch] = []
    before = NO_WORD
    for t, position in enumerate(path.tolist()):
        unit = position // STATES
        word = int(words[unit])
        again = position in beginnings and position != before
        if found and found[-1].word == word and not again and (word != NO_WORD or unit == outside):
            found[-1] = found[-1]._replace(stop=t + 1)
        elif word != NO_WORD or unit == outside:
            found.append(Stretch(word, t, t + 1))
        before = position
    return found


@compiled
def _search(costs: Any, units: Any, first: Any, last: Any) -> Any:
    """Return the (T,) int32 path of least cost through positions: STATES times the unit plus the state within it.

    Args:
        costs: (T, S) float32.
        units: (U,) classes.
        first: (W,) the first unit of each word.
        last: (W,) its last unit.
    """
    frames, outside = len(costs), STATES * len(units)
    steps = np.empty((frames, outside + 1), np.int32)
    least = np.full(outside + 1, np.inf, np.float32)
    least[0] = costs[0, STATES * units[0]]
    for number in range(len(first)):
        cost = costs[0, STATES * units[first[number]]]
        least[STATES * first[number]] = cost + (JUMP if number else 0)
    least[outside] = LEAVE + OUTSIDE
    for t in range(1, frames):
        source, cost = _end_of_word(least, units, last)
        least = _in_chain(least, costs[t], units, steps[t])
        _to_words(least, costs[t], units, first, steps[t], source, cost)
        least[outside] += OUTSIDE
        if cost + LEAVE + OUTSIDE < least[outside]:
            least[outside], steps[t, outside] = cost + LEAVE + OUTSIDE, source
    path = np.empty(frames, np.int32)
    path[-1] = _end_of_text(least, units, last)
    for t in range(frames - 1, 0, -1):
        path[t - 1] = steps[t, path[t]]
    return path


@compiled
def _end_of_word(least: Any, units: Any, last: Any) -> Any:
    """Return the cheapest position at the end of a word, of the pause after it or of the one at the beginning."""
    source, cost = STATES - 1, np.float32(np.inf)
    if units[0] == PAUSE:
        cost = least[STATES - 1]
    for unit in last:
        for end in range(STATES * unit + STATES - 1, len(least) - 1, STATES):
            if end > STATES * unit + STATES - 1 and units[end // STATES] != PAUSE:
                break
            if least[end] < cost:
                source, cost = end, least[end]
    return source, cost


@compiled
def _in_chain(least: Any, costs: Any, units: Any, steps: Any) -> Any:
    """Return the costs after another frame without a jump, and write where each position came from to `steps`."""
    after = np.empty_like(least)
    for j in range(len(least) - 1):
        cost, source = least[j], j
        if j and least[j - 1] < cost:
            cost, source = least[j - 1], j - 1
        if j % STATES == 0 and j >= SKIP and units[j // STATES - 1] == PAUSE and least[j - SKIP] < cost:
            cost, source = least[j - SKIP], j - SKIP
        after[j] = cost + costs[STATES * units[j // STATES] + j % STATES]
        steps[j] = source
    after[-1], steps[-1] = least[-1], len(least) - 1
    return after


@compiled
def _to_words(after: Any, costs: Any, units: Any, first: Any, steps: Any, source: Any, cost: Any) -> None:
    """Let words begin after the cheapest end of any other word, or after something else than the text."""
    outside = len(after) - 1
    jump = cost + np.float32(JUMP)
    back = after[outside]
    for unit in first:
        here, place = (jump, source) if jump < back else (back, outside)
        here += costs[STATES * units[unit]]
        if here < after[STATES * unit]:
            after[STATES * unit], steps[STATES * unit] = here, place


@compiled
def _end_of_text(least: Any, units: Any, last: Any) -> Any:
    """Return the cheapest position at which speech may end: after the last word, after another one, or outside."""
    best, cost = len(least) - 1, least[-1]
    for number in range(len(last)):
        more = np.float32(0 if number == len(last) - 1 else JUMP)
        end = STATES * last[number] + STATES - 1
        while end < len(least) - 1:
            if least[end] + more < cost:
                best, cost = end, least[end] + more
            end += STATES
            if end < len(least) - 1 and units[end // STATES] != PAUSE:
                break
    return best
