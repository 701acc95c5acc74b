"""Recordings that are too long, cut at real pauses. Where these are, and which words are between them, says their
alignment: without one nobody knows which words go with which sound.

    alignment --> runs of speech, with pauses between them --> pieces, of as many runs as fit --> utterances

Every run is in one piece, whole. A piece has up to KEPT_S of the pauses before and after it; two pieces share a shorter
one evenly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from headrace.featurize.alignment import label_files
from headrace.featurize.alignment.intervals import Alignment, Tier
from headrace.featurize.alignment.label_files import Row
from headrace.featurize.text.languages.frontend import MARKS
from headrace.store.errors import Rejected
from headrace.store.schema import Reject, Utterance

PAUSE_S = 0.2
"""What is shorter may be the closure of a stop."""
KEPT_S = 0.5
SILENT = MARKS | {"", "sil", "sp", "pau", "h#", "silence", "_", "#", "<eps>", "<sil>", "<s>", "</s>", "<p>", "<p:>"}
"""Labels, in lower case, of what may be cut. Noises and unknown words may be speech."""


def split(utterance: Utterance, alignment: Alignment, longest_s: float) -> Iterator[Utterance | Reject]:
    """The pieces of an utterance in order, none longer than a limit. A run of speech that is longer is a reject.

    Each has the words that are said in it, as the text of the utterance spells them where that has the same words; and
    an alignment of its own.

    Args:
        alignment: of the utterance, from its first sample on.
    Raises:
        Rejected: stage "align"; it names no words.
    """
    words, rate = alignment.words, utterance.sample_rate
    spoken = label_files.said(words)
    if not spoken:
        raise Rejected("align", f"{too_long(longest_s)}, and its alignment names no words: add a tier of words")
    middles = (words.starts_s[spoken] + words.ends_s[spoken]) / 2
    texts = _texts(utterance.text, [words.labels[n] for n in spoken])
    runs, before = _runs(utterance, alignment), 0.0
    for start, stop in _pieces(runs, utterance, longest_s):
        name = f"{utterance.audio}#{start}-{stop}"
        since, until = (start - utterance.start) / rate, (stop - utterance.start) / rate
        first, last = np.searchsorted(middles, [since, until]).tolist()
        if stop - start > longest_s * rate:
            place = f"from {start / rate:.2f} to {stop / rate:.2f} s there is no pause of {PAUSE_S:g} s"
            yield Reject(name, "align", f"{place}: cut it there, or allow more with --max-segment")
        elif first == last:
            yield Reject(name, "align", "its alignment names no word for what it says is no silence")
        else:
            tiers = (_within(tier, before, since, until) for tier in (alignment.phones, words))
            held = label_files.packed(name, *tiers)
            text = "".join(texts[first:last]).strip()
            yield replace(utterance, id=name, start=start, stop=stop, text=text, alignment=held)
        before = until


def too_long(longest_s: float) -> str:
    return f"it is longer than {longest_s:g} s"


def _runs(utterance: Utterance, alignment: Alignment) -> np.ndarray:
    """(R, 2) of what is spoken between two pauses, in samples of the recording; ascending."""
    spans = [
        (start, end)
        for tier in (alignment.phones, alignment.words)
        for label, start, end in zip(tier.labels, tier.starts_s.tolist(), tier.ends_s.tolist(), strict=True)
        if label.casefold() not in SILENT
    ]
    starts, ends = np.array(sorted(spans)).T
    ends = np.maximum.accumulate(ends)
    pauses = np.flatnonzero(starts[1:] - ends[:-1] >= PAUSE_S)
    found = np.stack([starts[np.append(0, pauses + 1)], ends[np.append(pauses, len(ends) - 1)]], 1)
    samples = utterance.start + np.rint(found * utterance.sample_rate).astype(np.int64)
    return np.clip(samples, utterance.start, utterance.stop)


def _pieces(runs: np.ndarray, utterance: Utterance, longest_s: float) -> Iterator[tuple[int, int]]:
    """Start and stop of each, in samples. A run that is too long is one too.

    As many runs as fit; of the pauses that leave a piece of half the limit or more, the longest is cut.
    """
    longest, kept = int(longest_s * utterance.sample_rate), int(KEPT_S * utterance.sample_rate)
    between = runs[1:, 0] - runs[:-1, 1]
    before = np.minimum(np.append(runs[0, 0] - utterance.start, between - between // 2), kept)
    after = np.minimum(np.append(between // 2, utterance.stop - runs[-1, 1]), kept)
    begins, ends, first = runs[:, 0] - before, runs[:, 1] + after, 0
    while first < len(runs):
        enough, fitting = np.searchsorted(ends, begins[first] + np.array([longest / 2, longest + 1])).tolist()
        if fitting == first:
            room = max(0, longest - int(runs[first, 1] - runs[first, 0]))
            lead = min(int(before[first]), room // 2)
            yield int(runs[first, 0]) - lead, int(runs[first, 1]) + min(int(after[first]), room - lead)
            first += 1
            continue
        last = fitting - 1
        if fitting < len(runs) and enough < fitting:
            last = enough + int(between[enough:fitting].argmax())
        yield int(begins[first]), int(ends[last])
        first = last + 1


def _texts(text: str, labels: Sequence[str]) -> list[str]:
    """What of the text goes with each word: all up to the next one, with its marks and spaces. The words themselves
    where they are not those of the text."""
    begins, at = list[int](), 0
    for label in labels:
        at = next((n for n in range(at, len(text)) if text[n].isalnum() or text[n] == label[0]), len(text))
        begins.append(at)
        at += len(label)
        if text[begins[-1] : at].casefold() != label.casefold():
            return [f"{label} " for label in labels]
    if any(map(str.isalnum, text[at:])):
        return [f"{label} " for label in labels]
    return [text[begin:end] for begin, end in pairwise([0, *begins[1:], len(text)])]


def _within(tier: Tier, before: float, since: float, until: float) -> Iterator[Row]:
    """Its intervals within a stretch, from the beginning of that on. A silence is of the first stretch that has any of
    it; the one before ends at `before`."""
    for label, start, end in zip(tier.labels, tier.starts_s.tolist(), tier.ends_s.tolist(), strict=True):
        if since < end and start < until and (start >= before or label.casefold() not in SILENT):
            yield Row(max(start, since) - since, min(end, until) - since, label)
