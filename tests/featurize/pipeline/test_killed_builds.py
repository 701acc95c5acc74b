"""Builds that are killed, whose workers are killed, join late or leave early, whose disk is full: and what the next one
makes of what they leave."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from distributed import LocalCluster

from headrace.store.integrity.verify import verify
from headrace.store.storage import storage_of
from tests.helpers.build_processes import SMALL_PARTS, start_build, worker_processes
from tests.helpers.commands import build, part_bytes
from tests.helpers.corpora import make_tree


def wait(process: subprocess.Popen[str]) -> None:
    """For a build to end well."""
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr and "Error" not in stderr, stderr


def finish(corpus: Path, out: Path) -> dict[str, bytes]:
    done = build(corpus, out, *SMALL_PARTS)
    assert done.exit_code == 0, done.stderr
    assert not list(verify(out))
    return part_bytes(out)


def sealed(out: Path) -> int:
    """How many parts a build has sealed so far."""
    return len(list(out.glob("parts/0*")))


def until_sealed(out: Path, parts: float, process: subprocess.Popen[str]) -> None:
    until(lambda: sealed(out) >= parts, process)


def kill_and_finish(tmp_path: Path, *, kills: int, workers: int, count: int) -> None:
    """Kill a build at random moments of its life, one after the other over the same store, then let it finish.

    One in nine moments is a time after the start. The others are a share of the parts, however fast these are made.
    """
    corpus = make_tree(tmp_path / "corpus", count, seconds=1.5)
    begun = time.monotonic()
    wait(start_build(corpus, tmp_path / "whole", "--workers", workers))
    took = time.monotonic() - begun
    whole, random = part_bytes(tmp_path / "whole"), np.random.default_rng(workers)
    killed = 0
    for number in range(kills):
        out = tmp_path / f"killed{number}"
        for moment in random.uniform(0, 0.9, 1 + number % 2):
            process = start_build(corpus, out, "--workers", workers)
            if moment < 0.1:
                time.sleep(moment * took)
            else:
                until_sealed(out, moment * sealed(tmp_path / "whole"), process)
            workers_there = worker_processes(process)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            killed += process.returncode == -signal.SIGKILL
            assert not psutil.wait_procs(workers_there, timeout=30)[1], "workers end with the command"
        assert finish(corpus, out) == whole
    assert killed >= kills, "all moments lie before the end of a build"


def test_a_killed_build_is_finished_to_the_same_bytes(tmp_path: Path) -> None:
    kill_and_finish(tmp_path, kills=1, workers=1, count=40)


@pytest.mark.soak
def test_twenty_killed_builds_with_two_workers(tmp_path: Path) -> None:
    kill_and_finish(tmp_path, kills=20, workers=2, count=120)


def kill_workers(tmp_path: Path, *, kills: int, count: int) -> None:
    """Kill one worker after the other while the build runs, each after a few more parts. The build stands still
    meanwhile, so that it cannot end first."""
    corpus = make_tree(tmp_path / "corpus", count, seconds=3.0)
    out, random, killed, parts = tmp_path / "STORE", np.random.default_rng(kills), 0, 1
    process = start_build(corpus, out, "--workers", 2)
    while process.poll() is None and killed < kills:
        until_sealed(out, parts, process)
        os.killpg(process.pid, signal.SIGSTOP)
        if there := worker_processes(process):
            there[random.integers(len(there))].kill()
            killed += 1
        os.killpg(process.pid, signal.SIGCONT)
        parts = sealed(out) + int(random.integers(1, 4))
    wait(process)
    assert killed == kills, "the corpus is large enough to kill so many workers over"
    assert part_bytes(out) == finish(corpus, tmp_path / "undisturbed")


def test_a_build_whose_worker_is_killed_comes_to_the_same_bytes(tmp_path: Path) -> None:
    kill_workers(tmp_path, kills=1, count=40)


@pytest.mark.soak
def test_a_build_whose_workers_are_killed_ten_times_comes_to_the_same_bytes(tmp_path: Path) -> None:
    kill_workers(tmp_path, kills=10, count=600)


def test_workers_join_late_and_leave_early(tmp_path: Path) -> None:
    corpus, out = make_tree(tmp_path / "corpus", 40, seconds=3.0), tmp_path / "STORE"
    with LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster:
        process = start_build(corpus, out, "--scheduler", cluster.scheduler_address)
        assert process.stderr is not None
        assert any("no worker is connected: waiting" in line for line in process.stderr)
        cluster.scale(1)
        until(lambda: bool(list(out.glob("parts/0*"))), process)
        cluster.scale(2)
        cluster.scale(1)
        wait(process)
    assert part_bytes(out) == finish(corpus, tmp_path / "undisturbed")


@pytest.mark.soak
def test_two_sets_of_workers_come_and_go(tmp_path: Path) -> None:
    """Machines of two clusters: each set is started, works for a while, is killed or asked to leave, and comes back."""
    corpus, out, random = make_tree(tmp_path / "corpus", 900, seconds=3.0), tmp_path / "STORE", np.random.default_rng(0)
    with dask_scheduler(tmp_path) as address:
        process = start_build(corpus, out, "--scheduler", address)
        sets: list[list[subprocess.Popen[bytes]]] = [[], []]
        changes = 0
        while process.poll() is None:
            machines = sets[changes % 2]
            for machine in machines:
                machine.send_signal(random.choice([signal.SIGKILL, signal.SIGTERM]))
                machine.wait()
            sets[changes % 2] = [] if machines else [dask("worker", address, "--nthreads", "1") for _ in range(2)]
            changes += 1
            time.sleep(random.uniform(3, 12))
        wait(process)
        for machine in itertools.chain(*sets):
            machine.terminate()
            machine.wait()
    assert changes > 6 and part_bytes(out) == finish(corpus, tmp_path / "undisturbed")


@pytest.mark.soak
def test_a_scheduler_that_goes_away_ends_the_build_in_one_line(tmp_path: Path) -> None:
    corpus, out = make_tree(tmp_path / "corpus", 40, seconds=3.0), tmp_path / "STORE"
    with dask_scheduler(tmp_path) as address:
        worker = dask("worker", address, "--nthreads", "1")
        process = start_build(corpus, out, "--scheduler", address)
        until(lambda: bool(list(out.glob("parts/0*"))), process)
    _, stderr = process.communicate(timeout=120)
    worker.wait(timeout=120)
    (line,) = (line for line in stderr.splitlines() if line.startswith("Error"))
    assert process.returncode == 1 and "scheduler went away" in line and "Traceback" not in stderr, stderr


def dask(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "dask", *words], stderr=subprocess.DEVNULL)


@contextmanager
def dask_scheduler(folder: Path) -> Iterator[str]:
    process = dask("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(folder / "scheduler.json"))
    until((folder / "scheduler.json").exists, process)
    try:
        yield json.loads((folder / "scheduler.json").read_text())["address"]
    finally:
        process.kill()
        process.wait()


def until(true: object, process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Wait as long as the process lives."""
    while not true() and process.poll() is None:  # type: ignore[operator]
        time.sleep(0.02)


