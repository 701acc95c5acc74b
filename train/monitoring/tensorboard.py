"""TensorBoard events of a run: metrics as curves, samples as audio and plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from headrace.store.errors import UsageError
from headrace.train.monitoring.evaluation_samples import Sample
from headrace.train.monitoring.metrics import Record
from headrace.train.monitoring.sample_plots import draw_sample

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NOT_DRAWN = ("step", "step_s", "wait_s", "plan_s", "read_s", "copy_s")


class TensorBoard:
    """Writes metrics and samples into a folder of TensorBoard events. An `Observer`; use it in a `with` statement.

    If they cannot be written, as on a full disk, it says so once and writes no more: the run goes on.

    Numbers come from lines of metrics.jsonl, which are on the host: no step synchronises with the device for them.
    """

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        """
        Args:
            folder: folder of the events; a resumed run adds to it.
            log: called with the message that there will be no more events.
        Raises:
            UsageError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"--tensorboard needs a package that is not there ({error.name}): pip install 'headrace[tensorboard]'. "
                "Without the option, metrics.jsonl and curves.png have the same numbers."
            ) from error
        self._open, self._folder, self._log = SummaryWriter, folder, log
        self._writer: SummaryWriter | None = None
        self._recordings_written: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        with self._guarded():
            if self._writer is not None:
                self._writer.close()

    def log(self, line: str) -> None:
        """Ignore messages for the user."""

    def started(self, step: int, last_step: int | None, tracked: Sequence[str]) -> None:
        """Open the events, without those of steps that are repeated."""
        with self._guarded():
            self._writer = self._open(str(self._folder), purge_step=step + 1)  # steps after the checkpoint are repeated

    def recorded(self, record: Record) -> None:
        """Write the numbers of a line of metrics.jsonl as points of curves."""
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        if record["split"] == "train":
            numbers["wait_share"] = record["wait_s"] / record["step_s"]
        with self._guarded():
            for name, value in numbers.items():
                if self._writer is not None and isfinite(value) and name not in NOT_DRAWN:
                    self._writer.add_scalar(f"{record['split']}/{name}", value, record["step"])
            if self._writer is not None and record["split"] == "validation":
                self._writer.flush()

    def samples_written(self, step: int, samples: Sequence[Sample]) -> None:
        """Write samples as audio and plots; recordings only once."""
        if (writer := self._writer) is None:
            return
        with self._guarded():
            for sample in samples:
                if sample.name not in self._recordings_written:
                    self._recordings_written.add(sample.name)
                    writer.add_audio(f"{sample.name}/recorded", sample.recorded, 0, sample.sample_rate)
                writer.add_audio(f"{sample.name}/made", sample.generated, step, sample.sample_rate)
                writer.add_figure(f"{sample.name}/picture", draw_sample(sample), step)
            writer.flush()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Write no more events if they cannot be written."""
        try:
            yield
        except OSError as error:
            self._writer = None
            self._log(
                f"no more events for TensorBoard: {self._folder} cannot be written ({error.strerror or error}). "
                "The run goes on, and metrics.jsonl has all numbers"
            )
