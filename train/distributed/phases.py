"""Where this process is in its work. The training thread writes it, the watchdog reads it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

STARTING = "starting"
TRAINING = "training"
"""What is in none of the other phases."""
READING = "reading"
COPYING = "copying"
"""Batches to the device, as far as the host takes part in it: it does not wait until they are there."""
COMPUTING = "forward/backward"
REDUCING = "reducing"
OPTIMISER = "optimiser"
SYNCHRONISING = "synchronising"
VALIDATING = "validating"
SAVING = "saving"
ENDED = "ended"

WAITING = frozenset({REDUCING, SYNCHRONISING})
"""Phases in which a process may wait for the others: in a collective operation, or for a device that is in one."""
PATIENT = frozenset({STARTING, VALIDATING, SAVING})
"""Phases whose single operations may take minutes: loading weights, speaking an utterance, writing a checkpoint."""
RECENT_STEPS = 50
"""Steps whose median is the usual one."""
FIRST_STEPS = 10
"""Steps after a start that are slower than others: memory is allocated, and kernels are chosen."""
STEP_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds: bounds of the classes that steps are counted in, by how long they took."""


class Phases:
    """The phase and the step of this process, how often either has changed, and the time spent in each.

    One thread writes, others may read at any time: what belongs together is replaced in one assignment.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Be at a start, with no steps done."""
        self.phase = STARTING
        self.step = 0
        self.collectives = 0
        """Times that it has entered a phase of `WAITING`: the same on all ranks when they meet."""
        self.changes = 0
        """Grows with all that counts as progress."""
        self.device = "CPU"
        self.on_wait: Callable[[], object] | None = None
        """Called before and after each phase of `REDUCING`, where somebody measures what lies between them."""
        self.step_counts = [0] * (len(STEP_BOUNDS) + 1)
        """Steps that took at most each of `STEP_BOUNDS` and more than the one before it, and those that took longer."""
        self.step_seconds = 0.0
        """Seconds that all these steps took."""
        self._clock: tuple[str, float, Mapping[str, float]] = (STARTING, time.perf_counter(), {})
        """The phase, since when it lasts, and the seconds spent in each before."""
        self._seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self._steps = 0

    @contextmanager
    def enter(self, phase: str) -> Iterator[None]:
        """Be in a phase for the duration of this context, and then in the one before it."""
        before, on_wait = self.phase, self.on_wait if phase == REDUCING else None
        self.move(phase)
        if on_wait is not None:
            on_wait()
        try:
            yield
        finally:
            if on_wait is not None:
                on_wait()
            self.move(before)

    def move(self, phase: str) -> None:
        """Be in a phase from now on."""
        self._clock = phase, time.perf_counter(), self.seconds()
        self.phase = phase
        self.collectives += phase in WAITING
        self.changes += 1

    def seconds(self) -> dict[str, float]:
        """Return the seconds spent in each phase so far, also in the one that lasts."""
        phase, since, before = self._clock
        return {**before, phase: before.get(phase, 0.0) + time.perf_counter() - since}

    def beat(self) -> None:
        """Tell that a long phase goes on: an utterance is validated, a sample is spoken."""
        self.changes += 1

    def finish_step(self, step: int, seconds: float) -> None:
        """Count a step that took so many seconds."""
        self.step = step
        self.step_counts[bisect_left(STEP_BOUNDS, seconds)] += 1
        self.step_seconds += seconds
        self._seconds.append(seconds)
        self._steps += 1
        self.changes += 1

    def limit(self, timeout_s: float, grace_s: float) -> float:
        """Return the seconds for which there may be no progress.

        Args:
            timeout_s: for ordinary phases; ten times the usual step, if that is longer.
            grace_s: for phases of `PATIENT` and the first steps, if that is longer.
        """
        usual = max(timeout_s, 10 * median(self._seconds)) if self._seconds else timeout_s
        return max(usual, grace_s) if self.phase in PATIENT or self._steps < FIRST_STEPS else usual


PHASES = Phases()
"""The phases of this process."""
