"""The time for which this process's device works on a step, without what it waits for other processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from headrace.train.distributed.phases import PHASES


class WorkTimer:
    """Runs in a context, and stands still in its phases of `REDUCING`: waiting for a slow rank is no work.

    On a CUDA device the marks are events of the current stream, so that nothing is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []
        """Moments at which it began to run, and at which it stopped, in turn."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure this context."""
        before, PHASES.on_wait = PHASES.on_wait, self._mark
        self._mark()
        try:
            yield
        finally:
            self._mark()
            PHASES.on_wait = before

    def seconds(self) -> float:
        """Return the seconds for which it ran. Waits for the device."""
        pairs = list(zip(self._marks[::2], self._marks[1::2], strict=True))
        if not self._cuda:
            return float(sum(stop - start for start, stop in pairs))
        self._marks[-1].synchronize()
        return float(sum(start.elapsed_time(stop) for start, stop in pairs)) / 1000

    def _mark(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())
