"""Observers of a run: they are notified of events while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from headrace.train.monitoring.metrics import Record

if TYPE_CHECKING:
    from headrace.train.monitoring.evaluation_samples import Sample


class Observer(Protocol):
    """Receives the events of a run as they happen."""

    def log(self, line: str) -> None:
        """Receive a message for the user: a remark, or an automatic setting with its reason."""

    def started(self, step: int, last_step: int | None, tracked: Sequence[str]) -> None:
        """Receive the start of training.

        Args:
            step: steps that are done already.
            last_step: the step at which training stops, as far as it is known; None if it is not.
            tracked: names of the metrics to show, the most important first.
        """

    def recorded(self, record: Record) -> None:
        """Receive a line of metrics.jsonl."""

    def samples_written(self, step: int, samples: Sequence[Sample]) -> None:
        """Receive the samples that a validation synthesised."""


class CompositeObserver:
    """Passes events on to several observers, or to none."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def log(self, line: str) -> None:
        """Pass a message on."""
        for observer in self._observers:
            observer.log(line)

    def started(self, step: int, last_step: int | None, tracked: Sequence[str]) -> None:
        """Pass the start of training on."""
        for observer in self._observers:
            observer.started(step, last_step, tracked)

    def recorded(self, record: Record) -> None:
        """Pass a line of metrics.jsonl on."""
        for observer in self._observers:
            observer.recorded(record)

    def samples_written(self, step: int, samples: Sequence[Sample]) -> None:
        """Pass samples on."""
        for observer in self._observers:
            observer.samples_written(step, samples)
