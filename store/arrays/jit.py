"""Compiles Python functions to machine code with Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

Function = Callable[..., Any]


def jit(function: Function) -> Function:
    """Compile a function when it is first called. While it runs, it releases the interpreter's lock.

    The machine code is kept on disk, next to the source file or in the user's cache; if neither can be written, each
    process compiles again. Processes may compile at the same time: each writes its own file and renames it.
    """
    return eager_jit()(function)


def eager_jit(*argument_types: types.Type) -> Callable[[Function], Function]:
    """Return a decorator like `jit` that compiles at once, for these types of arguments and no others.

    Without types it is `jit` itself.
    """
    signature = [argument_types] if argument_types else []

    def compile_function(function: Function) -> Function:
        try:
            return njit(*signature, nogil=True, cache=True)(function)
        except RuntimeError:  # no folder for the cache
            return njit(*signature, nogil=True)(function)

    return compile_function
