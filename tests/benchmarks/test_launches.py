"""Kernels that an update launches, as they are counted without a CUDA device; and that none waits for one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import launches
from benchmarks.launches import featurizing
from benchmarks.launches.fused import CompiledKernels, CountedGraph, loop_nests
from headrace.featurize.spectral import cuda_engine
from headrace.featurize.spectral.dsp import SpectralRecipe
from headrace.train.data.batch import Batch
from headrace.train.precision import Precision
from headrace.train.stages.cuda_graphs import WARM_UPS, GraphedPasses
from headrace.train.stages.scaled_adam import ScaledAdam
from headrace.train.stages.stage import Stage
from tests.helpers.gpt_steps import CPU, GPT_OPTIM, SMALL_GPT, gpt_stage, text_batch
from tests.helpers.sovits_steps import sovits_stage, speech_batch

GPT_UPDATE = 3840
"""Launches of an update of 24 layers from four batches. GPT-SoVITS' own takes 6,726 in the sizes of v2."""
UPSTREAMS_GPT = 6726
SOVITS_UPDATE = 1560
"""Of the small model."""
STEPS = (34, 43, 43, 60)
"""Of ScaledAdam, in four steps in a row: in the last one, sizes of tensors are updated."""


@pytest.fixture(autouse=True)
def as_on_cuda() -> Iterator[None]:
    with launches.as_on_cuda():
        yield


def gpt(precision: str = "fp32", layers: int = 2) -> Stage:
    return gpt_stage(replace(SMALL_GPT, layers=layers), replace(GPT_OPTIM, grad_accum=4), as_asked(precision))


def sovits(precision: str = "fp32") -> Stage:
    return sovits_stage(precision=as_asked(precision))


def as_asked(name: str) -> Precision:
    """Return a precision, fp16 too, which no CPU is given otherwise."""
    return Precision(name, "as asked", CPU)


def batches(stage: Stage) -> list[Batch]:
    return [text_batch([12, 9])] * 4 if stage.features[1] == "semantic" else [speech_batch([30, 22])]


def test_launches_of_an_update_of_gpt() -> None:
    stage = gpt(layers=24)
    assert launches.count(lambda: stage.step(batches(stage))).total <= GPT_UPDATE


def test_launches_of_an_update_of_sovits() -> None:
    stage = sovits()
    assert launches.count(lambda: stage.step(batches(stage))).total <= SOVITS_UPDATE


def test_launches_of_scaled_adam() -> None:
    shapes = [(32, 48)] * 290 + [(1,)] * 2
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = ScaledAdam(parameters)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.found_inf = torch.zeros(())
    optimizer.allocate()
    for most in STEPS:
        with launches.LaunchCounter() as counter:
            optimizer.step()
        assert counter.total <= most
        assert not counter.synchronisations


@pytest.mark.parametrize("make", [gpt, sovits])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_update_synchronises_with_the_device(make, precision: str) -> None:
    stage = make(precision)
    found = launches.count(lambda: stage.step(batches(stage)))
    assert not found.synchronisations, found.synchronisations


@pytest.mark.parametrize("make", [gpt, sovits])
def test_one_value_that_is_read_is_found(make, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make()
    update = stage.precision._update

    def waiting(*given):
        result = update(*given)
        result.norm.item()
        return result

    monkeypatch.setattr(stage.precision, "_update", waiting)
    assert launches.count(lambda: stage.step(batches(stage))).synchronisations["_local_scalar_dense"] > 0


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda x: bool(x.sum()), "_local_scalar_dense"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 0], "index"),
        (lambda x: x.masked_select(x > 0), "masked_select"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "cpu"),
    ],
)
def test_what_reads_values_is_counted(read, name: str) -> None:
    with launches.LaunchCounter() as counter:
        read(torch.arange(5.0))
    assert counter.synchronisations[name] > 0


