"""A queue of tasks that retries those that fail. It is independent of what runs them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from headrace.store.errors import HeadraceError

MAX_ERRORS = 3
"""A task that raises this many errors is abandoned."""
MAX_WORKER_DEATHS = 12
"""A task whose workers die this many times is abandoned. The limit is high because machines are preempted and processes
are killed through no fault of the task; it bounds the restarts that a task costs that kills its workers itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A unit of work for a worker. Its `str` names it in error messages."""

    attempt: int = 1
    """Number of this attempt, from 1. It increases each time that a worker dies while it runs the task."""


TaskT = TypeVar("TaskT", bound=Task)


class TaskQueue(Generic[TaskT]):
    """Tasks to run, with retries. The caller runs them and reports how each ended."""

    def __init__(self, tasks: Iterable[TaskT]) -> None:
        self.running: dict[str, TaskT] = {}
        """Running tasks, by a key that the caller chooses."""
        self._waiting = iter(tasks)
        self._retries: deque[TaskT] = deque()
        """Tasks whose workers died."""
        self._failed: deque[TaskT] = deque()
        """Tasks that raised an error. They wait until all others have been tried: their worker may be at fault."""
        self._errors: Counter[str] = Counter()
        self._abandoned: list[str] = []

    def next_tasks(self, most: int) -> Iterator[TaskT]:
        """Yield tasks to run while fewer than `most` are running. The caller adds each to `running`."""
        while len(self.running) < most:
            task = self._retries.popleft() if self._retries else next(self._waiting, None)
            if task is None and self._failed:
                task = self._failed.popleft()
            if task is None:
                return
            yield task

    def worker_died(self, task: TaskT) -> None:
        """Retry a task whose worker died, or abandon it after MAX_WORKER_DEATHS."""
        if task.attempt < MAX_WORKER_DEATHS:
            self._retries.append(replace(task, attempt=task.attempt + 1))
        else:
            self._abandoned.append(f"{task}: its worker died {task.attempt} times: out of memory?")

    def task_failed(self, task: TaskT, error: Exception) -> None:
        """Retry a task that raised an error, or abandon it after MAX_ERRORS."""
        self._errors[str(task)] += 1
        if self._errors[str(task)] < MAX_ERRORS:
            self._failed.append(task)
        else:
            self._abandoned.append(f"{task}: {_describe(error)}")

    def forgive(self, tasks: Iterable[str]) -> None:
        """Forget one error of each of these tasks, by their `str`: it was one of their worker."""
        self._errors.subtract(tasks)

    def check(self) -> None:
        """Raise an error if tasks were abandoned.

        Raises:
            HeadraceError: tasks were abandoned. Its details list them with their errors.
        """
        if self._abandoned:
            raise HeadraceError(
                f"{len(self._abandoned)} parts could not be done. All others are; the same command tries these again:",
                *self._abandoned,
            )


def _describe(error: Exception) -> str:
    """Return type, message, file and line of an error, on one line."""
    place, at = "", error.__traceback__
    while at is not None:
        place, at = f" ({Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno})", at.tb_next
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
