"""Find the recording that a corpus means by a path.

Lists are written on other machines: with drive letters and other separators, relative to where a tool was started, in
another Unicode form, with another suffix or in other letter case than the files that lie here.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from headrace.featurize.files.folders import AUDIO_SUFFIXES, join
from headrace.featurize.files.source import Source

_DRIVE = re.compile("[A-Za-z]:/")


class RecordingFinder:
    """Finds the recordings of a corpus. It can be used by many threads at once."""

    def __init__(self, source: Source, audio: str | None = None) -> None:
        """
        Args:
            source: files of the corpus.
            audio: a folder in which recordings are looked for too, absolute or relative to the corpus; by their whole
                path, by ends of it, and by their name alone.
        """
        self._source = source
        self._audio = audio
        self._spellings = lru_cache(maxsize=64)(self._list)

    def find(self, path: str) -> str:
        """Return the name of a recording, relative to the corpus if it lies in it.

        Args:
            path: as the corpus gives it.
        Returns:
            The name under which the file exists; of a file that is nowhere, the name that the path has in the corpus.
        """
        named = self._source.relative(path)
        if self._source.exists(named):
            return named
        return next(filter(None, map(self._existing, self._candidates(path))), named)

    def advice(self, path: str) -> str:
        """Return where a recording that is nowhere was looked for, as the end of a sentence."""
        if self._audio is not None:
            return f", nor in the folder of --audio, {self._audio or '.'!r}"
        if _is_elsewhere(path):
            return ": its path is of another machine; --audio FOLDER names the folder that recordings are in here"
        return ""

    def _candidates(self, path: str) -> Iterator[str]:
        if not _is_elsewhere(path):
            yield path
        if self._audio is not None:
            parts = [part for part in _DRIVE.sub("", path).split("/") if part not in ("", ".", "..")]
            yield from (posixpath.join(self._audio, *parts[start:]) for start in range(len(parts)))

    def _existing(self, candidate: str) -> str:
        """Return the name of the file that a path means; empty if there is none, or more than one.

        It may differ from the path in the Unicode form and the letter case of its parts, and in its suffix.
        """
        name = self._source.relative(candidate)
        if self._source.exists(name):
            return name
        folder = self._audio if self._audio and name.startswith(f"{self._audio}/") else ""
        *parents, file = name[len(folder) :].lstrip("/" if folder else "").split("/")
        for part in parents:
            if not (folder := self._alike(folder, [part])):
                return ""
        stem, suffix = posixpath.splitext(file)
        stems = [file, stem] if suffix.lower() in AUDIO_SUFFIXES else [file]
        return self._alike(folder, [file, *(stem + other for stem in stems for other in AUDIO_SUFFIXES)])

    def _alike(self, folder: str, names: Iterable[str]) -> str:
        """Return the path of the only file in a folder that is equal to one of these names but for its spelling."""
        spellings = self._spellings(folder)
        for name in names:
            found = spellings.get(_folded(name), ())
            if len(found) == 1:
                return join(folder, found[0])
        return ""

    def _list(self, folder: str) -> Mapping[str, Sequence[str]]:
        spellings: dict[str, list[str]] = {}
        for name in self._source.names(folder):
            spellings.setdefault(_folded(name), []).append(name)
        return spellings


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _is_elsewhere(path: str) -> bool:
    return bool(_DRIVE.match(path))
