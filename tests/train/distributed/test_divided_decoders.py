"""What a run adds to the loss and the precision of a decoder is the same on processes that share it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.monitoring import metrics
from headrace.train.stages.pipeline import layer_costs
from headrace.train.trainer import loop
from tests.helpers.gpt_steps import SMALL_GPT
from tests.helpers.training_store import Silent, build
from tests.train.distributed.divided_decoders import CASES, LAYERS, OF_TP, config, update
from tests.train.distributed.ranks import run_ranks

CLOSE = 1e-5
"""Relative difference of gradients in float32."""


def distance(found: dict[str, Any], want: dict[str, Any]) -> float:
    """The norm of the difference of gradients relative to that of what is wanted."""
    assert found["gradients"].keys() == want["gradients"].keys()
    pairs = [(found["gradients"][name].double(), value.double()) for name, value in want["gradients"].items()]
    off, whole = (sum(float(x.square().sum()) for x in of) for of in ([a - b for a, b in pairs], [b for _, b in pairs]))
    return math.sqrt(off / whole)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made."""
    out = tmp_path_factory.mktemp("divided")
    build(out / "store")
    nothing = {"init": None, "voice": None, "samples": None, "validate_every": 0, "max_steps": 1}
    loop.start(config(out, "first").with_options(**nothing), Silent())
    loop.start(config(out, "voice").with_options(**nothing, stage="sovits"), Silent())
    run_ranks("tests.train.distributed.divided_decoders", 2, out)
    return out


@pytest.fixture(scope="module")
def ranks(shared: Path) -> list[dict[str, Any]]:
    """What each of them found."""
    return [torch.load(shared / f"{rank}.pt", weights_only=True) for rank in range(2)]


FORMS = [(name, form) for name, case in CASES.items() for form in case.forms]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), [(n, f) for n, f in FORMS if CASES[n].precision == "fp32"])
def test_an_update_in_float32_is_that_of_one_process(ranks: list[dict[str, Any]], name: str, form: str) -> None:
    want = update(name, "dp")
    for found in (of_rank[f"{name}, {form}"] for of_rank in ranks):
        print(name, form, distance(found, want))
        assert found["terms"] == pytest.approx(want["terms"], rel=1e-5)
        assert distance(found, want) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), [(n, f) for n, f in FORMS if CASES[n].precision != "fp32"])
def test_an_update_in_half_precision_is_off_by_its_rounding(ranks: list[dict[str, Any]], name: str, form: str) -> None:
    """Where one process rounds what a layer's products give once, `tp` rounds the shares of it, their sum, and the sum
    with the bias. These are three errors of that size at most, so their squares add up to three times as much. They are
    independent of the error of one process: the difference of both has four times its square."""
    exact, want = update("plain", "dp"), update(name, "dp")
    rounding = distance(want, exact)
    assert rounding > 1e-5 and not want["terms"]["skipped"]
    for found in (of_rank[f"{name}, {form}"] for of_rank in ranks):
        print(name, form, rounding, distance(found, exact), distance(found, want))
        assert rounding / 2 < distance(found, exact) < math.sqrt(3) * rounding
        assert distance(found, want) < 2 * rounding
        assert not found["terms"]["skipped"]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "options"), [("tp", OF_TP), ("pp", {})])
def test_a_run_that_shares_layers_is_that_of_one_process(shared: Path, form: str, options: dict[str, Any]) -> None:
    """It begins with given weights, with a teacher, and validates and speaks with all of them."""
    alone = config(shared, f"{form}-alone", teacher=shared / "first" if form == "tp" else None, **options)
    loop.start(alone, Silent())
    found, want = (metrics.read(shared / f"{form}-{name}" / "metrics.jsonl") for name in ("run", "alone"))
    assert [record["split"] for record in want] == ["validation", "train", "train", "validation"]
    assert ("loss_dpo" in want[1]) == ("loss_teacher" in want[1]) == (form == "tp")
    for ours, theirs in zip(found, want, strict=True):
        names = [name for name in theirs if name.startswith(("loss", "accuracy", "grad_norm", "utterances"))]
        assert {n: ours[n] for n in names} == pytest.approx({n: theirs[n] for n in names}, rel=1e-4, abs=1e-6)
    samples = [next((shared / f"{form}-{name}/samples/step-00000000").glob("*.wav")) for name in ("run", "alone")]
    assert samples[0].read_bytes() == samples[1].read_bytes()
    assert list((shared / f"{form}-run/samples/step-00000002").glob("*.wav"))


@pytest.mark.slow
@pytest.mark.parametrize("form", LAYERS)
def test_activation_checkpointing_computes_layers_again(ranks: list[dict[str, Any]], form: str) -> None:
    for of_rank in ranks:
        assert of_rank[f"bf16 and activation checkpointing, {form}"]["passed"] == 2 * of_rank[f"bf16, {form}"]["passed"]


@pytest.mark.slow
def test_stages_are_those_that_the_first_process_measures(ranks: list[dict[str, Any]]) -> None:
    assert [of_rank["stage"] for of_rank in ranks] == [[0], [0]]


@pytest.mark.slow
def test_shared_models_send_gradients_in_the_type_that_is_asked_for(ranks: list[dict[str, Any]]) -> None:
    want = update("plain", "dp")
    for of_rank in ranks:
        assert 1e-4 < distance({"gradients": of_rank["rounded"]}, want) < 2**-8


@pytest.mark.slow
def test_gathered_layers_are_given_up_after_a_pass(ranks: list[dict[str, Any]]) -> None:
    assert all(of_rank["in parts"] for of_rank in ranks)


@pytest.mark.slow
def test_shares_of_a_layer_draw_the_same_numbers_also_after_whole_models(ranks: list[dict[str, Any]]) -> None:
    assert torch.equal(*(of_rank["random"] for of_rank in ranks))


@pytest.mark.slow
def test_a_stage_that_does_not_fit_is_told(ranks: list[dict[str, Any]]) -> None:
    assert [of_rank["message"][:45] for of_rank in ranks] == ["", "A batch in 1 pieces does not fit into the dev"]


def test_measuring_layers_leaves_random_numbers_as_they_are() -> None:
    network = Text2SemanticDecoder(SMALL_GPT)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert len(layer_costs(network)) == SMALL_GPT.layers
    assert SMALL_GPT.dropout and torch.equal(before, torch.get_rng_state())
