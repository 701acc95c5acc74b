"""Output of the three commands, and how errors end them.

Results go to stdout, progress and messages to stderr. With `--json`, stdout carries one JSON object and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from headrace.store.errors import HeadraceError, RankFailed
from headrace.store.secrets import without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from headrace.store.reader import Store

P = ParamSpec("P")

STRICT_EXIT = 3
"""Exit code of a job with --strict that is done, and has rejected something."""


@functools.cache
def console() -> Console:
    """Return the console on stderr, for progress and messages. Live lines are drawn only where it is a terminal."""
    from rich.console import Console  # 60 ms that `--help` need not wait for

    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def log(line: str) -> None:
    """Print a message on stderr."""
    console().print(printable(without_secrets(line)), markup=False)


def print_line(line: str) -> None:
    """Print a line of a result on stdout."""
    click.echo(printable(line))


def warn_incomplete(store: Store) -> None:
    """Print a line on stderr if the build of a store is not finished."""
    if not store.complete:
        sealed, planned = store.progress
        log(f"{store.path} is not complete: this is of {sealed:,} of its {planned:,} parts")


def print_json(data: Any) -> None:
    """Print the one JSON object of a command that runs with --json."""
    is_unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "")
    click.echo(json.dumps(data, ensure_ascii=not is_unicode))


def make_table(*headings: str, numbers: bool = False) -> Table:
    """Make a table without borders, of names and values, or with headings.

    Args:
        numbers: all columns but the first are of numbers, and aligned at the right.
    """
    from rich.table import Table

    class PrintableTable(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    table = PrintableTable(box=None, show_header=bool(headings), pad_edge=False, padding=(0, 2, 0, 0))
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if numbers and position else "left")
    if not headings:
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
    return table


def print_tables(*tables: Table) -> None:
    """Print tables to stdout, without those that have no rows."""
    from rich.console import Console

    for table in tables:
        if table.row_count:
            Console(highlight=False, markup=False).print(table)


def handle_errors(function: Callable[P, int | None]) -> Callable[P, None]:
    """Decorate the callback of a command: its return value becomes the exit code (None is 0), and an error that a user
    can act on becomes one line on stderr and its own exit code. Others are left to `headrace.cli.fence`."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs) or 0
        except (HeadraceError, KeyboardInterrupt, MemoryError, ImportError, OSError, RuntimeError) as error:
            code = report_error(error)
            if not code:
                raise
        sys.exit(code)

    return run


def report_error(error: BaseException) -> int:
    """Print the error in one line and return its exit code; do nothing and return 0 if it is not one that a user can
    act on."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as `| head` closes it
        return 1
    if isinstance(error, RankFailed):
        return error.exit_code  # the process that failed has said why
    found = _explain(error)
    if not found:
        return 0
    if isinstance(error, OSError) and not error.filename:
        _drop_output()
    print_error(*found, of=rank_of(error))
    return error.exit_code if isinstance(error, HeadraceError) else 1


def _explain(error: BaseException) -> tuple[str, ...]:
    """Return the lines that tell a person of an error; none if it is unforeseen."""
    if isinstance(error, HeadraceError):
        return (error.message, *error.details)
    if isinstance(error, KeyboardInterrupt):
        return ("Interrupted. Everything that was finished is kept; run the same command again to continue.",)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return ("There is not enough memory: close other programs, use fewer --workers, or raise a limit (ulimit -v).",)
    if "can't start new thread" in str(error):
        return ("No more threads can be started: use fewer --workers, or raise a limit (ulimit -u).",)
    if isinstance(error, OSError):
        return (_environment(error),)
    if isinstance(error, ImportError) and not str(error.name).startswith("headrace"):
        return (f"A library cannot be loaded: {error}. Install it, or Headrace again.",)
    return ()


_OUT_OF_MEMORY = re.compile("can't allocate memory|[Cc]annot allocate memory|failed to map segment|out of memory")


def _drop_output() -> None:
    """Discard what stdout still buffers if it cannot be written: it would fail once more at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _environment(error: OSError) -> str:
    """Describe what the machine refused: no space, no permission, a read-only disk."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"No space left on the device{where}: make room and run the same command again."
    if isinstance(error, TimeoutError) and not str(error):  # of workers, from Dask
        return "Workers did not answer in time: run the same command again to continue where it stopped."
    return f"{error.strerror or error}{where}."


def rank_of(error: BaseException) -> str:
    """Return which process of several an error is of, as it is noted on the error; empty if it is the only one."""
    return next((note for note in getattr(error, "__notes__", ()) if note.startswith("rank ")), "")


def print_error(message: str, *details: str, of: str = "") -> None:
    """Print an error on stderr: a message of one line, and further lines that are indented.

    Args:
        of: the process that has the error, of several.
    """
    with contextlib.suppress(OSError):  # the exit code is told in any case
        click.echo(f"Error{f' ({of})' if of else ''}: {printable(without_secrets(message))}", err=True)
        for line in details:
            click.echo(f"  {printable(without_secrets(line))}", err=True)


def printable(text: str) -> str:
    """Return a text with escapes in place of characters that would move a terminal's cursor, or that it cannot show."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def metric_label(name: str) -> str:
    """Return a metric's name as a person reads it: loss_mel -> `mel loss`."""
    return " ".join(reversed(name.split("_")))
