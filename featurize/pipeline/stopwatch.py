"""Measure the time of each stage of a pipeline."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Stopwatch:
    """Wall seconds by stage. Stages may nest, as one iterator pulls from another: a second counts for the innermost."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._stage, self._since = "", time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        outer = self._switch(stage)
        try:
            yield
        finally:
            self._switch(outer)

    def each(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and count the time that it takes to produce them for `stage`."""
        iterator, end = iter(items), object()
        while True:
            with self(stage):
                item = next(iterator, end)
            if item is end:
                return
            yield item  # type: ignore[misc]
            del item

    def _switch(self, stage: str) -> str:
        now, before = time.perf_counter(), self._stage
        if before:
            self.seconds[before] += now - self._since
        self._stage, self._since = stage, now
        return before
