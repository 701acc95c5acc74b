"""Processes that share a model make the update that one makes, and a run goes on by another form."""

from __future__ import annotations

from collections.abc import Mapping
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
from headrace.train.stages.microbatch import MicrobatchRunner
from tests.helpers.gpt_steps import text_batch
from tests.helpers.training_store import build
from tests.train.distributed.ranks import run_ranks
from tests.train.distributed.shared_models import PIECES, compute

CLOSE = 1e-5
"""Relative difference of gradients, by network."""
CLOSE_WEIGHTS = 1e-4
"""Relative difference of weights after some updates. AdamW's first steps are as large for gradients that are nothing
but rounding as for others."""
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


def check_form(out: Path, form: str, world: int, want: dict[str, Any], steps: int) -> None:
    """Compare what the processes computed with what one process does."""
    for rank in range(world):
        found = torch.load(out / f"{form}-{rank}.pt", weights_only=True)
        assert found["update"]["terms"] == pytest.approx(want["update"]["terms"], rel=1e-5, abs=1e-6)
        relative = differences(found["update"]["gradients"], want["update"]["gradients"])
        print(form, world, relative)
        assert len(relative) == 3 and max(relative.values()) < CLOSE
        assert found["infinite"] == want["infinite"] == {"unchanged": True, "skipped": 1.0, "scale": 32768.0}
    if steps:
        found = torch.load(out / f"{form}-0.pt", weights_only=True)
        for stage in ("sovits", "gpt"):
            relative = differences(found["after"][stage], want["after"][stage])
            print(form, world, stage, steps, relative)
            assert max(relative[name] for name in relative if name in NETWORKS) < CLOSE_WEIGHTS


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
    check_form(tmp_path, "fsdp", 2, compute("dp", 2, 0), 0)
    check_runs(tmp_path, 6, ("gpt",))


@pytest.mark.soak
@pytest.mark.parametrize(("world", "forms"), [(2, ["fsdp"]), (4, ["fsdp", "hsdp:2x2"])])
def test_a_hundred_steps_end_with_the_same_weights(tmp_path: Path, world: int, forms: list[str]) -> None:
    build(tmp_path / "store")
    run_ranks("tests.train.distributed.shared_models", world, tmp_path, 100, *forms, timeout_s=3000)
    want = compute("dp", world, 100)
    for form in forms:
        check_form(tmp_path, form, world, want, 100)
    check_runs(tmp_path, 2 * (len(forms) + 2))


def test_what_does_not_fit_is_not_tried_again() -> None:
    def fail(_: object) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(RunError, match=r"in 1 pieces does not fit.*--resume --microbatches 2"):
        MicrobatchRunner(tries_again=False).run([text_batch([6, 9])], fail)


def test_forms() -> None:
    assert parse_form("dp").sizes(8) == (8, 1)
    assert parse_form("fsdp").sizes(8) == (1, 8)
    assert parse_form("hsdp:2x4").sizes(8) == (2, 4)
    for text in ("", "ddp", "hsdp", "hsdp:2", "hsdp:0x4", "hsdp:4x1", "fsdp:4"):
        with pytest.raises(UsageError, match="choose dp, fsdp or hsdp:RxS"):
            parse_form(text)
    with pytest.raises(UsageError, match="hsdp:2x4 is for 8 processes, and there are 4"):
        parse_form("hsdp:2x4").sizes(4)


@pytest.mark.parametrize(
    "options", [{"speeds": "auto"}, {"compile": True, "fixed_shapes": 4}, {"activations_8bit": True}, {"parallel": "x"}]
)
def test_what_needs_the_whole_model_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="parallel"):
        RunConfig.from_options(store=Path("s"), out=Path("o"), **{"parallel": "fsdp", **options})
