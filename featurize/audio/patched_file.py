"""Read a file with some of its bytes replaced: a wrong header is corrected without copying the rest of the file."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from headrace.featurize.audio.descriptors import read_at


def open_patched(descriptor: int, pieces: Sequence[range | bytes]) -> io.BufferedReader:
    """Return a reader of byte ranges of an open file and of replacement bytes, concatenated.

    Args:
        descriptor: of the file. It stays open, and its position does not change.
        pieces: each a range of the file's bytes, or the bytes themselves.
    """
    return io.BufferedReader(_PatchedFile(descriptor, pieces))


class _PatchedFile(io.RawIOBase):
    def __init__(self, descriptor: int, pieces: Sequence[range | bytes]) -> None:
        self._descriptor = descriptor
        self._pieces = [piece for piece in pieces if len(piece)]
        self._bounds = [0, *accumulate(map(len, self._pieces))]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._position = offset + (0, self._position, self._bounds[-1])[whence]
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill `buffer` from one piece."""
        number = bisect_right(self._bounds, self._position) - 1
        if number == len(self._pieces):
            return 0
        start = self._position - self._bounds[number]
        piece = self._pieces[number][start : start + len(buffer)]
        data = piece if isinstance(piece, bytes) else read_at(self._descriptor, len(piece), piece.start)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
