"""Tasks on their way: waiting, running, to be done again, given up. Knows nothing of who does them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from headrace.store.errors import HeadraceError

MAX_ERRORS = 3
"""A task that raises so many errors is given up."""
MAX_WORKER_DEATHS = 12
"""A task whose workers die so many times is given up. Machines are taken away and processes are killed through no fault
of the task they are at; one that kills its workers by itself costs so many restarts and no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a worker is given. Its `str` names it in a report."""

    attempt: int = 1
    """One more than the workers that died over it."""


TaskT = TypeVar("TaskT", bound=Task)


class TaskQueue(Generic[TaskT]):
    """What is to be done, by whoever runs it."""

    def __init__(self, tasks: Iterable[TaskT]) -> None:
        self.running: dict[str, TaskT] = {}
        """By whatever key their runner knows them."""
        self._waiting = iter(tasks)
        self._again: deque[TaskT] = deque()
        self._errors: Counter[str] = Counter()
        self._given_up: list[str] = []

    def take(self, most: int) -> Iterator[TaskT]:
        """Tasks to run, as long as fewer than `most` are running."""
        while len(self.running) < most:
            task = self._again.popleft() if self._again else next(self._waiting, None)
            if task is None:
                return
            yield task

    def died(self, task: TaskT) -> None:
        """Its worker did, with it."""
        if task.attempt < MAX_WORKER_DEATHS:
            self._again.append(replace(task, attempt=task.attempt + 1))
        else:
            self._given_up.append(f"{task}: its worker died {task.attempt} times: out of memory?")

    def failed(self, task: TaskT, error: Exception) -> None:
        """It raised something that another try may not."""
        self._errors[str(task)] += 1
        if self._errors[str(task)] < MAX_ERRORS:
            self._again.append(task)
        else:
            self._given_up.append(f"{task}: {_describe(error)}")

    def check(self) -> None:
        """
        Raises:
            HeadraceError: tasks were given up; its details are which, and why.
        """
        if self._given_up:
            raise HeadraceError(
                f"{len(self._given_up)} parts could not be done. All others are; the same command tries these again:",
                *self._given_up,
            )


def _describe(error: Exception) -> str:
    """Type, text and place, in one line."""
    place, at = "", error.__traceback__
    while at is not None:
        place, at = f" ({Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno})", at.tb_next
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
