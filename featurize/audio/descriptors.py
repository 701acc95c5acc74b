"""File descriptors of recordings. On Windows, C libraries and child processes cannot use those of this process."""

from __future__ import annotations

import os

SHARED = os.name == "posix"
"""Whether libsndfile and ffmpeg can use file descriptors of this process. Else they get a file object or a path."""
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: str | os.PathLike[str]) -> int:
    """Open a file for reading and return its descriptor. Does not block on a FIFO."""
    return os.open(path, _OPEN_FLAGS)


def read_at(descriptor: int, count: int, position: int) -> bytes:
    """Read up to `count` bytes from `position` on. The descriptor's own position stays where it is."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, position)
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, count)
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)
