"""Machines that train models of their own and average them, and what each of their processes computes.

    python -m tests.train.distributed.averaged_machines OUT STAGE...

writes `averaged-RANK.pt`: weights after two updates, and after averaging; and trains two runs of each stage on
OUT/store, one of which is stopped and resumed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headrace.store.errors import RunError
from headrace.train import distributed
from headrace.train.config import RunConfig
from headrace.train.data.batch import Batch
from headrace.train.distributed import Machines, ReductionOptions
from headrace.train.trainer import loop
from tests.helpers.gpt_steps import CPU, SMALL_GPT, gpt_stage, text_batch
from tests.helpers.training_store import Silent
from tests.train.distributed.ranks import FRAMES, batches

UPDATES = 2


def text(world: int, ranks: range) -> list[Batch]:
    """The batches of some ranks."""
    whole = text_batch([n // 2 + 3 for n in FRAMES])
    return [batch for rank in ranks for batch in batches(whole, world, rank)]


def weights(stage: Any) -> dict[str, Tensor]:
    """Copies of the weights of a stage."""
    return {name: value.clone() for name, value in stage.model.state_dict().items()}


def train_alone(own: list[Batch], machines: Machines | None = None) -> Any:
    """A stage after some updates."""
    stage = gpt_stage(replace(SMALL_GPT, dropout=0.0), reduction=ReductionOptions(machines=machines))
    stage.allocate()
    metrics = [stage.step(own) for _ in range(UPDATES)]
    return stage, {name: float(value) for name, value in metrics[-1].items()}


def average() -> dict[str, Any]:
    """Weights before and after averaging, the moments after it, and whether ranks were found to differ between."""
    world, rank = distributed.world_size(), distributed.rank()
    stage, metrics = train_alone(text(world, range(rank, rank + 1)), Machines.find(CPU))
    apart = weights(stage)
    part, state = stage.held_state()
    distributed.check_state(state, UPDATES, part)
    try:
        distributed.check_state(state, UPDATES)
        found = False
    except RunError:
        found = True
    stage.average()
    distributed.check_state(stage.state_dict(), UPDATES)
    return {"apart": apart, "machine": part, "after": weights(stage), "metrics": metrics, "differ": found}


def config(store: Path, out: Path, stage: str) -> RunConfig:
    """A run whose machines are averaged every two steps, at a validation, and at a checkpoint."""
    return RunConfig.from_options(
        store=store,
        out=out,
        stage=stage,
        preset="tiny",
        batch_frames=200,
        max_utterances=4,
        max_steps=7,
        average_every=2,
        checkpoint_every=3,
        check_weights_every=1,
        validate_every=5,
        device="cpu",
    )


def main(out: Path, stages: list[str]) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    with distributed.process_group():
        torch.save(average(), out / f"averaged-{distributed.rank()}.pt")
        for stage in stages:
            loop.start(config(out / "store", out / f"{stage}-whole", stage), Silent())
            loop.start(config(out / "store", out / f"{stage}-resumed", stage).with_options(max_steps=3), Silent())
            loop.resume(out / f"{stage}-resumed", {"max_steps": 7}, Silent())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
