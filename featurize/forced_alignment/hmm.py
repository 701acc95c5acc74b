"""Train phone models from speech and its phones: hidden Markov models with diagonal Gaussian mixtures.

A phone has three states, left to right. Training begins with a flat start and re-estimates by Viterbi alignment with a
growing number of Gaussians (Young et al., The HTK Book, 2006, sections 3.2 and 8; Rabiner 1989). An utterance is a
sequence of units. Unit 0 is the pause, which may be skipped anywhere.

Shapes: T frames, D channels, C classes of phones (0 the pause), S = 3 C states, K Gaussians of a state, U units of an
utterance.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from headrace.featurize.features.derived import LearningLog
from headrace.featurize.forced_alignment.gmm import VARIANCE_FLOOR, Mixture, Scorer, StateMixtures, refit
from headrace.featurize.spectral.simd import compiled

STATES = 3
"""States of a phone, which is also its least number of frames."""
SKIP = STATES + 1
"""Positions from the last state of a unit to the first one after a skipped pause."""
PAUSE = 0
SCHEDULE = ((1, 8), (2, 4), (4, 4), (8, 6))
"""Pairs of Gaussians in a state, and rounds of re-estimation with that number."""
QUIET = 0.25
"""Share of an utterance's range of levels below which frames are pauses in the flat start."""
BEAM = 3000.0
"""Beam of the search, in nats. Without it, an hour of speech would take 40 GB of memory."""


def fits(frames: int, units: np.ndarray) -> bool:
    """Return whether there are phones, and enough frames for all of them."""
    return frames >= STATES * int(np.count_nonzero(units != PAUSE)) > 0


def align(scores: np.ndarray, units: np.ndarray, stay: np.ndarray) -> np.ndarray | None:
    """Return the most likely path of an utterance's frames through its units (Viterbi 1967).

    Args:
        scores: (T, S) float32 log-likelihoods, of a `Scorer`.
        units: (U,) int32 classes; no two pauses follow one another.
        stay: (S,) self-transition probabilities.
    Returns:
        (T,) int32 positions: STATES times the unit plus the state within it, ascending; None where no path fits.
    """
    if not fits(len(scores), units):
        return None
    path: np.ndarray = _viterbi(scores, units, np.log(stay), np.log1p(-stay), np.float32(BEAM))
    return path if len(path) else None


@compiled
def _viterbi(scores: Any, units: Any, stay: Any, leave: Any, beam: Any) -> Any:
    """Return the path that `align` returns; empty where no path reaches the end.

    Only a window [low, high) of positions is searched in each frame: it moves along the units. `steps` holds the steps
    that led to the positions of all windows, one window after the other; `windows` has where each begins in it, and
    its `low`.
    """
    frames, count = len(scores), STATES * len(units)
    best, high = _first_frame(scores[0], units)
    low, used = 0, 0
    steps = np.empty(max(1024, 64 * frames), np.int8)
    windows = np.empty((frames, 2), np.int64)
    for t in range(1, frames):
        high = min(count, high + SKIP)
        while used + high - low > len(steps):
            steps = np.concatenate((steps, np.empty_like(steps)))
        windows[t, 0], windows[t, 1] = used, low
        top = _next_frame(best, scores[t], units, stay, leave, low, high, steps[used:])
        used += high - low
        low, high = _prune(best, low, high, top - beam)
    return _trace_back(best, units, steps, windows)