@pytest.mark.parametrize(
    ("sizes", "depth", "expected"),
    [
        ([512] * 110, 1, 1),
        ([512] * 111, 1, 2),
        ([512] * 292, 2, 5),
        ([65_536 * 320], 1, 1),
        ([65_536 * 320 + 1], 1, 2),
        ([65_536 * 319, 65_536 * 2], 1, 2),
        ([], 1, 0),
    ],
)
def test_launches_of_operators_on_lists(sizes: list[int], depth: int, expected: int) -> None:
    assert launches.multi_tensor_launches(sizes, depth) == expected


def test_views_and_empty_tensors_are_no_launch() -> None:
    x: Tensor = torch.zeros(4, 6)
    with launches.LaunchCounter() as counter:
        x.view(24)[2:].detach().unsqueeze(0).expand(3, -1)
        torch.empty_like(x)
        torch._foreach_mul_([torch.empty(3, device="meta")] * 70, 2.0)
    assert counter.total == counter.launches["_foreach_mul_"] == 1


@pytest.mark.parametrize("make", [gpt, sovits])
def test_an_update_in_graphs_is_a_quarter_of_upstreams_launches_at_most(make) -> None:
    """Of sovits' small model, a quarter of what the same model launches without, which is less than upstream's."""
    eager = launches.count(lambda: make().step(batches(make()))).total if make is sovits else UPSTREAMS_GPT
    stage = make(layers=24) if make is gpt else make()
    stage.capture_passes(GraphedPasses(1, print, CountedGraph))
    for _ in range(WARM_UPS + 1):
        stage.step(batches(stage))
    before = CountedGraph.replays
    with launches.LaunchCounter() as found:
        stage.step(batches(stage))
    replays = CountedGraph.replays - before
    assert replays == (4 if make is gpt else 2)
    assert found.total + replays <= eager / 4
    assert not found.synchronisations


def test_loops_of_generated_kernels() -> None:
    source = "void kernel() { { for(x) { for(y) { a; } } } { for(x) { b; } for(z) c; } auto before(int); }"
    assert loop_nests(source) == 3


@pytest.mark.soak
def test_generated_kernels_are_counted_when_they_run() -> None:
    kernels = CompiledKernels()
    with kernels.counted():
        compiled = torch.compile(lambda x, y: torch.relu(x @ y + 1) * 2)
        x = torch.ones(4, 4)
        compiled(x, x)
        assert kernels.launches > 0
        kernels.launches = 0
        with launches.LaunchCounter() as found:
            compiled(x, x)
    assert kernels.launches == 1 and found.launches == {"mm": 1}


def test_featurizing_launches_seven_kernels_for_a_chunk_of_frames() -> None:
    recipe = SpectralRecipe()
    waves = [np.zeros(recipe.hop * cuda_engine.CHUNK_FRAMES * chunks - 10 * recipe.hop, np.int16) for chunks in (1, 9)]
    one, nine = (featurizing.counted([wave], recipe) for wave in waves)
    assert nine["launches"] - one["launches"] == 8 * 7
    assert one["launches"] <= 7 + 12 and not nine["synchronisations"]
    assert nine["batches"] == 1 and one["copies"] >= 4


def test_two_batches_are_in_flight_beside_the_one_that_is_submitted() -> None:
    recipe = SpectralRecipe()
    found = featurizing.counted([np.zeros(recipe.hop * 64, np.int16)] * 5, recipe)
    assert found["batches"] == 1
    with mock.patch.object(cuda_engine, "BATCH_SAMPLES", recipe.hop * 64):
        found = featurizing.counted([np.zeros(recipe.hop * 64, np.int16)] * 5, recipe)
    assert found["batches"] == 5 and found["batches in flight"] == 3


def test_hubert_launches_as_much_for_eight_utterances_as_for_two() -> None:
    """Where a batch has few shapes; else each utterance launches its own convolutions."""
    waves = [np.random.default_rng(n).standard_normal(16_000 + 40 * n).astype(np.float32) for n in range(8)]
    two, eight = (featurizing.counted_content(waves[:count]) for count in (2, 8))
    assert two["launches"] == eight["launches"] > 0 and eight["batches"] == eight["shapes"] == 1
    assert eight["padded"] == 8 * 64 / sum(len(wave) // 320 for wave in waves)
    assert featurizing.counted_content(waves, "cpu")["launches"] > eight["launches"]
