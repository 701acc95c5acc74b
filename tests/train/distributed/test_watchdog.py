"""The watchdogs of several ranks in one process, and the errors that they tell one another."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from headrace.cli.output import report_error
from headrace.store.errors import RankFailed, StoreError
from headrace.train.distributed.phases import FIRST_STEPS, READING, REDUCING, Phases
from headrace.train.distributed.rank_errors import is_of_connection, settle
from headrace.train.distributed.side_channel import ERROR, LOST, JobEnd, SideChannel
from headrace.train.distributed.watchdog import STALL_EXIT, Watchdog

NAMES = ["rank 0 of 2 on HOST", "rank 1 of 2 on HOST"]


class Job:
    """Two ranks with one store; each has its own phases, and `left` gets the exit code of one that leaves."""

    def __init__(self, folder: Path) -> None:
        store = dist.HashStore()
        self.left: dict[int, int] = {}
        self.phases = [Phases(), Phases()]
        self.watchdogs = []
        for rank in range(2):
            self.phases[rank].finish_step(7, 0.01)
            self.phases[rank]._steps = FIRST_STEPS
            channel, leave = SideChannel(store, rank, 2), lambda code, rank=rank: self.leave(rank, code)
            dog = Watchdog(channel, NAMES, rank, self.phases[rank], leave=leave)
            dog.set_limits(0.5, folder)
            self.watchdogs.append(dog)

    def leave(self, rank: int, code: int) -> None:
        self.left[rank] = code
        self.watchdogs[rank]._stopping.set()

    def wait(self, seconds: float = 20) -> None:
        """Until both have left."""
        end = time.monotonic() + seconds
        while len(self.left) < 2 and time.monotonic() < end:
            time.sleep(0.02)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "hangs")


def test_a_rank_that_stands_still_is_named_once_and_all_leave(
    job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job.phases[0].move(REDUCING)
    job.phases[1].move(READING)
    for watchdog in job.watchdogs:
        watchdog.start()
    job.wait()
    assert job.left == {0: STALL_EXIT, 1: STALL_EXIT}
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and "rank 1 of 2 on HOST, CPU, stands still in reading at step 8" in lines[0]
    stacks = sorted((tmp_path / "hangs").iterdir())
    assert [path.name for path in stacks] == ["step-00000008-rank-0.txt", "step-00000008-rank-1.txt"]
    assert "in reading at step 8" in stacks[1].read_text() and "most recent call first" in stacks[1].read_text()


def test_a_rank_that_waits_for_a_slow_one_does_not_stand_still(job: Job) -> None:
    job.phases[0].move(REDUCING)
    job.phases[1].move(READING)
    for watchdog in job.watchdogs:
        watchdog.start()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        job.phases[1].beat()
        time.sleep(0.05)
    for watchdog in job.watchdogs:
        watchdog._stopping.set()
    assert job.left == {}


def test_time_in_which_the_process_was_stopped_does_not_count(job: Job) -> None:
    watchdog = job.watchdogs[0]
    threading.Thread(target=watchdog._watch, daemon=True).start()
    watchdog._advance(0.1)
    assert watchdog._idle_s <= 2 * watchdog.period_s
    watchdog._stopping.set()


def test_an_error_is_of_the_rank_that_has_it(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    error = StoreError("part 3 ends early: copy it again")
    assert settle(error, job.watchdogs[1], NAMES[1]) is error
    assert report_error(error) == 1
    assert capsys.readouterr().err == "Error (rank 1 of 2 on HOST): part 3 ends early: copy it again\n"
    job.watchdogs[0].start()
    other = settle(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"), job.watchdogs[0], "")
    job.watchdogs[0].stop()
    assert isinstance(other, RankFailed) and other.message == error.message and other.restart_helps
    assert report_error(other) == 1 and capsys.readouterr().err == ""


def test_an_error_that_all_ranks_have_is_printed_once(job: Job) -> None:
    first, second = StoreError("no store"), StoreError("no store")
    assert settle(first, job.watchdogs[1], NAMES[1]) is first
    assert isinstance(settle(second, job.watchdogs[0], NAMES[0]), RankFailed)
    another = StoreError("another fault")
    assert settle(another, job.watchdogs[0], NAMES[0]) is another


def test_a_rank_that_died_without_a_word_is_named(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    job.phases[1].move(READING)
    job.watchdogs[1]._channel.tell(job.watchdogs[1]._own_state())
    job.watchdogs[0].start()
    end = job.watchdogs[0].find_end()
    job.watchdogs[0].stop()
    assert end.kind == LOST and "rank 1 of 2 on HOST, CPU, in reading at step 8" in end.line
    assert capfd.readouterr().err.count("Error (rank 0 of 2 on HOST)") == 1


def test_a_rank_whose_peer_has_failed_leaves_with_its_exit_code(job: Job) -> None:
    job.watchdogs[1].offer_end(JobEnd(kind=ERROR, line="no such id", code=2))
    watchdog = job.watchdogs[0]
    watchdog.end = watchdog._channel.read_end()
    watchdog._advance(4.9)
    watchdog._judge()
    assert job.left == {}
    watchdog._advance(0.2)
    watchdog._judge()
    assert job.left == {0: 2}


@pytest.mark.parametrize(
    "error, of_connection",
    [
        (RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:1"), True),
        (dist.DistBackendError("NCCL error: unhandled system error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (StoreError("a part ends early"), False),
    ],
)
def test_errors_of_connections_are_told_from_own_ones(error: Exception, of_connection: bool) -> None:
    assert is_of_connection(error) is of_connection
