"""ScaledAdam and learning rates: the reference's numbers, and the laws that they obey."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headrace.train.stages.gpt_optimizer import published_rate, warmup_cosine
from headrace.train.stages.scaled_adam import ScaledAdam
from tests.helpers.golden_recipe import normal

SHAPES = (((4, 3), 0.5), ((4, 3), 5.0), ((7,), 1e-6), ((1,), 1.0), ((2, 3, 2), 0.1))
"""Shapes and scales of the reference's parameters: ordinary, too large, too small, a scalar."""


def parameters() -> list[nn.Parameter]:
    return [
        nn.Parameter(torch.from_numpy(normal(f"sa.p{number}", shape, std)))
        for number, (shape, std) in enumerate(SHAPES)
    ]


@pytest.mark.parametrize("in_one_block", [False, True])
@pytest.mark.parametrize(("tag", "period", "steps"), [("sa1000", 1000, 12), ("sa8", 8, 40)])
def test_steps_match_the_reference(golden: Path, tag: str, period: int, steps: int, in_one_block: bool) -> None:
    want, at = np.load(golden / "s1_golden.npz"), parameters()
    optimizer, compared = ScaledAdam(at, lr=0.02, clipping_period=period, in_one_block=in_one_block), 0
    for step in range(steps):
        for number, (shape, _) in enumerate(SHAPES):
            gradient = torch.from_numpy(normal(f"sa.g{number}.{step}", shape, 30 if step % 10 == 0 else 1))
            at[number].grad = None if (number, step) == (1, 3) else gradient
        optimizer.step()
        for number, parameter in enumerate(at):
            if (name := f"{tag}.p{number}.t{step}") in want:
                np.testing.assert_allclose(parameter.detach(), want[name], rtol=0, atol=1e-6, err_msg=name)
                compared += 1
    assert compared == sum(name.startswith(f"{tag}.") for name in want)


def test_many_steps_follow_the_definition() -> None:
    """For equal elements and gradients of 1, sizes not learnt: a recursion in four numbers."""
    tensor = nn.Parameter(torch.ones(3, 2))
    optimizer = ScaledAdam([tensor], lr=0.005, scalar_rate=0.0)
    value, size, delta, v = 1.0, 1.0, 0.0, 0.0
    for step in range(160):
        tensor.grad = torch.ones(3, 2)
        optimizer.step()
        v = 0.95 * v + 0.05
        size = abs(value) if step % 4 == 3 else size
        correction = 1 - 0.95 ** (step + 1)
        unbiased = v / correction if correction < 0.99 else v  # from step 89 on: 0.5 % there
        delta = 0.9 * delta - 0.1 * 0.005 * size / (math.sqrt(unbiased) + 1e-8)
        value += delta
    assert tensor.detach().numpy() == pytest.approx(value, rel=1e-5)


def gradients(at: list[nn.Parameter], step: int) -> None:
    torch.manual_seed(step)
    for parameter in at:
        parameter.grad = torch.randn_like(parameter)


@pytest.mark.parametrize("in_one_block", [False, True])
def test_a_resumed_optimiser_is_bit_identical(in_one_block: bool) -> None:
    straight, resumed = parameters(), parameters()
    one = ScaledAdam(straight, lr=0.02, clipping_period=4, in_one_block=in_one_block)
    for step in range(9):
        gradients(straight, step)
        one.step()
    other = ScaledAdam(resumed, lr=0.5, in_one_block=in_one_block)
    gradients(resumed, 0)
    other.step()  # what it has by then is replaced
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for of, to in zip(straight, resumed, strict=True):
        to.data.copy_(of.data)
    for step in range(9, 20):
        for at, optimizer in ((straight, one), (resumed, other)):
            gradients(at, step)
            optimizer.step()
    for made, want in zip(resumed, straight, strict=True):
        assert torch.equal(made, want)


