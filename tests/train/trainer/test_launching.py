"""What a run launches compiled or in CUDA graphs, and why; and that it makes the same run."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from headrace.store.errors import UsageError
from headrace.train.config import RunConfig
from headrace.train.stages.cuda_graphs import GraphedPasses
from headrace.train.trainer import launching, loop
from headrace.train.trainer.run import Run
from headrace.train.trainer.setup import set_up
from tests.helpers.runs import assert_same_run
from tests.helpers.training_store import Silent, build
from tests.train.stages.simulated_graphs import SimulatedGraph

LONG = {"fixed_shapes": 4}


def config(**more: Any) -> RunConfig:
    return RunConfig.from_options(store=Path("STORE"), out=Path("RUN"), stage="gpt", **more)


@pytest.mark.parametrize(
    ("options", "world", "passes", "chosen", "why"),
    [
        (LONG, 1, math.inf, True, "comes without end"),
        (LONG, 1, 20, True, "comes 20 times, and it pays from 20 times on; the first 3 of each go without"),
        (LONG, 1, 19.4, False, "comes 19 times, and it pays from 20"),
        ({}, 1, math.inf, False, "--fixed-shapes 8 allows them"),
        (LONG, 2, math.inf, False, "sent to other processes"),
        ({**LONG, "activation_checkpointing": True}, 1, math.inf, False, "--activation-checkpointing sets"),
        ({**LONG, "dpo": True}, 1, math.inf, False, "of --dpo have any length"),
        ({**LONG, "cuda_graphs": False}, 1, math.inf, False, "asked for"),
        ({**LONG, "cuda_graphs": True}, 1, 1, True, "asked for"),
    ],
)
def test_graphs_are_for_fixed_shapes_of_long_runs(
    options: dict[str, Any], world: int, passes: float, chosen: bool, why: str
) -> None:
    found, reason = launching.choose_graphs(config(**options), True, world, passes)
    assert found == chosen and why in reason
    assert launching.choose_graphs(config(**LONG), False, 1, math.inf) == (False, "there is no CUDA device")


def test_graphs_that_are_asked_for_and_not_possible_are_an_error() -> None:
    asked = config(**LONG, cuda_graphs=True)
    with pytest.raises(UsageError, match="not possible here: there is no CUDA device"):
        launching.choose_graphs(asked, False, 1, math.inf)
    with pytest.raises(UsageError, match="sent to other processes"):
        launching.choose_graphs(asked, True, 2, math.inf)
    for wrong, message in (
        ({"cuda_graphs": True}, "give fixed_shapes too"),
        ({**LONG, "cuda_graphs": True, "dpo": True}, "choose one"),
        ({**LONG, "cuda_graphs": True, "activation_checkpointing": True}, "choose one"),
    ):
        with pytest.raises(UsageError, match=message):
            config(**wrong)


@pytest.mark.parametrize(
    ("options", "on_cuda", "passes", "chosen", "why"),
    [
        (LONG, True, 2000, True, "comes 2,000 times"),
        (LONG, True, 1999, False, "comes 1,999 times, and it pays from 2,000 times on"),
        (LONG, False, math.inf, False, "CPU"),
        ({}, True, math.inf, False, "--fixed-shapes 8"),
        ({**LONG, "parallel": "fsdp"}, True, math.inf, False, "share the model"),
        ({**LONG, "activations_8bit": True}, True, math.inf, False, "--activations-8bit"),
        ({**LONG, "compile": False}, True, math.inf, False, "asked for"),
        ({**LONG, "compile": True}, False, 1, True, "asked for"),
    ],
)
def test_blocks_are_compiled_in_long_runs(
    options: dict[str, Any], on_cuda: bool, passes: float, chosen: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "check_compiler", lambda: None)
    found, reason = launching.choose_compiled(config(**options), on_cuda, passes)
    assert found == chosen and why in reason


def test_a_machine_without_a_compiler_compiles_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    found, reason = launching.choose_compiled(config(**LONG), True, math.inf)
    assert not found and "install g++" in reason


def small_run(tmp_path: Path, **more: Any) -> RunConfig:
    store = build(tmp_path / "store", frames=[100] * 8)
    options = {"stage": "gpt", "preset": "tiny", "fixed_shapes": 1, "batch_frames": 200, "validate_every": 2}
    return RunConfig.from_options(store=store.path, out=tmp_path / "run", **options | more)


@pytest.mark.parametrize(
    ("bounds", "passes"),
    [({"max_steps": 30}, 30), ({"max_epochs": 6}, 21), ({}, math.inf), ({"max_steps": 30, "fixed_shapes": 2}, 15)],
)
def test_passes_of_a_shape(tmp_path: Path, bounds: dict[str, int], passes: float) -> None:
    setup = set_up(small_run(tmp_path, **bounds), Silent())
    assert launching.passes_of_a_shape(setup) == passes


def test_runs_in_graphs_are_runs_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of an update are read after the next one, as on a device; and a run that stops continues likewise."""
    monkeypatch.setattr(Run, "settles_late", True)
    plain = small_run(tmp_path, max_steps=12)
    loop.start(plain, Silent())
    SimulatedGraph.made = []
    monkeypatch.setattr(launching, "choose_graphs", lambda *_: (True, "as on a device"))
    monkeypatch.setattr(launching, "GraphedPasses", partial(GraphedPasses, make_graph=SimulatedGraph))
    graphed = plain.with_options(out=tmp_path / "graphed")
    loop.start(graphed, Silent())
    replays = sum(graph.replays for graph in SimulatedGraph.made)
    assert_same_run(graphed.out, plain.out, steps=12)
    assert replays >= 9
    stopped = plain.with_options(out=tmp_path / "stopped", max_steps=6)
    loop.start(stopped, Silent())
    loop.resume(stopped.out, {"max_steps": 12}, Silent())
    assert_same_run(stopped.out, plain.out, steps=12)
