"""Progress of long work: a bar with rate and ETA on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from headrace.cli import output
from headrace.store.units import format_duration, format_hours

if TYPE_CHECKING:
    from headrace.featurize.pipeline.part_worker import PartReport

LINE_EVERY_S = 10.0
"""Seconds between two lines where there is no terminal."""


class BuildProgress:
    """Show the progress of a build: parts, hours of audio per second, ETA, rejects and workers.

    An observer of `headrace.featurize.pipeline.build`.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._is_learning = False
        self._rejects = self._parts_done = self._parts = self._workers = 0
        self._hours = self._hours_done = self._hours_at_start = 0.0
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop_bar()

    def note(self, line: str) -> None:
        if not self._quiet:
            output.log(line)

    def workers(self, count: int) -> None:
        self._workers = count
        if not count:
            self.note("no worker is connected: waiting for one")
        if self._bar is not None:
            self._show()

    def scanning(self, utterances: int, rejects: int) -> None:
        self._rejects = rejects
        if (utterances + rejects) % 1000 == 0:
            self._line(f"scanned {utterances + rejects:,} utterances, {rejects:,} rejected")

    def planned(self, parts: int, sealed: int, hours: float, hours_sealed: float) -> None:
        self._parts, self._parts_done, self._hours = parts, sealed, hours
        self._hours_done = self._hours_at_start = hours_sealed
        self._started, self._is_learning = time.monotonic(), False
        self._stop_bar()
        done = f", {sealed} of them sealed already" if sealed else ""
        self.note(f"{format_hours(hours)} of audio in {parts} parts{done}")
        if sealed < parts:
            self._start_bar(self._hours, self._hours_done, self._status())

    def part_done(self, report: PartReport) -> None:
        self._parts_done += 1
        self._hours_done += report.audio_seconds / 3600
        self._rejects += len(report.rejects)
        self._show()

    def learning(self, feature: str, done: float, total: float, status: str) -> None:
        text = f"{feature} learns: {status}"
        if not done:
            self._started, self._is_learning = time.monotonic(), True
            self._stop_bar()
            self._start_bar(total, done, text)
        elif self._bar is not None:
            self._bar.update(self._task, completed=done, status=text)
        else:
            left = (time.monotonic() - self._started) * (total - done) / done
            rest = f", about {format_duration(left)} left" if done < total else ""
            self._line(text + rest, force=done >= total)

    def _show(self) -> None:
        if self._is_learning:
            return
        if self._bar is not None:
            # What was rejected is done too, and tails shorter than a hop: in the end all of it is.
            completed = self._hours if self._parts_done == self._parts else self._hours_done
            self._bar.update(self._task, completed=completed, status=self._status())
        elif self._parts_done:
            self._line(self._status(), force=self._parts_done == self._parts)

    def _status(self) -> str:
        rate = (self._hours_done - self._hours_at_start) / max(time.monotonic() - self._started, 1e-3)
        return (
            f"{self._parts_done}/{self._parts} parts, {rate:.4f} h/s, {self._rejects:,} rejects, "
            f"{self._workers} {'worker' if self._workers == 1 else 'workers'}"
        )

    def _start_bar(self, total: float, completed: float, status: str) -> None:
        """Draw a bar, if there is a terminal for it."""
        if self._quiet or not output.console().is_terminal:
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            BarColumn(), TextColumn("{task.fields[status]}"), TimeRemainingColumn(), console=output.console()
        )
        self._task = self._bar.add_task("build", total=total, completed=completed, status=status)
        self._bar.start()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, text: str, *, force: bool = False) -> None:
        if not self._quiet and (force or time.monotonic() - self._printed >= LINE_EVERY_S):
            self._printed = time.monotonic()
            output.log(text)


class PartsProgress:
    """Show how many parts, or other things, are done. Called with the number done and the number of all."""

    def __init__(self, done: str, *, quiet: bool, what: str = "parts") -> None:
        """
        Args:
            done: what was done with them, such as "checked".
            what: what they are.
        """
        self._done, self._quiet, self._what = done, quiet, what
        self._bar: Any = None
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, parts: int) -> None:
        if self._quiet:
            return
        if output.console().is_terminal:
            self._draw(done, parts)
        elif time.monotonic() - self._printed >= LINE_EVERY_S:
            self._printed = time.monotonic()
            output.log(f"{done}/{parts} {self._what} {self._done}")

    def _draw(self, done: int, parts: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._bar is None:
            columns = BarColumn(), MofNCompleteColumn(), TextColumn(f"{self._what} {self._done}"), TimeRemainingColumn()
            self._bar = Progress(*columns, console=output.console(), transient=True)
            self._bar.add_task(self._what, total=parts)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)
