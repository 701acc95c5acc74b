"""Split long recordings into segments at pauses of their alignment, which also gives the words of each segment.

    alignment --> runs of speech between pauses --> segments of as many runs as fit --> utterances

A run is never split. A segment includes up to MAX_PADDING_S of the pauses before and after it. Two segments share a
shorter pause evenly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from headrace.featurize.alignment import label_files
from headrace.featurize.alignment.intervals import Alignment, Tier
from headrace.featurize.alignment.label_files import Interval
from headrace.featurize.text.languages.frontend import PUNCTUATION
from headrace.store.errors import Rejected
from headrace.store.schema import Reject, Utterance, utterance_id

MIN_PAUSE_S = 0.2
"""A shorter silence may be the closure of a stop."""
MAX_PADDING_S = 0.5
"""Silence that a segment keeps on each side."""
SILENCE_LABELS = PUNCTUATION | {
    "",
    "sil",
    "sp",
    "pau",
    "h#",
    "silence",
    "_",
    "#",
    "<eps>",
    "<sil>",
    "<s>",
    "</s>",
    "<p>",
    "<p:>",
}
"""Labels of silence, in lower case, where a recording may be split. Noises and unknown words may be speech."""


def split(utterance: Utterance, alignment: Alignment, max_segment_s: float) -> Iterator[Utterance | Reject]:
    """Yield the segments of an utterance in order, none longer than `max_segment_s`.

    Each has its own alignment and the words that are spoken in it, spelled as in the utterance's text if that has the
    same words. A run of speech that is too long becomes a reject.

    Args:
        utterance: to split.
        alignment: of the utterance, from its first sample on.
        max_segment_s: maximum duration of a segment.
    Raises:
        Rejected: stage "align"; the alignment has no words.
    """
    words, rate = alignment.words, utterance.sample_rate
    indices = label_files.word_indices(words)
    if not indices:
        reason = too_long_reason(max_segment_s)
        raise Rejected("align", f"{reason}, and its alignment names no words: add a tier of words")
    middles = (words.starts_s[indices] + words.ends_s[indices]) / 2
    texts = _word_texts(utterance.text, [words.labels[n] for n in indices])
    runs, previous_end = _speech_runs(utterance, alignment), 0.0
    for start, stop in _segment_bounds(runs, utterance, max_segment_s):
        name = utterance_id(utterance.audio, (start, stop), utterance.channel)
        start_s, stop_s = (start - utterance.start) / rate, (stop - utterance.start) / rate
        first, last = np.searchsorted(middles, [start_s, stop_s]).tolist()
        if stop - start > max_segment_s * rate:
            place = f"from {start / rate:.2f} to {stop / rate:.2f} s there is no pause of {MIN_PAUSE_S:g} s"
            yield Reject(name, "align", f"{place}: cut it there, or allow more with --max-segment")
        elif first == last:
            yield Reject(name, "align", "its alignment marks speech there, but names no word")
        else:
            tiers = (_crop(tier, previous_end, start_s, stop_s) for tier in (alignment.phones, words))
            segment_alignment = label_files.to_json(name, *tiers)
            text = "".join(texts[first:last]).strip()
            yield replace(utterance, id=name, start=start, stop=stop, text=text, alignment=segment_alignment)
        previous_end = stop_s


def too_long_reason(max_segment_s: float) -> str:
    """Return the reason to reject an utterance that exceeds --max-segment and cannot be split."""
    return f"it is longer than {max_segment_s:g} s"


def _speech_runs(utterance: Utterance, alignment: Alignment) -> np.ndarray:
    """Return (R, 2) start and end of the speech between two pauses, in samples of the recording, ascending."""
    spans = [
        (start, end)
        for tier in (alignment.phones, alignment.words)
        for label, start, end in zip(tier.labels, tier.starts_s.tolist(), tier.ends_s.tolist(), strict=True)
        if label.casefold() not in SILENCE_LABELS
    ]
    starts, ends = np.array(sorted(spans)).T
    ends = np.maximum.accumulate(ends)
    pauses = np.flatnonzero(starts[1:] - ends[:-1] >= MIN_PAUSE_S)
    runs_s = np.stack([starts[np.append(0, pauses + 1)], ends[np.append(pauses, len(ends) - 1)]], 1)
    samples = utterance.start + np.rint(runs_s * utterance.sample_rate).astype(np.int64)
    return np.clip(samples, utterance.start, utterance.stop)


def _segment_bounds(runs: np.ndarray, utterance: Utterance, max_segment_s: float) -> Iterator[tuple[int, int]]:
    """Yield start and stop of each segment, in samples. A run that is too long is a segment too.

    As many runs as fit are considered. Among the pauses after which the segment has at least half of the maximum
    duration, it ends at the longest.
    """
    max_samples, max_padding = (int(s * utterance.sample_rate) for s in (max_segment_s, MAX_PADDING_S))
    pauses = runs[1:, 0] - runs[:-1, 1]
    before = np.minimum(np.append(runs[0, 0] - utterance.start, pauses - pauses // 2), max_padding)
    after = np.minimum(np.append(pauses // 2, utterance.stop - runs[-1, 1]), max_padding)
    starts, stops, first = runs[:, 0] - before, runs[:, 1] + after, 0
    while first < len(runs):
        half, end = np.searchsorted(stops, starts[first] + np.array([max_samples / 2, max_samples + 1])).tolist()
        if end == first:
            available = max(0, max_samples - int(runs[first, 1] - runs[first, 0]))
            lead = min(int(before[first]), available // 2)
            yield int(runs[first, 0]) - lead, int(runs[first, 1]) + min(int(after[first]), available - lead)
            first += 1
            continue
        last = end - 1
        if end < len(runs) and half < end:
            last = half + int(pauses[half:end].argmax())
        yield int(starts[first]), int(stops[last])
        first = last + 1


def _word_texts(text: str, labels: Sequence[str]) -> list[str]:
    """Return the part of the text for each word: everything up to the next word, with marks and spaces.

    If the words are not those of the text, return the words themselves.
    """
    starts, position = list[int](), 0
    for label in labels:
        candidates = range(position, len(text))
        position = next((n for n in candidates if text[n].isalnum() or text[n] == label[0]), len(text))
        starts.append(position)
        position += len(label)
        if text[starts[-1] : position].casefold() != label.casefold():
            return [f"{label} " for label in labels]
    if any(map(str.isalnum, text[position:])):
        return [f"{label} " for label in labels]
    return [text[start:stop] for start, stop in pairwise([0, *starts[1:], len(text)])]


def _crop(tier: Tier, previous_end: float, start_s: float, stop_s: float) -> Iterator[Interval]:
    """Yield the intervals of a tier within a segment, with times from the segment's start.

    A silence that two segments share belongs to the first of them, which ends at `previous_end`.
    """
    for label, start, end in zip(tier.labels, tier.starts_s.tolist(), tier.ends_s.tolist(), strict=True):
        is_silence = label.casefold() in SILENCE_LABELS
        if start_s < end and start < stop_s and (start >= previous_end or not is_silence):
            yield Interval(max(start, start_s) - start_s, min(end, stop_s) - start_s, label)
