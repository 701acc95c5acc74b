"""Progress of a training run: a panel on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from headrace.cli import output
from headrace.cli.progress import LINE_EVERY_S
from headrace.store.units import format_duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from headrace.train.monitoring.evaluation_samples import Sample

RECENT = 20
"""Steps over which rates are averaged."""
REDRAWS_PER_S = 4.0
"""How often the panel is drawn, at most."""
UNLISTED = ("loss_gen_all", "loss_scale")


class TrainProgress:
    """Show the progress of a run: steps, losses, rates, precision, failures and ETA. An `Observer`."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live: Any = None
        self._last: int | None = None
        self._tracked: Sequence[str] = ()
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._validation: dict[str, Any] | None = None
        self._first = self._skipped = 0
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def log(self, line: str) -> None:
        if not self._quiet:
            output.log(line)

    def started(self, step: int, last_step: int | None, tracked: Sequence[str]) -> None:
        self._first, self._last, self._tracked = step, last_step, tracked
        if not self._quiet and output.console().is_terminal:
            from rich.live import Live

            self._live = Live(console=output.console(), get_renderable=self._panel, refresh_per_second=REDRAWS_PER_S)
            self._live.start()

    def recorded(self, record: dict[str, Any]) -> None:
        if record["split"] == "validation":
            self._validation = record
            self.log(f"step {record['step']}: validation {self._terms(record)}{_dnsmos(record)}")
            return
        self._recent.append(record)
        self._skipped += bool(record["skipped"])
        if self._live is None and time.monotonic() - self._printed >= LINE_EVERY_S:
            self._printed = time.monotonic()
            self.log(self._line())

    def samples_written(self, step: int, samples: Sequence[Sample]) -> None:
        pass

    def _line(self) -> str:
        newest = self._recent[-1]
        return ", ".join(
            part
            for part in (
                f"step {self._place()}",
                f"epoch {newest['epoch']}",
                self._terms(newest),
                self._rate(),
                f"{self._wait_share():.1%} waiting for data",
                self._trouble(),
                self._eta(),
            )
            if part
        )

    def _panel(self) -> RenderableType:
        """Return what is drawn at the bottom of the terminal."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        if not self._recent:
            return "first step"
        newest = self._recent[-1]
        table = Table.grid(padding=(0, 2))
        table.add_row("step", f"{self._place()}, epoch {newest['epoch']}{_comma(self._eta())}")
        for name in self._tracked:
            table.add_row(output.metric_label(name), self._with_validation(newest, name))
        table.add_row("losses", _terms_of_kind(newest, "loss_"))
        table.add_row("gradients", f"{_terms_of_kind(newest, 'grad_norm')}, learning rate {newest['lr']:.3g}")
        step_s = sum(record["step_s"] for record in self._recent) / len(self._recent)
        table.add_row("speed", f"{self._rate()}, {step_s:.3f} s per step, {newest['padding']:.1%} padding")
        table.add_row("data", f"waited for {self._wait_share():.1%} of the time")
        scale = f", loss scale {newest['loss_scale']:,.0f}" if newest["precision"] == "fp16" else ""
        table.add_row("precision", newest["precision"] + scale)
        if trouble := self._trouble():
            table.add_row("trouble", trouble)
        done = newest["step"] - self._first, self._last - self._first if self._last else None
        return Group(ProgressBar(total=done[1], completed=done[0], width=60, pulse=done[1] is None), table)

    def _place(self) -> str:
        return f"{self._recent[-1]['step']:,}" + (f" of {self._last:,}" if self._last else "")

    def _terms(self, record: dict[str, Any]) -> str:
        return ", ".join(f"{output.metric_label(name)} {_number(record[name])}" for name in self._tracked)

    def _with_validation(self, newest: dict[str, Any], name: str) -> str:
        last = self._validation
        return _number(newest[name]) + (f", {_number(last[name])} held out{_dnsmos(last)}" if last else "")

    def _rate(self) -> str:
        seconds = sum(record["step_s"] for record in self._recent)
        return f"{sum(record['frames'] for record in self._recent) / seconds:,.0f} frames/s"

    def _wait_share(self) -> float:
        waited = sum(record["wait_s"] for record in self._recent)
        return float(waited / sum(record["step_s"] for record in self._recent))

    def _trouble(self) -> str:
        quarantined = self._recent[-1]["quarantined"]
        counts = ((self._skipped, "updates left out"), (quarantined, "utterances quarantined"))
        return ", ".join(f"{count} {what}" for count, what in counts if count)

    def _eta(self) -> str:
        if not self._last:
            return ""
        each = sum(record["step_s"] for record in self._recent) / len(self._recent)
        return f"{format_duration(max(0, self._last - self._recent[-1]['step']) * each)} left"


def _terms_of_kind(record: dict[str, Any], prefix: str) -> str:
    """List all terms whose names begin with `prefix`, without it."""
    terms = [name for name in record if name.startswith(prefix) and name not in UNLISTED]
    return ", ".join(f"{name.removeprefix(prefix).strip('_')} {_number(record[name])}".strip() for name in terms)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def _dnsmos(record: dict[str, Any]) -> str:
    return f", DNSMOS {record['mos']:.2f}" if "mos" in record else ""


def _comma(part: str) -> str:
    return f", {part}" if part else ""
