"""Run tasks on worker processes of this machine or on a running Dask cluster.

Tasks never run in the process of the command: a decoder that crashes ends its worker, not the build. This machine has
one worker per CPU, or one per GPU, among which the CPUs are divided.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import Any, Protocol, TypeVar

from headrace.featurize.scheduling.gpus import visible_gpus
from headrace.featurize.scheduling.task_queue import MAX_WORKER_DEATHS, TaskQueue, TaskT
from headrace.featurize.scheduling.worker_health import Place, WorkerHealth
from headrace.store.errors import HeadraceError, UsageError

WORKER_BYTES = 3 << 29
"""Upper bound of the memory of one worker: 1.5 GiB."""
TASKS_AHEAD = 16
"""Tasks that wait on a running cluster beyond those being worked on: an adaptive one grows by the work that waits. Not
all of them wait there, since they carry the corpus' texts."""
GPU_SHARE = 0.5
"""Share of a GPU that each task takes. Two tasks run at a time: one computes while the other writes."""
POLL_SECONDS = 1.0
"""Interval between queries of the connected workers."""
CONNECT_SECONDS = 5.0
"""Time limit for a running cluster's scheduler to answer."""
START_SECONDS = 300.0
"""Time limit for the first worker of a running cluster to connect."""
UNPROTECTED = (
    "warning: {} is not protected: whoever can connect to it runs code on the workers and here. "
    "docs/scaling.md says how to use tls://"
)
RESTART_SECONDS = 60.0
"""Time limit for a worker to be started again."""
_PLACE = "headrace_place"
"""Attribute of an error that was raised on a worker: which one that is."""
_ADDRESS = re.compile(r"inproc://\S+|((tls|tcp|wss|ws)://)?(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})/?")
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}


class WorkerObserver(Protocol):
    """Receives notes and the number of workers while tasks run."""

    def note(self, line: str) -> None: ...

    def workers(self, count: int) -> None: ...


Result = TypeVar("Result")


