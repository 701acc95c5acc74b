"""Is it usable? From an entry, a corpus' word for it, to an utterance or a reject. Decodes nothing."""

from __future__ import annotations

import posixpath
from functools import lru_cache
from math import inf
from typing import NamedTuple

from featurize import folders, praat, recording
from featurize.formats import Entry
from featurize.recording import Header, Limits
from featurize.source import Source, local
from store.errors import Rejected
from store.schema import Reject, Utterance

OVERSHOOT_S = 0.01
"""A segment may end so much after its recording, as times of two decimals do, and is cut to it."""


class Examined(NamedTuple):
    result: Utterance | Reject
    audio: str
    """The recording, relative to the corpus folder where it lies in it; empty where none is known."""
    where: str


class Examiner:
    """Decides of entries, many threads at once, whether they are utterances."""

    def __init__(self, source: Source, limits: Limits, language: str) -> None:
        """
        Args:
            language: of entries that do not say theirs.
        """
        self._source = source
        self._limits = limits
        self._language = language
        self._header = lru_cache(maxsize=1024)(self._read_header)  # segments of one recording come together

    def examine(self, item: Entry | Reject) -> Examined:
        if isinstance(item, Reject):
            return Examined(item, "", item.id)
        audio = self._source.relative(item.audio)
        try:
            return Examined(self._utterance(item, audio), audio, item.where)
        except Rejected as error:
            part = "#{}s-{}s".format(*item.seconds) if item.seconds else ""
            return Examined(Reject(audio + part, "scan", error.reason), audio, item.where)

    def _utterance(self, entry: Entry, audio: str) -> Utterance:
        if entry.problem:
            raise Rejected("scan", entry.problem)
        header, size = self._header(audio)
        start, stop = _samples(entry.seconds, header.samples, header.sample_rate)
        if stop - start > self._limits.longest_s * header.sample_rate:
            raise Rejected("scan", recording.too_long(self._limits))
        text = entry.text or (entry.text_file and self._read_text(entry.text_file))
        if not text:
            raise Rejected("scan", "the text is empty")
        alignment = self._textgrid_beside(audio) if entry.alignment is None else entry.alignment
        if alignment:
            self._source.size(alignment)
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
            alignment=alignment,
        )

    def _textgrid_beside(self, audio: str) -> str:
        stem = posixpath.splitext(audio)[0]
        candidates = (stem + ".TextGrid", stem + ".textgrid")
        return next((path for path in candidates if self._source.exists(path)), "")

    def _read_header(self, audio: str) -> tuple[Header, int]:
        """And its size in bytes."""
        size = self._source.size(audio)
        return recording.header(self._source.root, audio, size, self._limits), size

    def _read_text(self, name: str) -> str:
        """The text of a .txt or .lab, on one line, or of a TextGrid's tier of words."""
        self._source.size(name)
        if folders.suffix(name) == ".textgrid":
            with local(self._source.root, name) as path:
                return praat.read_words(path)
        try:
            return " ".join((self._source.root / name).read_bytes().decode("utf-8-sig").split())
        except UnicodeDecodeError as error:
            raise Rejected("scan", f"{posixpath.basename(name)} is not UTF-8 from byte {error.start + 1} on") from None
        except OSError as error:
            raise Rejected("scan", f"{posixpath.basename(name)} cannot be read: {error.strerror}") from None


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
