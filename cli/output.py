"""Output of the three commands, and how errors end them.

Results go to stdout, progress and messages to stderr. With `--json`, stdout carries one JSON object and nothing else.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from headrace.store.errors import HeadraceError

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
    console().print(line, markup=False)


def warn_incomplete(store: Store) -> None:
    """Print a line on stderr if the build of a store is not finished."""
    if not store.complete:
        sealed, planned = store.progress
        log(f"{store.path} is not complete: this is of {sealed:,} of its {planned:,} parts")


def print_json(data: Any) -> None:
    """Print the one JSON object of a command that runs with --json."""
    click.echo(json.dumps(data, ensure_ascii=False))


def make_table(*headings: str, numbers: bool = False) -> Table:
    """Make a table without borders, of names and values, or with headings.

    Args:
        numbers: all columns but the first are of numbers, and aligned at the right.
    """
    from rich.table import Table

    table = Table(box=None, show_header=bool(headings), pad_edge=False, padding=(0, 2, 0, 0))
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
    can act on becomes one line on stderr and its own exit code. It prints no traceback."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs) or 0
        except HeadraceError as error:
            _fail(error.message, *error.details)
            code = error.exit_code
        except KeyboardInterrupt:
            _fail("Interrupted. Everything that was finished is kept; run the same command again to continue.")
            code = 1
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as `| head` closes it
            code = 1
        except OSError as error:
            _fail(_environment(error))
            code = 1
        sys.exit(code)

    return run


def _environment(error: OSError) -> str:
    """Describe what the machine refused: no space, no permission, a read-only disk."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"No space left on the device{where}: make room and run the same command again."
    if isinstance(error, TimeoutError) and not str(error):  # of workers, from Dask
        return "Workers did not answer in time: run the same command again to continue where it stopped."
    return f"{error.strerror or error}{where}."


def _fail(message: str, *details: str) -> None:
    click.echo(f"Error: {message}", err=True)
    for line in details:
        click.echo(f"  {line}", err=True)


def metric_label(name: str) -> str:
    """Return a metric's name as a person reads it: loss_mel -> `mel loss`."""
    return " ".join(reversed(name.split("_")))
