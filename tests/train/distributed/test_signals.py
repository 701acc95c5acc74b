"""Signals to the processes and launchers of one run, at random moments: it goes on by itself, with the same numbers.

What is compared with is a run that is stopped and resumed by hand where the number of processes has changed:

    python -m tests.train.distributed.test_signals STORE RUN STRETCHES EPOCHS

is each of its processes.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import torch

from benchmarks.elastic import Job, Machine
from headrace.store.errors import Interrupted, RankFailed
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.config import RunConfig
from headrace.train.trainer import loop
from headrace.train.trainer.run import Run
from tests.helpers.runs import assert_same_run
from tests.helpers.training_store import Silent, build

KINDS = ("a rank", "the first rank", "a launcher")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
TIMEOUT_S = 8
SLACK_S = 5
"""Within which a rank that stands still is named after its time-out, where other programs use the cores too."""
OPTIONS: dict[str, Any] = {"preset": "tiny", "batch_frames": 300, "validate_every": 0, "checkpoint_every": 2}
RENDEZVOUS = "last_call_timeout=3,keep_alive_interval=2,keep_alive_max_attempt=10"
"""With more patience than documented, for cores that other programs use too: a launcher that has not been heard for as
long is no longer told what to start again."""
UTTERANCES = 19
"""Of the store, without the one that is held out."""


class Pair:
    """The two launchers of a job. The first one holds the list of those who take part: when it ends, both do."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.first = self._begin()
        self.second = job.join()

    def _begin(self) -> Machine:
        """Start the first launcher, and wait until its process has begun."""
        machine = self._job.join()
        self._job.watch(lambda: "max_utterances" in machine.text)
        return machine

    def ranks(self) -> dict[int, psutil.Process]:
        """The processes that train, by their rank, if they are two that have found each other."""
        ranks = {}
        for machine in (self.first, self.second):
            for process in machine.ranks():
                with suppress(psutil.Error, KeyError):
                    at = process.environ()
                    if at["WORLD_SIZE"] == "2" and process.status() != psutil.STATUS_STOPPED:
                        ranks[int(at["RANK"])] = process
        return ranks if len(ranks) == 2 else {}

    def revive(self) -> None:
        """Start launchers again that have ended, and wait until two processes train together."""
        if not self.first.running:
            self.second.process.wait(120)
            self.first = self._begin()
        if not self.second.running:
            self.second = self._job.join()
        self._job.watch(lambda: bool(self.ranks()))
        self._pass(1)

    def _pass(self, steps: int) -> None:
        goal = self._job.step + steps
        self._job.watch(lambda: self._job.step >= goal)

    def wait(self, draw: random.Random) -> dict[int, psutil.Process]:
        """Wait for a moment at which two processes train, and return them by their rank."""
        while True:
            self.revive()
            self._pass(draw.randint(1, 8))
            time.sleep(draw.random() / 5)
            if ranks := self.ranks():
                return ranks

    def leave(self) -> None:
        """Stop both by SIGTERM."""
        for machine in (self.second, self.first):
            machine.leave(signal.SIGTERM)


@pytest.mark.soak
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("whom", KINDS)
def test_a_job_of_two_launchers_goes_on_after_ten_signals(whom: str, number: signal.Signals, tmp_path: Path) -> None:
    """A launcher that was ended is started again; all else starts again by itself. Every epoch has every utterance
    once, and all numbers and weights are those of a run that was resumed by hand where the number of processes
    changed."""
    store, draw = build(tmp_path / "store").path, random.Random(f"{whom} {number}")
    assert isinstance(store, Path)
    with (
        Job(store, tmp_path / "job", words("100000"), restarts=100, conf=RENDEZVOUS) as job,
        worlds_at(job.out) as worlds,
    ):
        pair = Pair(job)
        for _ in range(10):
            ranks = pair.wait(draw)
            if whom == "a launcher":
                hit_launcher(draw.choice((pair.first, pair.second)), number, draw)
            else:
                hit_rank(job, ranks, 0 if whom == "the first rank" else draw.randrange(2), number)
        pair.revive()
        pair.leave()
        epochs = max(record["epoch"] for record in job.records()) + 1
        job.options = words(str(epochs))
        last = job.join()
        job.watch(lambda: not last.running, limit=300)
        assert last.process.returncode == 0, last.text[-3000:]
        assert job.epochs() == [UTTERANCES] * epochs
        if number == signal.SIGSTOP and whom != "a launcher":
            assert sum(machine.text.count("failed (exitcode: 75)") for machine in job.machines) >= 10
            assert any((job.out / "hangs").iterdir())
        stretches = changes(worlds)
    print(f"\n{job.step} steps, {job.repeated} done again, {len(job.worlds())} starts of the first rank, {stretches}")
    train_by_hand(store, tmp_path / "by-hand", stretches, epochs)
    assert_same_run(job.out, tmp_path / "by-hand", steps=job.step)


