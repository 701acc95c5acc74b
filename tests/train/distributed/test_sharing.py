"""Processes that share a model make the update that one makes, and a run goes on by another form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from headrace.store.errors import RunError, UsageError
from headrace.train.checkpoints.checkpoint import Checkpoints, load
from headrace.train.config import RunConfig
from headrace.train.distributed.replicas import named_tensors
from headrace.train.parallel_form import parse_form
from headrace.train.stages.gpt_inputs import prepare_inputs
from headrace.train.stages.microbatch import MicrobatchRunner
from headrace.train.stages.pipeline import balanced, check_stages, with_rows
from headrace.train.stages.tensor_parallel import check_divides
from headrace.train.trainer import loop
from tests.helpers.gpt_steps import SMALL_GPT, gpt_stage, text_batch
from tests.helpers.training_store import Silent, build
from tests.train.distributed.ranks import run_ranks
from tests.train.distributed.shared_models import (
    PIECES,
    after_steps,
    compute,
    config,
    decoder_after_steps,
    divides_layers,
)

CLOSE = 1e-5
"""Relative difference of gradients, by network."""
CLOSE_WEIGHTS = 1e-4
"""Relative difference of weights after some updates. AdamW's first steps are as large for gradients that are nothing
but rounding as for others."""
SEEDS = 0, 1, 2
NETWORKS = ("generator", "discriminator", "model")


def differences(found: Mapping[str, Any], want: Mapping[str, Any]) -> dict[str, float]:
    """The norm of the difference relative to that of what is wanted, by the first two parts of names."""
    of: dict[str, list[tuple[Tensor, Tensor]]] = {}
    others = dict(named_tensors(want))
    tensors = dict(named_tensors(found))
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.shape == others[name].shape
        pair = (tensor.double().flatten(), others[name].double().flatten())
        known = pair[1].isfinite()  # the first threshold of ScaledAdam is infinite
        assert torch.equal(pair[0][~known], pair[1][~known])
        of.setdefault(name.partition(".")[0], []).append((pair[0][known], pair[1][known]))
    return {
        name: float(torch.cat([a - b for a, b in pairs]).norm() / torch.cat([b for _, b in pairs]).norm())
        for name, pairs in of.items()
    }


def of_networks(gradients: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the networks that others are of: forms that divide layers are for the decoder alone."""
    networks = {name.partition(".")[0] for name in others}
    return {name: value for name, value in gradients.items() if name.partition(".")[0] in networks}


def check_form(out: Path, form: str, world: int, want: dict[str, Any]) -> None:
    """Compare what the processes computed of one update with what one process does."""
    for rank in range(world):
        found = torch.load(out / f"{form}-{rank}.pt", weights_only=True)
        terms, gradients = found["update"]["terms"], found["update"]["gradients"]
        assert terms == pytest.approx({name: want["update"]["terms"][name] for name in terms}, rel=1e-5, abs=1e-6)
        assert {"loss", "grad_norm", "accuracy"} <= terms.keys()
        relative = differences(gradients, of_networks(want["update"]["gradients"], gradients))
        print(form, world, relative)
        assert len(relative) == (1 if divides_layers(form) else 3) and max(relative.values()) < CLOSE
        assert found["infinite"] == want["infinite"] == {"unchanged": True, "skipped": 1.0, "scale": 32768.0}


def check_steps(out: Path, form: str, want: dict[str, Any], rounded: Sequence[dict[str, Any]]) -> None:
    """Compare the weights after some updates with those of one process.

    A ReLU whose input is nearly zero passes a gradient or not, by the last bit, and what follows differs.

    Args:
        rounded: the states of one process whose first weights differ in their last bit.
    """
    found = torch.load(out / f"{form}-0.pt", weights_only=True)["after"]
    for stage, state in found.items():
        relative = differences(state, want[stage])
        by_rounding = [differences(one[stage], want[stage]) for one in rounded]
        print(form, stage, relative, by_rounding)
        for name in relative.keys() & set(NETWORKS):
            # Processes round in every step, and not only in the first one.
            assert relative[name] < max(CLOSE_WEIGHTS, *[2 * one[name] for one in by_rounding])


def check_runs(out: Path, steps: int, stages: tuple[str, ...] = ("sovits", "gpt")) -> None:
    """Compare the run that went from form to form with the one that did not."""
    for stage in stages:
        runs = [out / f"{stage}-{name}" / "checkpoints" for name in ("across", "whole")]
        across, whole = (load(Checkpoints(run).path(steps)) for run in runs)
        relative = differences(across["stage"], whole["stage"])
        print(stage, steps, relative)
        assert max(relative[name] for name in relative if name in NETWORKS) < CLOSE_WEIGHTS
        assert across["stream"] == whole["stream"]
        assert across["pieces"] == whole["pieces"] == PIECES
        assert across["stage"].keys() == whole["stage"].keys()
        of_ranks = [torch.load(out / f"trained-{rank}.pt", weights_only=True)[stage] for rank in range(2)]
        validations = [r for r in of_ranks[0]["records"] if r["split"] == "validation"]
        assert len(validations) == steps // 2
    assert "sovits" not in stages or list((out / "sovits-across" / "samples").glob("step-*/*.wav"))


