"""Stopped at any moment and resumed, a run on a CPU in float32 gives the same numbers, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from tests.training_store import Silent, build
from train import loop, metrics
from train.checkpoint import Checkpoints, load
from train.config import RunConfig

STEPS = 14
EVERY = 4
UNTIMED = ("step_s", "wait_s", "seconds")


def config(corpus: Path, out: Path, stage: str) -> RunConfig:
    """Of the decoder two batches make an update."""
    return RunConfig(
        store=corpus,
        out=out,
        stage=stage,
        accumulate={"sovits": 1, "gpt": 2}[stage],
        preset="tiny",
        batch_frames=300,
        max_steps=STEPS,
        checkpoint_every=EVERY,
        validate_every=5,
    )


def command(config: RunConfig) -> list[str]:
    names = (
        "out",
        "stage",
        "precision",
        "accumulate",
        "preset",
        "batch_frames",
        "max_steps",
        "checkpoint_every",
        "validate_every",
    )
    options = [(f"--{name.replace('_', '-')}", str(getattr(config, name))) for name in names]
    program = [sys.executable, "-c", "from cli.train import main; main()", "run", str(config.store)]
    return [*program, *(word for option in options for word in option)]


def lines(out: Path) -> list[dict[str, Any]]:
    records = metrics.read(out / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in UNTIMED} for record in records]


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


@pytest.fixture(scope="module", params=["sovits", "gpt"])
def stage(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def undisturbed(corpus, stage, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("resume") / "run"
    loop.start(config(corpus, out, stage), Silent())
    return out


def assert_same_run(out: Path, undisturbed: Path) -> None:
    assert lines(out) == lines(undisturbed)
    ours, theirs = (load(Checkpoints(run / "checkpoints").path(STEPS)) for run in (out, undisturbed))
    assert_same(ours["stage"], theirs["stage"])
    assert_same(ours["random"], theirs["random"])
    assert ours["stream"] == theirs["stream"]


def assert_same(one: Any, other: Any) -> None:
    """Equal to the last bit, however deep."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint(corpus, stage, undisturbed, tmp_path, number):
    out = tmp_path / "run"
    ended = interrupt(config(corpus, out, stage), lambda: len(metrics.read(out / "metrics.jsonl")) >= 3, number)
    (step,) = Checkpoints(out / "checkpoints").steps()[-1:]
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f"Error: {number.name} came: stopped after step {step}, saved {out}/checkpoints/step-{step:08d}.pt. "
        f"Go on with: train run {corpus} --out {out} --resume"
    )
    assert 3 <= step < STEPS
    assert lines(out)[-1]["step"] == step
    loop.resume(out, {}, Silent())
    assert_same_run(out, undisturbed)


def test_killed_after_a_checkpoint(corpus, stage, undisturbed, tmp_path):
    """SIGKILL some steps past a checkpoint: what was done since is done again, and gives the same."""
    out = tmp_path / "run"
    checkpoints = Checkpoints(out / "checkpoints")
    ended = interrupt(config(corpus, out, stage), lambda: checkpoints.steps() != [], signal.SIGKILL)
    assert ended.returncode == -signal.SIGKILL
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"split": "train", "step": 99, "loss_mel": 1.0}\n{"split": "tra')
    summary = loop.resume(out, {}, Silent())
    assert summary["steps"] == STEPS
    assert_same_run(out, undisturbed)


def test_killed_before_the_first_checkpoint(corpus, stage, undisturbed, tmp_path):
    out = tmp_path / "run"
    interrupt(config(corpus, out, stage), lambda: (out / "metrics.jsonl").exists(), signal.SIGKILL)
    assert Checkpoints(out / "checkpoints").steps() == []
    loop.resume(out, {}, Silent())
    assert_same_run(out, undisturbed)


@pytest.mark.soak
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_at_twenty_random_moments(corpus, stage, tmp_path, precision):
    """SIGTERM and SIGKILL by turns, whatever the run was doing, until it has come to its end."""
    random, out, straight = Random(precision), tmp_path / "run", tmp_path / "straight"
    long = replace(config(corpus, out, stage), precision=precision, max_steps=40, checkpoint_every=1)
    loop.start(replace(long, out=straight), Silent())
    words, killed = command(long), 0
    while killed < 20:
        resume = ["--resume"] if (out / "config.json").exists() else []
        process = subprocess.Popen([*words, *resume], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(random.uniform(2, 12))
        if process.poll() is not None:
            break  # it came to its end
        process.send_signal(random.choice([signal.SIGTERM, signal.SIGKILL]))
        process.wait(60)
        killed += 1
    loop.resume(out, {}, Silent())
    assert killed > 2 and lines(out) == lines(straight)
    ours, theirs = (load(Checkpoints(run / "checkpoints").path(40)) for run in (out, straight))
    assert_same(ours["stage"], theirs["stage"])
