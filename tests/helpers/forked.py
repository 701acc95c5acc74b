"""Runs what may kill its process in a forked child."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

from headrace.store.errors import HeadraceError


def outcome(action: Callable[[], object]) -> str:
    """Return how an action ends in a child process: `ok`, the message of its HeadraceError, or how the child died."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if not child:
        os.close(reading)
        _act(action, writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as said:
        text = said.read()
    _, status = os.waitpid(child, 0)
    return f"killed by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else text


def _act(action: Callable[[], object], writing: int) -> NoReturn:
    text = ""
    try:
        action()
        text = "ok"
    except HeadraceError as error:
        text = error.message
    except BaseException:  # noqa: BLE001
        text = traceback.format_exc()
    finally:
        os.write(writing, text.encode())
        os._exit(0)
