"""Files and the page cache: what benchmarks that read from a disk share."""

from __future__ import annotations

import os
import time
from pathlib import Path


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def sync(folder: Path) -> None:
    """Force all files to the disk."""
    for path in files_of(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def evict(folder: Path) -> None:
    """Drop all files from the page cache, but for pages that are mapped or not written yet."""
    for path in files_of(folder):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm_up(folder: Path) -> None:
    """Bring all files into the page cache."""
    for path in files_of(folder):
        with path.open("rb") as file:
            while file.read(1 << 22):
                pass


def disk_rate(folder: Path) -> float:
    """Bytes a second of reading all files once, one after the other, that are not in the page cache."""
    evict(folder)
    begun = time.perf_counter()
    warm_up(folder)
    return sum(path.stat().st_size for path in files_of(folder)) / (time.perf_counter() - begun)
