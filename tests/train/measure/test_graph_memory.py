"""What CUDA graphs would keep: told from shapes, and the same as what simulated graphs keep."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest

from headrace.train.measure.graph_memory import InputCounter, captured_shapes
from headrace.train.stages.cuda_graphs import GRAPHS_PER_SHAPE, WARM_UPS, GraphedPasses
from headrace.train.stages.stage import Stage
from tests.helpers.gpt_steps import gpt_stage, text_batch
from tests.helpers.sovits_steps import sovits_stage, speech_batch
from tests.train.stages.simulated_graphs import SimulatedGraph

STEP = {"gpt": [text_batch([60, 48])], "sovits": [speech_batch([40, 36])]}


def stage_of(kind: str) -> Stage:
    return gpt_stage() if kind == "gpt" else sovits_stage()


def tensor_bytes(inputs: Any) -> int:
    values = [getattr(inputs, field.name) for field in fields(inputs)]
    return sum(tensor_bytes(of) if is_dataclass(of) else getattr(of, "nbytes", 0) for of in values)


@pytest.mark.parametrize("kind", ["gpt", "sovits"])
def test_inputs_are_those_that_graphs_keep(kind: str) -> None:
    planned, counter = stage_of(kind), InputCounter()
    planned.capture_passes(counter)
    planned.allocate()
    planned.step(STEP[kind])
    stage, passes = stage_of(kind), GraphedPasses(1, print, SimulatedGraph)
    stage.capture_passes(passes)
    stage.allocate()
    for _ in range(WARM_UPS + 1):
        stage.step(STEP[kind])
    (captured,) = passes._captured.values()
    assert counter.bytes == tensor_bytes(captured.inputs) > 0


def test_shapes_that_come_often_are_captured_and_no_more_than_there_may_be() -> None:
    utterances, frames = np.array([4, 4, 4, 2, 2, 1, 9]), np.array([50, 50, 50, 100, 100, 100, 10])
    assert captured_shapes(utterances, frames, 1, 2).tolist() == []
    assert captured_shapes(utterances, frames, 2, 2).tolist() == [[4, 50], [2, 100]]
    assert captured_shapes(utterances, frames, WARM_UPS, 2).tolist() == [[4, 50], [2, 100]]
    assert sorted(captured_shapes(utterances, frames, WARM_UPS + 1, 2).tolist()) == [
        [1, 100],
        [2, 100],
        [4, 50],
        [9, 10],
    ]
    many = np.arange(1, 12)
    assert len(captured_shapes(many, many, 9, 2)) == 2 * GRAPHS_PER_SHAPE
