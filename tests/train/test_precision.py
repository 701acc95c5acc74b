"""Precision: what of it a resumed run restores."""

from __future__ import annotations

import pytest
import torch

from headrace.train.precision import Precision

HUGE = 2e19
"""Its square is more than float32 can hold."""
INITIAL_SCALE = 2.0**16
"""The loss scale that torch's GradScaler starts with."""


def precision(name: str) -> Precision:
    return Precision(name, "as asked", torch.device("cpu"))


def test_a_resumed_run_restores_its_loss_scale() -> None:
    state = precision("fp16").state_dict()
    state["scaler"]["scale"] = 1024.0
    resumed = precision("fp16")
    assert resumed.scaler.get_scale() == INITIAL_SCALE
    resumed.load_state_dict(state)
    assert resumed.scaler.get_scale() == 1024.0
    assert resumed.state_dict()["scaler"]["scale"] == 1024.0


@pytest.mark.parametrize("before", ["fp32", "bf16"])
def test_a_run_resumed_in_float16_starts_with_the_initial_loss_scale(before: str) -> None:
    resumed = precision("fp16")
    resumed.load_state_dict(precision(before).state_dict())
    assert resumed.scaler.get_scale() == INITIAL_SCALE


def test_a_run_that_leaves_float16_has_no_loss_scale() -> None:
    resumed = precision("bf16")
    resumed.load_state_dict(precision("fp16").state_dict())
    assert not resumed.scaler.is_enabled() and resumed.scaler.get_scale() == 1.0


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_a_norm_that_overflows_changes_no_weight(name: str) -> None:
    """Though each element of the gradient is finite. That is not because of the loss scale, which stays."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    made = precision(name)
    skipped = []
    for size in (1.0, HUGE, 1.0):
        before = weight.detach().clone()
        weight.grad = made.scaler.scale(torch.full((3,), size))
        result = made.step(optimizer, 1.0)
        made.scaler.update()
        skipped.append(bool(result.skipped))
        assert torch.equal(weight, before) == skipped[-1] and bool(weight.isfinite().all())
    assert skipped == [False, True, False]
    assert made.scaler.get_scale() == (INITIAL_SCALE if name == "fp16" else 1.0)


def test_the_norm_is_that_of_the_unscaled_gradient() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    made = precision("fp16")
    weight.grad = made.scaler.scale(torch.tensor([3.0, 4.0]))
    assert float(made.step(torch.optim.AdamW([weight], fused=True), 0.0).norm) == 5.0
