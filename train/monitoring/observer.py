"""Who watches a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from headrace.train.monitoring.metrics import Record

if TYPE_CHECKING:
    from headrace.train.monitoring.evaluation_samples import Heard


class Observer(Protocol):
    """Told what happens, as it happens."""

    def say(self, line: str) -> None:
        """A remark, or a choice that was made and why."""

    def started(self, step: int, last: int | None, shown: Sequence[str]) -> None:
        """Steps done before, the step to stop at or about there, where one is known, and the terms to follow."""

    def recorded(self, record: Record) -> None:
        """A line of metrics.jsonl."""

    def heard(self, step: int, heard: Sequence[Heard]) -> None:
        """What a validation spoke."""


class Audience:
    """Several observers as one. Nobody: that of all ranks but the first."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def say(self, line: str) -> None:
        for observer in self._observers:
            observer.say(line)

    def started(self, step: int, last: int | None, shown: Sequence[str]) -> None:
        for observer in self._observers:
            observer.started(step, last, shown)

    def recorded(self, record: Record) -> None:
        for observer in self._observers:
            observer.recorded(record)

    def heard(self, step: int, heard: Sequence[Heard]) -> None:
        for observer in self._observers:
            observer.heard(step, heard)
