"""Blocks that are compiled: the same run but for rounding, and the same to the last bit when it is resumed."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from torch._dynamo.utils import counters

from headrace.store.errors import UsageError
from headrace.train.config import RunConfig
from headrace.train.stages import compiled_blocks
from headrace.train.trainer import loop
from tests.helpers.runs import assert_same_run
from tests.helpers.training_store import Silent, build

there = shutil.which("g++") and Path(sysconfig.get_path("include"), "Python.h").exists()
needs_compiler = pytest.mark.skipif(not there, reason="there is no C++ compiler, or no header of Python, here")
STAGES = [pytest.param("sovits", marks=pytest.mark.soak), "gpt"]  # hundreds of kernels, and one


def config(tmp_path: Path, stage: str, **more: Any) -> RunConfig:
    """Batches of one length, all but the last of one size."""
    store, named = build(tmp_path / "store", frames=[100] * 8), {"stage": stage, "preset": "tiny", "fixed_shapes": 1}
    return RunConfig.from_options(
        store=store.path, out=tmp_path / "run", batch_frames=400, validate_every=2, **named, **more
    )


def trained(config: RunConfig) -> list[dict[str, Any]]:
    observer = Silent()
    loop.start(config, observer)
    assert bool(config.compute.compile) == any(
        "blocks of the networks are compiled" in line for line in observer.messages
    )
    return [record for record in observer.records if "lr" in record]


@needs_compiler
@pytest.mark.parametrize("stage", STAGES)
def test_compiled_runs_are_equal_except_for_rounding(stage: str, tmp_path: Path) -> None:
    plain = config(tmp_path, stage, max_steps=2)
    counters.clear()
    eager = trained(plain)
    assert not counters["stats"], "nothing is compiled unless asked for"
    fast = trained(plain.with_options(out=tmp_path / "fast", compile=True))
    assert counters["stats"]["unique_graphs"] >= 1
    losses = [name for name in eager[0] if name.startswith("loss") and name != "loss_scale"]
    norms = [name for name in eager[0] if name.startswith("grad_norm")]
    assert losses and norms
    for one, other in zip(eager, fast, strict=True):
        assert [other[name] for name in losses] == pytest.approx([one[name] for name in losses], rel=1e-4)
        assert [other[name] for name in norms] == pytest.approx([one[name] for name in norms], rel=1e-3)


@needs_compiler
@pytest.mark.soak
@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_resumed_compiled_runs_are_bit_identical(stage: str, tmp_path: Path) -> None:
    whole = config(tmp_path, stage, max_steps=4, compile=True)
    trained(whole)
    stopped = whole.with_options(out=tmp_path / "stopped", max_steps=2)
    trained(stopped)
    loop.resume(stopped.out, {"max_steps": 4}, Silent())
    assert_same_run(stopped.out, whole.out, steps=4)


def test_missing_requirements_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = config(tmp_path, "gpt", max_steps=1, compile=True)
    for wrong, message in (({"fixed_shapes": 0}, "give fixed_shapes too"), ({"activations_8bit": True}, "choose one")):
        with pytest.raises(UsageError, match=message):
            whole.with_options(**wrong)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match="install g"):
        loop.start(whole, Silent())
    monkeypatch.setattr(compiled_blocks.shutil, "which", str)
    monkeypatch.setattr(compiled_blocks.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(UsageError, match="headers"):
        loop.start(whole, Silent())


def test_compiling_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(compiled_blocks, "check_compiler", lambda: None)
    monkeypatch.setattr(compiled_blocks, "keep_compiled_kernels_private", lambda: asked.append(True))
    compiled_blocks.compile_stage(object.__new__(type("Empty", (), {})))
    assert asked == [True]
