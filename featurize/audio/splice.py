"""A file read as if some of its bytes were others: headers are put right without a copy of what follows them."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from headrace.featurize.audio.descriptors import read_at


def spliced(descriptor: int, pieces: Sequence[range | bytes]) -> io.BufferedReader:
    """Pieces of an open file and bytes of ours, end to end.

    Args:
        descriptor: of the file; stays open, and its own position is not used.
        pieces: each a range of the file's bytes, or bytes to stand there.
    """
    return io.BufferedReader(_Spliced(descriptor, pieces))


class _Spliced(io.RawIOBase):
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
        """Fill `buffer` as far as one piece goes."""
        number = bisect_right(self._bounds, self._position) - 1
        if number == len(self._pieces):
            return 0
        start = self._position - self._bounds[number]
        wanted = self._pieces[number][start : start + len(buffer)]
        read = wanted if isinstance(wanted, bytes) else read_at(self._descriptor, len(wanted), wanted.start)
        buffer[: len(read)] = read
        self._position += len(read)
        return len(read)
