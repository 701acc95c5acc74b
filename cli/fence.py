"""The outermost edge of the commands: what the process needs before any work, and what becomes of errors that nobody
foresaw.

An error that no one expected is a bug. It becomes one line on stderr with the name of a report, and the exit code
BUG_EXIT; a traceback is never printed.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from io import TextIOWrapper
from types import TracebackType
from typing import Any, NoReturn

import click

from headrace.cli import output
from headrace.store.errors import UsageError
from headrace.train.launcher import refusal, refuse

BUG_EXIT = 70
"""Exit code where Headrace itself is at fault: EX_SOFTWARE of sysexits.h."""
_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class Commands(click.Group):
    """A group of commands. Called as a function, it is a program that ends the process with an exit code.

    `main` is the same without the fence: unforeseen errors leave it as they are.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        prepare_process()
        if code := refusal():
            sys.exit(code)
        try:
            check_environment()
            super().__call__(*args, **kwargs)
            code = 0
        except SystemExit as end:
            code = end.code  # type: ignore[assignment]
        except BaseException as error:  # noqa: BLE001 - this is the fence
            code = output.report_error(error) or report_bug(error)
        if code == UsageError.exit_code:
            refuse(code)
        sys.exit(_flush() or code)


def prepare_process() -> None:
    """Make this process independent of settings that are not meant for it.

    Files, arguments and output are in UTF-8 whatever the locale is. A stream that was closed leads to the null device:
    a file that took its number would receive what is printed.
    """
    if os.name == "posix" and sys.getfilesystemencoding() != "utf-8":
        environment = os.environ | {"PYTHONUTF8": "1"}  # for the processes that this one starts as well
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115 - it takes the lowest free number, which is the stream's own
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name in ("COLUMNS", "LINES"):
        if not _is_positive(os.environ.get(name, "1")):
            del os.environ[name]
    os.environ["MPLBACKEND"] = "agg"  # no command opens a window
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {_first_line(message)}\n"
    sys.excepthook, threading.excepthook = _report_unhandled, _report_in_thread
    sys.unraisablehook = lambda _: None  # errors of destructors, such as the flush of a closed pipe


def check_environment() -> None:
    """Raise UsageError if a variable of a library would make it fail when it is imported."""
    threads = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not _is_positive(threads):
        raise UsageError(
            f"The environment has NUMBA_NUM_THREADS={threads}: set it to a number of threads from 1 on, or unset it."
        )


def report_bug(error: BaseException) -> int:
    """Write a report of an unforeseen error, print a line that names it, and return the exit code."""
    from headrace.cli.bug_report import write_bug_report

    try:
        where = f"Please report it with {write_bug_report(error)}."
    except OSError as failure:
        where = f"No report could be written: {failure.strerror}."
    fault = f"{type(error).__name__}: {_first_line(error)[:200]}"
    output.print_error(f"This is a bug in Headrace: {fault}. {where}", of=output.rank_of(error))
    return BUG_EXIT


def _report_unhandled(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    if not output.report_error(error):
        report_bug(error)


def _report_in_thread(args: threading.ExceptHookArgs) -> None:
    if isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard."):
        return  # it is raised once more where events are written
    if args.exc_value is not None and args.exc_type is not SystemExit:
        report_bug(args.exc_value)


def _flush() -> int:
    """Write what is still buffered, and return the exit code if that fails, else 0."""
    try:
        sys.stderr.flush()
    except OSError:  # the interpreter would try again, and end with another code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    try:
        sys.stdout.flush()
    except OSError as error:
        return output.report_error(error)
    return 0


def _first_line(error: object) -> str:
    return next(iter(str(error).splitlines()), "")


def _is_positive(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 7 and int(text) > 0
