"""TensorBoard events of a run: metrics as curves, samples as audio and plots."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Self

from headrace.store.errors import UsageError
from headrace.train.monitoring.evaluation_samples import Sample
from headrace.train.monitoring.metrics import Record
from headrace.train.monitoring.sample_plots import draw_sample

NOT_DRAWN = ("step", "step_s", "wait_s")


class TensorBoard:
    """Writes metrics and samples into a folder of TensorBoard events. An `Observer`; use it in a `with` statement.

    Numbers come from lines of metrics.jsonl, which are on the host: no step synchronises with the device for them.
    """

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: folder of the events; a resumed run adds to it.
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
        self._open, self._folder = SummaryWriter, folder
        self._recordings_written: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._writer.close()

    def log(self, line: str) -> None:
        """Ignore messages for the user."""

    def started(self, step: int, last_step: int | None, tracked: Sequence[str]) -> None:
        """Open the events, without those of steps that are repeated."""
        self._writer = self._open(str(self._folder), purge_step=step + 1)  # steps after the checkpoint are repeated

    def recorded(self, record: Record) -> None:
        """Write the numbers of a line of metrics.jsonl as points of curves."""
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        if record["split"] == "train":
            numbers["wait_share"] = record["wait_s"] / record["step_s"]
        for name, value in numbers.items():
            if isfinite(value) and name not in NOT_DRAWN:
                self._writer.add_scalar(f"{record['split']}/{name}", value, record["step"])
        if record["split"] == "validation":
            self._writer.flush()

    def samples_written(self, step: int, samples: Sequence[Sample]) -> None:
        """Write samples as audio and plots; recordings only once."""
        for sample in samples:
            if sample.name not in self._recordings_written:
                self._recordings_written.add(sample.name)
                self._writer.add_audio(f"{sample.name}/recorded", sample.recorded, 0, sample.sample_rate)
            self._writer.add_audio(f"{sample.name}/made", sample.generated, step, sample.sample_rate)
            self._writer.add_figure(f"{sample.name}/picture", draw_sample(sample), step)
        self._writer.flush()
