"""Runs of a tuning in processes of their own: killed with the tuning and continued, and how one that fails is told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace.cli.train import main as train
from headrace.train.config import RunConfig
from headrace.train.tuning import trial_process
from headrace.train.tuning.trial_process import Outcome
from tests.helpers import training_store
from tests.helpers.commands import call
from tests.helpers.runs import untimed_lines
from tests.train.tuning.simulated_runs import rows_of


class Process:
    """A process that has ended with an exit code, or ends when it is told to."""

    def __init__(self, code: int | None) -> None:
        self.code, self.signals = code, list[int]()

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def wait(self) -> int:
        return 0


def follow(
    folder: Path, code: int | None, losses: list[float | None], log: str = "", *, prune_at: int = 0, stop: bool = False
) -> tuple[Outcome, list[tuple[int, float]], Process]:
    """Follow a run that has validated at steps 0, 10, 20 ... Returns also what was told of its validations."""
    config = RunConfig.from_options(store=Path("STORE"), out=folder / "run", stage="gpt")
    config.out.mkdir()
    records = [{"split": "validation", "step": 10 * n, "loss": value} for n, value in enumerate(losses)]
    lines = [json.dumps(record) for record in records]
    (config.out / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    (folder / "log.txt").write_text(log)
    told: list[tuple[int, float]] = []

    def validated(step: int, value: float) -> bool:
        told.append((step, value))
        return step != prune_at

    stopped, process = threading.Event(), Process(code)
    if stop:
        stopped.set()
    outcome = trial_process._follow(process, config, "loss", validated, stopped)  # type: ignore[arg-type]
    return outcome, told, process


@pytest.mark.parametrize(
    "code, losses, log, outcome",
    [
        (0, [9, 1, 2], "", Outcome("complete")),
        (0, [], "", Outcome("failed", "there was no validation: the store holds no utterance out")),
        (None, [9, 1, None], "", Outcome("failed", "the loss of the validation at step 20 is not finite")),
        (1, [9, 1], "a\nError: diverged\nb\n", Outcome("failed", "diverged")),
        (2, [], "Error: no such preset\n", Outcome("refused", "no such preset")),
        (70, [], "nothing", Outcome("failed", "exit code 70")),
        (-9, [9], "", Outcome("failed", "the process was ended by SIGKILL: the system does that when memory runs out")),
        (-11, [9], "", Outcome("failed", "the process was ended by SIGSEGV")),
    ],
)
def test_how_a_run_ended_is_told(
    code: int | None, losses: list[float | None], log: str, outcome: Outcome, tmp_path: Path
) -> None:
    found, told, _ = follow(tmp_path, code, losses, log)
    assert found == outcome
    assert told == [(10 * n, value) for n, value in enumerate(losses) if n and value is not None]


def test_a_run_is_ended_when_it_is_pruned_or_stopped(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    outcome, told, _ = follow(tmp_path / "one", None, [9, 3, 2, 1], prune_at=20)
    assert outcome == Outcome("pruned") and told == [(10, 3), (20, 2)]
    outcome, _, process = follow(tmp_path / "other", None, [9, 3], stop=True)
    assert outcome == Outcome("stopped") and process.signals == [signal.SIGTERM]


def test_each_job_has_its_share_of_the_cores_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert trial_process.environment_of(1, 3) == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    found: list[Any] = [trial_process.environment_of(job, 3)["CUDA_VISIBLE_DEVICES"] for job in range(3)]
    assert found == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert trial_process.environment_of(1, 3)["CUDA_VISIBLE_DEVICES"] == "7"


def wait_for(condition: Any, what: str) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a run outlives the tuning that is killed, to its end")
def test_a_killed_tuning_continues_its_run_to_the_same_losses(tmp_path: Path) -> None:
    """A real command, SIGKILL in the middle of a run. `train run` with the result gives the same losses again."""
    built = Path(training_store.build(tmp_path / "STORE").path)
    small = ("--stage", "gpt", "--preset", "tiny", "--device", "cpu", "--batch-frames", 100, "--max-steps", 45)
    command = ["tune", built, "--out", tmp_path / "T", *small, "--trials", 1, "--search", "dropout=0.1:0.2", "--json"]
    words = [sys.executable, "-m", "headrace.train", *map(str, command)]
    run = tmp_path / "T" / "trials" / "0000" / "run"
    process = subprocess.Popen(words)
    wait_for(lambda: list(run.glob("checkpoints/*.pt")), "the run begins")
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the run ends with the tuning")
    assert not (tmp_path / "T" / "best.toml").exists()
    first = (run / "metrics.jsonl").read_bytes().splitlines()[0]

    done = subprocess.run(words, check=True, capture_output=True, text=True)
    *_, row, result = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows_of(tmp_path / "T") == [row] and row["state"] == "complete" and result["value"] == row["loss"]
    assert (run / "metrics.jsonl").read_bytes().splitlines()[0] == first, "its seconds too: it was not begun anew"
    again = call(train, "run", built, "--out", tmp_path / "AGAIN", "--config", result["config"])
    assert again.exit_code == 0, again.output
    assert untimed_lines(tmp_path / "AGAIN") == untimed_lines(run) and untimed_lines(run)[-1]["loss"] == row["loss"]
