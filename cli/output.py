"""What the three commands share: where words go, how errors end, how numbers are written.

Results go to stdout; everything said along the way goes to stderr. With `--json`, stdout carries one JSON object and
nothing else.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from headrace.store.errors import HeadraceError, UsageError
from headrace.store.storage import StoragePath, parse_path

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")

STRICT_EXIT = 3
"""Exit code of a job that is done but left rejects behind, under --strict."""


class _PlaceType(click.ParamType):
    """A path of this machine, or s3://BUCKET/PREFIX."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> StoragePath:
        try:
            return parse_path(value)
        except UsageError as error:
            self.fail(error.message, param, ctx)


PLACE = _PlaceType()


class _HereType(click.Path):
    """A path of this machine: a URL would become folders called `s3:`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "://" in str(value):
            self.fail(f"{value} is a URL, a path of this machine was expected: write there, and copy it.", param, ctx)
        return super().convert(value, param, ctx)


HERE = _HereType()


@functools.cache
def console() -> Console:
    """The console on stderr: progress and remarks. Live lines are drawn only where it is a terminal."""
    from rich.console import Console  # 60 ms that `--help` need not wait for

    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def say(line: str) -> None:
    """One remark on stderr."""
    console().print(line, markup=False)


def emit_json(data: Any) -> None:
    """The one JSON object of a command run with --json."""
    click.echo(json.dumps(data, ensure_ascii=False))


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Make a click callback end as DESIGN says: its return value is the exit code (None is 0), an error that a person
    can act on is one line and its code, never a traceback."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs) or 0
        except HeadraceError as error:
            _fail(error.message, *error.details)
            code = error.exit_code
        except KeyboardInterrupt:
            _fail("Interrupted. What is sealed or saved stays; run the same command again to go on.")
            code = 1
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as `| head` ends it: nothing to say
            code = 1
        except OSError as error:
            _fail(_environment(error))
            code = 1
        sys.exit(code)

    return run


def _environment(error: OSError) -> str:
    """A line for what the machine refused: no space, no permission, a read-only disk."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"No space left on the device{where}: make room and run the same command again."
    if isinstance(error, TimeoutError) and not str(error):  # of workers, from Dask
        return "Workers did not answer in time: run the same command again, it goes on where it stopped."
    return f"{error.strerror or error}{where}."


def _fail(message: str, *details: str) -> None:
    click.echo(f"Error: {message}", err=True)
    for line in details:
        click.echo(f"  {line}", err=True)


def hours(value: float) -> str:
    """1.5 -> `1.50 h`, 0.02 -> `1.2 min`."""
    return f"{value:,.2f} h" if value >= 1 else f"{value * 60:.1f} min"


def size(count: float) -> str:
    """Bytes in powers of 1024: 3.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def term(name: str) -> str:
    """loss_mel -> `mel loss`."""
    return " ".join(reversed(name.split("_")))


def duration(seconds: float) -> str:
    """75 -> `1 min 15 s`."""
    minutes, rest = divmod(round(seconds), 60)
    whole, minutes = divmod(minutes, 60)
    parts = [(whole, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(shown[:2]) or f"{seconds:.1f} s"
