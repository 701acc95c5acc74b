"""How a training run looks to a person: a live line, and a table at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from cli import render
from cli.progress import PLAIN_EVERY

RECENT = 20
"""Steps that rates are averaged over."""


class TrainProgress:
    """Shows a run: step, losses, frames per second, share of time spent waiting for data, ETA. An `Observer`."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._last: int | None = None
        self._shown: Sequence[str] = ()
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        if not self._quiet:
            render.say(line)

    def started(self, step: int, last: int | None, shown: Sequence[str]) -> None:
        self._last, self._shown = last, shown
        if not self._quiet and render.console().is_terminal:
            self._start_bar(step)

    def recorded(self, record: dict[str, Any]) -> None:
        if record["split"] == "validation":
            self.say(f"step {record['step']}: validation {self._terms(record)}")
            return
        self._recent.append(record)
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], status=self._status())
        elif time.monotonic() - self._printed >= PLAIN_EVERY:
            self._printed = time.monotonic()
            self.say(self._status())

    def _status(self) -> str:
        newest = self._recent[-1]
        seconds = sum(record["step_s"] for record in self._recent)
        frames = sum(record["frames"] for record in self._recent)
        wait = sum(record["wait_s"] for record in self._recent)
        of = f"/{self._last}" if self._last else ""
        return (
            f"step {newest['step']}{of}, epoch {newest['epoch']}, {self._terms(newest)}, "
            f"{frames / seconds:,.0f} frames/s, {wait / seconds:.1%} waiting for data{self._eta(seconds)}"
        )

    def _terms(self, record: dict[str, Any]) -> str:
        return ", ".join(f"{render.term(name)} {record[name]:.3g}" for name in self._shown)

    def _eta(self, seconds: float) -> str:
        if not self._last:
            return ""
        left = (self._last - self._recent[-1]["step"]) * seconds / len(self._recent)
        return f", {render.duration(left)} left"

    def _start_bar(self, step: int) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        gauge = BarColumn(bar_width=20) if self._last else SpinnerColumn()
        self._bar = Progress(gauge, TextColumn("{task.fields[status]}"), console=render.console())
        self._task = self._bar.add_task("train", total=self._last, completed=step, status="first step")
        self._bar.start()


def print_run(summary: dict[str, Any]) -> None:
    """The result of `train run`, on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_row("run", summary["run"])
    table.add_row("trained", f"{summary['steps']} steps, in epoch {summary['epochs']}")
    for name in summary["shown"]:
        table.add_row(render.term(name), _course(summary, name))
    if summary["skipped"]:
        table.add_row("left out", f"{summary['skipped']} updates whose gradients were not finite")
    if summary["quarantined"]:
        table.add_row("quarantined", ", ".join(summary["quarantined"]))
    table.add_row(
        "speed",
        f"{summary['step_s']:.3f} s per step, {summary['utterances_per_s']:,.1f} utterances/s, "
        f"{summary['frames_per_s']:,.0f} frames/s",
    )
    table.add_row("waiting for data", f"{summary['wait_share']:.2%} of the time")
    table.add_row("padding", f"{summary['padding']:.1%} of all frames")
    table.add_row("checkpoint", summary["checkpoint"])
    Console(highlight=False, markup=False).print(table)


def print_forecast(found: dict[str, Any]) -> None:
    """The result of `train plan`, on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, count in found["parameters"].items():
        table.add_row(name, f"{count / 1e6:.1f} M parameters")
    table.add_row("weights and optimiser", f"{found['state_gib']:.2f} GiB")
    table.add_row("kept for gradients", f"{found['kept_gib']:.2f} GiB of the largest batch, in {found['precision']}")
    table.add_row("steps", f"{found['steps_per_epoch']:,} an epoch, {found['step_s']:.3f} s each on {found['device']}")
    table.add_row(f"{found['epochs']} epochs", render.duration(3600 * found["hours"]))
    for card, frames in found["room"].items():
        table.add_row(f"room on {card}", f"{frames:,} frames" if frames else "none")
    Console(highlight=False, markup=False).print(table)


def _course(summary: dict[str, Any], name: str) -> str:
    """A term at first, at last and on what was held out."""
    first, last, validation = (summary[f"{name}_{when}"] for when in ("first", "last", "validation"))
    if last is None:
        return "was never finite: try --precision fp32"
    held = "" if validation is None else f", {validation:.3g} on {summary['validation_utterances']} held out"
    return f"{first:.3g} at first, {last:.3g} at last{held}"
