"""Stopped at any moment and resumed, a run on a CPU gives the same numbers, bit for bit, in float32 and in bfloat16."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Event

import pytest

from headrace.store.errors import RunError
from headrace.train.checkpoints import checkpoint
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.config import SECTION_OF, RunConfig
from headrace.train.monitoring import metrics
from headrace.train.trainer import loop
from tests.helpers.runs import assert_same_run, untimed_lines
from tests.helpers.training_store import Silent, build

STEPS = 14
EVERY = 4


def config(corpus: Path, out: Path, kind: tuple[str, str]) -> RunConfig:
    """Of the decoder two batches make an update."""
    stage, precision = kind
    return RunConfig.from_options(
        store=corpus,
        out=out,
        stage=stage,
        precision=precision,
        grad_accum={"sovits": 1, "gpt": 2}[stage],
        preset="tiny",
        batch_frames=300,
        max_steps=STEPS,
        checkpoint_every=EVERY,
        validate_every=5,
    )


def command(config: RunConfig) -> list[str]:
    names = (
        "stage",
        "precision",
        "grad_accum",
        "preset",
        "batch_frames",
        "max_steps",
        "checkpoint_every",
        "validate_every",
    )
    sections = config.to_json()
    options = [(f"--{name.replace('_', '-')}", str(sections[SECTION_OF[name]][name])) for name in names]
    program = [
        sys.executable,
        "-c",
        "from headrace.cli.train import main; main()",
        "run",
        str(config.store),
        "--out",
        str(config.out),
    ]
    return [*program, *(word for option in options for word in option)]


def interrupt(config: RunConfig, when: Callable[[], bool], number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Start a run, and send it a signal as soon as `when` holds."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(config), **pipes) as process:
        deadline = time.monotonic() + 120
        while not when():
            assert process.poll() is None, f"ended too early: {process.communicate()}"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("resume") / "store").path


KINDS = [
    ("sovits", "fp32"),
    ("gpt", "fp32"),
    pytest.param(("sovits", "bf16"), marks=pytest.mark.soak),
    pytest.param(("gpt", "bf16"), marks=pytest.mark.soak),
]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def kind(request) -> tuple[str, str]:
    """Stage and precision."""
    return request.param


@pytest.fixture(scope="module")
def undisturbed(corpus, kind, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("resume") / "run"
    loop.start(config(corpus, out, kind), Silent())
    return out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint(corpus, kind, undisturbed, tmp_path, number):
    out = tmp_path / "run"
    ended = interrupt(config(corpus, out, kind), lambda: len(metrics.read(out / "metrics.jsonl")) >= 3, number)
    (step,) = Checkpoints(out / "checkpoints").steps()[-1:]
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f"Error: {number.name} came: stopped after step {step}, saved {out}/checkpoints/step-{step:08d}.pt. "
        f"Continue with: train run {corpus} --out {out} --resume"
    )
    assert 3 <= step < STEPS
    assert untimed_lines(out)[-1]["step"] == step
    loop.resume(out, {}, Silent())
    assert_same_run(out, undisturbed, steps=STEPS)


def test_another_sigterm_leaves_time_for_the_checkpoint_and_another_sigint_does_not() -> None:
    with loop.catch_stop_signals() as caught:
        for number in (signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
        assert caught == [signal.SIGTERM, signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_killed_after_a_checkpoint(corpus, kind, undisturbed, tmp_path):
    """SIGKILL some steps past a checkpoint: what was done since is done again, and gives the same."""
    out = tmp_path / "run"
    checkpoints = Checkpoints(out / "checkpoints")
    ended = interrupt(config(corpus, out, kind), lambda: checkpoints.steps() != [], signal.SIGKILL)
    assert ended.returncode == -signal.SIGKILL
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"split": "train", "step": 99, "loss_mel": 1.0}\n{"split": "tra')
    summary = loop.resume(out, {}, Silent())
    assert summary["steps"] == STEPS
    assert_same_run(out, undisturbed, steps=STEPS)


def test_killed_before_the_first_checkpoint(corpus, kind, undisturbed, tmp_path):
    out = tmp_path / "run"
    interrupt(config(corpus, out, kind), lambda: (out / "metrics.jsonl").exists(), signal.SIGKILL)
    assert Checkpoints(out / "checkpoints").steps() == []
    loop.resume(out, {}, Silent())
    assert_same_run(out, undisturbed, steps=STEPS)


def test_a_damaged_newest_checkpoint_loses_only_its_steps(corpus, kind, undisturbed, tmp_path):
    out = tmp_path / "run"
    loop.start(config(corpus, out, kind).with_options(max_steps=2 * EVERY + 1), Silent())
    damage(Checkpoints(out / "checkpoints"))
    observer = Silent()
    loop.resume(out, {"max_steps": STEPS}, observer)
    assert "is damaged" in observer.messages[0] and observer.messages[1] == f"continuing after step {2 * EVERY}"
    assert_same_run(out, undisturbed, steps=STEPS)


def damage(checkpoints: Checkpoints) -> None:
    """One bit of the newest."""
    path = checkpoints.path(checkpoints.steps()[-1])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_full_disk_at_a_checkpoint(corpus, kind, undisturbed, tmp_path, monkeypatch):
    out, whole_file = tmp_path / "run", checkpoint.atomic_file

    @contextmanager
    def on_a_full_disk(target):
        if target.name == f"step-{2 * EVERY:08d}.pt":
            with Path("/dev/full").open("wb") as file:
                yield file
            return
        with whole_file(target) as file:
            yield file

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "atomic_file", on_a_full_disk)
        with pytest.raises(RunError, match=r"No space left on device.*step 4 is the newest there is; make room"):
            loop.start(config(corpus, out, kind), Silent())
    assert Checkpoints(out / "checkpoints").steps() == [EVERY]
    loop.resume(out, {}, Silent())
    assert_same_run(out, undisturbed, steps=STEPS)


def test_training_goes_on_while_a_checkpoint_is_written(corpus, kind, undisturbed, tmp_path, monkeypatch):
    """Its state is that of its step, though the weights have changed since: the run that continues there is the same.
    And the run does not end before the last one is whole."""
    out, save, three_steps_on, written = tmp_path / "run", Checkpoints.save, Event(), []

    class Observer(Silent):
        def recorded(self, record):
            super().recorded(record)
            if record["step"] == EVERY + 3:
                three_steps_on.set()

    def slow_save(self, step, *arguments, **named):
        assert three_steps_on.wait(60)
        time.sleep(0.05 if step > EVERY else 0)
        written.append(save(self, step, *arguments, **named))

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", slow_save)
        loop.start(config(corpus, out, kind).with_options(max_steps=EVERY + 3), Observer())
    assert [path.name for path in written] == ["step-00000004.pt", "step-00000007.pt"]
    written[1].unlink()
    loop.resume(out, {"max_steps": STEPS}, Silent())
    assert_same_run(out, undisturbed, steps=STEPS)


@pytest.mark.soak
def test_killed_at_twenty_random_moments(corpus, kind, tmp_path):
    """SIGTERM and SIGKILL by turns, whatever the run is doing: while it begins, in a step, at a checkpoint. And now and
    then the newest checkpoint is damaged before it goes on. After a run that came to its end another one is begun."""
    random, out, straight = Random(str(kind)), tmp_path / "run", tmp_path / "straight"
    long = config(corpus, out, kind).with_options(max_steps=100, checkpoint_every=1)
    loop.start(long.with_options(out=straight), Silent())
    checkpoints, killed = Checkpoints(out / "checkpoints"), 0
    while killed < 20:
        if len(checkpoints.steps()) > 1 and random.random() < 0.2:
            damage(checkpoints)
        process = begin_or_resume(long)
        wait_for_a_moment(process, out, random)
        process.send_signal(random.choice([signal.SIGTERM, signal.SIGKILL]))
        code = process.wait(300)
        assert code in (0, 1, -signal.SIGTERM, -signal.SIGKILL)
        killed += code != 0
        if code == 0:
            assert_same_run(out, straight, steps=100)
            shutil.rmtree(out)
    assert begin_or_resume(long).wait(600) == 0
    assert_same_run(out, straight, steps=100)


def begin_or_resume(config: RunConfig) -> subprocess.Popen[bytes]:
    resume = ["--resume"] if (config.out / "config.json").exists() else []
    return subprocess.Popen([*command(config), *resume], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def wait_for_a_moment(process: subprocess.Popen, out: Path, random: Random) -> None:
    """Within the first seconds of a process, or within some steps of its own."""
    if random.random() < 0.3:
        time.sleep(random.uniform(0, 8))
        return
    written = size_of(out)
    for _ in range(random.randint(1, 2)):
        deadline = time.monotonic() + 300
        while process.poll() is None and size_of(out) <= written:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        written = size_of(out)
    time.sleep(random.uniform(0, 0.4))


def size_of(out: Path) -> int:
    return (out / "metrics.jsonl").stat().st_size if (out / "metrics.jsonl").exists() else 0
