"""`train tune`: search for the options of a run."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from headrace.cli import output
from headrace.cli.options import COUNT, LOCAL_PATH, option, store_argument
from headrace.cli.run_options import TUNE, config_option, given_options, run_options

if TYPE_CHECKING:
    from headrace.store.storage import StoragePath


@click.command()
@store_argument
@option("--out", type=LOCAL_PATH, metavar="TUNING", required=True, help="Write the tuning into this folder.")
@option("--trials", type=COUNT, metavar="N", default=20, show_default=True, help="Train N runs in all.")
@option("--metric", metavar="NAME", show_default="the loss of the stage", help="Compare runs by this metric.")
@option(
    "--search",
    metavar="NAME[=LOW:HIGH],...",
    default="",
    show_default="all that the stage has",
    help="Search these options, such as learning_rate=1e-4:1e-2,dropout.",
)
@option("--jobs", type=COUNT, metavar="J", default=1, show_default=True, help="Train J runs at a time.")
@option("--population", type=COUNT, metavar="P", help="Train P runs that copy one another instead of trials.")
@config_option
@run_options(*TUNE)
@option("--json", "as_json", is_flag=True, help="Print a JSON line for each run and the result, and nothing else.")
@output.handle_errors
def tune(
    path: StoragePath,
    out: Path,
    trials: int,
    metric: str | None,
    search: str,
    jobs: int,
    population: int | None,
    config: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Search for the options of a run on STORE.

    Each of N trials is a run of --max-steps. Those that are worse than others are ended early. With --population, P
    runs are trained in generations, of which the worst continue from copies of the best. Whatever stops the command,
    the same command continues. The result is TUNING/best.toml, for train run --config.
    """
    from headrace.train.tuning.tuner import tune as tune_runs
    from headrace.train.tuning.tuning_config import TuneConfig

    given = TuneConfig(
        store=path,
        out=out,
        options=given_options(config, options),
        trials=trials,
        metric=metric or "",
        search=search,
        jobs=jobs,
        population=population or 0,
    )
    with _Progress(as_json=as_json, metric=given.measured) as progress:
        result = tune_runs(given, progress)
    if as_json:
        output.print_json(result)
    else:
        _print_tuning(result, [json.loads(line) for line in Path(result["table"]).read_text().splitlines()])


class _Progress:
    """Shows runs that end: as JSON lines, as a bar on a terminal, or as lines. A `TuneObserver`."""

    def __init__(self, *, as_json: bool, metric: str) -> None:
        self._as_json, self._metric, self._lock = as_json, metric, threading.Lock()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if not self._as_json and output.console().is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("runs"), TimeElapsedColumn())
            self._bar = Progress(*columns, console=output.console(), transient=True)
            self._bar.start()
            self._bar.add_task("", total=None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def log(self, line: str) -> None:
        if not self._as_json:
            output.log(line)

    def ended(self, row: Mapping[str, Any], done: int, of: int) -> None:
        with self._lock:
            if self._as_json:
                output.print_json(row)
                return
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=done, total=of)
            output.log(f"{done} of {of}: {_name(row)}, {_value(row, self._metric)}, {row['state']}{_reason(row)}")


def _print_tuning(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print all runs of a tuning, and its result."""
    metric = result["metric"]
    table = output.make_table()
    for name, value in result["options"].items():
        table.add_row(name, _number(value))
    default = result["default"]
    table.add_row(
        output.metric_label(metric), f"{result['value']:.4g}" + (f", default {default:.4g}" if default else "")
    )
    for name in ("config", "run", "table", "picture"):
        table.add_row(name, result[name])
    names = list(result["options"])
    runs = output.make_table("run", "state", metric, *names, numbers=True)
    for row in rows:
        runs.add_row(_name(row), row["state"], _number(row[metric]), *(_number(row["options"][name]) for name in names))
    output.print_tables(runs, table)


def _name(row: Mapping[str, Any]) -> str:
    return f"trial {row['trial']}" if "trial" in row else f"member {row['member']}, generation {row['generation']}"


def _value(row: Mapping[str, Any], metric: str) -> str:
    return f"{output.metric_label(metric)} {_number(row[metric])}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _reason(row: Mapping[str, Any]) -> str:
    return f": {row['reason']}" if row["reason"] else ""
