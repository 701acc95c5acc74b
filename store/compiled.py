"""Machine code out of Python functions, by Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """To machine code that releases the interpreter. Kept on disk, beside its file or in the user's cache; where
    neither can be written, compiled in each process.

    Processes that compile at once do not harm one another: each writes its own file and renames it.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
