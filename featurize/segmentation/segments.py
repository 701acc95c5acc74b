"""Make segments within bounds from runs of speech.

    runs --> phrases, between pauses --> cut at their longest gaps where too long, joined where too short --> segments

Speech is never cut: a phrase too long without a gap is dropped, and so is one that is short and has no neighbour near
enough. Shapes: R runs of speech. Times are frames of a recording.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from headrace.featurize.segmentation.speech_activity import FRAME_S
from headrace.store.errors import UsageError

SHORTEST_GAP_S = 0.2
"""A shorter gap may be the closure of a stop, and is never cut at."""
JOINED_GAP_S = 1.0
"""Longest gap over which a phrase that is too short is joined with its neighbour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The lengths of segments, in seconds."""

    pause: float = 0.5
    """A silence of this length ends a segment."""
    shortest: float = 0.3
    longest: float = 15.0
    """With the silence at its ends."""
    silence: float = 0.05
    """Kept at each end of a segment, or half of the silence up to the next speech, if that is less."""

    def __post_init__(self) -> None:
        if self.pause < SHORTEST_GAP_S:
            raise UsageError(f"--pause {self.pause:g} s: a silence of less than {SHORTEST_GAP_S:g} s may be in a word.")
        if self.shortest + 2 * self.silence > self.longest:
            raise UsageError(
                f"Segments of at least {self.shortest:g} s, with {self.silence:g} s of silence at each end, cannot be "
                f"shorter than {self.longest:g} s: give less for --min-length or --silence."
            )


class Segment(NamedTuple):
    """A part of a recording, in frames."""

    start: int
    stop: int
    dropped: str = ""
    """Why it is not used; empty if it is."""


class _Phrase(NamedTuple):
    first: int
    """Run with which it begins."""
    last: int
    """Run with which it ends."""


TOO_LONG = "too long, without a silence to cut at"
TOO_SHORT = "too short, and not near other speech"


def cut(runs: np.ndarray, frames: int, bounds: Bounds) -> Iterator[Segment]:
    """Yield the segments of a recording in order, and what speech is in none of them.

    Args:
        runs: (R, 2) first frame of each run of speech and one past its last, ascending.
        frames: of the recording.
        bounds: of the segments.
    """
    if not len(runs):
        return
    gaps = runs[1:, 0] - runs[:-1, 1]
    longest = _frames(bounds.longest - 2 * bounds.silence)
    pauses = np.flatnonzero(gaps >= _frames(bounds.pause)).tolist()
    whole = [_Phrase(a, b) for a, b in zip([0, *(n + 1 for n in pauses)], [*pauses, len(runs) - 1], strict=True)]
    phrases = [part for phrase in whole for part in _shortened(phrase, runs, gaps, longest)]
    for phrase in _joined(phrases, runs, _frames(bounds.shortest), longest):
        start, stop = int(runs[phrase.first, 0]), int(runs[phrase.last, 1])
        before = start - int(runs[phrase.first - 1, 1]) if phrase.first else 2 * start
        after = int(gaps[phrase.last]) if phrase.last < len(gaps) else 2 * (frames - stop)
        silence, length = _frames(bounds.silence), stop - start
        dropped = TOO_LONG if length > longest else TOO_SHORT if length < _frames(bounds.shortest) else ""
        yield Segment(start - min(silence, before // 2), stop + min(silence, after // 2), dropped)


def _frames(seconds: float) -> int:
    return round(seconds / FRAME_S)


def _length(phrase: _Phrase, runs: np.ndarray) -> int:
    return int(runs[phrase.last, 1] - runs[phrase.first, 0])


def _shortened(phrase: _Phrase, runs: np.ndarray, gaps: np.ndarray, longest: int) -> Iterator[_Phrase]:
    """Yield a phrase, cut at its longest gap, and its parts at theirs, until none is too long or has a gap."""
    pending = [phrase]
    while pending:
        first, last = pending.pop()
        inner = gaps[first:last]
        if _length(_Phrase(first, last), runs) <= longest or inner.max(initial=0) < _frames(SHORTEST_GAP_S):
            yield _Phrase(first, last)
        else:
            middle = first + int(inner.argmax())
            pending += [_Phrase(middle + 1, last), _Phrase(first, middle)]


def _joined(phrases: Sequence[_Phrase], runs: np.ndarray, shortest: int, longest: int) -> list[_Phrase]:
    """Join each phrase that is too short with its nearer neighbour, if that is near and both together fit."""
    joined: list[_Phrase] = []
    pending = [*reversed(phrases)]
    while pending:
        phrase = pending.pop()
        if _length(phrase, runs) < shortest:
            before = _Phrase(joined[-1].first, phrase.last) if joined else None
            after = _Phrase(phrase.first, pending[-1].last) if pending else None
            gap_before = runs[phrase.first, 0] - runs[joined[-1].last, 1] if joined else np.inf
            gap_after = runs[pending[-1].first, 0] - runs[phrase.last, 1] if pending else np.inf
            for gap, both in sorted([(gap_before, before), (gap_after, after)], key=lambda choice: choice[0]):
                if both and gap <= _frames(JOINED_GAP_S) and _length(both, runs) <= longest:
                    (joined if both is before else pending).pop()
                    pending.append(both)
                    break
            else:
                joined.append(phrase)
        else:
            joined.append(phrase)
    return joined
