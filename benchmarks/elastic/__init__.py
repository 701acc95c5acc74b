"""A run that several launchers of this machine train together, and that they join and leave while it lasts."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from headrace.train.monitoring import metrics

RENDEZVOUS = "last_call_timeout=3,keep_alive_interval=2,keep_alive_max_attempt=2"
"""After a machine is gone, the others wait 4 s for a sign of it and 3 s for more machines; by default 15 s and 30 s."""
ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Without this variable torch 2.11 ends the job when a machine joins (DistStoreError after 60 s)."""


class Machine:
    """A torchrun with one process that takes part in a job. Its output goes to a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=os.environ | ENVIRONMENT, stdout=output, stderr=output, start_new_session=True
            )

    def leave(self, number: signal.Signals) -> None:
        """Send a signal to the launcher; the process of the run is ended by the launcher, or by its death."""
        self.process.send_signal(number)
        self.process.wait()

    def ranks(self) -> list[psutil.Process]:
        """Return the process of the run that this launcher has started, if there is one now."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children()
        return []

    def end(self) -> None:
        """End what still runs, whether it is stopped or not."""
        ranks = self.ranks()
        self.process.kill()
        self.process.wait()
        for rank in ranks:
            with suppress(psutil.NoSuchProcess):
                rank.kill()

    @property
    def running(self) -> bool:
        """Whether the launcher runs."""
        return self.process.poll() is None

    @property
    def text(self) -> str:
        """What launcher and process have printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def failures(self) -> int:
        """How often a process of this machine failed, each of which uses up a restart."""
        return self.text.count("failed (exitcode")


class Job:
    """A run that machines join and leave. Use it in a `with` statement: its machines end with it."""

    def __init__(
        self, store: Path, folder: Path, options: Sequence[str], *, restarts: int = 20, conf: str = RENDEZVOUS
    ) -> None:
        """
        Args:
            folder: new; gets `run` and a log of each machine.
            options: of `train run`.
            restarts: that each launcher may use.
            conf: waiting times of the rendezvous.
        """
        folder.mkdir(parents=True)
        self.out, self.machines, self._folder = folder / "run", list[Machine](), folder
        self.options = list(options)
        """Of machines that join from now on."""
        self.repeated = self._last = 0
        """Steps that were done again after they had been lost, as far as `watch` has seen it."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            endpoint = f"127.0.0.1:{free.getsockname()[1]}"
        rendezvous = ("--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", "job")
        self._command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc-per-node", "1"),
            *("--max-restarts", str(restarts), *rendezvous, "--rdzv-conf", conf),
            *("-m", "headrace.train", "run", str(store), "--out", str(self.out), "--device", "cpu"),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        for machine in self.machines:
            machine.end()

    def join(self) -> Machine:
        """Start a machine."""
        log = self._folder / f"machine-{len(self.machines)}.log"
        self.machines.append(Machine([*self._command, *self.options], log))
        return self.machines[-1]

    @property
    def running(self) -> bool:
        """Whether any launcher runs."""
        return any(machine.running for machine in self.machines)

    def records(self) -> list[metrics.Record]:
        """Return what is recorded of each step."""
        return [record for record in metrics.read(self.out / "metrics.jsonl") if record["split"] == "train"]

    @property
    def step(self) -> int:
        """The last step that is recorded."""
        return max((record["step"] for record in self.records()), default=0)

    def watch(self, until: Callable[[], bool], *, limit: float = 600) -> list[float]:
        """Wait for a condition, and return the times at which the run came further than ever before.

        Raises:
            RuntimeError: it has not come true after `limit` seconds, or all machines have ended.
        """
        furthest, times, end = self.step, [time.monotonic()], time.monotonic() + limit
        while not until():
            if time.monotonic() > end or (not self.running and not until()):
                logs = "\n".join(machine.text[-3000:] for machine in self.machines)
                raise RuntimeError(f"at step {self.step} nothing happens any more:\n{logs}")
            step = self.step
            self.repeated += max(0, self._last - step)
            self._last = step
            if step > furthest:
                furthest = step
                times.append(time.monotonic())
            time.sleep(0.02)
        return times

    def worlds(self) -> list[int]:
        """Return the world size of each start of the run, in no order."""
        return [int(n) for m in self.machines for n in re.findall(r"^([0-9]+) processes: gradients", m.text, re.M)]

    def epochs(self) -> list[int]:
        """Return how many utterances were used in each epoch that is complete."""
        records = self.records()
        counts = [0] * max(record["epoch"] for record in records)
        for record in records:
            counts[record["epoch"] - 1] += record["utterances"]
        return counts
