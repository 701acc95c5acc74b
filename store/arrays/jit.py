"""Machine code out of Python functions, by Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

Function = Callable[..., Any]


def compiled(function: Function) -> Function:
    """To machine code that releases the interpreter, when it is called. Kept on disk, beside its file or in the user's
    cache; where neither can be written, compiled in each process.

    Processes that compile at once do not harm one another: each writes its own file and renames it.
    """
    return compiled_for()(function)


def compiled_for(*arguments: types.Type) -> Callable[[Function], Function]:
    """As `compiled`; where types of arguments are given, at once and for no others."""
    signature = [arguments] if arguments else []

    def compile_it(function: Function) -> Function:
        try:
            return njit(*signature, nogil=True, cache=True)(function)
        except RuntimeError:
            return njit(*signature, nogil=True)(function)

    return compile_it
