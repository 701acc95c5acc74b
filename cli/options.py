"""Options, arguments and their types that several commands share."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import click

from headrace.store.errors import UsageError
from headrace.store.secrets import without_secrets
from headrace.store.storage import StoragePath, parse_path


class _StoragePathType(click.ParamType):
    """A path of this machine, or s3://BUCKET/PREFIX."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> StoragePath:
        try:
            return parse_path(value)
        except UsageError as error:
            self.fail(error.message, param, ctx)


class _LocalPathType(click.Path):
    """A path of this machine. A URL is refused: it would become folders called `s3:`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "://" in str(value):
            self.fail(
                f"{without_secrets(value)} is a URL, a path of this machine was expected: write there, and copy it.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class Number(click.FloatRange):
    """A finite number within limits. click lets `nan` through every limit, and `inf` where there is no upper one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = click.FLOAT.convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return float(super().convert(number, param, ctx))


class _GpusType(click.ParamType):
    """A number of GPUs, or `all`, which is 0."""

    name = "gpus"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value in (0, "all"):
            return 0
        if not str(value).isdecimal() or not int(value):
            self.fail(f"{value!r} is neither a number of GPUs nor `all`.", param, ctx)
        return int(value)


class _Option(click.Option):
    """An option whose `show_default` may be a text; it is shown as it is, where click would put it in parentheses."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        return extra


option = partial(click.option, cls=_Option)

STORAGE_PATH = _StoragePathType()
LOCAL_PATH = _LocalPathType()
FILE = click.Path(path_type=Path)
COUNT = click.IntRange(1)
POSITIVE = Number(0, min_open=True)

store_argument = click.argument("path", metavar="STORE", type=STORAGE_PATH)
json_option = option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout, and nothing else.")
strict_option = option("--strict", is_flag=True, help="Exit with code 3 if an utterance was rejected.")
scheduler_option = option(
    "--scheduler", metavar="ADDRESS", help="Use the workers of the Dask scheduler that runs at this address."
)
device_option = option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Compute on this device.",
)


def at_option(help: str) -> Any:
    """Return the option that chooses a checkpoint of a run."""
    return option(
        "--at", metavar="best|newest|STEP", show_default="best, or newest where none was validated", help=help
    )


gpus_option = option(
    "--gpus",
    type=_GpusType(),
    metavar="N",
    help="Train on N GPUs of this machine, or on `all`, with a process for each; with --device cpu, in N processes.",
)


def workers_option(default: str) -> Any:
    """Return the option that sets how many processes work.

    Args:
        default: how many there are without it, in words.
    """
    return option("--workers", type=COUNT, metavar="N", show_default=default, help="Start this many worker processes.")


def split_names(names: str) -> tuple[str, ...]:
    """Split names that are separated by commas."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def without_none(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}
