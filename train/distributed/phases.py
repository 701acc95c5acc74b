"""Where this process is in its work. The training thread writes it, the watchdog reads it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

STARTING = "starting"
TRAINING = "training"
"""What is in none of the other phases."""
READING = "reading"
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


class Phases:
    """The phase and the step of this process, and how often either has changed."""

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
        self.phase = phase
        self.collectives += phase in WAITING
        self.changes += 1

    def beat(self) -> None:
        """Tell that a long phase goes on: an utterance is validated, a sample is spoken."""
        self.changes += 1

    def finish_step(self, step: int, seconds: float) -> None:
        """Count a step that took so many seconds."""
        self.step = step
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