@pytest.mark.slow
def test_two_processes_share_a_model(tmp_path: Path) -> None:
    build(tmp_path / "store")
    run_ranks("tests.train.distributed.shared_models", 2, tmp_path, 0, "fsdp")
    check_form(tmp_path, "fsdp", 2, compute("dp", 2, 0))
    check_runs(tmp_path, 6, ("gpt",))


@pytest.mark.soak
@pytest.mark.parametrize(("world", "forms"), [(2, ["fsdp"]), (4, ["fsdp", "hsdp:2x2"])])
def test_a_hundred_steps_end_with_the_same_weights(tmp_path: Path, world: int, forms: list[str]) -> None:
    build(tmp_path / "store")
    run_ranks("tests.train.distributed.shared_models", world, tmp_path, 100, *forms, timeout_s=3000)
    want, rounded = compute("dp", world, 100), [after_steps("dp", world, 100, seed=seed) for seed in SEEDS]
    for form in forms:
        check_form(tmp_path, form, world, want)
        check_steps(tmp_path, form, want["after"], rounded)
    check_runs(tmp_path, 2 * (len(forms) + 2))


def check_run_of_layers(out: Path, steps: int) -> None:
    """Compare the run that went from form to form with one of a single process, which then goes on where it ended."""
    alone = config("gpt", out / "store", out / "gpt-alone").with_options(max_steps=steps)
    loop.start(alone, Silent())
    across, whole = (load(Checkpoints(out / name / "checkpoints").path(steps)) for name in ("gpt-across", "gpt-alone"))
    relative = differences(across["stage"], whole["stage"])
    print(relative)
    assert max(relative[name] for name in relative if name in NETWORKS) < CLOSE_WEIGHTS
    assert across["stream"] == whole["stream"]
    loop.resume(out / "gpt-across", {"parallel": "dp", "max_steps": steps + 2}, Silent())
    records = torch.load(out / "trained-0.pt", weights_only=True)["gpt"]["records"]
    train = [record for record in records if record["split"] == "train"]
    kept = [json.loads(line) for line in (out / "gpt-alone" / "metrics.jsonl").read_text().splitlines()]
    of_alone = [record for record in kept if record["split"] == "train"]
    assert [(r["utterances"], r["frames"]) for r in train] == [(r["utterances"], r["frames"]) for r in of_alone]
    assert [r["loss"] for r in train] == pytest.approx([r["loss"] for r in of_alone], rel=1e-4)


LAYERS = ["tp:2", "pp:2x3", "pp:2x4-gpipe", "pp:2x2-interleaved"]


@pytest.mark.slow
def test_two_processes_divide_the_layers_of_a_decoder(tmp_path: Path) -> None:
    build(tmp_path / "store")
    run_ranks("tests.train.distributed.shared_models", 2, tmp_path, 0, *LAYERS)
    want = compute("dp", 1, 0)
    for form in LAYERS:
        check_form(tmp_path, form, 2, want)
    check_run_of_layers(tmp_path, 2 * (len(LAYERS) + 1))


@pytest.mark.soak
@pytest.mark.parametrize(("world", "forms"), [(2, LAYERS), (4, ["tp:2", "pp:2x3", "pp:4x4", "pp:2x4-interleaved"])])
def test_a_hundred_steps_of_divided_layers_end_with_the_same_weights(
    tmp_path: Path, world: int, forms: list[str]
) -> None:
    run_ranks("tests.train.distributed.shared_models", world, tmp_path, 100, *forms, timeout_s=3000)
    for form in forms:
        readers = world // parse_form(form.partition("-")[0]).readers_share
        check_form(tmp_path, form, world, compute("dp", readers, 0))
        want, *rounded = (decoder_after_steps(readers, 100, seed=seed) for seed in (None, *SEEDS))
        check_steps(tmp_path, form, want, rounded)


def test_what_does_not_fit_is_not_tried_again() -> None:
    def fail(_: object) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(RunError, match=r"in 1 pieces does not fit.*--resume --microbatches 2"):
        MicrobatchRunner(tries_again=False).run([text_batch([6, 9])], fail)


