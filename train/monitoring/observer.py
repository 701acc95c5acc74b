"""Observers of a run: who is told what happens while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from headrace.train.monitoring.metrics import Record

if TYPE_CHECKING:
    from headrace.train.monitoring.evaluation_samples import Sample


class Observer(Protocol):
    """Is told of events as they happen."""

    def log(self, line: str) -> None:
        """Take a message for the user: a remark, or an automatic choice with its reason."""

    def started(self, step: int, last_step: int | None, tracked: Sequence[str]) -> None:
        """Take the start of training.

        Args:
            step: steps that are done already.
            last_step: the step to stop at, or about there, where it is known.
            tracked: names of the metrics to show, the most important first.
        """

    def recorded(self, record: Record) -> None:
        """Take a line of metrics.jsonl."""

    def samples_written(self, step: int, samples: Sequence[Sample]) -> None:
        """Take the samples that a validation synthesised."""


class CompositeObserver:
    """Pass events on to several observers, or to none."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def log(self, line: str) -> None:
        for observer in self._observers:
            observer.log(line)

    def started(self, step: int, last_step: int | None, tracked: Sequence[str]) -> None:
        for observer in self._observers:
            observer.started(step, last_step, tracked)

    def recorded(self, record: Record) -> None:
        for observer in self._observers:
            observer.recorded(record)

    def samples_written(self, step: int, samples: Sequence[Sample]) -> None:
        for observer in self._observers:
            observer.samples_written(step, samples)
