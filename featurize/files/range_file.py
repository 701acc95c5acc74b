"""Files of which ranges are read on request: objects in a bucket, and members of archives."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from headrace.store.errors import HeadraceError

ReadAt = Callable[[int, int], bytes]
"""Returns so many bytes from a position on, fewer at the end."""


class RangeFile(io.RawIOBase):
    """A file that is read by ranges."""

    def __init__(self, read_at: ReadAt, size: int) -> None:
        """
        Args:
            size: of the file in bytes.
        """
        self._read_at, self._size, self._position = read_at, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._position)
        if count <= 0:
            return 0
        data = self._read_at(count, self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _HeldErrors(RangeFile):
    """A range file that ends where a read fails, and holds the error."""

    error: HeadraceError | OSError | None = None

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except (HeadraceError, OSError) as error:
            self.error = error
            return 0


@contextmanager
def open_ranges(read_at: ReadAt, size: int, block: int = io.DEFAULT_BUFFER_SIZE) -> Iterator[BinaryIO]:
    """Open a file that a C library may read through callbacks, which drop errors and see the end of the file.

    Args:
        size: of the file in bytes.
        block: smallest size of a range, in bytes.
    Raises:
        HeadraceError, OSError: a read failed. Raised when the context is left, even if a library replaced the error.
    """
    file = _HeldErrors(read_at, size)
    try:
        yield io.BufferedReader(file, block)
    finally:
        if file.error:
            raise file.error
