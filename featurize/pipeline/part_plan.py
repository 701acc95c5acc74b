"""Divide the utterances of a corpus into parts.

Recordings in folders are divided by length, as training reads them. What lies in archives is divided by archive, so
that an archive is read once, from its beginning to its end: a part holds whole ones, or a piece of one that is longer
than a part. Its rows are in order of length nevertheless (`PartRows.part`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from headrace.store import layout
from headrace.store.schema import Utterance

_LONGEST = 1.5
"""Parts that a part may be as long as, to hold an archive whole."""


def order_in_part(utterance: Utterance) -> tuple[Any, ...]:
    """Return what the utterances of a part are sorted by: in an archive their place, else their length."""
    return (utterance.member.archive, utterance.member.place) if utterance.member else ("", (), utterance.seconds)


def divide(utterances: Sequence[Utterance], part_seconds: float) -> Iterator[list[Utterance]]:
    """Yield the utterances of each part, about `part_seconds` of them."""
    yield from _by_length([utterance for utterance in utterances if not utterance.member], part_seconds)
    yield from _by_archive([utterance for utterance in utterances if utterance.member], part_seconds)


def _by_length(utterances: Sequence[Utterance], part_seconds: float) -> Iterator[list[Utterance]]:
    order, bounds = layout.plan_parts(np.asarray([utterance.seconds for utterance in utterances]), part_seconds)
    for start, stop in itertools.pairwise(bounds.tolist()):
        yield [utterances[n] for n in order[start:stop].tolist()]


def _by_archive(utterances: Sequence[Utterance], part_seconds: float) -> Iterator[list[Utterance]]:
    part, held = list[Utterance](), 0.0
    in_order = sorted(utterances, key=order_in_part)
    for _, group in itertools.groupby(in_order, key=lambda utterance: utterance.member and utterance.member.archive):
        archive = list(group)
        seconds = sum(utterance.seconds for utterance in archive)
        if part and held + seconds / 2 > part_seconds:
            yield part
            part, held = [], 0.0
        if seconds > _LONGEST * part_seconds:
            if part:
                yield part
                part, held = [], 0.0
            yield from _pieces(archive, seconds / round(seconds / part_seconds))
        else:
            part, held = [*part, *archive], held + seconds
    if part:
        yield part


def _pieces(utterances: Sequence[Utterance], piece_seconds: float) -> Iterator[list[Utterance]]:
    """Yield consecutive utterances that last about `piece_seconds`."""
    seconds = np.asarray([utterance.seconds for utterance in utterances])
    piece = ((np.cumsum(seconds) - seconds / 2) / piece_seconds).astype(np.int64)
    starts = np.flatnonzero(np.diff(piece, prepend=-1))
    for start, stop in itertools.pairwise([*starts.tolist(), len(utterances)]):
        yield list(utterances[start:stop])
