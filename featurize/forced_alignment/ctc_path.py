"""Forced alignment: from what a CTC network hears in every frame to the times of phones.

    log-probabilities --best way of the tokens--> frames of each token --> bounds of each stretch --> phones

A token is heard in a frame or a few, and what is silence is not told from what is the rest of a sound. So neighbours
meet in the middle of what lies between them; where a pause may be, each keeps at most REACH frames of it, and the rest
is pause. The phones of a stretch share out its tokens evenly: one each, or the letters of a word.

Shapes: T frames, L tokens of an utterance, K different ones, P phones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torchaudio.functional import forced_align

from headrace.featurize.forced_alignment.ctc_vocabulary import Stretch
from headrace.featurize.forced_alignment.hmm_aligner import MARKS, UNKNOWN, base
from headrace.featurize.text.symbols import TABLES

REACH = 3
_NAMES = TABLES["headrace-ipa"]


class TokenPath(NamedTuple):
    """The best one of an utterance's tokens through its frames."""

    tokens: np.ndarray
    """(T,) of every frame."""
    blank: int
    gap: float
    """Nats a frame by which it is behind the best way of any tokens: 0 at best."""


def tokens_of(line: Sequence[Stretch]) -> list[int]:
    """(L,)."""
    return [token for one in line for token in (*one.before, *one.tokens)]


def best_path(emission: np.ndarray, tokens: Sequence[int], blank: int) -> TokenPath | None:
    """
    Args:
        emission: (T, K + 1) log-probabilities of the different tokens and the blank, in ascending order, and of the
            best token of all.
        tokens: (L,).
    Returns:
        None where there are not frames enough.
    """
    targets, columns = np.array(tokens), np.unique([*tokens, blank])
    if len(emission) < len(targets) + np.count_nonzero(targets[1:] == targets[:-1]):
        return None
    log_probs = torch.from_numpy(np.ascontiguousarray(emission[None, :, :-1]))
    asked = torch.from_numpy(np.searchsorted(columns, targets))[None]
    path, scores = forced_align(log_probs, asked, blank=int(np.searchsorted(columns, blank)))
    return TokenPath(
        columns[path[0].numpy()], blank, float((scores[0].numpy() - emission[:, -1]).mean(dtype=np.float64))
    )


def bounds_of(way: TokenPath, line: Sequence[Stretch]) -> list[np.ndarray]:
    """Of every stretch where its tokens begin, and its last one ends: (tokens + 1,) in half frames."""
    before, after = np.append(way.blank, way.tokens[:-1]), np.append(way.tokens[1:], way.blank)
    spoken = way.tokens != way.blank
    own = np.concatenate([[False] * len(one.before) + [True] * len(one.tokens) for one in line])
    starts = np.flatnonzero(spoken & (way.tokens != before))[own]
    stops = np.flatnonzero(spoken & (way.tokens != after))[own] + 1
    cuts = np.cumsum([0, *(len(one.tokens) for one in line)])
    may_pause = np.zeros(len(starts) + 1, bool)
    may_pause[cuts[:-1]] = [one.may_pause for one in line]
    may_pause[[0, -1]] = True
    half = np.concatenate([2 * starts[:1], starts[1:] - stops[:-1], 2 * (len(way.tokens) - stops[-1:])])
    share = np.where(may_pause, np.minimum(half, 2 * REACH), half)
    begins, ends = 2 * starts - share[:-1], 2 * stops + share[1:]
    return [np.append(begins[first:last], ends[last - 1]) for first, last in pairwise(cuts)]


def times_of(bounds: Sequence[np.ndarray], line: Sequence[Stretch], phones: np.ndarray, total: int) -> np.ndarray:
    """
    Args:
        bounds: of every stretch where its tokens begin, and its last one ends, in samples.
        phones: (P,) symbol ids.
        total: samples of the utterance.
    Returns:
        (P, 2) int32: first sample and one past the last. A word without tokens has what is between its neighbours,
        else a mark has that; a phone without a sound of its own is where the one before it ends.
    """
    times = np.full((len(phones), 2), UNKNOWN, np.int32)
    for one, own in zip(line, bounds, strict=True):
        shares = np.linspace(0, len(own) - 1, len(one.phones) + 1)
        ends = np.rint(np.interp(shares, np.arange(len(own)), own))
        times[one.phones] = np.stack([ends[:-1], ends[1:]], 1)
    placed, unplaced = np.flatnonzero(times[:, 0] != UNKNOWN), np.flatnonzero(times[:, 0] == UNKNOWN)
    starts = np.append(times[placed, 0], total)
    for run in np.split(unplaced, np.flatnonzero(np.diff(unplaced) > 1) + 1) if len(unplaced) else ():
        begin, end = times[run[0] - 1, 1] if run[0] else 0, starts[np.searchsorted(placed, run[0])]
        times[run] = _between(begin, end, [_NAMES[phone] for phone in phones[run]])
    return times


def _between(begin: int, end: int, names: Sequence[str]) -> np.ndarray:
    """(symbols, 2) of what no token stands for: those that sound share the time out, else the first mark has it."""
    sounding = np.array([bool(base(name)) for name in names])
    marks = np.array([name in MARKS for name in names])
    taking = sounding if sounding.any() else marks & (np.cumsum(marks) == 1)
    before = np.cumsum(taking) - taking
    share = (end - begin) / max(1, taking.sum())
    return np.rint(begin + share * np.stack([before, before + taking], 1)).astype(np.int32)
