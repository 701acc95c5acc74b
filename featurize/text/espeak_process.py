"""espeak-ng's reading of texts in a process of its own.

Some texts end the process that reads them: dots of braille in Arabic overflow a buffer of the library, and words of
several scripts lead it out of its memory. Here they cost themselves only. The process starts with the first text, and
ends with the one that asks.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from headrace.store.errors import HeadraceError

ATTEMPTS = 2
"""Processes that a text may cost, since one can also be killed from outside."""
_SERVE = """
import sys
sys.path[:] = sys.argv[1:]
from headrace.featurize.text import espeak
espeak.serve()
"""
_lock = threading.Lock()
_started: list[subprocess.Popen[str]] = []
"""The process, if there is one."""


class Ended(Exception):
    """The process ends whenever it reads this text."""


def ask(text: str, voice: str, separator: str) -> str:
    """Return what the function that the process serves gives for these arguments.

    Raises:
        Ended: the process ends on it.
        HeadraceError: the function raises it.
    """
    question = json.dumps((text, voice, separator))
    with _lock:
        for _ in range(ATTEMPTS):
            process = _started[0] if _started else _start()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(question + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = ""
            if line:
                break
            stop()
    if not line:
        raise Ended
    answer = json.loads(line)
    if "error" in answer:
        raise HeadraceError(answer["error"])
    said: str = answer["said"]
    return said


def serve(call: Callable[..., str], questions: TextIO, answers: TextIO) -> None:
    """Answer questions until there are no more. Signals are for the process that asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in questions:
        try:
            answer = {"said": call(*json.loads(line))}
        except HeadraceError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def stop() -> None:
    """End the process, if there is one."""
    while _started:
        process = _started.pop()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what it has not read any more
                assert pipe is not None
                pipe.close()
        process.wait()


def _start() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _SERVE, *sys.path]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    _started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing, text=True, encoding="ascii"))
    return _started[0]


def _forget() -> None:
    """Forget in a forked process the one that answers the parent, and a lock that another thread may have held."""
    global _lock
    _lock = threading.Lock()
    _started.clear()


atexit.register(stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
