"""Errors of one rank in a job of several: each is told once, by the rank that has it, and ends the others."""

from __future__ import annotations

import re

import torch.distributed as dist

from headrace.store.errors import HeadraceError, RankFailed
from headrace.train.distributed.side_channel import ERROR, JobEnd
from headrace.train.distributed.watchdog import Watchdog

BUG_EXIT = 70
"""Exit code where Headrace itself is at fault, as the commands have it."""
_OF_A_CONNECTION = re.compile(r"gloo/|NCCL|[Cc]onnection (closed|reset|refused)|Broken pipe|Application timeout")


def settle(error: BaseException, watchdog: Watchdog, name: str) -> BaseException:
    """Tell the other ranks of an error of this one, and return what to raise.

    That is the error itself, with a note that says whose it is; or `RankFailed`, if it only follows from what another
    rank has said, or is the same.

    Args:
        name: of this rank.
    """
    if is_of_connection(error):
        end = watchdog.find_end()
        return RankFailed(end.line, end.code)
    own = JobEnd(kind=ERROR, line=_describe(error), code=exit_code(error))
    first = watchdog.offer_end(own)
    if first is not None and first.token != own.token and first.line == own.line:
        return RankFailed(first.line, first.code)
    error.add_note(name)
    return error


def is_of_connection(error: BaseException) -> bool:
    """Return whether an error says that another rank is gone, not that anything is wrong with this one."""
    chain = [error, *([error.__cause__] if error.__cause__ else [])]
    return any(
        isinstance(e, dist.DistError) or (isinstance(e, RuntimeError) and bool(_OF_A_CONNECTION.search(str(e))))
        for e in chain
    )


def exit_code(error: BaseException) -> int:
    """Return the exit code that a command has for an error."""
    if isinstance(error, HeadraceError):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 1 if isinstance(error, KeyboardInterrupt | MemoryError | OSError | ImportError) else BUG_EXIT


def _describe(error: BaseException) -> str:
    return error.message if isinstance(error, HeadraceError) else f"{type(error).__name__}: {error}"
