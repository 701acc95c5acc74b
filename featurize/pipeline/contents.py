"""Checksums of the recordings that a part is made from, taken when they are decoded."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c

from headrace.featurize.alignment import label_files
from headrace.featurize.audio import descriptors
from headrace.featurize.audio.recording import is_whole_recording
from headrace.store.schema import Utterance
from headrace.store.storage import StoragePath

UNKNOWN = "-" * 8
"""In place of a checksum: of a file that was not read, or of a segment whose recording another utterance stands for."""
_BLOCK = 1 << 20


def owners(utterances: Iterable[Utterance]) -> set[str]:
    """Return the ids of the utterances that stand for their recordings: the first segment of each."""
    first: dict[str, str] = {}
    for utterance in utterances:
        first.setdefault(utterance.audio, utterance.id)
    return set(first.values())


def checksum(corpus: StoragePath, utterance: Utterance, *, with_alignment: bool) -> str:
    """Return the CRC-32C of an utterance's recording, followed by its alignment file, as eight hexadecimal digits.

    It is UNKNOWN if a file cannot be read, or lies in a bucket.
    """
    if not isinstance(corpus, Path):
        return UNKNOWN
    names = [utterance.audio]
    if with_alignment and utterance.alignment and not label_files.is_json(utterance.alignment):
        names.append(utterance.alignment)
    crc = 0
    try:
        for name in names:
            for block in _blocks(corpus / name):
                crc = google_crc32c.extend(crc, block)
    except (OSError, ValueError):
        return UNKNOWN
    return f"{crc:08x}"


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

    def __init__(self, corpus: StoragePath, segments: frozenset[str], *, with_alignment: bool) -> None:
        """
        Args:
            segments: ids of the segments that stand for their recordings; a whole recording stands for itself.
            with_alignment: whether alignment files are read for the part.
        """
        self._corpus, self._segments, self._with_alignment = corpus, segments, with_alignment
        self._found: list[str] = []

    def taken(self, utterances: Iterable[Utterance]) -> Iterator[Utterance]:
        """Yield the utterances, each after its checksum was taken."""
        for utterance in utterances:
            stands = is_whole_recording(utterance) or utterance.id in self._segments
            self._found.append(
                checksum(self._corpus, utterance, with_alignment=self._with_alignment) if stands else UNKNOWN
            )
            yield utterance

    def joined(self) -> str:
        """Return all checksums, joined; empty if none is known."""
        return "".join(self._found) if set(self._found) - {UNKNOWN} else ""
