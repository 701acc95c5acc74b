"""Checksums of the recordings that a part is made from, taken when they are decoded."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import google_crc32c

from headrace.featurize.audio import descriptors
from headrace.featurize.audio.recording import is_whole_recording
from headrace.featurize.files.archives.reading import read_member
from headrace.store.errors import Rejected
from headrace.store.schema import Utterance
from headrace.store.storage import StoragePath

UNKNOWN = "-" * 8
"""In place of a checksum: of a file that was not read, or of a segment whose recording another utterance stands for."""
TAG = "E"
"""Begins what is made of entity tags instead of contents."""
_BLOCK = 1 << 20


def owners(utterances: Iterable[Utterance]) -> set[str]:
    """Return the ids of the utterances that stand for their recordings: the first segment of each."""
    first: dict[str, str] = {}
    for utterance in utterances:
        first.setdefault(utterance.audio, utterance.id)
    return set(first.values())


def checksum(corpus: StoragePath, utterance: Utterance, names: Sequence[str]) -> str:
    """Return eight characters that tell the contents of an utterance's files.

    They are the CRC-32C in hexadecimal digits, or UNKNOWN if a file cannot be read. In a bucket, where nothing is
    downloaded for it, they are TAG and seven digits, made of the entity tags that the scan found.

    Args:
        names: of the recording, and of what else is read for the utterance, in the order of `Utterance.modified`.
    """
    if not isinstance(corpus, Path):
        tags = utterance.modified[: len(names)]
        whole = len(tags) == len(names) and all(tags)
        return f"{TAG}{google_crc32c.value(repr(tags).encode()) >> 4:07x}" if whole else UNKNOWN
    crc = 0
    try:
        if member := utterance.member:
            names = names[1:]
            for block in read_member(corpus, member, utterance.size):
                crc = google_crc32c.extend(crc, block)
        for name in names:
            for block in _blocks(corpus / name):
                crc = google_crc32c.extend(crc, block)
    except (OSError, ValueError, Rejected):
        return UNKNOWN
    return f"{crc:08x}"


def is_replaced(before: str, now: str) -> bool:
    """Return whether two checksums say that the contents differ. Those of different kinds cannot be compared."""
    return before != now and UNKNOWN not in (before, now) and before.startswith(TAG) == now.startswith(TAG)


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a regular file, as many as it has when it is opened."""
    with open(descriptors.open_file(path), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        left = status.st_size if stat.S_ISREG(status.st_mode) else 0
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            left -= len(block)
            yield block


class Checksums:
    """Takes the checksums of recordings when they are about to be decoded.

    A recording that is replaced between the two then has another checksum than its next one, and not the same.
    """

    def __init__(
        self, corpus: StoragePath, segments: frozenset[str], files_of: Callable[[Utterance], Sequence[str]]
    ) -> None:
        """
        Args:
            segments: ids of the segments that stand for their recordings; a whole recording stands for itself.
            files_of: returns the names of the files that are read for an utterance.
        """
        self._corpus, self._segments, self._files_of = corpus, segments, files_of
        self._found: list[str] = []

    def taken(self, utterances: Iterable[Utterance]) -> Iterator[Utterance]:
        """Yield the utterances, each after its checksum was taken."""
        for utterance in utterances:
            stands = is_whole_recording(utterance) or utterance.id in self._segments
            names = self._files_of(utterance)
            self._found.append(checksum(self._corpus, utterance, names) if stands else UNKNOWN)
            yield utterance

    def joined(self) -> str:
        """Return all checksums, joined; empty if none is known."""
        return "".join(self._found) if set(self._found) - {UNKNOWN} else ""
