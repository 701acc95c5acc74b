"""Where tasks run: in this process, or on Dask workers. The only file that knows Dask."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from multiprocessing import resource_tracker
from typing import Any, Protocol, TypeVar

from store.errors import HeadraceError

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_PER_WORKER = 2
"""Submitted ahead of completion: one being worked on, one waiting. A task carries its utterances' texts, so a
scheduler holding all tasks of a large corpus would hold the corpus' text several times over."""


class Executor(Protocol):
    """Applies a function to tasks, in any order."""

    workers: int

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Results as they come. An exception of the function ends the iteration with that exception."""
        ...


class SerialExecutor:
    """One task after the other in this process."""

    workers = 1

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        return map(function, tasks)


class DaskExecutor:
    """Tasks on the workers of a Dask client. A worker that dies has its task done by another."""

    def __init__(self, client: Any, workers: int) -> None:
        self.workers = workers
        self._client = client

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        from distributed import KilledWorker, as_completed

        waiting = iter(tasks)
        submit = self._client.submit
        pending = as_completed(
            [submit(function, task, pure=False) for task in islice(waiting, self.workers * TASKS_PER_WORKER)]
        )
        for future in pending:
            try:
                yield future.result()
            except KilledWorker as error:
                raise HeadraceError(
                    f"A worker process died {error.allowed_failures + 1} times over the same part: out of memory, or "
                    "a recording that crashes its decoder. What is sealed stays; run the same command to go on."
                ) from error
            for task in islice(waiting, 1):
                pending.add(submit(function, task, pure=False))


@contextmanager
def executor(workers: int, scheduler: str | None = None) -> Iterator[Executor]:
    """Workers for the time of a `with` block.

    Args:
        workers: processes on this machine; 1 works in this process, without Dask.
        scheduler: address of a running Dask scheduler whose workers are used instead.
    Raises:
        HeadraceError: nothing answers at `scheduler`, or it has no workers.
    """
    if scheduler is not None:
        yield from _running_cluster(scheduler)
    elif workers == 1:
        yield SerialExecutor()
    else:
        yield from _local_cluster(workers)


def _local_cluster(workers: int) -> Iterator[Executor]:
    import dask
    from distributed import Client, LocalCluster

    # A failed task logs a page, in the workers too; what matters of it reaches the user as an error.
    silence = {"logging": {"distributed": "critical", "distributed.client": "critical"}}
    with dask.config.set(silence), ExitStack() as stack:
        with _sigint_blocked():
            # One thread each: the spectral stage is bound by memory bandwidth, and processes do not share a GIL.
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
                )
            )
        yield DaskExecutor(stack.enter_context(Client(cluster)), workers)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """A terminal sends Ctrl-C to every process of a command. Threads and processes begun in here, and those that these
    begin later, never see it: the command alone decides what becomes of its workers. It sees it at the end of this."""
    resource_tracker.ensure_running()  # it unblocks the signal when the first process is begun
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _running_cluster(scheduler: str) -> Iterator[Executor]:
    from distributed import Client

    try:
        client = Client(scheduler, timeout="5s")
    except (OSError, TimeoutError, ValueError) as error:
        raise HeadraceError(f"No Dask scheduler answers at {scheduler} ({error}): check --scheduler.") from error
    with client:
        workers = sum(client.nthreads().values())
        if not workers:
            raise HeadraceError(f"The Dask scheduler at {scheduler} has no workers: start some and run again.")
        yield DaskExecutor(client, workers)
