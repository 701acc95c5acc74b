"""Forced alignment: from the log-probabilities of a CTC network to the times of phones.

    log-probabilities --best path--> frames of each token --> bounds of tokens in each span --> times of phones

A CTC network emits a token for one or a few frames, and blanks both in silence and in the rest of a sound. Neighbouring
tokens therefore meet in the middle of the blanks between them. Where a pause is possible, each is extended by at most
MAX_EXTENSION frames, and the rest is pause. The phones of a span divide the time of its tokens evenly.

Shapes: T frames, L tokens of an utterance, K distinct tokens, P phones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from headrace.featurize.forced_alignment.ctc_vocabulary import TokenSpan
from headrace.featurize.forced_alignment.hmm_aligner import MARKS, UNKNOWN, base_phone
from headrace.featurize.text.symbols import TABLES

MAX_EXTENSION = 3
_SYMBOLS = TABLES["headrace-ipa"]


class TokenPath(NamedTuple):
    """The most likely alignment of an utterance's tokens with its frames."""

    tokens: np.ndarray
    """(T,) token of each frame."""
    blank: int
    gap: float
    """Mean log-probability relative to the best token of each frame, in nats a frame: 0 at best."""


def token_sequence(spans: Sequence[TokenSpan]) -> list[int]:
    """Return the (L,) tokens of all spans, in order."""
    return [token for span in spans for token in (*span.before, *span.tokens)]


def best_path(emission: np.ndarray, tokens: Sequence[int], blank: int) -> TokenPath | None:
    """Return the most likely path of tokens through the frames.

    Args:
        emission: (T, K + 1) log-probabilities of the distinct tokens and the blank, in ascending order; the last column
            is that of the most likely token of the vocabulary.
        tokens: (L,).
    Returns:
        The path; None where there are too few frames.
    """
    from torchaudio.functional import forced_align

    targets, columns = np.array(tokens), np.unique([*tokens, blank])
    if len(emission) < len(targets) + np.count_nonzero(targets[1:] == targets[:-1]):
        return None
    log_probs = torch.from_numpy(np.ascontiguousarray(emission[None, :, :-1]))
    target_columns = torch.from_numpy(np.searchsorted(columns, targets))[None]
    path, scores = forced_align(log_probs, target_columns, blank=int(np.searchsorted(columns, blank)))
    return TokenPath(
        columns[path[0].numpy()], blank, float((scores[0].numpy() - emission[:, -1]).mean(dtype=np.float64))
    )


def token_bounds(path: TokenPath, spans: Sequence[TokenSpan]) -> list[np.ndarray]:
    """Return (tokens + 1,) bounds of each span in half frames: the begin of each token, and the end of the last."""
    before, after = np.append(path.blank, path.tokens[:-1]), np.append(path.tokens[1:], path.blank)
    is_token = path.tokens != path.blank
    own = np.concatenate([[False] * len(span.before) + [True] * len(span.tokens) for span in spans])
    starts = np.flatnonzero(is_token & (path.tokens != before))[own]
    stops = np.flatnonzero(is_token & (path.tokens != after))[own] + 1
    cuts = np.cumsum([0, *(len(span.tokens) for span in spans)])
    may_pause = np.zeros(len(starts) + 1, bool)
    may_pause[cuts[:-1]] = [span.may_pause for span in spans]
    may_pause[[0, -1]] = True
    half = np.concatenate([2 * starts[:1], starts[1:] - stops[:-1], 2 * (len(path.tokens) - stops[-1:])])
    share = np.where(may_pause, np.minimum(half, 2 * MAX_EXTENSION), half)
    begins, ends = 2 * starts - share[:-1], 2 * stops + share[1:]
    return [np.append(begins[first:last], ends[last - 1]) for first, last in pairwise(cuts)]


def phone_times(bounds: Sequence[np.ndarray], spans: Sequence[TokenSpan], phones: np.ndarray, total: int) -> np.ndarray:
    """Return the times of all phones.

    Args:
        bounds: (tokens + 1,) of each span, as `token_bounds`, but in samples.
        phones: (P,) symbol ids.
        total: samples of the utterance.
    Returns:
        (P, 2) int32: first sample and one past the last. A word without tokens fills the time between its neighbours;
        otherwise a mark does. A phone without a sound of its own is at the end of the one before it.
    """
    times = np.full((len(phones), 2), UNKNOWN, np.int32)
    for span, own in zip(spans, bounds, strict=True):
        shares = np.linspace(0, len(own) - 1, len(span.phones) + 1)
        ends = np.rint(np.interp(shares, np.arange(len(own)), own))
        times[span.phones] = np.stack([ends[:-1], ends[1:]], 1)
    placed, unplaced = np.flatnonzero(times[:, 0] != UNKNOWN), np.flatnonzero(times[:, 0] == UNKNOWN)
    starts = np.append(times[placed, 0], total)
    for run in np.split(unplaced, np.flatnonzero(np.diff(unplaced) > 1) + 1) if len(unplaced) else ():
        begin, end = times[run[0] - 1, 1] if run[0] else 0, starts[np.searchsorted(placed, run[0])]
        times[run] = _fill_gap(begin, end, [_SYMBOLS[phone] for phone in phones[run]])
    return times


def _fill_gap(begin: int, end: int, names: Sequence[str]) -> np.ndarray:
    """Return times (symbols, 2) within a gap: phones divide it evenly; without phones, the first mark has all of it."""
    is_phone = np.array([bool(base_phone(name)) for name in names])
    is_mark = np.array([name in MARKS for name in names])
    receives_time = is_phone if is_phone.any() else is_mark & (np.cumsum(is_mark) == 1)
    before = np.cumsum(receives_time) - receives_time
    share = (end - begin) / max(1, receives_time.sum())
    return np.rint(begin + share * np.stack([before, before + receives_time], 1)).astype(np.int32)
