"""Is it usable? From an entry, a corpus' word for it, to an utterance or a reject. Decodes nothing."""

from __future__ import annotations

import os
import posixpath
import stat
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import NamedTuple

import soundfile

from featurize import folders
from featurize.formats import Entry
from store.errors import Rejected
from store.schema import Reject, Utterance

OVERSHOOT_S = 0.01
"""A segment may end so much after its recording, as times of two decimals do, and is cut to it."""
_UNKNOWN_LENGTH = 2**62  # libsndfile's frame count of a stream whose header leaves it open


class Examined(NamedTuple):
    result: Utterance | Reject
    audio: str
    """The recording, relative to the corpus folder where it lies in it; empty where none is known."""
    where: str


class Examiner:
    """Decides of entries, many threads at once, whether they are utterances."""

    def __init__(self, root: Path, follow_outside: bool) -> None:
        self._root = str(root)
        self._follow_outside = follow_outside
        self._header = lru_cache(maxsize=1024)(_header)  # segments of one recording come together
        self._is_folder_inside = lru_cache(maxsize=1 << 16)(self._leads_inside)

    def examine(self, item: Entry | Reject) -> Examined:
        if isinstance(item, Reject):
            return Examined(item, "", item.id)
        audio = self._relative(item.audio)
        try:
            return Examined(self._utterance(item, audio), audio, item.where)
        except Rejected as error:
            part = "#{}s-{}s".format(*item.seconds) if item.seconds else ""
            return Examined(Reject(audio + part, "scan", error.reason), audio, item.where)

    def _utterance(self, entry: Entry, audio: str) -> Utterance:
        if entry.problem:
            raise Rejected("scan", entry.problem)
        frames, sample_rate, size = self._header(self._permitted(audio))
        start, stop = _samples(entry.seconds, frames, sample_rate)
        text = entry.text or (entry.text_file and _read_text(self._permitted(entry.text_file)))
        if not text:
            raise Rejected("scan", "the text is empty")
        alignment = self._textgrid_beside(audio) if entry.alignment is None else entry.alignment
        if alignment:
            self._permitted(alignment)
        return Utterance(
            id=audio if entry.seconds is None else f"{audio}#{start}-{stop}",
            audio=audio,
            start=start,
            stop=stop,
            sample_rate=sample_rate,
            size=size,
            speaker=entry.speaker,
            language=entry.language,
            text=text,
            alignment=alignment,
        )

    def _relative(self, path: str) -> str:
        """As it goes into identities: normalised, relative to the corpus folder unless it lies outside."""
        full = posixpath.normpath(posixpath.join(self._root, path))
        return full.removeprefix(self._root.rstrip("/") + "/")

    def _permitted(self, path: str) -> str:
        """The full path, once it is clear that it does not lead out of the corpus, through links neither."""
        if "\0" in path:
            raise Rejected("scan", "its path holds a null byte")
        full = posixpath.join(self._root, path)
        if self._follow_outside:
            return full
        inside = self._is_folder_inside(posixpath.dirname(full))
        if not inside or (os.path.islink(full) and not self._leads_inside(full)):
            raise Rejected("scan", f"{path} lies outside of the corpus folder; {folders.HOW_TO_FOLLOW}")
        return full

    def _leads_inside(self, path: str) -> bool:
        return folders.is_inside(os.path.realpath(path), self._root)

    def _textgrid_beside(self, audio: str) -> str:
        stem = posixpath.splitext(audio)[0]
        candidates = (stem + ".TextGrid", stem + ".textgrid")
        return next((path for path in candidates if os.path.exists(posixpath.join(self._root, path))), "")


def _header(path: str) -> tuple[int, int, int]:
    """Samples, sample rate in Hz, size in bytes."""
    size = _size(path)
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise Rejected("scan", f"its header cannot be read: {error.error_string}") from None
    except TypeError:  # soundfile asks for the rate of .raw, which has no header
        raise Rejected("scan", "it has no header: convert it to WAV or FLAC") from None
    if info.frames == 0:
        raise Rejected("scan", "it holds no samples")
    if info.frames >= _UNKNOWN_LENGTH:
        raise Rejected("scan", "its header does not say how long it is: write it again to a file, not to a pipe")
    return info.frames, info.samplerate, size


def _size(path: str) -> int:
    """Bytes of a regular file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise Rejected("scan", "there is no such file") from None
    except OSError as error:
        raise Rejected("scan", f"it cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise Rejected("scan", "it is not a regular file")
    return status.st_size


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


def _read_text(path: str) -> str:
    """The text of a .txt or .lab, on one line, or of a TextGrid's tier of words."""
    _size(path)
    if folders.suffix(path) == ".textgrid":
        from featurize import praat  # takes 0.2 s, and most corpora do without

        return praat.read_words(Path(path))
    try:
        return " ".join(Path(path).read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise Rejected("scan", f"{posixpath.basename(path)} is not UTF-8 from byte {error.start + 1} on") from None
    except OSError as error:
        raise Rejected("scan", f"{posixpath.basename(path)} cannot be read: {error.strerror}") from None
