"""The launcher of a run's processes, with small programs in place of training: what it passes on, and when it starts
them again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from headrace.store.errors import Interrupted, RunError, UsageError
from headrace.train import launcher

SAVE = "open(f'saved-{rank}-{attempt}', 'w').close()"


def launch(program: str, folder: Path, *, processes: int = 2) -> tuple[int, list[str]]:
    """Launch a program that knows its `rank` and `attempt`; what it writes into the folder is progress."""
    head = "import os, sys, time, signal; rank, attempt = (int(os.environ[n]) for n in ('RANK', {count!r}))"
    lines = [head.format(count="TORCHELASTIC_RESTART_COUNT"), f"os.chdir({str(folder)!r})", program]
    log: list[str] = []
    command = [sys.executable, "-S", "-c", "\n".join(lines)]
    return launcher.launch(command, processes, lambda: sorted(os.listdir(folder)), log.append), log


def test_each_process_knows_its_place(tmp_path: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RESTART_COUNT")
    assert launch(f"open(f'at-{{rank}}', 'w').write(' '.join(os.environ[n] for n in {names}))", tmp_path) == (0, [])
    assert [(tmp_path / f"at-{rank}").read_text() for rank in (0, 1)] == ["0 0 2 127.0.0.1 0", "1 1 2 127.0.0.1 0"]


def test_a_failure_starts_all_again_as_long_as_something_was_saved(tmp_path: Path) -> None:
    code, log = launch(f"{SAVE}\nif rank and attempt < 4: sys.exit(7)", tmp_path)
    assert code == 0 and len(log) == 4
    assert (
        log[0] == "rank 1 ended with exit code 7: all processes are started again and continue from the newest "
        "checkpoint"
    )


def test_starts_that_save_nothing_are_given_up(tmp_path: Path) -> None:
    code, log = launch("if rank == 0: os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert code == 128 + signal.SIGKILL and len(log) == 3
    assert log[-1] == "rank 0 ended with SIGKILL: 3 starts in a row have saved nothing, giving up"


def test_processes_that_hang_after_one_has_failed_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "GRACE_S", 0.2)
    start = time.monotonic()
    assert launch("if rank: sys.exit(3)\nif not attempt: time.sleep(60)\nsys.exit(4)", tmp_path)[0] in (3, 4)
    assert time.monotonic() - start < 20


def test_a_refusal_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = json.dumps({"message": "", "refused": 2})
    program = f"{SAVE}\nopen(os.environ['TORCHELASTIC_ERROR_FILE'], 'w').write({note!r})\nsys.exit(1)"
    assert launch(program, tmp_path, processes=1) == (2, [])
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once_and_ends_the_job(tmp_path: Path, number: signal.Signals) -> None:
    program = f"""
def stop(number, _):
    open(f'caught-{{rank}}', 'a').write(f'{{number}} ')
    sys.exit(1)
signal.signal({int(number)}, stop)
{SAVE}
time.sleep(60)"""

    def send_when_ready() -> None:
        while len(os.listdir(tmp_path)) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=send_when_ready)
    thread.start()
    assert launch(program, tmp_path) == (1, [])
    thread.join()
    assert [(tmp_path / f"caught-{rank}").read_text() for rank in (0, 1)] == [f"{int(number)} "] * 2
    assert signal.getsignal(number) is before


def test_a_signal_that_comes_before_the_processes_is_passed_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same one, and comes once."""
    program = f"""
signal.signal(signal.SIGINT, lambda *_: (open(f'caught-{{rank}}', 'a').write('one '), sys.exit(1)))
{SAVE}
time.sleep(60)"""
    send_to = launcher._Signals.send_to

    def late(signals: launcher._Signals, processes: list[subprocess.Popen[bytes]]) -> None:
        while processes and len(os.listdir(tmp_path)) < 2:
            time.sleep(0.01)
        if processes:
            os.kill(os.getpid(), signal.SIGINT)
        send_to(signals, processes)

    monkeypatch.setattr(launcher._Signals, "send_to", late)
    assert launch(program, tmp_path) == (1, [])
    assert [(tmp_path / f"caught-{rank}").read_text() for rank in (0, 1)] == ["one "] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="Linux sends a signal to the children of a killed process")
def test_a_killed_launcher_takes_its_processes_along(tmp_path: Path) -> None:
    child = f"""
import os, time
from headrace.train import launcher
launcher.end_with_launcher()
open({str(tmp_path / "there")!r}, "w").close()
time.sleep(60)"""
    parent = f"""
import sys
from headrace.train import launcher
launcher.launch([sys.executable, "-c", {child!r}], 1, lambda: 0, print)"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        while not (tmp_path / "there").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        assert process.stdout is not None
        process.stdout.read()  # until the child, which has inherited it, has ended too


def test_what_comes_again_is_noted_for_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "attempt_0" / "1"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "error.json"))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    with pytest.raises(Interrupted), launcher.refusals():
        raise Interrupted("SIGTERM came.")
    assert launcher.refusal() == 0
    for error, code in ((RunError("diverged"), 1), (UsageError("no such option"), 2)):
        with pytest.raises(type(error)), launcher.refusals():
            raise error
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "attempt_1" / "0" / "error.json"))
        assert launcher.refusal() == code
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "error.json"))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert launcher.refusal() == 0


SLURM = {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "1001"}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("a,b", "a"),
        ("node[07-09,12],other", "node07"),
        ("gpu[3,5]-ib", "gpu3-ib"),
        ("login,gpu[3-5]", "login"),
    ],
)
def test_tasks_of_srun_form_a_group(nodes: str, first: str) -> None:
    assert launcher.slurm_group(SLURM | {"SLURM_NODELIST": nodes}) == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": first,
        "MASTER_PORT": str(20000 + 1001 * 31 % 10000),
    }


@pytest.mark.parametrize(
    "environment",
    [
        {},
        SLURM | {"RANK": "0"},
        SLURM | {"SLURM_NTASKS": "1"},
        {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"},
    ],
    ids=["none", "torchrun within srun", "one task", "a batch script"],
)
def test_others_do_not(environment: dict[str, str]) -> None:
    assert launcher.slurm_group(environment) == {}
