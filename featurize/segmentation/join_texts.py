"""Join the texts that a recogniser found in whole recordings with the segments of a list, by their times.

A word belongs to the segment that its middle lies in. A sentence belongs to the segment that holds most of it: one
that reaches into a second segment cannot be divided, and neither segment gets a text.

Shapes: S segments of one recording, ascending.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from headrace.featurize.segmentation import recogniser_results, segment_list
from headrace.featurize.segmentation.recogniser_results import Piece, Result, joined
from headrace.featurize.segmentation.segment_list import Row
from headrace.store import rejects
from headrace.store.errors import CorpusError
from headrace.store.schema import Reject
from headrace.store.storage.output_files import check_output_file

SHARE = 0.8
"""Share of a sentence that the segment which gets it holds: recognisers' times are rough."""
REACHES_S = 0.25
"""Seconds of a segment that a sentence must cover to count as reaching into it."""
NO_TEXT = "no result has a text there"
NO_TIMES = "it gives no times that fit its text, and its recording has several segments"
DIVIDED = "a sentence reaches into two segments: let the recogniser give the times of words"


def join_texts(segments: Path, results: Path, out: Path) -> dict[str, Any]:
    """Write a list of segments with the texts of a recogniser.

    Texts and languages of the list are replaced where there are others. What has none keeps its own.

    Args:
        segments: a list, as `featurize split` writes it.
        results: a .json or .jsonl, or a folder of them: see `recogniser_results`.
        out: the list to write; it may be `segments`.
    Returns:
        Counts: of segments, with and without a text; of results, those that were used, and the reasons of the others.
    Raises:
        UsageError: there is no list, or no result.
        CorpusError: the list is none, or no result is about a recording in it.
    """
    segment_list.check_name(out)
    check_output_file(out)
    rows = segment_list.read(segments)
    by_recording: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_recording[row.audio].append(number)
    found, refused = _by_recording(recogniser_results.read(results), by_recording)
    if not found:
        kinds = [str(kind) for kind in rejects.group(refused)]
        raise CorpusError(f"No result in {results} is about a recording in {segments}: nothing is written.", *kinds)
    reasons, outside = Counter[str](), 0
    for recording, numbers in by_recording.items():
        numbers.sort(key=lambda number: rows[number].start)
        texts, missed = _texts([rows[number] for number in numbers], found.get(recording, []))
        language = next((result.language for result in found.get(recording, []) if result.language), "")
        outside += missed
        for number, text in zip(numbers, texts, strict=True):
            if text in (NO_TEXT, DIVIDED):
                reasons.update([] if rows[number].text else [text])
            else:
                rows[number] = rows[number]._replace(text=text, language=language or rows[number].language)
    segment_list.write(out, segments.resolve().parent, rows)
    return {
        "segments": len(rows),
        "with_text": sum(bool(row.text) for row in rows),
        "without_text": dict(reasons),
        "results": sum(map(len, found.values())),
        "words_outside_segments": outside,
        "rejects": [{"id": reject.id, "reason": reject.reason} for reject in refused],
        "reject_kinds": [asdict(kind) for kind in rejects.group(refused)],
    }


def _by_recording(
    results: Iterable[Result | Reject], recordings: Mapping[str, Sequence[int]]
) -> tuple[dict[str, list[Result]], list[Reject]]:
    """Return the results of each recording, and those that are of none."""
    named: dict[str, set[str]] = defaultdict(set)
    for recording in recordings:
        path = PurePosixPath(recording)
        for name in ("/".join(path.parts[n:]) for n in range(len(path.parts))):
            named[name].add(recording)
            named[name.removesuffix(path.suffix)].add(recording)
    found: dict[str, list[Result]] = defaultdict(list)
    refused = list[Reject]()
    for result in results:
        if isinstance(result, Reject):
            refused.append(result)
            continue
        path = PurePosixPath(result.recording.replace("\\", "/"))
        ends = ("/".join(path.parts[n:]) for n in range(len(path.parts)))
        fitting = next((named[end] for end in ends if end in named), named.get(path.stem, set()))
        if len(fitting) == 1 and not result.pieces and len(recordings[next(iter(fitting))]) > 1:
            refused.append(Reject(result.location, "scan", NO_TIMES))
        elif len(fitting) == 1:
            found[next(iter(fitting))].append(result)
        else:
            several = f"{result.recording!r} may be several recordings of the list: give its path"
            unknown = f"no recording of the list is called {result.recording!r}"
            refused.append(Reject(result.location, "scan", several if fitting else unknown))
    return found, refused


def _texts(rows: Sequence[Row], results: Sequence[Result]) -> tuple[list[str], int]:
    """Return the text of each segment of a recording, or why it has none; and how many words are in no segment."""
    spoken: list[list[tuple[float, str]]] = [[] for _ in rows]
    divided, outside = set[int](), 0
    starts, ends = (np.array([row[column] for row in rows], float) for column in (1, 2))
    for result in results:
        if not result.pieces:  # of the only segment of its recording
            spoken[0].append((0.0, result.text))
        for piece in result.pieces:
            homes = _homes(piece, starts, ends)
            if len(homes) == 1:
                spoken[homes[0]].append((piece.start, piece.text))
            outside += not homes
            divided.update(homes if len(homes) > 1 else ())
    texts = [joined(text for _, text in sorted(parts, key=lambda part: part[0])) for parts in spoken]
    return [DIVIDED if n in divided else text or NO_TEXT for n, text in enumerate(texts)], outside


def _homes(piece: Piece, starts: np.ndarray, ends: np.ndarray) -> list[int]:
    """Return the segment that a piece is spoken in; those that it reaches into, if it is in none of them alone."""
    if piece.is_word or piece.end <= piece.start:
        middle = (piece.start + piece.end) / 2
        return np.flatnonzero((starts <= middle) & (middle < ends)).tolist()[:1]
    shared = np.minimum(ends, piece.end) - np.maximum(starts, piece.start)
    best = int(shared.argmax())
    if shared[best] >= SHARE * (piece.end - piece.start):
        return [best]
    return np.flatnonzero(shared >= REACHES_S).tolist() or ([best] if shared[best] > 0 else [])
