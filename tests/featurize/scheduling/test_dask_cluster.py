"""Tasks on Dask workers: all done once, errors as they are, workers that die, come and go."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dask
import pytest
import torch
from dask.system import CPU_COUNT
from distributed import LocalCluster, get_worker

from headrace.featurize.scheduling import dask_cluster, gpus
from headrace.featurize.scheduling.dask_cluster import executor
from headrace.featurize.scheduling.task_queue import MAX_ERRORS, MAX_WORKER_DEATHS, Task, TaskQueue
from headrace.featurize.scheduling.worker_health import MAX_RESTARTS, Place, WorkerHealth, is_device_failure
from headrace.store.errors import HeadraceError, StoreError, UsageError
from tests.helpers.commands import build, part_bytes
from tests.helpers.corpora import make_tree

NVIDIA_SMI = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5a2b0e3c-5c0f-4f0e-8f59-000000000000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-5a2b0e3c-5c0f-4f0e-8f59-111111111111)
  MIG 1g.5gb      Device  0: (UUID: MIG-c7a2c1a4-0000-5b5c-9f5b-000000000000)
  MIG 2g.10gb     Device  1: (UUID: MIG-c7a2c1a4-1111-5b5c-9f5b-111111111111)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Task):
    n: int
    folder: Path = Path()

    def __str__(self) -> str:
        return f"number {self.n}"


class Quiet:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.counts: list[int] = []

    def note(self, line: str) -> None:
        self.notes.append(line)

    def workers(self, count: int) -> None:
        self.counts.append(count)


def numbers(count: int, folder: Path = Path()) -> list[Number]:
    return [Number(n=n, folder=folder) for n in range(count)]


def double(task: Number, threads: int) -> int:
    (task.folder / f"{task.n}-{uuid.uuid4().hex}").touch()
    return 2 * task.n


def refuse(task: Number, threads: int) -> int:
    raise StoreError(f"task {task.n} cannot be done", "a detail")


def stumble(task: Number, threads: int) -> int:
    """Fails over the third, whoever does it."""
    if task.n == 3:
        (task.folder / uuid.uuid4().hex).touch()
        raise ValueError("three is\ntoo many")
    return task.n


def die_at_first(task: Number, threads: int) -> int:
    if task.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task.attempt


def occupy(task: Number, threads: int) -> tuple[str, int, float, float]:
    """Which device this worker sees, how many threads it may use, and when it was at work."""
    begun = time.monotonic()
    time.sleep(0.1)
    return os.environ["CUDA_VISIBLE_DEVICES"], threads, begun, time.monotonic()


POISONED: list[bool] = []
"""Whether this worker process is poisoned: the first one that asks is, and one that is started after it is not."""


def work_unless_poisoned(task: Number, threads: int) -> int:
    if not POISONED:
        try:
            (task.folder / "poisoned").touch(exist_ok=False)
        except FileExistsError:
            POISONED.append(False)
        else:
            POISONED.append(True)
    if POISONED[0]:
        raise RuntimeError("unspecified launch failure\nof this device")
    time.sleep(0.05)
    return task.n


def work_unless_first(task: Number, threads: int) -> int:
    """Fail on one of the workers, whenever it is started."""
    if str(get_worker().name) == "0":
        (task.folder / uuid.uuid4().hex).touch()
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    time.sleep(0.05)
    return task.n


@pytest.fixture(scope="module")
def running() -> Iterator[str]:
    """Address of a scheduler with a worker process, as somebody else may have started them."""
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


def test_every_task_is_done_once(tmp_path: Path) -> None:
    observer = Quiet()
    with executor(2, None, "cpu", observer) as workers:
        assert sorted(workers.map(double, numbers(23, tmp_path))) == [2 * n for n in range(23)]
        assert workers.workers == 2 and observer.counts == [2]
        with pytest.raises(StoreError, match="task 7 cannot be done") as caught:
            list(workers.map(refuse, [Number(n=7)]))
    assert caught.value.details == ("a detail",)
    assert sorted(int(path.name.split("-")[0]) for path in tmp_path.iterdir()) == list(range(23))


def die_times(folder: str, times: int) -> str:
    """End the worker's process, except if that has been done so often before."""
    for number in range(times):
        try:
            Path(folder, str(number)).touch(exist_ok=False)
        except FileExistsError:
            continue
        os._exit(1)
    return "alive"


