"""Runs that train for INT8: they begin with a run and learn from it, and resume exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace.store.errors import RunError, UsageError
from headrace.train.checkpoints import trained_models
from headrace.train.checkpoints.checkpoint import Checkpoints, load
from headrace.train.config import RunConfig, read_config
from headrace.train.models.fake_quantisation import FakeQuantisation
from headrace.train.monitoring import metrics
from headrace.train.trainer import loop
from headrace.train.trainer.pruned_run import prune_run
from tests.helpers.runs import untimed
from tests.helpers.training_store import Silent, build

STAGES = ("sovits", "gpt")
OPTIONS: dict[str, Any] = {"preset": "tiny", "batch_frames": 400, "device": "cpu", "validate_every": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(build(tmp_path_factory.mktemp("quantised") / "store", frames=[40, 50] * 6).path))


@pytest.fixture(scope="module")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each stage, and one that was trained for INT8 from it, in three steps."""
    folder = tmp_path_factory.mktemp("runs")
    for stage in STAGES:
        start(store, folder / stage, stage, max_steps=2)
        start(store, folder / f"{stage}-int8", stage, init=folder / stage, quantize="int8", max_steps=3)
    return {name: folder / name for stage in STAGES for name in (stage, f"{stage}-int8")}


def start(store: Path, out: Path, stage: str, **options: Any) -> list[str]:
    """Train, and return all messages."""
    observer = Silent()
    loop.start(RunConfig.from_options(store=store, out=out, stage=stage, **OPTIONS | options), observer)
    return observer.messages


def records(run: Path, split: str = "train") -> list[dict[str, Any]]:
    return untimed(metrics.read(run / "metrics.jsonl"), split)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_resumes_exactly_with_the_ranges_of_its_checkpoint(
    store: Path, runs: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    messages = start(store, tmp_path / "parts", stage, init=runs[stage], quantize="int8", max_steps=1)
    assert any("calibrated on" in message for message in messages)
    observer = Silent()
    loop.resume(tmp_path / "parts", {"max_steps": 3}, observer)
    assert not any("calibrated on" in message for message in observer.messages)
    whole = runs[f"{stage}-int8"]
    assert records(tmp_path / "parts") == records(whole)
    ours, theirs = (load(Checkpoints(run / "checkpoints").path(3))["stage"] for run in (tmp_path / "parts", whole))
    assert ours["ranges"].keys() == theirs["ranges"].keys()
    assert all(torch.equal(ranges, theirs["ranges"][name]) for name, ranges in ours["ranges"].items())
    assert read_config(whole).model.teacher == runs[stage]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_it_computes_with_rounded_numbers_and_learns_from_what_it_begins_with(
    store: Path, runs: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    steps = records(runs[f"{stage}-int8"])
    if stage == "sovits":
        assert {"loss_disc", "loss_kl", "loss_teacher"}.isdisjoint(steps[0]) and steps[0]["loss_mel"] > 0
    else:
        assert 0 < steps[0]["loss_teacher"] < 0.1 < steps[0]["loss"]
    before, *_, after = records(runs[f"{stage}-int8"], "validation")
    assert before["step"] == 0 and before != after
    load_one = trained_models.load_sovits if stage == "sovits" else trained_models.load_gpt
    assert load_one(runs[stage]).ranges is None
    model = load_one(runs[f"{stage}-int8"])
    assert model.ranges is not None
    FakeQuantisation(model).load_state_dict(model.ranges)


@pytest.mark.soak
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("options", [{"grad_accum": 2, "activation_checkpointing": True}, {"precision": "bf16"}])
def test_it_goes_with_accumulation_checkpointing_and_half_precision(
    store: Path, runs: dict[str, Path], tmp_path: Path, stage: str, options: dict[str, Any]
) -> None:
    start(store, tmp_path / "run", stage, init=runs[stage], quantize="int8", max_steps=1, **options)
    (found,), (expected, *_) = records(tmp_path / "run"), records(runs[f"{stage}-int8"])
    name = {"sovits": "loss_mel", "gpt": "loss_teacher"}[stage]
    assert found["skipped"] == 0 and np.isfinite(found[name])
    assert found[name] < 20 * expected[name] + 0.1
    if "grad_accum" in options:
        start(store, tmp_path / "plain", stage, init=runs[stage], quantize="int8", max_steps=1, grad_accum=2)
        (plain,) = records(tmp_path / "plain")
        assert found[name] == pytest.approx(plain[name], rel=1e-5)


def test_what_cannot_be_combined_is_refused(store: Path, tmp_path: Path) -> None:
    for options, message in (
        ({}, "give one by --init"),
        ({"init": tmp_path, "activations_8bit": True}, "combined with activations_8bit"),
        ({"init": tmp_path, "compile": True, "fixed_shapes": 4}, "combined with compile"),
        ({"init": tmp_path, "parallel": "fsdp"}, "combined with parallel fsdp"),
    ):
        with pytest.raises(UsageError, match=message):
            RunConfig.from_options(store=store, out=tmp_path / "x", quantize="int8", **options)


@pytest.mark.slow
def test_a_run_for_int8_is_not_pruned_and_not_resumed_without_ranges(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prune first"):
        prune_run(runs["gpt-int8"], tmp_path / "pruned", 0.3)
    path = Checkpoints(runs["gpt-int8"] / "checkpoints").path(3)
    state = load(path)
    del state["stage"]["ranges"]
    path.unlink()
    Checkpoints(path.parent).save(3, state)
    with pytest.raises(RunError, match="does not fit this run"):
        loop.resume(runs["gpt-int8"], {"max_steps": 4}, Silent())