def words(epochs: str) -> list[str]:
    options = OPTIONS | {"rank_timeout": TIMEOUT_S, "max_epochs": epochs}
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def hit_launcher(machine: Machine, number: signal.Signals, draw: random.Random) -> None:
    """Stopped, it goes on after some seconds, longer than the others wait for a sign of it."""
    if number != signal.SIGSTOP:
        machine.leave(number)
        return
    machine.process.send_signal(number)
    time.sleep(draw.uniform(1, 10))
    machine.process.send_signal(signal.SIGCONT)


def hit_rank(job: Job, ranks: dict[int, psutil.Process], rank: int, number: signal.Signals) -> None:
    """A rank that is stopped is named within the time-out."""
    line = re.compile(rf"^Error \(rank . of 2 on [^)]*\): rank {rank} of 2 on .*does not answer", re.MULTILINE)

    def named() -> int:
        return sum(len(line.findall(machine.text)) for machine in job.machines)

    before, start = named(), time.monotonic()
    ranks[rank].send_signal(number)
    if number == signal.SIGSTOP:
        job.watch(lambda: named() > before, limit=TIMEOUT_S + SLACK_S)
        print(f"rank {rank} was named after {time.monotonic() - start:.1f} s", flush=True)


@contextmanager
def worlds_at(out: Path) -> Iterator[dict[int, int]]:
    """Collect with how many processes each checkpoint was made while the context lasts: only the newest stay."""
    worlds: dict[int, int] = {}
    done = threading.Event()

    def collect() -> None:
        while not done.wait(0.05):
            for step in set(Checkpoints(out / "checkpoints").steps()) - worlds.keys():
                with suppress(OSError, RuntimeError):
                    path = Checkpoints(out / "checkpoints").path(step)
                    state = torch.load(path, mmap=True, weights_only=True)
                    worlds[step] = state["stream"]["history"][-1][0]

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield worlds
    finally:
        done.set()
        thread.join()


def changes(worlds: dict[int, int]) -> list[tuple[int, int]]:
    """Return (last step, number of processes) of each stretch with the same number of processes."""
    steps = sorted(worlds)
    return [
        (step, worlds[step])
        for step, after in zip(steps, [*steps[1:], None], strict=True)
        if after is None or worlds[after] != worlds[step]
    ]


def train_by_hand(store: Path, out: Path, stretches: Sequence[tuple[int, int]], epochs: int) -> None:
    """Train a run to its end that is stopped by SIGTERM at the end of each stretch, and resumed."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in stretches]
        ports = [server.getsockname()[1] for server in servers]
    given = json.dumps([(*stretch, port) for stretch, port in zip(stretches, ports, strict=True)])
    command = [sys.executable, "-m", "tests.train.distributed.test_signals", str(store), str(out), given, str(epochs)]
    processes = [subprocess.Popen(command, env=os.environ | {"RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(600) for process in processes] == [0, 0]


def main(store: Path, out: Path, stretches: Sequence[tuple[int, int, int]], epochs: int) -> None:
    """Take part in the stretches that have this rank."""
    rank = os.environ["RANK"]
    config = RunConfig.from_options(store=store, out=out, device="cpu", max_epochs=epochs, **OPTIONS)
    for number, (last, world, port) in enumerate(stretches):
        if int(rank) >= world:
            continue
        at = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": rank}
        os.environ.update(at)
        with stops_after(0 if number == len(stretches) - 1 else last), suppress(Interrupted, RankFailed):
            _ = loop.resume(out, {}, Silent()) if number else loop.start(config, Silent())


@contextmanager
def stops_after(step: int) -> Iterator[None]:
    """Let runs stop after a step, 0 for none, as if SIGTERM had come during it."""
    train_step = Run.train_step

    def stopping(run: Run, stop: Sequence[signal.Signals]) -> int:
        return train_step(run, [*stop, signal.SIGTERM] if run.step + 1 == step else stop)

    with mock.patch.object(Run, "train_step", stopping):
        yield


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4]))