def test_a_call_is_made_again_when_its_worker_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with executor(1, None, "cpu", Quiet()) as workers:
        assert workers.call(die_times, str(tmp_path), 1) == "alive"
        monkeypatch.setattr(dask_cluster, "MAX_WORKER_DEATHS", 1)
        with pytest.raises(HeadraceError, match="workers died 1 times before one of them began"):
            workers.call(die_times, str(tmp_path), 2)


def test_the_work_of_a_worker_that_dies_is_done_by_another_which_knows_of_it() -> None:
    with executor(2, None, "cpu", Quiet()) as workers:
        assert [attempt >= 2 for attempt in workers.map(die_at_first, numbers(3))] == [True] * 3


def test_a_task_that_fails_by_itself_is_tried_thrice_and_reported_at_the_end(tmp_path: Path, running: str) -> None:
    done: list[int] = []
    with executor(0, running, "cpu", Quiet()) as workers, pytest.raises(HeadraceError, match="1 parts could") as caught:
        done.extend(workers.map(stumble, numbers(6, tmp_path)))
    assert sorted(done) == [0, 1, 2, 4, 5] and len(list(tmp_path.iterdir())) == MAX_ERRORS
    (detail,) = caught.value.details
    assert detail.startswith("number 3: ValueError: three is too many (test_dask_cluster.py:")


@pytest.mark.parametrize("count", [1, 2])
def test_a_poisoned_worker_costs_no_task(tmp_path: Path, count: int) -> None:
    observer = Quiet()
    with executor(count, None, "cpu", observer) as workers:
        assert sorted(workers.map(work_unless_poisoned, numbers(20, tmp_path))) == list(range(20))
    (note,) = observer.notes
    assert "fails whatever it does (unspecified launch failure): it is started again" in note


def test_a_device_that_is_gone_for_good_costs_no_task_and_is_left_alone(tmp_path: Path) -> None:
    observer = Quiet()
    with executor(2, None, "cpu", observer) as workers:
        assert sorted(workers.map(work_unless_first, numbers(40, tmp_path))) == list(range(40))
    failures, restarts = len(list(tmp_path.iterdir())), len(observer.notes)
    assert 1 <= restarts <= MAX_RESTARTS and restarts <= failures <= MAX_RESTARTS + 1


