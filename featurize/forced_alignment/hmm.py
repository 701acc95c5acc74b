"""Phone models learned from speech and its phones alone: hidden Markov models with mixtures of diagonal Gaussians.

Three states a phone, left to right, started flat and re-estimated by Viterbi with a growing number of Gaussians
(Young et al., The HTK Book, 2006, sections 3.2 and 8; Rabiner 1989). An utterance is a chain of units; unit 0 of the
models is the pause, which may be passed over wherever it stands.

Shapes: T frames, D numbers of each, C classes of phones (0 the pause), S = 3 C states, K Gaussians of each, U units of
an utterance.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from headrace.featurize.forced_alignment.gmm import VARIANCE_FLOOR, Mixture, Models, Scorer, refit
from headrace.featurize.spectral.simd import compiled

STATES = 3
"""Of a phone: the fewest frames that it takes."""
PAUSE = 0
SCHEDULE = ((1, 8), (2, 4), (4, 4), (8, 6))
"""Gaussians of a state, and rounds of re-estimation with so many."""
QUIET = 0.25
"""Of an utterance's range of levels: what lies below is taken for pauses before there are models."""
BEAM = 3000.0
"""How far behind the best a state may be, in nats. Without it, the memory for an hour of speech would be 40 GB."""


def fits(frames: int, units: np.ndarray) -> bool:
    """Whether so many frames are enough for every phone of a chain."""
    return frames >= STATES * int(np.count_nonzero(units != PAUSE)) > 0


def align(scores: np.ndarray, units: np.ndarray, stay: np.ndarray) -> np.ndarray | None:
    """The best way through a chain.

    Args:
        scores: (T, S) float32, of a `Scorer`.
        units: (U,) int32 classes; no two pauses follow one another.
        stay: (S,) as `Models` has it.
    Returns:
        (T,) int32: STATES times the unit plus the state within it, ascending; None where there is no way.
    """
    if not fits(len(scores), units):
        return None
    path: np.ndarray = _viterbi(scores, units, np.log(stay), np.log1p(-stay), np.float32(BEAM))
    return path if len(path) else None


