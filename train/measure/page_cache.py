"""Files, the page cache, and the disk below: what it takes to measure reading. Nothing of it needs root."""

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
"""Bytes of one read: of 1 to 8 MiB a disk gave 1.0 GB/s, of 32 MiB 0.6."""


def files_of(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def sync(*folders: Path) -> None:
    """Force all files to the disk."""
    for path in files_of(*folders):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def evict(*folders: Path) -> None:
    """Drop all files from the page cache, but for pages that are mapped or not written yet.

    Raises:
        UsageError: this system cannot do that (Windows, macOS).
    """
    if not hasattr(os, "posix_fadvise"):
        raise UsageError(f"Reading from the disk cannot be measured on {platform.system()}: measure with --warm.")
    for path in files_of(*folders):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm_up(*folders: Path) -> None:
    """Bring all files into the page cache."""
    for path in files_of(*folders):
        with path.open("rb") as file:
            while file.read(BLOCK):
                pass


def fetched() -> int:
    """Bytes that this process had disks read so far. Call it where `evict` works."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    return int(counts["read_bytes"])


def has_direct(*folders: Path) -> bool:
    """Whether files can be read past the page cache (O_DIRECT). Not every file system has that."""
    if not hasattr(os, "O_DIRECT"):
        return False
    try:
        os.close(os.open(files_of(*folders)[0], os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def disk_rate(*folders: Path, seconds: float = inf) -> float:
    """Bytes a second of reading files from the disk, one after the other: past the page cache where that is possible,
    else through it, and it is emptied of them first.

    Args:
        seconds: after so many it is enough.
    """
    files, direct = files_of(*folders), has_direct(*folders)
    if not direct:
        evict(*folders)
    begun, count = time.perf_counter(), 0
    for size in _read(files, os.O_DIRECT if direct else 0):
        count += size
        if time.perf_counter() - begun > seconds:
            break
    return count / (time.perf_counter() - begun)


def _read(files: list[Path], flags: int) -> Iterator[int]:
    """Bytes of each block read. The buffer is a mapping, since O_DIRECT wants whole pages."""
    with mmap.mmap(-1, BLOCK) as buffer:
        for path in files:
            file = os.open(path, os.O_RDONLY | flags)
            try:
                place = 0
                while size := os.preadv(file, [buffer], place):
                    place += size
                    yield size
                    if size % mmap.PAGESIZE:
                        break  # the end; from here O_DIRECT would be refused
            finally:
                os.close(file)
