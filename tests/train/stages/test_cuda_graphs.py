"""Passes that are captured and replayed: the same updates as eagerly, to the last bit."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from headrace.train.data.batch import Batch
from headrace.train.models import gpt
from headrace.train.precision import Precision
from headrace.train.stages.cuda_graphs import GRAPHS_PER_SHAPE, WARM_UPS, GraphedPasses
from headrace.train.stages.stage import Stage
from tests.helpers.gpt_steps import CPU, GPT_OPTIM, gpt_stage, text_batch
from tests.helpers.runs import assert_same
from tests.helpers.sovits_steps import SMALL_SOVITS, sovits_stage, speech_batch
from tests.train.stages.simulated_graphs import SimulatedGraph

TEXTS = [[text_batch([12, 9], seed), text_batch([12, 7], seed + 50)] for seed in range(5)]
SPEECH = [[speech_batch([20, 12], seed)] for seed in range(5)]
BOTH = pytest.mark.parametrize("kind", ["gpt", "sovits"])


@pytest.fixture(autouse=True)
def none_made() -> None:
    SimulatedGraph.made = []


def stage_of(kind: str, precision: str = "fp32", **sizes: Any) -> Stage:
    """Return a stage, in fp16 too, which no CPU is given otherwise."""
    as_asked = Precision(precision, "as asked", CPU)
    if kind == "gpt":
        return gpt_stage(optim=replace(GPT_OPTIM, **sizes), precision=as_asked)
    return sovits_stage(replace(SMALL_SOVITS, **sizes), precision=as_asked)


def captured(stage: Stage, make_graph: Any = SimulatedGraph, log: Callable[[str], None] = lambda _: None) -> Stage:
    stage.capture_passes(GraphedPasses(1, log, make_graph))
    return stage


def steps_of(kind: str) -> list[list[Batch]]:
    return TEXTS if kind == "gpt" else SPEECH


def trained(stage: Stage, steps: Sequence[Sequence[Batch]]) -> list[dict[str, Tensor]]:
    """Return the terms of each step, of which none is read before all have been made."""
    torch.manual_seed(7)
    stage.allocate()
    return [stage.step(batches) for batches in steps]


def assert_same_training(one: Stage, other: Stage, steps: Sequence[Sequence[Batch]]) -> None:
    """Terms, weights, optimisers, loss scale and random numbers are the same."""
    expected, random = trained(one, steps), torch.get_rng_state()
    assert_same(trained(other, steps), expected)
    assert_same(other.state_dict(), one.state_dict())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("fp16", marks=pytest.mark.soak)])
@BOTH
def test_updates_are_those_of_eager_passes(kind: str, precision: str) -> None:
    assert_same_training(stage_of(kind, precision), captured(stage_of(kind, precision)), steps_of(kind))
    later = len(TEXTS) - WARM_UPS
    # The four warm-ups of gpt are two updates of two batches; sovits has a graph for each network.
    assert [graph.replays for graph in SimulatedGraph.made] == (
        [2 * len(TEXTS) - WARM_UPS] if kind == "gpt" else [later] * 2
    )


def test_a_codebook_is_learnt_in_graphs_as_without_and_a_frozen_one_stays() -> None:
    assert not SMALL_SOVITS.freeze_quantizer
    sizes = {"freeze_quantizer": True}
    assert_same_training(stage_of("sovits", **sizes), captured(stage_of("sovits", **sizes)), SPEECH)
    assert SimulatedGraph.made


@BOTH
def test_microbatches_are_captured_too(kind: str) -> None:
    """Of sovits, each network's passes run the generator again."""
    stages = stage_of(kind), captured(stage_of(kind))
    for stage in stages:
        stage.microbatches.splits = 2
    assert_same_training(*stages, [[step[0]] for step in steps_of(kind)])
    assert len(SimulatedGraph.made) == (1 if kind == "gpt" else 2)


def test_batches_of_other_sizes_go_without() -> None:
    steps = [*TEXTS, [text_batch([12], 9)], *TEXTS]
    assert_same_training(stage_of("gpt"), captured(stage_of("gpt")), steps)
    assert len(SimulatedGraph.made) == 1


