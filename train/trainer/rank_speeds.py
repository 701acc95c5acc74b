"""How fast the ranks of a run are, and when the plan of its batches follows that.

With `auto`, each rank measures the seconds that a frame takes it. The ranks compare them after the first steps of a
stretch that shares out equally, and at the beginning of each epoch. A difference that counts begins a new stretch,
which the position of the run records: what a checkpoint continues does not depend on the clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import torch

from headrace.store.errors import UsageError
from headrace.train import distributed
from headrace.train.data.batch import Batch
from headrace.train.data.batch_plan import Position
from headrace.train.distributed.work_time import WorkTimer
from headrace.train.speeds import FASTEST, Speeds, count_speeds, parse_speeds, relative_speeds, shares

FIRST_STEPS = 20
"""Steps of a stretch after which speeds are compared for the first time."""
UNMEASURED_UPDATES = 3
"""Updates after a start that are slower than others: memory is allocated, and kernels are chosen."""
LEAST_UPDATES = 5
"""Measured updates that a comparison takes at least."""
RECENT_UPDATES = 100
"""Measured updates that are kept."""
TOLERANCE = 0.05
"""Relative change of a speed up to which the plan stays as it is."""


class RankSpeeds:
    """The speeds of this run's ranks: given, or measured."""

    def __init__(self, setting: str, device: torch.device, readers: int) -> None:
        """
        Args:
            setting: `distributed.speeds` of the run's config.
            readers: ranks that read batches of their own.
        """
        self._given, self._readers = parse_speeds(setting), readers
        self._device, self._updates = device, 0
        self._measured: deque[tuple[WorkTimer, int]] = deque(maxlen=RECENT_UPDATES)

    def begin(self, position: Position) -> Position:
        """Return a position for the ranks and the speeds of this start."""
        return position.for_world(self._readers, self._given)

    @contextmanager
    def measure(self, batches: Sequence[Batch]) -> Iterator[None]:
        """Measure an update from these batches of this rank."""
        if self._given is not None or distributed.world_size() == 1:
            yield
            return
        timer = WorkTimer(self._device)
        with timer.running():
            yield
        self._updates += 1
        if self._updates > UNMEASURED_UPDATES:
            self._measured.append((timer, sum(len(batch) * int(batch.frames.max()) for batch in batches)))

    def follow(self, before: Position, after: Position) -> Position:
        """Return where to go on after an update: at `after`, or at the beginning of a stretch with other speeds.

        All ranks return the same. They exchange their measurements where speeds are compared.

        Args:
            before, after: positions before the update and after it.
        """
        if self._given is not None or distributed.world_size() == 1 or not _is_due(before, after):
            return after
        everyone = distributed.all_gather(self._seconds_per_frame())
        self._measured.clear()
        if any(seconds is None for seconds in everyone):
            return after
        found = relative_speeds([1 / seconds for seconds in everyone if seconds is not None])
        return after.for_world(len(everyone), found) if _differ(found, after.speeds) else after

    def _seconds_per_frame(self) -> float | None:
        """Return the seconds that a padded frame takes this rank, in the median; None after too few updates."""
        if len(self._measured) < LEAST_UPDATES:
            return None
        return median(max(timer.seconds(), 1e-9) / frames for timer, frames in self._measured)


def check_speeds(setting: str, world: int) -> None:
    """Check that the option `speeds` has a number for each rank that reads batches of its own, if it has numbers.

    Raises:
        UsageError: it has not.
    """
    numbers = count_speeds(setting)
    if numbers and numbers != world:
        raise UsageError(
            f"--speeds {setting} has {numbers} numbers, and this run has {world} "
            f"process{'es' if world > 1 else ''}: give one for each process, or auto, or equal."
        )


def describe(speeds: Speeds, world: int) -> str:
    """Return the speed of each rank and its share of the frames, for the user."""
    parts = zip(speeds or (FASTEST,) * world, shares(speeds, world), strict=True)
    return ", ".join(f"rank {rank} {speed / FASTEST:.2f} ({part:.1%})" for rank, (speed, part) in enumerate(parts))


def _is_due(before: Position, after: Position) -> bool:
    """Return whether speeds are compared after this update."""
    if after.epoch > before.epoch:
        return True
    return not after.speeds and before.steps < FIRST_STEPS <= after.steps


def _differ(found: Speeds, planned: Speeds) -> bool:
    """Return whether speeds differ from those of the plan so much that it should follow."""
    world = max(len(found), len(planned))
    pairs = zip(found or (FASTEST,) * world, planned or (FASTEST,) * world, strict=True)
    return any(abs(new - old) > TOLERANCE * old for new, old in pairs)