@compiled
def _state(units: Any, position: Any) -> Any:
    """Return the state that a position stands for."""
    return STATES * units[position // STATES] + position % STATES


@compiled
def _first_frame(scores: Any, units: Any) -> Any:
    """Return log-likelihoods (STATES U,) of beginning at each position, and one past the last that is possible."""
    best = np.full(STATES * len(units), -np.inf, np.float32)
    best[0] = scores[STATES * units[0]]
    if units[0] != PAUSE or len(units) == 1:
        return best, 1
    best[STATES] = scores[STATES * units[1]]
    return best, SKIP


@compiled
def _next_frame(best: Any, scores: Any, units: Any, stay: Any, leave: Any, low: Any, high: Any, steps: Any) -> Any:
    """Move `best` on by a frame, in place, record the `steps` that led to each position, and return the highest value.

    A step is how many positions a path moves: 0, 1, or SKIP where it passes over a pause.
    """
    top = np.float32(-np.inf)
    for j in range(high - 1, low - 1, -1):
        unit, state = j // STATES, _state(units, j)
        value, step = best[j] + stay[state], 0
        if j > low:
            other = best[j - 1] + leave[_state(units, j - 1)]
            if other > value:
                value, step = other, 1
        if j % STATES == 0 and unit > 1 and units[unit - 1] == PAUSE and j - SKIP >= low:
            other = best[j - SKIP] + leave[_state(units, j - SKIP)]
            if other > value:
                value, step = other, SKIP
        best[j] = value + scores[state]
        steps[j - low] = step
        top = max(top, best[j])
    return top


@compiled
def _prune(best: Any, low: Any, high: Any, limit: Any) -> Any:
    """Return the window without the positions at both ends that lie below a limit; these become impossible."""
    while best[low] < limit:
        best[low] = -np.inf
        low += 1
    while best[high - 1] < limit:
        best[high - 1] = -np.inf
        high -= 1
    return low, high


@compiled
def _trace_back(best: Any, units: Any, steps: Any, windows: Any) -> Any:
    """Return the path that ends best: at the last position, or before a pause at the end."""
    j = STATES * len(units) - 1
    if units[-1] == PAUSE and len(units) > 1 and best[j - STATES] > best[j]:
        j -= STATES
    if best[j] == -np.inf:
        return np.empty(0, np.int32)
    path = np.empty(len(windows), np.int32)
    for t in range(len(windows) - 1, 0, -1):
        path[t] = j
        j -= steps[windows[t, 0] + j - windows[t, 1]]
    path[0] = j
    return path


def train(
    features: Sequence[np.ndarray], chains: Sequence[np.ndarray], classes: int, log: LearningLog
) -> StateMixtures:
    """Train the models of all classes.

    Args:
        features: (T, D) float32 of each utterance, of mean 0 and variance 1; the first channel is the level.
        chains: (U,) units of each utterance, for which `fits` holds.
        classes: C.
        log: receives the rounds that are done, and a line about the likelihood after each number of Gaussians.
    """
    x_ND = np.concatenate(features)
    mean, variance = x_ND.mean(0, keepdims=True), np.maximum(x_ND.var(0, keepdims=True), VARIANCE_FLOOR)
    mixtures = [Mixture(mean, variance, np.ones(1, np.float32))] * (STATES * classes)
    states = [_flat_start(x_TD[:, 0], units) for x_TD, units in zip(features, chains, strict=True)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = [size for size, rounds in SCHEDULE for _ in range(rounds)]
    log.step(0, sum(sizes), f"0/{len(sizes)} rounds")
    with _thread_pool() as pool:
        for done, (size, next_size) in enumerate(pairwise([*sizes, 0]), 1):
            mixtures = _reestimate(x_ND, np.concatenate(states), mixtures, size, pool)
            models = StateMixtures.from_mixtures(mixtures, _self_transitions(states, len(mixtures)))
            realign = partial(_realign, Scorer(models, device), models.stay)
            states, fit = zip(*pool.map(realign, features, chains, states), strict=True)
            fitted = f"the log-likelihood of a frame is {sum(fit) / len(x_ND):.2f}"
            log.step(sum(sizes[:done]), sum(sizes), f"{done}/{len(sizes)} rounds, {fitted}")
            if size != next_size:
                log(f"{'1 Gaussian' if size == 1 else f'{size} Gaussians'} a state: {fitted}")
    return models


@contextmanager
def _thread_pool() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of one thread per core. torch uses one thread in each: results do not depend on their number."""
    previous = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield pool
    finally:
        torch.set_num_threads(previous)


def _flat_start(level: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return (T,) states of a flat start: pauses where it is quiet, elsewhere the phones at equal lengths."""
    phones = units[units != PAUSE]
    chain = (STATES * phones[:, None] + np.arange(STATES)).reshape(-1)
    is_loud = level >= level.min() + QUIET * (level.max() - level.min())
    states = np.resize(np.arange(STATES, dtype=np.int64), len(level))  # states of the pause
    states[is_loud] = chain[np.arange(is_loud.sum()) * len(chain) // max(1, is_loud.sum())]
    return states


def _realign(
    score: Scorer, stay: np.ndarray, x_TD: np.ndarray, units: np.ndarray, previous: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the (T,) states of the best path and their log-likelihood; `previous` states where no path fits."""
    scores = score(x_TD)
    path = align(scores, units, stay)
    states = previous if path is None else STATES * units[path // STATES] + path % STATES
    return states, float(scores[np.arange(len(states)), states].sum(dtype=np.float64))


def _self_transitions(states: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Return (S,) self-transition probabilities, from counts over all utterances."""
    frames = sum(np.bincount(sequence, minlength=count) for sequence in states)
    stays = sum(np.bincount(sequence[1:][sequence[1:] == sequence[:-1]], minlength=count) for sequence in states)
    return np.clip((stays + 1) / (frames + 2), 0.1, 0.99).astype(np.float32)


def _reestimate(
    x_ND: np.ndarray, states: np.ndarray, mixtures: Sequence[Mixture], size: int, pool: ThreadPoolExecutor
) -> list[Mixture]:
    """Re-estimate the mixture of every state from the frames aligned with it."""
    order = np.argsort(states, kind="stable")
    cuts = np.searchsorted(states[order], np.arange(1, len(mixtures)))
    return list(pool.map(lambda old, own: refit(old, x_ND[own], size), mixtures, np.split(order, cuts)))
