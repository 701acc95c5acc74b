"""Under a launcher that starts processes again, the same command begins a run and continues it, whatever comes and
goes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from headrace.cli.train import main as train
from headrace.train import launcher
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.trainer import loop
from tests.helpers.commands import call


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_the_same_command_begins_a_run_and_continues_it(
    resume: bool, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without --resume, as scripts have it that are started again and again."""
    called = []
    monkeypatch.setattr(loop, "start", lambda config, _: called.append(("start", config.schedule.max_steps)))
    monkeypatch.setattr(loop, "resume", lambda _, given, __: called.append(("resume", given["max_steps"])))
    command = ("run", "STORE", "--out", tmp_path, "--max-steps", 7, *(["--resume"] if resume else []))
    if there:
        checkpoint = Checkpoints(tmp_path / "checkpoints").path(3)
        checkpoint.parent.mkdir()
        checkpoint.touch()
    call(train, *command)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    call(train, *command)
    assert called == [("resume" if resume else "start", 7), ("resume" if there else "start", 7)]


def test_gpus_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    command = ("run", "STORE", "--out", tmp_path / "run", "--preset", "tiny")
    assert "--gpus 3: torch sees 2 GPUs here." in call(train, *command, "--gpus", 3).output
    assert "give a number" in call(train, *command, "--gpus", "all", "--device", "cpu").output
    assert "neither a number of GPUs nor `all`" in call(train, *command, "--gpus", 0).output
    monkeypatch.setenv("RANK", "0")
    refused = call(train, *command, "--gpus", 2)
    assert refused.exit_code == 2 and "leave it out under torchrun" in refused.output
    assert not (tmp_path / "run").exists()


STOPPED = """
import os, signal, sys
from pathlib import Path
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "1":
    Path(f"again-{os.environ['RANK']}").touch()
    sys.exit()
import torch
from headrace.train import distributed
with distributed.process_group():
    distributed.watch(2.0, Path("hangs"), torch.device("cpu"))
    distributed.all_reduce(torch.ones(1))
    if distributed.rank() == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGSTOP)
    distributed.all_reduce(torch.ones(1))
"""


@pytest.mark.slow
def test_a_stopped_rank_is_named_within_the_time_out_and_all_are_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Here the first rank, which keeps what the ranks tell one another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launcher, "GRACE_S", 0.5)
    log: list[str] = []
    command = [sys.executable, "-c", STOPPED, "0"]
    assert launcher.launch(command, 2, lambda: sorted(os.listdir(tmp_path)), log.append) == 0
    assert len(log) == 1 and log[0].startswith("rank 1 ended with exit code 75: all processes are started again")
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Error (rank 1 of 2 on ")]
    assert len(said) == 1 and "): rank 0 of 2 on " in said[0] and " does not answer" in said[0]
    assert [path.name for path in (tmp_path / "hangs").iterdir()] == ["step-00000001-rank-1.txt"]
    assert {path.name for path in tmp_path.iterdir()} == {"hangs", "again-0", "again-1"}