@compiled
def _viterbi(scores: Any, units: Any, stay: Any, leave: Any, beam: Any) -> Any:
    """States are visited within a window that moves along the chain: [low, high) of each frame, in `bounds`. `back` has
    where each came from: 0 itself, 1 the state before, 2 the one before a pause."""
    frames, count = len(scores), 3 * len(units)
    best = np.full(count, -np.inf, np.float32)
    best[0] = scores[0, 3 * units[0]]
    high = 1
    if units[0] == 0 and len(units) > 1:
        best[3] = scores[0, 3 * units[1]]
        high = 4
    low, used = 0, 0
    back = np.empty(max(1024, 64 * frames), np.int8)
    bounds = np.empty((frames, 2), np.int64)
    for t in range(1, frames):
        high = min(count, high + 4)
        while used + high - low > len(back):
            back = np.concatenate((back, np.empty_like(back)))
        bounds[t, 0], bounds[t, 1] = used, low
        top = np.float32(-np.inf)
        for j in range(high - 1, low - 1, -1):
            unit, state = j // 3, 3 * units[j // 3] + j % 3
            value, source = best[j] + stay[state], 0
            if j > low:
                other = best[j - 1] + leave[3 * units[(j - 1) // 3] + (j - 1) % 3]
                if other > value:
                    value, source = other, 1
            if j % 3 == 0 and unit > 1 and units[unit - 1] == 0 and j - 4 >= low:
                other = best[j - 4] + leave[3 * units[unit - 2] + 2]
                if other > value:
                    value, source = other, 2
            best[j] = value + scores[t, state]
            back[used + j - low] = source
            top = max(top, best[j])
        used += high - low
        while best[low] < top - beam:
            best[low] = -np.inf
            low += 1
        while best[high - 1] < top - beam:
            best[high - 1] = -np.inf
            high -= 1
    j = count - 1
    if units[-1] == 0 and len(units) > 1 and best[count - 4] > best[j]:
        j = count - 4
    if best[j] == -np.inf:
        return np.empty(0, np.int32)
    path = np.empty(frames, np.int32)
    path[0] = 0
    for t in range(frames - 1, 0, -1):
        path[t] = j
        source = back[bounds[t, 0] + j - bounds[t, 1]]
        j -= 4 if source == 2 else source
    path[0] = j
    return path


def train(
    features: Sequence[np.ndarray], chains: Sequence[np.ndarray], classes: int, note: Callable[[str], None]
) -> Models:
    """Models of all classes.

    Args:
        features: of each utterance (T, D) float32, of mean 0 and variance 1; the first is the level.
        chains: of each utterance its units; they fit.
        classes: C.
        note: told how well the models fit, from time to time.
    """
    x_ND = np.concatenate(features)
    mean, variance = x_ND.mean(0, keepdims=True), np.maximum(x_ND.var(0, keepdims=True), VARIANCE_FLOOR)
    mixtures = [Mixture(mean, variance, np.ones(1, np.float32))] * (STATES * classes)
    states = [_flat(x_TD[:, 0], units) for x_TD, units in zip(features, chains, strict=True)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _threads() as pool:
        for size, rounds in SCHEDULE:
            for _ in range(rounds):
                mixtures = _estimated(x_ND, np.concatenate(states), mixtures, size, pool)
                models = Models.of(mixtures, _staying(states, len(mixtures)))
                again = partial(_states, Scorer(models, device), models.stay)
                states, fit = zip(*pool.map(again, features, chains, states), strict=True)
            gaussians = "1 Gaussian" if size == 1 else f"{size} Gaussians"
            note(f"{gaussians} a state: the log-likelihood of a frame is {sum(fit) / len(x_ND):.2f}")
    return models


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """One a core. Each computes by itself, so that the numbers do not depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _flat(level: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(T,) states before there are models: pauses where it is quiet, and the phones, all of one length, elsewhere."""
    spoken = units[units != PAUSE]
    chain = (STATES * spoken[:, None] + np.arange(STATES)).reshape(-1)
    loud = level >= level.min() + QUIET * (level.max() - level.min())
    states = np.resize(np.arange(STATES, dtype=np.int64), len(level))  # of the pause
    states[loud] = chain[np.arange(loud.sum()) * len(chain) // max(1, loud.sum())]
    return states


def _states(
    score: Scorer, stay: np.ndarray, x_TD: np.ndarray, units: np.ndarray, before: np.ndarray
) -> tuple[np.ndarray, float]:
    """(T,) states on the best way, and how well the frames fit them; as before where there is no way."""
    scores = score(x_TD)
    path = align(scores, units, stay)
    states = before if path is None else STATES * units[path // STATES] + path % STATES
    return states, float(scores[np.arange(len(states)), states].sum(dtype=np.float64))


def _staying(states: Sequence[np.ndarray], count: int) -> np.ndarray:
    """(S,) how probable each is to be followed by itself."""
    frames = sum(np.bincount(some, minlength=count) for some in states)
    stays = sum(np.bincount(some[1:][some[1:] == some[:-1]], minlength=count) for some in states)
    return np.clip((stays + 1) / (frames + 2), 0.1, 0.99).astype(np.float32)


def _estimated(
    x_ND: np.ndarray, states: np.ndarray, mixtures: Sequence[Mixture], size: int, pool: ThreadPoolExecutor
) -> list[Mixture]:
    """The mixtures of all states from the frames that are theirs."""
    order = np.argsort(states, kind="stable")
    cuts = np.searchsorted(states[order], np.arange(1, len(mixtures)))
    return list(pool.map(lambda old, own: refit(old, x_ND[own], size), mixtures, np.split(order, cuts)))
