"""The folder of a training run: one run at a time, and nothing in it that is not the run's own is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from headrace.cli.train import main
from headrace.store.errors import HeadraceError, RunError
from headrace.store.names import LOCK_FILE
from headrace.store.storage.local import folder_lock
from headrace.train import launcher
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.config import RunConfig
from headrace.train.trainer import loop
from headrace.train.trainer.run_folder import run_folder
from tests.helpers.commands import call
from tests.helpers.training_store import Silent, build


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("run-folder") / "store", frames=(20, 24, 30, 33), parts=1).path


def config(store: Path, out: Path, **options: object) -> RunConfig:
    usual = {"stage": "gpt", "preset": "tiny", "batch_frames": 300, "max_steps": 2, "validate_every": 0}
    return RunConfig.from_options(store=store, out=out, **(usual | options))


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    """Every file, link and folder under a folder, with its content."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def a_store(folder: Path) -> None:
    build(folder, frames=(20, 24), parts=1)


def a_corpus(folder: Path) -> None:
    folder.mkdir()
    (folder / "0001.wav").write_bytes(b"RIFF")
    (folder / "0001.txt").write_text("Hello.")


def a_foreign_config(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["HubertModel"], "hidden_size": 768}))


def a_hidden_file(folder: Path) -> None:
    folder.mkdir()
    (folder / ".git").write_text("gitdir: elsewhere")


def foreign_metrics(folder: Path) -> None:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')


def foreign_samples(folder: Path) -> None:
    (folder / "samples" / "recorded").mkdir(parents=True)
    (folder / "samples" / "recorded" / "kick.wav").write_bytes(b"RIFF")


def a_file(folder: Path) -> None:
    folder.write_text("my notes")


FOREIGN = [a_store, a_corpus, a_foreign_config, a_hidden_file, foreign_metrics, foreign_samples, a_file]


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
def test_a_foreign_folder_is_refused_before_anything_is_written(
    store: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    make(out)
    before = snapshot(tmp_path)
    result = call(main, "run", store, "--out", out, "--stage", "gpt", "--preset", "tiny", "--max-steps", 1)
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if not line.startswith(" ")]
    assert len(errors) == 1 and errors[0].startswith(f"Error: {out} ") and "--out" in errors[0], result.stderr
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
def test_nothing_is_resumed_in_a_foreign_folder(store: Path, tmp_path: Path, make: Callable[[Path], None]) -> None:
    out = tmp_path / "out"
    make(out)
    before = snapshot(tmp_path)
    with pytest.raises(HeadraceError, match=r"holds no run to resume|config\.json is damaged"):
        loop.resume(out, {"store": store}, Silent())
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_has_one_run_at_a_time(store: Path, tmp_path: Path, resume: bool) -> None:
    out = tmp_path / "run"
    if resume:
        loop.start(config(store, out), Silent())
    out.mkdir(exist_ok=True)
    before = snapshot(out)
    with (
        folder_lock(out),
        pytest.raises(RunError, match=f"Another command is writing {out}: wait until it is done"),
    ):
        loop.resume(out, {"max_steps": 3}, Silent()) if resume else loop.start(config(store, out), Silent())
    assert {name: content for name, content in snapshot(out).items() if name != LOCK_FILE} == {
        name: content for name, content in before.items() if name != LOCK_FILE
    }


def test_two_commands_start_in_one_folder(store: Path, tmp_path: Path) -> None:
    """Real processes: the second is refused while the first trains, and a kill of the first frees the folder."""
    out = tmp_path / "run"
    program = [sys.executable, "-m", "headrace.train", "run", str(store), "--out", str(out)]
    program += ["--stage", "gpt", "--preset", "tiny", "--checkpoint-every", "1"]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as first:
        deadline = time.monotonic() + 120
        while not Checkpoints(out / "checkpoints").steps():
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)
        try:
            result = call(main, "run", store, "--out", out, "--resume")
            assert result.exit_code == 1 and result.stderr.startswith(f"Error: Another command is writing {out}:")
            result = call(main, "run", store, "--out", out, "--stage", "gpt", "--preset", "tiny")
            assert result.exit_code == 1 and result.stderr.startswith(f"Error: {out} holds a run: continue it with")
        finally:
            first.kill()
    step = Checkpoints(out / "checkpoints").steps()[-1]
    summary = loop.resume(out, {"max_steps": step + 1}, Silent())
    assert summary is not None and summary["steps"] == step + 1


def test_a_run_that_never_began_leaves_nothing(store: Path, tmp_path: Path) -> None:
    for out, left in ((tmp_path / "new", False), (tmp_path / "made", True)):
        if left:
            out.mkdir()
        with pytest.raises(RunError, match="Cannot read"):
            loop.start(config(store, out, init=tmp_path / "absent.pth"), Silent())
        assert out.exists() == left and (not left or not list(out.iterdir()))


def test_what_a_killed_run_left_is_taken_over(store: Path, tmp_path: Path) -> None:
    """Before its first checkpoint a run has nothing to lose, so it may be started again; its drafts are cleared."""
    out = tmp_path / "run"
    loop.start(config(store, out), Silent())
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    drafts = [out / folder / f".headrace-{'a' * 32}.tmp" for folder in (".", "checkpoints")]
    foreign = [out / "notes.txt", out / "checkpoints" / "step-00000001.tmp", out / "checkpoints" / "best.pt"]
    for path in (*drafts, *foreign):
        path.write_text("half")
    loop.start(config(store, out), Silent())
    assert Checkpoints(out / "checkpoints").steps() == [2]
    assert not any(path.exists() for path in drafts) and all(path.read_text() == "half" for path in foreign)


def test_nothing_but_an_own_checkpoint_is_deleted(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    folder = out / "checkpoints"
    loop.start(config(store, out, max_steps=1), Silent())
    foreign = [folder / name for name in ("step-1.pt", "step-00000000.pt.bak", "step-٠٠٠٠٠٠٠١.pt", "best.pt")]
    for path in foreign:
        path.write_text("mine")
    (folder / "step-00000000.pt").mkdir()
    os.mkfifo(folder / "step-00000009.pt")
    loop.resume(out, {"max_steps": 7, "checkpoint_every": 1}, Silent())
    assert Checkpoints(folder).steps() == [5, 6, 7]
    assert all(path.read_text() == "mine" for path in foreign) and (folder / "step-00000000.pt").is_dir()


def test_a_process_of_an_earlier_start_is_waited_for_under_a_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is stopped, or whose machine is gone, holds the folder until it is killed. That is no mistake that would
    end the job: the launcher may start again."""
    out, log = tmp_path / "run", list[str]()
    out.mkdir()
    note = tmp_path / "attempt_0" / "0" / "error.json"
    note.parent.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(note))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setattr("headrace.train.trainer.run_folder.EARLIER_START_S", 0.1)
    with (
        folder_lock(out),
        pytest.raises(RunError, match="Another command is writing"),
        launcher.refusals(),
        run_folder(out, resume=False, log=log.append),
    ):
        pytest.fail("two processes write one run")
    assert not note.exists()
    monkeypatch.setattr("headrace.train.trainer.run_folder.EARLIER_START_S", 60.0)
    with ExitStack() as earlier:
        earlier.enter_context(folder_lock(out))
        threading.Timer(0.2, earlier.pop_all().close).start()
        with run_folder(out, resume=False, log=log.append):
            pass
    assert len(log) == 2 and log[0].startswith(f"a process of an earlier start still holds {out}")
