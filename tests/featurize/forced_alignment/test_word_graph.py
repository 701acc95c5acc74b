"""The words that were said: the path of least cost, and faults that are made on purpose in made-up speech."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from headrace.featurize.features.derived import SILENT
from headrace.featurize.forced_alignment import word_graph
from headrace.featurize.forced_alignment.hmm_aligner import HmmAlign, StoreAligner
from headrace.featurize.forced_alignment.word_graph import JUMP, LEAVE, NO_WORD, OUTSIDE, Stretch
from tests.helpers.speech.made_up import HOP, Said, part_of, say

CHAINS = (
    ([0, 1, 2, 0, 3, 0], [-1, 0, 0, -1, 1, -1]),
    ([1, 2, 0, 3], [0, 0, -1, 4]),
    ([0, 1, 0, 2, 0], [-1, 0, -1, 0, -1]),
    ([0, 3, 1, 2, 3], [-1, 2, 3, 4, 5]),
)


def edges(units: list[int], words: list[int]) -> dict[tuple[int, int], float]:
    """The cost of going from a position to another one; the last position is outside of the text."""
    outside, count = 3 * len(units), len(units)
    numbers = sorted(set(words) - {NO_WORD})
    first = [3 * words.index(number) for number in numbers]
    last = [3 * (count - 1 - words[::-1].index(number)) + 2 for number in numbers]
    ends = set(last) | {3 * n + 2 for n in range(count) if units[n] == 0 and (n == 0 or 3 * n - 1 in last)}
    cost = {(j, j): 0.0 for j in range(outside + 1)} | {(j, j + 1): 0.0 for j in range(outside - 1)}
    cost |= {(3 * n - 1, 3 * n + 3): 0.0 for n in range(1, count - 1) if units[n] == 0}
    for end in ends:
        cost[end, outside] = LEAVE
        cost |= {(end, begin): min(JUMP, cost.get((end, begin), JUMP)) for begin in first}
    return cost | {(outside, begin): 0.0 for begin in first}


def least_cost(costs: np.ndarray, units: list[int], words: list[int]) -> float:
    """By Bellman's recursion over all positions at once."""
    outside = 3 * len(units)
    own = np.array([[row[3 * unit + state] for unit in units for state in range(3)] + [OUTSIDE] for row in costs])
    numbers = sorted(set(words) - {NO_WORD})
    least = np.full(outside + 1, np.inf)
    least[0], least[outside] = 0, LEAVE
    for number in reversed(numbers):
        least[3 * words.index(number)] = 0 if number == numbers[0] else JUMP
    least += own[0]
    for row in own[1:]:
        after = np.full(outside + 1, np.inf)
        for (source, target), price in edges(units, words).items():
            after[target] = min(after[target], least[source] + price)
        least = after + row
    ends = {outside: 0.0}
    for number in numbers:
        at = 3 * (len(units) - 1 - words[::-1].index(number)) + 2
        for end in (at, at + 3):
            if end < outside and (end == at or units[end // 3] == 0):
                ends[end] = 0 if number == numbers[-1] else JUMP
    return min(least[end] + price for end, price in ends.items())


@pytest.mark.parametrize(("units", "words"), CHAINS)
@pytest.mark.parametrize("spread", [1, 8, 40])
def test_no_path_costs_less(units: list[int], words: list[int], spread: float) -> None:
    """With scores that differ little the path stays in the text, with others it jumps and leaves."""
    random = np.random.default_rng(1)
    numbers = sorted(set(words) - {NO_WORD})
    first = np.array([words.index(number) for number in numbers])
    last = np.array([len(units) - 1 - words[::-1].index(number) for number in numbers])
    outside, price = 3 * len(units), edges(units, words)
    for frames in (20, 70):
        costs = np.abs(random.normal(size=(frames, 12))).astype(np.float32) * spread
        path = word_graph._search(costs, np.array(units, np.int32), first, last)
        own = sum(OUTSIDE if j == outside else costs[t, 3 * units[j // 3] + j % 3] for t, j in enumerate(path.tolist()))
        moved = sum(price[move] for move in zip(path[:-1].tolist(), path[1:].tolist(), strict=True))
        begins = LEAVE if path[0] == outside else 0 if path[0] in (0, 3 * first[0]) else JUMP
        finished = path[-1] == outside or path[-1] // 3 >= last[-1]
        total = own + moved + begins + (0 if finished else JUMP)
        assert total == pytest.approx(least_cost(costs, units, words), rel=1e-4)


def scores_of(classes: Sequence[int]) -> np.ndarray:
    """Log-likelihoods of frames that are clearly of these classes, four frames a state."""
    states = [3 * kind + state for kind in classes for state in (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)]
    scores = np.full((len(states), 27), -30, np.float32)
    scores[np.arange(len(states)), states] = 0
    return scores


UNITS = np.array([0, 1, 2, 0, 3, 4, 0, 5, 6, 0], np.int32)
WORDS = np.array([-1, 5, 5, -1, 7, 7, -1, 8, 8, -1], np.int32)
SOUNDS = {"_": [0], "5": [1, 2], "7": [3, 4], "8": [5, 6], "?": [7, 8, 7, 8]}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("_5_78_", [5, 7, 8]),
        ("578", [5, 7, 8]),
        ("58", [5, 8]),
        ("78", [7, 8]),
        ("57_", [5, 7]),
        ("5578", [5, 5, 7, 8]),
        ("5_75_78", [5, 7, 5, 7, 8]),
        ("578_8", [5, 7, 8, 8]),
        ("5?78", [5, NO_WORD, 7, 8]),
        ("578?", [5, 7, 8, NO_WORD]),
        ("??", [NO_WORD]),
    ],
)
def test_what_was_said_is_found_in_its_order(said: str, expected: list[int]) -> None:
    classes = [kind for sound in said for kind in SOUNDS[sound]]
    found = word_graph.spoken_words(scores_of(classes), UNITS, WORDS)
    assert [one.word for one in found] == expected
    sounding = np.flatnonzero(classes)
    assert found[0].start == 12 * sounding[0] and found[-1].stop == 12 * (sounding[-1] + 1)


@pytest.mark.parametrize(("worse", "expected"), [(5, [5, 7, 8]), (9, [7, 8])])
def test_a_word_that_is_skipped_at_the_beginning_costs_a_jump(worse: float, expected: list[int]) -> None:
    """Six frames that sound more like the second word than like the first one."""
    before = np.full((6, 27), -30, np.float32)
    before[:, 3:9][np.eye(6, dtype=bool)] = -worse
    before[:, 9] = 0
    scores = np.concatenate((before, scores_of([3, 4, 5, 6])))
    assert [one.word for one in word_graph.spoken_words(scores, UNITS, WORDS)] == expected


def test_a_pause_within_a_word_is_no_second_saying() -> None:
    units, words = np.array([0, 1, 0, 2, 0], np.int32), np.array([-1, 3, -1, 3, -1], np.int32)
    found = word_graph.spoken_words(scores_of([0, 1, 0, 2]), units, words)
    assert found == [Stretch(3, 12, 48)]


@pytest.fixture(scope="module")
def learned() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return HmmAlign().learn([part_of([say(random, 3 + n % 5) for n in range(40)])], SILENT)


def words_in(one: Said, learned: dict[str, np.ndarray], speaker: int) -> list[int]:
    """The words that are found in an utterance of a speaker."""
    aligner = StoreAligner(part_of([one] * (speaker + 1), learned=learned))
    found = aligner.spoken_words(aligner.utterances[speaker])
    assert found is not None
    return [stretch.word for stretch in found]


@pytest.mark.parametrize("seed", range(8))
def test_faults_of_made_up_speech_are_found(learned: dict[str, np.ndarray], seed: int) -> None:
    one = say(np.random.default_rng(100 + seed), 6)
    assert words_in(one, learned, seed % 2) == [0, 1, 2, 3, 4, 5]
    word = 1 + seed % 4
    start, stop = one.times[one.words == word][[0, -1], [0, 1]]
    wave = one.wave.reshape(-1)
    for samples, expected in (
        (np.concatenate((wave[:start], wave[stop:])), [n for n in range(6) if n != word]),
        (np.concatenate((wave[:stop], wave[start:])), sorted([*range(6), word])),
    ):
        whole = samples[: len(samples) // HOP * HOP].reshape(-1, HOP)
        assert words_in(Said(whole, one.phones, one.words, one.times), learned, seed % 2) == expected
