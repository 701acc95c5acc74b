"""Tasks on Dask workers: all done once, errors as they are, and workers that die."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from distributed import LocalCluster

from featurize.cluster import SerialExecutor, executor
from store.errors import HeadraceError, StoreError
from tests.corpora import make_tree
from tests.test_build import build, part_bytes


def double(task: int) -> int:
    return 2 * task


def refuse(task: int) -> int:
    raise StoreError(f"task {task} cannot be done", "a detail")


def die_once(marker: Path) -> str:
    """Kill this worker the first time."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.name


def die(task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_worker_is_this_process() -> None:
    with executor(1) as workers:
        assert isinstance(workers, SerialExecutor) and list(workers.map(double, range(3))) == [0, 2, 4]


def test_every_task_is_done_once_and_errors_come_as_they_are() -> None:
    with executor(2) as workers:
        assert sorted(workers.map(double, range(23))) == [2 * n for n in range(23)]
        with pytest.raises(StoreError, match="task 7 cannot be done") as caught:
            list(workers.map(refuse, [7]))
        assert caught.value.details == ("a detail",)


def test_the_work_of_a_worker_that_dies_is_done_by_another(tmp_path: Path) -> None:
    with executor(2) as workers:
        markers = [tmp_path / name for name in ("a", "b", "c")]
        assert sorted(workers.map(die_once, markers)) == ["a", "b", "c"]


def test_a_task_that_kills_its_workers_is_given_up() -> None:
    with executor(2) as workers, pytest.raises(HeadraceError, match="A worker process died 4 times over the same part"):
        list(workers.map(die, [1]))


def test_a_running_cluster_builds_the_same_store(tmp_path: Path) -> None:
    corpus = make_tree(tmp_path / "corpus", 8)
    assert build(corpus, tmp_path / "alone", "--part-hours", 0.001).exit_code == 0
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        done = build(corpus, tmp_path / "spread", "--part-hours", 0.001, "--scheduler", address)
    assert done.exit_code == 0, done.stderr
    assert part_bytes(tmp_path / "spread") == part_bytes(tmp_path / "alone")
