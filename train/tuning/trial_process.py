"""A run of a tuning, in a process of its own: an ordinary `train run`, whose validations are followed.

FOLDER/
  config.toml   options of the run
  log.txt       what it printed
  run/          the run
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from headrace.store.errors import UsageError
from headrace.store.storage.local import make_folder
from headrace.train.config import RunConfig, write_options
from headrace.train.monitoring import metrics

POLL_S = 0.1
LOG_BYTES = 64 << 10
"""The end of a log in which the reason of a failure is looked for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of a tuning ended."""

    state: Literal["complete", "pruned", "failed", "refused", "stopped"]
    """`refused`: it cannot begin, as no other one with these options could."""
    reason: str = ""


class Train(Protocol):
    """What trains a run to its end, or as far as it is wanted: `train_in_process`, or a stand-in for tests."""

    def __call__(
        self,
        config: RunConfig,
        metric: str,
        validated: Callable[[int, float], bool],
        stop: threading.Event,
        environment: Mapping[str, str],
    ) -> Outcome:
        """Start or continue a run.

        Args:
            config: of the run; `out` is FOLDER/run.
            metric: of validations.
            validated: called with the step and the value of each validation from step 1 on; returns whether the run is
                to go on.
            stop: ends the run when it is set; a checkpoint is saved.
            environment: variables of its process, beside those of this one.
        """


def train_in_process(
    config: RunConfig,
    metric: str,
    validated: Callable[[int, float], bool],
    stop: threading.Event,
    environment: Mapping[str, str],
) -> Outcome:
    """Start or continue a run in a process of its own, and follow it. Arguments are those of `Train`."""
    folder = config.out.parent
    make_folder(folder)
    write_options(config.options(), folder / "config.toml")
    with (folder / "log.txt").open("ab") as log:
        command = [sys.executable, "-P", "-m", "headrace.train", "run", "--out", str(config.out), "--json"]
        process = subprocess.Popen(
            [*command, "--config", str(folder / "config.toml"), "--", str(config.store)],
            # A launcher's variable: the run begins or continues, whichever it is, and ends when this process is killed.
            env={**os.environ, "TORCHELASTIC_RUN_ID": "tuning", **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C on a terminal reaches only the tuning
        )
        try:
            return _follow(process, config, metric, validated, stop)
        finally:
            process.kill()
            process.wait()


def _follow(
    process: subprocess.Popen[bytes],
    config: RunConfig,
    metric: str,
    validated: Callable[[int, float], bool],
    stop: threading.Event,
) -> Outcome:
    """Wait until a run has ended, by itself or because its validations or a signal say so."""
    seen = 0
    while True:
        code = process.poll()  # before its metrics are read: what it wrote last is not missed
        for record in metrics.read(config.out / "metrics.jsonl"):
            if record["split"] != "validation" or record["step"] <= seen:
                continue
            seen = record["step"]
            value = record.get(metric)
            if not isinstance(value, int | float):
                return Outcome("failed", f"the {metric} of the validation at step {seen} is not finite")
            if not validated(seen, float(value)):
                return Outcome("pruned")
        if code is not None:
            return _ended(code, seen, config.out.parent / "log.txt")
        if stop.is_set():
            process.send_signal(signal.SIGTERM)
            process.wait()
            return Outcome("stopped")
        time.sleep(POLL_S)


def _ended(code: int, validated: int, log: Path) -> Outcome:
    """Return what an exit code means."""
    if code < 0:
        name = signal.Signals(-code).name
        memory = ": the system does that when memory runs out" if name == "SIGKILL" else ""
        return Outcome("failed", f"the process was ended by {name}{memory}")
    if code:
        state: Literal["failed", "refused"] = "refused" if code == UsageError.exit_code else "failed"
        lines = log.read_bytes()[-LOG_BYTES:].decode(errors="replace").splitlines()
        errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error")]
        return Outcome(state, errors[-1] if errors else f"exit code {code}")
    if not validated:
        return Outcome("failed", "there was no validation: the store holds no utterance out")
    return Outcome("complete")


def environment_of(job: int, jobs: int) -> dict[str, str]:
    """Return the variables of the process of one of several jobs: its share of the cores, and a GPU of its own."""
    import torch

    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    found = {"OMP_NUM_THREADS": threads}
    if jobs > 1 and torch.cuda.is_available():
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
        found["CUDA_VISIBLE_DEVICES"] = names[job % len(names)]
    return found
