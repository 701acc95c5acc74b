"""Machines that are averaged make updates of their own batches, and then have one model."""

from __future__ import annotations

import operator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from headrace.store.errors import UsageError
from headrace.train.checkpoints.checkpoint import Checkpoints, load
from headrace.train.config import RunConfig
from headrace.train.distributed import ReductionOptions, machines
from headrace.train.distributed.machines import Machines, _processes_here
from headrace.train.precision import Precision
from headrace.train.stages import updates
from tests.helpers.runs import assert_same
from tests.helpers.training_store import build
from tests.train.distributed.averaged_machines import CPU, text, train_alone, weights
from tests.train.distributed.ranks import run_ranks


@pytest.mark.parametrize(
    ("world", "of_machine", "stages"),
    [
        pytest.param(2, 1, ["gpt"], marks=pytest.mark.slow),
        pytest.param(4, 2, ["sovits", "gpt"], marks=pytest.mark.soak),
    ],
)
def test_machines_train_alone_and_are_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: int, of_machine: int, stages: list[str]
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(of_machine))
    build(tmp_path / "store")
    run_ranks("tests.train.distributed.averaged_machines", world, tmp_path, *stages)
    ranks = [torch.load(tmp_path / f"averaged-{rank}.pt", weights_only=True) for rank in range(world)]
    alone = [train_alone(text(world, range(first, first + of_machine))) for first in range(0, world, of_machine)]
    for rank, found in enumerate(ranks):
        stage, _ = alone[rank // of_machine]
        assert found["machine"] == rank // of_machine and found["differ"]
        assert found["metrics"] == ranks[0]["metrics"]
        for name, value in weights(stage).items():
            torch.testing.assert_close(found["apart"][name], value, rtol=1e-5, atol=1e-6)
            mean = torch.stack([other["apart"][name] for other in ranks[::of_machine]]).mean(0)
            torch.testing.assert_close(found["after"][name], mean, rtol=1e-6, atol=1e-7)
    loss = sum(metrics["loss"] for _, metrics in alone) / len(alone)
    assert ranks[0]["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)
    for stage_name in stages:
        whole, resumed = (
            load(Checkpoints(tmp_path / f"{stage_name}-{kind}" / "checkpoints").path(7))
            for kind in ("whole", "resumed")
        )
        assert_same(whole["stage"], resumed["stage"])


def test_one_machine_is_not_averaged() -> None:
    assert Machines.find(CPU) is None


def test_machines_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says how many processes it has: here all say three, of four, or one says another number than the others."""
    for told in ([3, 3, 3, 3], [2, 2, 1, 1]):
        monkeypatch.setattr(machines, "world_size", lambda: 4)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(told[0]))
        monkeypatch.setattr(
            machines.dist, "all_gather_object", lambda found, _, told=told: operator.setitem(found, slice(None), told)
        )
        with pytest.raises(UsageError, match="average_every averages equal machines"):
            Machines.find(CPU)


def test_an_update_that_one_machine_skips_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process tells of a loss of 3, and skipped nothing."""
    other = torch.tensor([3.0, 0.0, 0.0])
    monkeypatch.setattr(updates.distributed, "all_reduce", lambda values: values + other)
    monkeypatch.setattr(updates.distributed, "world_size", lambda: 2)
    of_this_one = {"loss": torch.tensor(1.0), "skipped": torch.tensor(1.0), "exploded": torch.tensor(0.0)}
    found = updates.over_machines(of_this_one, ReductionOptions(machines=cast(Machines, object())))
    assert {name: float(value) for name, value in found.items()} == {"loss": 2.0, "skipped": 1.0, "exploded": 0.0}


def test_averaged_machines_have_the_loss_scale_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    own, first = (Precision("fp16", "simulated", CPU) for _ in range(2))
    first.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    first.loss_scale()
    averaged: list[Any] = []
    machines_of = cast(Machines, SimpleNamespace(average=averaged.append))
    monkeypatch.setattr(updates.distributed, "agreed", lambda _: first.state_dict())
    updates.average_over_machines({"weights": 1}, own, ReductionOptions(machines=machines_of))
    assert averaged == [{"weights": 1}] and float(own.loss_scale()) == 64.0


def test_parts_are_not_averaged() -> None:
    with pytest.raises(UsageError, match="average_every averages whole models"):
        RunConfig.from_options(store=Path("s"), out=Path("o"), parallel="fsdp", average_every=8)


def test_processes_of_a_machine() -> None:
    assert _processes_here({"LOCAL_WORLD_SIZE": "8", "SLURM_STEP_TASKS_PER_NODE": "1"}) == 8
    assert _processes_here({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}) == 4
    assert _processes_here({"SLURM_STEP_TASKS_PER_NODE": "3,1"}) == 3
    assert _processes_here({}) == 1
