"""Prefetching of memory-mapped files on POSIX. Compiled on import: import it only where `mmap.MADV_WILLNEED` exists."""

from __future__ import annotations

from typing import Any

from numba import types

from headrace.store.arrays.jit import eager_jit

_madvise = types.ExternalFunction("madvise", types.int32(types.intp, types.intp, types.int32))


@eager_jit(types.int64, types.int64[:, ::1], types.int64)
def prefetch(address: int, spans: Any, advice: int) -> None:
    """Ask the kernel to read parts of a mapping into memory. It is free to ignore that.

    `mmap.madvise` would hold the interpreter's lock for as long as the kernel takes.

    Args:
        address: of the mapping.
        spans: (M, 2) int64, first byte and one past the last, relative to `address`; each begins at a page.
        advice: `mmap.MADV_WILLNEED`.
    """
    for i in range(len(spans)):
        _madvise(address + spans[i, 0], spans[i, 1] - spans[i, 0], advice)