def test_a_step_is_relative_to_the_size_of_the_tensor() -> None:
    """The same tensor a thousand times as large, with gradients of any scale, moves a thousand times as far."""
    torch.manual_seed(0)
    small = nn.Parameter(torch.randn(5, 5) * 1e-3)
    large = nn.Parameter(small.detach() * 1000)
    start = small.detach().clone()
    optimizers = [ScaledAdam([tensor], lr=0.02) for tensor in (small, large)]
    for step in range(6):
        torch.manual_seed(step)
        gradient = torch.randn(5, 5)
        small.grad, large.grad = gradient, gradient * 17
        for optimizer in optimizers:
            optimizer.step()
    assert (small - start).abs().max() > 1e-5
    torch.testing.assert_close(large.detach(), small.detach() * 1000, rtol=1e-4, atol=1e-4)


def test_a_quadratic_is_minimised() -> None:
    torch.manual_seed(0)
    target, matrix, scalar = torch.randn(6, 4), nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.zeros(1))
    optimizer = ScaledAdam([matrix, scalar], lr=0.05)
    for step in range(800):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 800)
        optimizer.zero_grad()
        ((matrix - target).square().sum() + (scalar - 1).square().sum()).backward()
        optimizer.step()
    assert (matrix - target).abs().max() < 0.05
    assert abs(float(scalar.detach()) - 1) < 0.05


@pytest.mark.parametrize("in_one_block", [False, True])
@pytest.mark.parametrize("step", [1, 3])
def test_a_gradient_that_is_not_finite_changes_nothing(in_one_block: bool, step: int) -> None:
    """No parameter, and no mean of gradients; not where sizes are due either."""
    at = parameters()
    optimizer = ScaledAdam(at, lr=0.02, in_one_block=in_one_block)
    for number in range(step):
        gradients(at, number)
        optimizer.step()
    before, state = [parameter.detach().clone() for parameter in at], copy.deepcopy(optimizer.state_dict()["state"])
    at[0].grad.fill_(math.nan)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    for parameter, old in zip(at, before, strict=True):
        assert torch.equal(parameter, old)
    after = optimizer.state_dict()
    for number, of_parameter in state.items():
        for name in ("delta", "exp_avg_sq"):
            assert torch.equal(after["state"][number][name], of_parameter[name])
    assert all(value.isfinite().all() for name, value in after["state"][0].items() if name != "threshold")
    assert torch.equal(after["state"][0]["norms"], state[0]["norms"])
    assert after["param_groups"][0]["step"] == step + 1
    optimizer.found_inf = torch.zeros(())
    gradients(at, 5)
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in at) and not torch.equal(at[0], before[0])


def test_blocks_of_one_tensor_and_of_all_make_the_same_steps() -> None:
    """From a state of either kind: a checkpoint continues on another device."""
    single, together = parameters(), parameters()
    made = [ScaledAdam(at, lr=0.02, in_one_block=at is together) for at in (single, together)]
    for step in range(12):
        for at, optimizer in zip((single, together), made, strict=True):
            gradients(at, step)
            optimizer.step()
        if step == 5:
            states = [copy.deepcopy(optimizer.state_dict()) for optimizer in made]
            for optimizer, state in zip(made, reversed(states), strict=True):
                optimizer.load_state_dict(state)
        for one, other in zip(single, together, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_scalars_keep_their_bias_correction_in_late_steps() -> None:
    """Where that of tensors is left out, in a block of both kinds as in one of its own."""
    deltas = []
    for in_one_block in (False, True):
        at = parameters()
        optimizer = ScaledAdam(at, lr=0.02, in_one_block=in_one_block)
        optimizer.param_groups[0]["step"] = 95
        gradients(at, 0)
        optimizer.step()
        deltas.append(torch.cat([optimizer.state[parameter]["delta"].flatten() for parameter in at]))
    torch.testing.assert_close(*deltas, rtol=1e-4, atol=0)


def test_learning_rates_match_the_reference(golden: Path) -> None:
    facts = json.loads((golden / "samplers_lr.json").read_text())["lr_s1"]
    # What the reference's scheduler says for an update is set for the one after it.
    assert [published_rate(step) for step in range(3)] == [event["group_lr"] for event in facts["log"][:3]]
    for step, rate in facts["unlocked_curve_at"].items():
        made = warmup_cosine(int(step), first=1e-5, peak=0.01, last=1e-4, warmup_steps=2000, total_steps=40_000)
        assert made == pytest.approx(rate, rel=1e-12), step
