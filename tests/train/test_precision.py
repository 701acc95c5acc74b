"""Precision: what of it a resumed run restores."""

from __future__ import annotations

import pytest
import torch

from headrace.train.precision import Precision

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