@pytest.mark.parametrize("when", [pytest.param("starting", marks=pytest.mark.soak), "at work"])
def test_ctrl_c_ends_in_one_line_and_the_next_build_finishes(tmp_path: Path, when: str) -> None:
    corpus, out = make_tree(tmp_path / "corpus", 40, seconds=3.0), tmp_path / "STORE"
    process = start_build(corpus, out, "--workers", 2)
    until(lambda: bool(list(out.glob("zarr.json" if when == "starting" else "parts/0*"))), process)
    workers = worker_processes(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command and to its workers
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    remarks = ("workers ", "engine ", "dashboard ")
    said = [line for line in stderr.splitlines() if not line.startswith(remarks) and "parts" not in line]
    assert len(said) == 1 and said[0].startswith("Error: Interrupted."), stderr
    assert not psutil.wait_procs(workers, timeout=10)[1]
    finish(corpus, out)


def test_a_draft_that_is_taken_from_its_writer_is_never_committed(tmp_path: Path) -> None:
    """As a worker may go on for a command that is gone, while the next command begins."""
    for others in ((), ("later",)):
        with pytest.raises(FileNotFoundError), storage_of(tmp_path).atomic_folder(tmp_path, "parts/00000") as draft:
            storage_of(draft / "wave").write(draft / "wave", [b"first"])
            storage_of(tmp_path).clear_temporary(tmp_path)
            for name in others:
                storage_of(draft / name).write(draft / name, [b"second"])
    assert not (tmp_path / "parts").exists() and not list(tmp_path.rglob("*"))


@contextmanager
def small_disk(at: Path, size: int) -> Iterator[Path]:
    at.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount the small disk that this test fills")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_a_full_disk_stops_the_build_and_room_lets_it_finish(tmp_path: Path) -> None:
    corpus = make_tree(tmp_path / "corpus", 24)
    whole = finish(corpus, tmp_path / "whole")
    size = sum(map(len, whole.values()))
    for number, share in enumerate(np.random.default_rng(0).uniform(0.05, 0.95, 4)):
        with small_disk(tmp_path / f"disk{number}", int(size * share)) as disk:
            full = build(corpus, disk / "STORE", *SMALL_PARTS)
            assert full.exit_code == 1 and full.stderr.count("Error: No space left on the device") == 1, full.stderr
            assert "run the same command again" in full.stderr
            subprocess.run(["mount", "-o", f"remount,size={4 * size}", str(disk)], check=True)
            assert finish(corpus, disk / "STORE") == whole