def test_forms() -> None:
    assert parse_form("dp").sizes(8) == (8, 1)
    assert parse_form("fsdp").sizes(8) == (1, 8)
    assert parse_form("hsdp:2x4").sizes(8) == (2, 4)
    assert parse_form("tp:2").sizes(8) == parse_form("pp:2x3").sizes(8) == (4, 2)
    assert (parse_form("pp:2x3").microbatches, parse_form("pp:3").microbatches) == (3, 6)
    assert [parse_form(text).readers_share for text in ("dp", "fsdp", "hsdp:2x4", "tp:2", "pp:4x8")] == [1, 1, 1, 2, 4]
    assert [parse_form(text).noise_share for text in ("dp", "fsdp", "hsdp:2x4", "tp:2", "pp:4x8")] == [1, 1, 1, 2, 1]
    for text in (
        "",
        "ddp",
        "hsdp",
        "hsdp:2",
        "hsdp:0x4",
        "hsdp:4x1",
        "fsdp:4",
        "tp",
        "tp:1",
        "pp:1x2",
        "pp:2x0",
        "tp:٢",
    ):
        with pytest.raises(UsageError, match="choose dp, fsdp, hsdp:RxS, tp:N or pp:SxM"):
            parse_form(text)
    with pytest.raises(UsageError, match="tp:3 is for 3 processes, or a multiple of that, and there are 4"):
        parse_form("tp:3").sizes(4)
    with pytest.raises(UsageError, match="hsdp:2x4 is for 8 processes, and there are 4"):
        parse_form("hsdp:2x4").sizes(4)


@pytest.mark.parametrize(
    "options", [{"speeds": "auto"}, {"compile": True, "fixed_shapes": 4}, {"activations_8bit": True}, {"parallel": "x"}]
)
def test_what_needs_the_whole_model_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="parallel"):
        RunConfig.from_options(store=Path("s"), out=Path("o"), **{"parallel": "fsdp", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parallel": "tp:2", "stage": "sovits"}, "parallel tp:2 divides the layers of gpt: sovits has fsdp"),
        ({"parallel": "pp:2", "stage": "gpt", "dpo": True}, "dpo needs the whole model"),
        ({"parallel": "pp:2", "stage": "gpt", "upstream_mask": True}, "upstream_mask needs the whole model"),
        ({"parallel": "pp:2", "stage": "gpt", "teacher": Path("t")}, "teacher needs the whole model"),
        ({"parallel": "pp:2", "stage": "gpt", "pipeline_schedule": "x"}, "pipeline_schedule is 'x'; choose from gpipe"),
    ],
)
def test_what_divided_layers_cannot_do_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RunConfig.from_options(store=Path("s"), out=Path("o"), **options)


def test_what_cannot_be_divided_is_refused() -> None:
    check_divides(SMALL_GPT, 2)
    with pytest.raises(UsageError, match="this model has 2 attention heads"):
        check_divides(SMALL_GPT, 4)
    with pytest.raises(UsageError, match="this model has 63 hidden channels"):
        check_divides(replace(SMALL_GPT, feed_forward_channels=63), 2)
    with pytest.raises(UsageError, match="makes 4 stages, and this model has 2 layers"):
        check_stages(2, 2, "interleaved", 4)
    with pytest.raises(UsageError, match=r"--parallel says 3: give pp:4x8"):
        check_stages(8, 4, "1f1b", 3)
    with pytest.raises(UsageError, match=r"--parallel says 6: give pp:4x8"):
        check_stages(8, 4, "interleaved", 6)
    check_stages(8, 4, "gpipe", 1)


@pytest.mark.parametrize(
    ("costs", "stages", "bounds"),
    [
        ([1, 1, 1, 1], 2, [0, 2, 4]),
        ([3, 1, 1, 1], 2, [0, 1, 4]),
        ([1, 1, 1, 4], 2, [0, 3, 4]),
        ([1, 1, 1, 1, 1], 5, [0, 1, 2, 3, 4, 5]),
        ([2, 1, 1, 1, 1, 2], 3, [0, 2, 4, 6]),
    ],
)
def test_the_slowest_stage_takes_as_little_as_it_can(costs: list[float], stages: int, bounds: list[int]) -> None:
    found = balanced(costs, stages)
    slowest = max(sum(costs[first:last]) for first, last in pairwise(found))
    assert slowest == max(sum(costs[first:last]) for first, last in pairwise(bounds))
    assert found[0] == 0 and found[-1] == len(costs) and sorted(set(found)) == found


def test_added_rows_count_nothing() -> None:
    gpt = gpt_stage(replace(SMALL_GPT, dropout=0.0))
    inputs = prepare_inputs(text_batch([7, 12, 3]))
    wanted, sums = gpt._likelihood(inputs)
    found, of_all = gpt._likelihood(with_rows(inputs, 8))
    assert len(found) == 8 and torch.equal(found[3:], torch.zeros(5))
    assert torch.allclose(found[:3], wanted, rtol=1e-5)
    assert {name: float(value) for name, value in of_all.items()} == pytest.approx(
        {name: float(value) for name, value in sums.items()}, rel=1e-5
    )
