"""The search through phone models: against one over all states at once, and within a narrow beam."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.featurize.forced_alignment import hmm
from headrace.featurize.forced_alignment.hmm import PAUSE, STATES


def steps_between(units: np.ndarray) -> list[tuple[int, int]]:
    """Every pair of positions that a path may go from and to, without those of staying."""
    last = 3 * len(units) - 1
    skips = [(3 * n - 1, 3 * n + 3) for n in range(1, len(units) - 1) if units[n] == PAUSE]
    return [(j, j + 1) for j in range(last)] + skips


def likelihood(path: np.ndarray, scores: np.ndarray, units: np.ndarray, stay: np.ndarray) -> float:
    states = 3 * units[path // 3] + path % 3
    moves = np.where(np.diff(path) == 0, np.log(stay[states[:-1]]), np.log1p(-stay[states[:-1]]))
    return float(scores[np.arange(len(path)), states].sum() + moves.sum())


def best_likelihood(scores: np.ndarray, units: np.ndarray, stay: np.ndarray) -> float:
    states = np.concatenate([3 * unit + np.arange(3) for unit in units])
    best = np.full(len(states), -np.inf)
    starts = [0, 3] if units[0] == PAUSE and len(units) > 1 else [0]
    best[starts] = scores[0, states[starts]]
    for row in scores[1:]:
        after = best + np.log(stay[states])
        for source, target in steps_between(units):
            after[target] = max(after[target], best[source] + np.log1p(-stay[states[source]]))
        best = after + row[states]
    ends = [-1, -4] if units[-1] == PAUSE and len(units) > 1 else [-1]
    return float(max(best[ends]))


CHAINS = ([0, 1, 2, 0, 3, 0], [1, 2, 3], [0, 1], [1, 0], [1, 0, 2], [0, 2, 0, 1, 0, 3, 2], [3])


@pytest.mark.parametrize("spread", [0.1, 3])
@pytest.mark.parametrize("units", CHAINS)
def test_no_path_is_more_likely(units: list[int], spread: float) -> None:
    """With scores that are nearly alike the probabilities of staying decide."""
    random, chain = np.random.default_rng(3), np.array(units, np.int32)
    spoken = STATES * int((chain != PAUSE).sum())
    for frames in (spoken, spoken + 1, 40):
        for _ in range(10):
            scores = random.normal(size=(frames, 12)).astype(np.float32) * spread
            stay = random.uniform(0.2, 0.8, 12).astype(np.float32)
            path = hmm.align(scores, chain, stay)
            assert path is not None and len(path) == frames and (np.diff(path) >= 0).all()
            allowed = {*steps_between(chain), *((j, j) for j in range(3 * len(chain)))}
            assert set(zip(path[:-1].tolist(), path[1:].tolist(), strict=True)) <= allowed
            assert likelihood(path, scores, chain, stay) == pytest.approx(
                best_likelihood(scores, chain, stay), abs=1e-2
            )


def random_path(random: np.random.Generator, units: np.ndarray) -> np.ndarray:
    """Positions from the first to the last unit, one to three frames each; half of the pauses are passed over."""
    visited = [
        3 * n + state
        for n, unit in enumerate(units.tolist())
        if unit != PAUSE or random.random() < 0.5
        for state in range(3)
    ]
    return np.repeat(visited, random.integers(1, 4, len(visited)))


def test_a_beam_that_leaves_one_position_leaves_every_step_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmm, "BEAM", 20.0)
    random = np.random.default_rng(7)
    for _ in range(50):
        units = np.array([0, 1, 0, 2, 3, 0, 4, 0, 5, 0], np.int32)
        path = random_path(random, units)
        scores = np.full((len(path), 18), -60, np.float32)
        scores[np.arange(len(path)), 3 * units[path // 3] + path % 3] = 0
        found = hmm.align(scores, units, np.full(18, 0.5, np.float32))
        assert found is not None and found.tolist() == path.tolist()


def test_what_the_beam_cuts_off_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    units, stay = np.array([1], np.int32), np.full(6, 0.5, np.float32)
    scores = np.zeros((6, 6), np.float32)
    scores[3, 4:] = -30  # to stay in the first state looks better for one frame, and is wrong afterwards
    scores[4:, 3] = -100
    scores[:3, 5] = -100
    wide = hmm.align(scores, units, stay)
    monkeypatch.setattr(hmm, "BEAM", 20.0)
    narrow = hmm.align(scores, units, stay)
    assert wide is not None and narrow is not None and wide[-1] == narrow[-1] == 2
    assert likelihood(wide, scores, units, stay) >= likelihood(narrow, scores, units, stay)


def test_an_utterance_of_too_few_frames_has_no_path() -> None:
    units, stay = np.array([0, 1, 2, 0], np.int32), np.full(9, 0.5, np.float32)
    assert hmm.align(np.zeros((5, 9), np.float32), units, stay) is None
    path = hmm.align(np.zeros((6, 9), np.float32), units, stay)
    assert path is not None and path.tolist() == [3, 4, 5, 6, 7, 8]
    assert hmm.align(np.zeros((9, 9), np.float32), np.array([0], np.int32), stay) is None