def test_updates_with_infinite_gradients_are_skipped_and_lower_the_loss_scale() -> None:
    stages = stage_of("gpt", "fp16"), captured(stage_of("gpt", "fp16"))
    for stage in stages:
        trained(stage, TEXTS)
        alpha, scale = stage.model.ar_text_position.alpha, stage.precision.loss_scale()
        before = float(alpha.detach())
        alpha.data.fill_(torch.inf)
        assert stage.step(TEXTS[0])["skipped"] == 1
        alpha.data.fill_(before)
        assert stage.step(TEXTS[1])["skipped"] == 0
        assert stage.precision.loss_scale() == scale / 2
    assert_same(stages[1].state_dict(), stages[0].state_dict())
    assert SimulatedGraph.made[0].replays == 2 * len(TEXTS) - WARM_UPS + 4


class Failing(SimulatedGraph):
    """A graph whose capture fails when all is submitted, from a number of graphs on."""

    first = 1

    def capture(self, work: Callable[[], Any]) -> Any:
        returned = super().capture(work)
        if len(SimulatedGraph.made) >= self.first:
            raise RuntimeError("operation not permitted when stream is capturing\nCompile with ...")
        return returned


@BOTH
def test_what_cannot_be_captured_is_computed_eagerly(kind: str) -> None:
    said: list[str] = []
    assert_same_training(stage_of(kind), captured(stage_of(kind), Failing, said.append), steps_of(kind))
    assert len(SimulatedGraph.made) == 1
    assert said == [
        "CUDA graphs: off from here on, since the pass 'update' could not be captured (operation not permitted when "
        "stream is capturing)"
    ]


def test_a_discriminator_is_not_computed_in_a_graph_if_its_generator_cannot_be() -> None:
    stage = captured(stage_of("sovits"), type("Late", (Failing,), {"first": 2}))
    assert_same_training(stage_of("sovits"), stage, SPEECH)
    assert [graph.replays for graph in SimulatedGraph.made] == [0, 0]


def test_a_value_that_the_host_reads_cannot_be_captured() -> None:
    said: list[str] = []
    stage = captured(stage_of("gpt"), log=said.append)
    backward = stage.backward

    def reading(*given: Any, **more: Any) -> dict[str, Tensor]:
        sums = backward(*given, **more)
        sums["loss"].item()
        return sums

    stage.backward = reading
    assert_same_training(stage_of("gpt"), stage, TEXTS)
    assert "_local_scalar_dense: operation not permitted" in said[0]


def test_only_so_many_graphs_are_captured() -> None:
    said: list[str] = []
    stage = captured(stage_of("gpt"), log=said.append)
    lengths = range(6, 6 + 3 * (GRAPHS_PER_SHAPE + 2), 3)
    trained(stage, [[text_batch([length])] * (WARM_UPS + 1) for length in lengths])
    assert len(SimulatedGraph.made) == GRAPHS_PER_SHAPE
    assert said == [f"CUDA graphs: {GRAPHS_PER_SHAPE} are captured, batches of other sizes go without"]


def test_another_precision_is_captured_anew() -> None:
    stages = stage_of("gpt", "bf16"), captured(stage_of("gpt", "bf16"))
    for stage in stages:
        stage.precision.fp32_steps = 1
        trained(stage, TEXTS)
        stage.precision.step_number = 1
        trained(stage, TEXTS)
    assert_same(stages[1].state_dict(), stages[0].state_dict())
    assert len(SimulatedGraph.made) == 2


def test_graphs_are_given_up_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = captured(stage_of("gpt"))
    trained(stage, TEXTS)
    update = stage.update

    def tight(parts: list[Any]) -> dict[str, Tensor]:
        if len(parts) == 2:
            raise torch.OutOfMemoryError("no room")
        return update(parts)

    monkeypatch.setattr(stage, "update", tight)
    stage.step(TEXTS[0])
    whole, half = SimulatedGraph.made
    assert whole.replays == 2 * len(TEXTS) - WARM_UPS
    assert [of.graphs for of in stage._passes._captured.values()] == [[half]], "the memory of the other one is free"
    assert half.replays == 4 - WARM_UPS, "halves of batches, four a step, are captured in its place"


def test_gradients_stay_where_they_are() -> None:
    stage = captured(stage_of("gpt"))
    places = []
    for batches in TEXTS:
        stage.step(batches)
        places.append([p.grad.data_ptr() for p in stage.model.parameters() if p.grad is not None])
    assert places[0] == places[-1] and len(places[0]) > 20
    assert stage.model.bert_proj.weight.grad is None, "what no pass computes has no gradient, and is not updated"


def test_positions_stay_where_graphs_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt, "FIRST_POSITIONS", 8)
    position = gpt.SinePosition(0.0)
    position(torch.zeros(1, 8, 4))
    read = weakref.ref(position._known)
    position(torch.zeros(1, 20, 4))
    assert len(position._known) == 20 and read() is not None