def capacity(device: str) -> tuple[int, str]:
    """Return how many workers this machine has room for, and the reason in words."""
    if device == "cuda":
        return len(visible_gpus()), "one per GPU"
    from dask.system import CPU_COUNT  # of the affinity mask and of the control group
    from distributed.system import MEMORY_LIMIT

    fitting = max(1, MEMORY_LIMIT // WORKER_BYTES)
    return min((CPU_COUNT, "one per CPU that this process may use"), (fitting, "as many as the memory holds"))


class Executor:
    """Runs functions on the workers of a Dask client. Workers may join and leave meanwhile."""

    def __init__(self, client: Any, device: str, observer: WorkerObserver, *, ahead: int) -> None:
        self.device = device
        """`cpu` or `cuda`."""
        self.workers = 0
        """Largest number of workers that were connected at one time."""
        self._client, self._observer, self._ahead = client, observer, ahead
        self._present, self._slots, self._refreshed_at = -1, 0, -POLL_SECONDS
        self._addresses: list[str] = []
        self._health = WorkerHealth()
        self._refresh_workers()

    def map(self, function: Callable[[TaskT, int], Result], tasks: Iterable[TaskT]) -> Iterator[Result]:
        """Yield the results of all tasks as they complete, in any order.

        Args:
            function: takes a task and the number of threads that it may use. Workers must be able to import it. It may
                run twice for a task, and must give the same result.
        Raises:
            HeadraceError: the function raised it (at once); or tasks were abandoned (after all others are done).
        """
        from distributed import KilledWorker

        work, done = TaskQueue(tasks), queue.SimpleQueue[Any]()
        while self._start(function, work, done):
            try:
                future = done.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            task = work.running.pop(future.key)
            try:
                place, result = _result(future)
            except KilledWorker:
                work.worker_died(task)
                self._refreshed_at = (
                    -POLL_SECONDS
                )  # a task that waits behind another would share the blame for its deaths
            except HeadraceError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, another try may come through
                work.task_failed(task, error)
                self._follow_failure(work, task, error)
            else:
                self._health.succeeded(place)
                yield result
        work.check()

    def _start(self, function: Callable[..., Any], work: TaskQueue[TaskT], done: queue.SimpleQueue[Any]) -> bool:
        """Submit as many tasks as there is room for. Returns whether any is running now."""
        self._refresh_workers()
        for task in work.next_tasks(max(1, self._slots) + self._ahead):
            preferred = self._health.preferred(str(task), self._addresses)
            future = self._submit(function.__name__, _run_task, self.device, function, task, workers=preferred)
            work.running[future.key] = task
            future.add_done_callback(done.put)
        return bool(work.running)

    def _follow_failure(self, work: TaskQueue[TaskT], task: TaskT, error: Exception) -> None:
        """Start the worker of a failed task again if it is at fault itself; its tasks are then done elsewhere."""
        place = getattr(error, _PLACE, None)
        if place is None or not self._health.failed(place, str(task), error):
            return
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        self._observer.note(
            f"worker {place.name} fails whatever it does ({reason[:120]}): it is started again, and its tasks are done "
            "by others"
        )
        work.forgive(self._health.restarted(place))
        with suppress(Exception):  # it has ended meanwhile, or nobody is there to start it
            self._client.restart_workers([place.address], timeout=RESTART_SECONDS, raise_for_error=False)
        self._refreshed_at = -POLL_SECONDS

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function on one of the workers and return its result. Waits for the first worker.

        The function is called again if its worker dies: machines are preempted at any time.

        Raises:
            HeadraceError: no worker connected within START_SECONDS, or MAX_WORKER_DEATHS of them died, or the function
                raised it.
        """
        from distributed import KilledWorker

        for _ in range(MAX_WORKER_DEATHS):
            try:
                return _result(self._submit(function.__name__, function, *arguments), START_SECONDS)
            except KilledWorker:
                continue
            except TimeoutError:
                raise HeadraceError(
                    f"The Dask cluster had no worker for {START_SECONDS:.0f} s: start some and run the same command "
                    "again."
                ) from None
        raise HeadraceError(f"The workers died {MAX_WORKER_DEATHS} times before one of them began: out of memory?")

    def _submit(self, name: str, function: Callable[..., Any], *arguments: Any, workers: Sequence[str] = ()) -> Any:
        """Submit a call of the function to a worker, and return its future. The dashboard shows `name`.

        Args:
            workers: addresses of those that it should run on, as long as one of them is there; none for any.
        """
        return self._client.submit(
            _bootstrap(),
            version("headrace"),
            pickle.dumps((function, arguments)),
            key=f"{name}-{uuid.uuid4().hex}",
            pure=False,
            resources={"GPU": GPU_SHARE} if self.device == "cuda" else None,
            workers=list(workers) or None,
            allow_other_workers=bool(workers),
        )

    def _refresh_workers(self) -> None:
        """Update the connected workers, at most once in POLL_SECONDS."""
        now = time.monotonic()
        if now - self._refreshed_at < POLL_SECONDS:
            return
        self._refreshed_at = now
        slots = {worker["address"]: _task_slots(worker, self.device) for worker in _workers(self._client)}
        self._slots, present = sum(slots.values()), sum(map(bool, slots.values()))
        self._addresses = [address for address, count in slots.items() if count]
        if present != self._present:
            self._present, self.workers = present, max(self.workers, present)
            self._observer.workers(present)


def _workers(client: Any) -> list[dict[str, Any]]:
    """Return what the scheduler says of each worker, with its `address`."""
    try:
        found = client.scheduler_info(n_workers=-1)["workers"]
    except OSError as error:
        raise _scheduler_lost() from error
    return [worker | {"address": address} for address, worker in found.items()]


def _task_slots(worker: dict[str, Any], device: str) -> int:
    """Return how many tasks a worker runs at a time."""
    if worker["status"] != "running":
        return 0
    return int(worker["resources"].get("GPU", 0) / GPU_SHARE) if device == "cuda" else int(worker["nthreads"])


def _bootstrap() -> Callable[[str, bytes], Any]:
    """Return the function that workers are sent. It is pickled by value, and unpickles the rest when it is called.

    A worker that cannot import what a message needs while it unpickles it is lost without an error, and so is the task.
    """

    def call(wanted: str, packed: bytes) -> Any:
        import pickle
        import platform
        from importlib.metadata import version

        try:
            if (found := version("headrace")) != wanted:
                raise ImportError(f"headrace {wanted}, and has {found}")
            function, arguments = pickle.loads(packed)
        except ImportError as error:
            raise ImportError(f"{platform.node()} lacks {error.name or error}") from error
        return function(*arguments)

    return call


def _run_task(device: str, function: Callable[[TaskT, int], Result], task: TaskT) -> tuple[Place, Result]:
    """Run one task on a worker, and return which one it is. An error is marked with it too.

    On a GPU the threads of a worker decode; on CPUs each thread runs tasks.
    """
    from distributed import get_worker

    worker = get_worker()
    place = Place(str(worker.name), worker.address)
    try:
        return place, function(task, worker.state.nthreads if device == "cuda" else 1)
    except Exception as error:
        with suppress(AttributeError):
            setattr(error, _PLACE, place)
        raise


def _result(future: Any, timeout: float | None = None) -> Any:
    """Return the result of a task, or raise its error."""
    try:
        return future.result(timeout)
    except CancelledError as error:
        raise _scheduler_lost() from error
    except ImportError as error:
        raise HeadraceError(f"A worker on {error}: install the same on all workers as here.") from error


def _scheduler_lost() -> HeadraceError:
    return HeadraceError("The Dask scheduler went away. What is sealed stays; run the same command again to go on.")


@contextmanager
def executor(workers: int, scheduler: str | None, device: str, observer: WorkerObserver) -> Iterator[Executor]:
    """Start or connect to workers for the duration of a `with` block.

    Args:
        workers: number of processes on this machine; with GPUs, one per GPU.
        scheduler: address of a running Dask scheduler whose workers are used instead.
        device: cpu or cuda; also auto on a running cluster: cuda where its workers offer the resource GPU.
    Raises:
        UsageError: `scheduler` is no address of a Dask scheduler.
        HeadraceError: the workers cannot be started; or nothing answers at `scheduler`, it has no worker for
            START_SECONDS, or none with a GPU where there must be one.
    """
    if scheduler is not None:
        _check_address(scheduler)
    with _starting("Dask"), _sigint_deferred():
        import dask
        from distributed.utils import silence_logging_cmgr

    # A task that failed is logged with a page by everyone concerned; what matters of it reaches the user as an error.
    large = {"distributed.admin.large-graph-warning-threshold": "1GB"}
    with dask.config.set(large), silence_logging_cmgr(logging.CRITICAL), ExitStack() as stack:
        if scheduler is None:
            with _starting("The workers"), _sigint_deferred():
                from headrace.featurize.scheduling.private_cluster import private_client

                client = stack.enter_context(private_client(_local_workers(workers, device), preload=__name__))
        else:
            if not scheduler.startswith(("tls://", "inproc://")):
                observer.note(UNPROTECTED.format(scheduler))
            client = stack.enter_context(_running_cluster(scheduler))
            Executor(client, "cpu", observer, ahead=TASKS_AHEAD).call(os.getpid)  # waits for the first worker
            device = _device_of_cluster(client, device)
            if find_spec("bokeh"):
                observer.note(f"dashboard {client.dashboard_link}")
        yield Executor(client, device, observer, ahead=TASKS_AHEAD if scheduler else 0)


def _local_workers(workers: int, device: str) -> list[dict[str, Any]]:
    """Return what each worker process of this machine is told: its threads, and its device."""
    from dask.system import CPU_COUNT

    if device == "cpu":
        return [{"nthreads": 1, "env": _ONE_THREAD}] * workers
    devices = visible_gpus()[:workers]
    on_gpu = {"nthreads": max(2, CPU_COUNT // len(devices)), "resources": {"GPU": 1}}
    return [on_gpu | {"env": _ONE_THREAD | {"CUDA_VISIBLE_DEVICES": name}} for name in devices]


def dask_setup(worker: Any) -> None:
    """Prepare a new worker process: discard its stderr, and ignore Ctrl-C where the signal cannot be blocked.

    Dask calls this. Warnings of libraries about bad files, and of Dask about processes that end, would disturb the
    progress display of the command. Errors are returned to the command as values.
    """
    if not hasattr(signal, "pthread_sigmask") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


@contextmanager
def _sigint_deferred() -> Iterator[None]:
    """Block Ctrl-C within a `with` block, and deliver it to this process at its end.

    A terminal sends Ctrl-C to every process of a command. Threads and processes that start in the block, and their
    children, never receive it: only the command decides when its workers end. The command receives it after the block,
    not during an import of a library that would catch the interruption.
    """
    can_block = hasattr(signal, "pthread_sigmask")
    if can_block:
        resource_tracker.ensure_running()  # it unblocks the signal when the first process is begun
    seen: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()  # no other may set a handler, or is interrupted
    handler = signal.signal(signal.SIGINT, lambda number, _: seen.append(number)) if is_main else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_block else set()
    try:
        yield
    finally:
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_main:
            signal.signal(signal.SIGINT, handler)
        if seen:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _starting(what: str) -> Iterator[None]:
    """Turn whatever a library raises while something starts into one line, with what may be the cause.

    Ctrl-C, errors that are explained already, and too little memory pass.
    """
    try:
        yield
    except (HeadraceError, MemoryError, ImportError):
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        told = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
        settings = sorted(name for name in os.environ if name.startswith("DASK_"))
        unset = f", or unset {', '.join(settings)}" if settings else ""
        raise HeadraceError(
            f"{what} cannot be started here ({' '.join(told.split()):.200}): raise a limit of this machine, such as "
            f"ulimit -n{unset}."
        ) from error


def _check_address(scheduler: str) -> None:
    """Raise UsageError if this is no address that a Dask scheduler can have."""
    found = _ADDRESS.fullmatch(scheduler)
    if not found or not (found["port"] is None or 0 < int(found["port"]) < 1 << 16):
        raise UsageError(
            f"--scheduler {scheduler} is no address of a Dask scheduler: give it as tls://HOST:PORT or tcp://HOST:PORT."
        )


def _running_cluster(scheduler: str) -> Any:
    from distributed import Client

    try:
        return Client(scheduler, timeout=CONNECT_SECONDS)
    except TypeError:  # of Dask, where it has no certificate
        raise UsageError(
            f"{scheduler} needs certificates: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY."
        ) from None
    except (OSError, TimeoutError, ValueError) as error:
        raise HeadraceError(f"No Dask scheduler answers at {scheduler} ({error}): check --scheduler.") from error


def _device_of_cluster(client: Any, device: str) -> str:
    """Return the device of a running cluster's workers: cpu or cuda."""
    offered = any(worker["resources"].get("GPU") for worker in _workers(client))
    if device == "cuda" and not offered:
        raise UsageError(
            "--device cuda: no worker of this Dask cluster offers a GPU; start one for each, with "
            "CUDA_VISIBLE_DEVICES=N dask worker ADDRESS --resources GPU=1."
        )
    return "cuda" if offered and device != "cpu" else "cpu"
