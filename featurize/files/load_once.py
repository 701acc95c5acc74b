"""Results that are made once in a process, whichever of its threads asks first."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from threading import RLock
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")


def load_once(function: Callable[P, Result]) -> Callable[P, Result]:
    """Return a function that calls this one once for equal arguments, and meanwhile lets other threads wait.

    `functools.cache` alone lets two threads that ask at the same time call it twice: a network would be read twice, and
    take twice its memory of a device.
    """
    cached, lock = cache(function), RLock()

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        with lock:
            return cached(*args, **kwargs)  # type: ignore[arg-type]

    return call