def test_a_worker_is_at_fault_that_fails_different_tasks_in_a_row() -> None:
    health, here, error = WorkerHealth(), Place("0", "a:1"), ValueError("no")
    assert [health.failed(here, task, error) for task in ("x", "x", "x", "y")] == [False] * 4, "x fails by itself"
    health.succeeded(here)
    assert [health.failed(here, task, error) for task in ("x", "y", "z")] == [False, False, True]
    assert health.restarted(here) == {"x", "y", "z"} and not health.failed(here, "x", error)
    assert health.preferred("x", ["a:1", "b:1"]) == ["b:1"] and health.preferred("x", ["a:1"]) == []
    assert health.preferred("other", ["a:1", "b:1"]) == []
    assert health.failed(here, "x", RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_device_failure(torch.OutOfMemoryError("CUDA out of memory. CUDA error"))
    for _ in range(MAX_RESTARTS):
        health.restarted(here)
    assert not health.failed(here, "x", RuntimeError("CUDA error: ECC"))
    assert health.preferred("other", ["a:1", "b:1"]) == ["b:1"]


def test_ten_kills_from_outside_give_no_task_up_and_one_that_kills_its_workers_is() -> None:
    work = TaskQueue(numbers(1))
    for death in range(MAX_WORKER_DEATHS):
        (task,) = itertools.islice(work.next_tasks(1), 1)
        assert task.attempt == death + 1
        work.worker_died(task)
        if death < 10:
            work.check()
    with pytest.raises(HeadraceError) as caught:
        work.check()
    assert not list(work.next_tasks(1)) and "number 0: its worker died" in caught.value.details[0]


def test_a_worker_of_another_version_is_named_in_one_line(running: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "version", lambda name: "9.9")
    with pytest.raises(HeadraceError) as caught, executor(0, running, "cpu", Quiet()) as workers:
        list(workers.map(double, numbers(1)))
    assert re.fullmatch(r"A worker on \S+ lacks headrace 9.9, and has [\d.]+: install .*", caught.value.message)


def test_a_worker_that_lacks_what_is_needed_is_told_so(
    running: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def double(task, threads):\n    return 2\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    only_here = importlib.import_module("only_here")
    with (
        executor(0, running, "cpu", Quiet()) as workers,
        pytest.raises(HeadraceError, match="lacks only_here: install"),
    ):
        list(workers.map(only_here.double, numbers(1)))


def test_gpu_devices_are_counted_by_uuid_and_their_instances_instead_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus.parse_gpu_list(NVIDIA_SMI) == [
        "GPU-5a2b0e3c-5c0f-4f0e-8f59-000000000000",
        "MIG-c7a2c1a4-0000-5b5c-9f5b-000000000000",
        "MIG-c7a2c1a4-1111-5b5c-9f5b-111111111111",
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, MIG-7")
    assert gpus.visible_gpus() == ["2", "MIG-7"] and dask_cluster.capacity("cuda")[0] == 2


def test_each_device_has_one_worker_and_two_tasks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,MIG-7")
    with executor(2, None, "cuda", Quiet()) as workers:
        spans = sorted(workers.map(occupy, numbers(8)))
    assert {device for device, *_ in spans} == {"5", "MIG-7"}
    assert {threads for _, threads, _, _ in spans} == {max(2, CPU_COUNT // 2)}
    for device, _, begun, _ in spans:
        assert sum(other == device and start <= begun < stop for other, _, start, stop in spans) <= 2


def test_a_cluster_that_has_no_worker_for_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "START_SECONDS", 0.5)
    observer = Quiet()
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty,
        pytest.raises(HeadraceError, match="had no worker for"),
        executor(0, empty.scheduler_address, "cpu", observer),
    ):
        pass
    assert observer.counts == [0]


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nonsense",
        "ucx://x",
        "ucx://x:1",
        "tcp://",
        "tcp://x",
        "tcp://x:y",
        "tcp://x:0",
        "tls://x:65536",
        "unix://a:1",
        "x:1:2",
    ],
)
def test_what_no_scheduler_can_have_as_its_address_is_refused_before_anything_is_tried(address: str) -> None:
    with pytest.raises(UsageError, match="is no address of a Dask scheduler"), executor(0, address, "cpu", Quiet()):
        pass


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:8786", "tls://[::1]:1", "host-1.net:65535", "inproc://10.0.0.1/8/9"]
)
def test_addresses_of_schedulers_are_taken(address: str) -> None:
    dask_cluster._check_address(address)


def test_a_cluster_that_cannot_start_is_one_line_with_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "garbage")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "garbage"}),
        pytest.raises(HeadraceError, match=r"cannot be started here \(KeyError: .*garbage.*") as told,
        executor(1, None, "cpu", Quiet()),
    ):
        pass
    assert "unset DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT" in told.value.message and "\n" not in told.value.message


def test_what_is_explained_already_is_not_told_as_a_cluster_that_cannot_start() -> None:
    for error in (StoreError("full"), MemoryError(), ImportError("no libx")):
        with pytest.raises(type(error)), dask_cluster._starting("The workers"):
            raise error


def test_a_cluster_without_gpus_says_how_to_offer_them(running: str) -> None:
    with pytest.raises(UsageError, match="--resources GPU=1"), executor(0, running, "cuda", Quiet()):
        pass
    with executor(0, running, "auto", Quiet()) as workers:
        assert workers.device == "cpu" and workers.call(pow, 2, 5) == 32


def test_a_running_cluster_builds_the_same_store(tmp_path: Path, running: str) -> None:
    corpus = make_tree(tmp_path / "corpus", 8)
    assert build(corpus, tmp_path / "alone", "--part-hours", 0.001).exit_code == 0
    done = build(corpus, tmp_path / "spread", "--part-hours", 0.001, "--scheduler", running)
    assert done.exit_code == 0, done.stderr
    assert part_bytes(tmp_path / "spread") == part_bytes(tmp_path / "alone")


def test_ctrl_c_is_not_lost_to_a_library_that_catches_everything() -> None:
    """As some do while they are imported; a signal to the process comes to any thread that does not hold it back."""
    go, gone = threading.Event(), threading.Event()

    def interrupt() -> None:
        go.wait(10)
        signal.raise_signal(signal.SIGINT)
        gone.set()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), dask_cluster._sigint_deferred(), contextlib.suppress(BaseException):
        go.set()
        assert gone.wait(10)
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
