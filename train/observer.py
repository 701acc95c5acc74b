"""Who watches a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from train.metrics import Record


class Observer(Protocol):
    """Told what happens, as it happens."""

    def say(self, line: str) -> None:
        """A remark, or a choice that was made and why."""

    def started(self, step: int, last: int | None, shown: Sequence[str]) -> None:
        """Steps done before, the step to stop at, where one is known, and the terms to follow."""

    def recorded(self, record: Record) -> None:
        """A line of metrics.jsonl."""


class Quiet:
    """The observer of all ranks but the first."""

    def say(self, line: str) -> None:
        pass

    def started(self, step: int, last: int | None, shown: Sequence[str]) -> None:
        pass

    def recorded(self, record: Record) -> None:
        pass
