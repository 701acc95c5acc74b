"""Machines that are averaged make updates of their own batches, and then have one model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headrace.store.errors import UsageError
from headrace.train.checkpoints.checkpoint import Checkpoints, load
from headrace.train.config import RunConfig
from headrace.train.distributed.machines import Machines, _processes_here
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


def test_parts_are_not_averaged() -> None:
    with pytest.raises(UsageError, match="average_every averages whole models"):
        RunConfig.from_options(store=Path("s"), out=Path("o"), parallel="fsdp", average_every=8)


def test_processes_of_a_machine() -> None:
    assert _processes_here({"LOCAL_WORLD_SIZE": "8", "SLURM_STEP_TASKS_PER_NODE": "1"}) == 8
    assert _processes_here({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}) == 4
    assert _processes_here({"SLURM_STEP_TASKS_PER_NODE": "3,1"}) == 3
    assert _processes_here({}) == 1
