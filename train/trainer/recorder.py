"""Recorder of a run: writes config.json, metrics.jsonl, curves.png and the events of TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from headrace.store.errors import HeadraceError
from headrace.store.storage.local import make_folder
from headrace.train import distributed
from headrace.train.config import RunConfig, write_config
from headrace.train.monitoring import metrics
from headrace.train.monitoring.metrics import MetricsLog
from headrace.train.monitoring.observer import CompositeObserver, Observer
from headrace.train.monitoring.tensorboard import TensorBoard


class RunRecorder:
    """Writes the records of a run into its folder and passes them on to observers. Only the first rank does.

    Use it in a `with` statement: it owns files.
    """

    def __init__(self, config: RunConfig, observer: Observer) -> None:
        """
        Raises:
            UsageError: TensorBoard was requested and is not installed.
        """
        self._first_rank = distributed.rank() == 0
        use_tensorboard = config.monitoring.tensorboard and self._first_rank
        self._tensorboard = TensorBoard(config.out / "tensorboard", observer.log) if use_tensorboard else None
        observers = [observer, *([self._tensorboard] if self._tensorboard else [])] if self._first_rank else []
        self.observer = CompositeObserver(*observers)
        self._out = config.out
        self._metrics: MetricsLog | None = None

    def open(self, config: RunConfig, step: int) -> None:
        """Write config.json, and open metrics.jsonl to continue after `step`; say which of its lines are damaged."""
        if not self._first_rank:
            return
        make_folder(self._out)
        write_config(config, self._out)
        self._metrics = MetricsLog(self._out / "metrics.jsonl", last_step=step)
        for line in self._metrics.damage:
            self.observer.log(line)

    def sync(self) -> None:
        """Flush metrics.jsonl to disk."""
        if self._metrics is not None:
            self._metrics.sync()

    def record(self, **record: Any) -> None:
        """Write a line of metrics.jsonl."""
        if self._metrics is not None:
            self._metrics.write(record)
        self.observer.recorded(record)

    def summarise(self, tracked: Sequence[str]) -> dict[str, Any]:
        """Draw curves.png, and return `metrics.summarise` of all lines. The run is done, with or without a picture."""
        records, _ = metrics.read_lines(self._out / "metrics.jsonl")
        try:
            metrics.draw_curves(records, tracked, self._out / "curves.png")
        except (HeadraceError, OSError) as error:
            self.observer.log(f"curves.png is not drawn: {error}")
        return metrics.summarise(records, tracked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        for writer in (self._tensorboard, self._metrics):
            if writer is not None:
                writer.__exit__(kind, value, at)
