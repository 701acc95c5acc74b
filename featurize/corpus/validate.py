"""Is it usable? From an entry, a corpus' word for it, to an utterance or a reject. Decodes nothing."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import inf
from typing import NamedTuple

from headrace.featurize.alignment.label_files import holds_times
from headrace.featurize.alignment.textgrid import read_words
from headrace.featurize.audio import recording
from headrace.featurize.audio.recording import Header, Limits
from headrace.featurize.corpus import alignment_files, split_at_pauses
from headrace.featurize.corpus.alignment_files import Alignments
from headrace.featurize.corpus.formats import Entry
from headrace.featurize.files import folders
from headrace.featurize.files.source import Source, local_file
from headrace.store.errors import Rejected
from headrace.store.schema import Reject, Stage, Utterance

OVERSHOOT_S = 0.01
"""A segment may end so much after its recording, as times of two decimals do, and is cut to it."""


class Examined(NamedTuple):
    results: Sequence[Utterance | Reject]
    """One; of what was split, one a piece."""
    audio: str
    """The recording, relative to the corpus folder where it lies in it; empty where none is known."""
    where: str


class Examiner:
    """Decides of entries, many threads at once, whether they are utterances."""

    def __init__(
        self, source: Source, alignments: Alignments, limits: Limits, language: str, split_s: float | None = None
    ) -> None:
        """
        Args:
            alignments: of that corpus.
            language: of entries that do not say theirs.
            split_s: what is longer is cut at pauses; None cuts nothing.
        """
        self._source = source
        self._alignments = alignments
        self._limits = limits
        self._language = language
        self._split_s = split_s
        self._header = lru_cache(maxsize=1024)(self._read_header)  # segments of one recording come together

    def examine(self, item: Entry | Reject) -> Examined:
        if isinstance(item, Reject):
            return Examined([item], "", item.id)
        audio = self._source.relative(item.audio)
        try:
            return Examined([*self._pieces(self._utterance(item, audio))], audio, item.where)
        except Rejected as error:
            part = "#{}s-{}s".format(*item.seconds) if item.seconds else ""
            stage: Stage = "align" if error.stage == "align" else "scan"
            return Examined([Reject(audio + part, stage, error.reason)], audio, item.where)

    def _pieces(self, utterance: Utterance) -> Iterable[Utterance | Reject]:
        """The utterance, or what it is split into."""
        if self._split_s is None or utterance.seconds <= self._split_s:
            return (utterance,)
        if not utterance.alignment:
            unknown = "nobody knows which words are said in which piece: align it first, or cut it"
            raise Rejected("scan", f"{split_at_pauses.too_long(self._split_s)}, and without times {unknown}")
        return split_at_pauses.split(utterance, alignment_files.read(self._source.root, utterance), self._split_s)

    def _utterance(self, entry: Entry, audio: str) -> Utterance:
        if entry.problem:
            raise Rejected("scan", entry.problem)
        header, size = self._header(audio)
        start, stop = _samples(entry.seconds, header.samples, header.sample_rate)
        if self._split_s is None and stop - start > self._limits.max_duration_s * header.sample_rate:
            raise Rejected("scan", recording.too_long_reason(self._limits))
        text = entry.text or (entry.text_file and self._read_text(entry.text_file))
        if not text:
            raise Rejected("scan", "the text is empty")
        alignment = self._alignments.of(entry, audio, (start / header.sample_rate, stop / header.sample_rate))
        return Utterance(
            id=audio if entry.seconds is None else f"{audio}#{start}-{stop}",
            audio=audio,
            start=start,
            stop=stop,
            sample_rate=header.sample_rate,
            size=size,
            speaker=entry.speaker,
            language=entry.language or self._language,
            text=text,
            phones=entry.phones,
            alignment=alignment,
        )

    def _read_header(self, audio: str) -> tuple[Header, int]:
        """And its size in bytes."""
        size = self._source.size(audio)
        return recording.read_header(self._source.root, audio, size, self._limits), size

    def _read_text(self, name: str) -> str:
        """The text of a .txt or .lab, on one line, or of a TextGrid's tier of words."""
        self._source.size(name)
        if folders.suffix(name) == ".textgrid":
            with local_file(self._source.root, name) as path:
                return read_words(path)
        try:
            text = (self._source.root / name).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Rejected("scan", f"{posixpath.basename(name)} is not UTF-8 from byte {error.start + 1} on") from None
        except OSError as error:
            raise Rejected("scan", f"{posixpath.basename(name)} cannot be read: {error.strerror}") from None
        if folders.suffix(name) == ".lab" and holds_times(text):
            raise Rejected("scan", f"{posixpath.basename(name)} holds times, not a text: put a .txt beside it")
        return " ".join(text.split())


def _samples(seconds: tuple[float, float] | None, frames: int, sample_rate: int) -> tuple[int, int]:
    """First sample and one past the last."""
    if seconds is None:
        return 0, frames
    start_s, stop_s = seconds
    length_s = frames / sample_rate
    if not 0 <= start_s < stop_s:
        raise Rejected("scan", f"the segment runs from {start_s} to {stop_s} s")
    if start_s >= length_s or length_s + OVERSHOOT_S < stop_s < inf:
        raise Rejected("scan", f"the segment runs from {start_s} to {stop_s} s, the recording has {length_s:.3f} s")
    start, stop = round(start_s * sample_rate), round(min(stop_s, length_s) * sample_rate)
    if start == stop:
        raise Rejected("scan", f"the segment from {start_s} to {stop_s} s holds no samples")
    return start, stop
