"""Which workers fail whatever they do: those are started again, and their tasks are done elsewhere.

A device that has failed stays failed in its process: every later task fails there at once, so that the worker takes
ever more tasks, and spends their attempts. A worker that fails several different tasks in a row, with no success
between, is at fault itself; a task that fails by itself does so on any worker.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

FAILED_IN_A_ROW = 3
"""Different tasks that fail on a worker in a row before it is started again."""
MAX_RESTARTS = 3
"""Times that a worker is started again. After that, it gets tasks only if there is no other."""
_DEVICE_FAILURE = re.compile(r"CUDA (driver )?error|CUBLAS_STATUS|CUDNN_STATUS|device-side assert|cudaError")


@dataclass(frozen=True, slots=True)
class Place:
    """The worker that ran a task."""

    name: str
    """What Dask calls it, which stays the same when it is started again."""
    address: str


class WorkerHealth:
    """How the tasks of each worker ended."""

    def __init__(self) -> None:
        self._failed: dict[str, set[str]] = {}
        """Worker to the tasks that failed there since its last success."""
        self._restarts: Counter[str] = Counter()
        self._shunned: dict[str, set[str]] = {}
        """Task to the addresses of workers on which it failed."""
        self._given_up: set[str] = set()
        """Addresses of workers that fail after MAX_RESTARTS too."""

    def succeeded(self, place: Place) -> None:
        """Note that a worker did a task."""
        self._failed.pop(place.name, None)

    def failed(self, place: Place, task: str, error: Exception) -> bool:
        """Note that a task failed on a worker. Returns whether that worker should be started again now."""
        self._shunned.setdefault(task, set()).add(place.address)
        tasks = self._failed.setdefault(place.name, set())
        tasks.add(task)
        if len(tasks) < FAILED_IN_A_ROW and not is_device_failure(error):
            return False
        if self._restarts[place.name] >= MAX_RESTARTS:
            self._given_up.add(place.address)
            return False
        return True

    def restarted(self, place: Place) -> set[str]:
        """Note that a worker was started again. Returns the tasks that failed there since its last success."""
        self._restarts[place.name] += 1
        return self._failed.pop(place.name, set())

    def preferred(self, task: str, addresses: list[str]) -> list[str]:
        """Return the workers that a task should run on, of those that are there; none for any."""
        unwanted = self._given_up | self._shunned.get(task, set())
        wanted = [address for address in addresses if address not in unwanted]
        return wanted if len(wanted) < len(addresses) else []


def is_device_failure(error: Exception) -> bool:
    """Return whether an error says that a CUDA device has failed in this process. Lack of memory is none."""
    return type(error).__name__ != "OutOfMemoryError" and bool(_DEVICE_FAILURE.search(str(error)))
