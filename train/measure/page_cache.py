"""Control of the page cache and direct reads from disk, for measurements of reading. None of it needs root."""

from __future__ import annotations

import mmap
import os
import platform
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path

from headrace.store.errors import UsageError

BLOCK = 4 << 20
"""Bytes of one read. A disk delivered 1.0 GB/s in reads of 1 to 8 MiB, and 0.6 GB/s in reads of 32 MiB."""


def files_in(*folders: Path) -> list[Path]:
    """Return all files below folders, sorted."""
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def sync(*folders: Path) -> None:
    """Write all files below folders to the disk."""
    for path in files_in(*folders):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def evict(*folders: Path) -> None:
    """Drop all files below folders from the page cache, except pages that are mapped or not written yet.

    Raises:
        UsageError: this system cannot do that (Windows, macOS).
    """
    if not hasattr(os, "posix_fadvise"):
        raise UsageError(f"Reading from the disk cannot be measured on {platform.system()}: measure with --warm.")
    for path in files_in(*folders):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(*folders: Path) -> None:
    """Load all files below folders into the page cache."""
    for path in files_in(*folders):
        with path.open("rb") as file:
            while file.read(BLOCK):
                pass


def bytes_read() -> int:
    """Return the bytes that disks have read for this process so far. Call it only where `evict` works."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    return int(counts["read_bytes"])


def supports_direct_io(*folders: Path) -> bool:
    """Return whether files can be read past the page cache (O_DIRECT). Not every file system supports it."""
    if not hasattr(os, "O_DIRECT"):
        return False
    try:
        os.close(os.open(files_in(*folders)[0], os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def disk_rate(*folders: Path, seconds: float = inf) -> float:
    """Measure the bytes per second of reading files sequentially from the disk.

    They are read past the page cache where that is possible, else through it, after they were dropped from it.

    Args:
        seconds: stop after this time.
    """
    files, direct = files_in(*folders), supports_direct_io(*folders)
    if not direct:
        evict(*folders)
    start, count = time.perf_counter(), 0
    for size in _read_blocks(files, os.O_DIRECT if direct else 0):
        count += size
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


def _read_blocks(files: list[Path], flags: int) -> Iterator[int]:
    """Read files and yield the size of each block. The buffer is a mapping, since O_DIRECT needs whole pages."""
    with mmap.mmap(-1, BLOCK) as buffer:
        for path in files:
            file = os.open(path, os.O_RDONLY | flags)
            try:
                yield from _block_sizes(file, buffer)
            finally:
                os.close(file)


def _block_sizes(file: int, buffer: mmap.mmap) -> Iterator[int]:
    """Read an open file to its end, and yield the size of each block."""
    offset = 0
    while size := os.preadv(file, [buffer], offset):
        offset += size
        yield size
        if size % mmap.PAGESIZE:
            return  # the end of the file: O_DIRECT refuses offsets that are no multiple of a page
