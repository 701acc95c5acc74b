"""Activations in 8 bits: what they save, and what they must not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from headrace.train.config import RunConfig
from headrace.train.models.prefix_attention import attend
from headrace.train.stages.activations_8bit import MIN_ELEMENTS, ActivationQuantizer, Float8Tensor
from headrace.train.trainer import loop
from tests.helpers.training_store import Silent, build


def grads(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and gradients of all parameters as one."""
    network.zero_grad()
    out = network(x)
    out.square().mean().backward()
    return out.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv1d(32, 32, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv1d(32, 32, 3, padding=1), nn.Tanh()
    return nn.Sequential(*layers)


X = torch.randn(4, 32, 600, generator=torch.Generator().manual_seed(1))


def test_forward_is_exact_and_gradients_are_close() -> None:
    plain, packed = network(), network()
    ActivationQuantizer([packed])
    (out, grad), (same, near) = grads(plain, X), grads(packed, X)
    assert torch.equal(out, same)
    assert not torch.equal(grad, near), "something is quantised"
    assert torch.nn.functional.cosine_similarity(grad, near, dim=0) > 0.999
    assert (grad - near).norm() < 0.03 * grad.norm()


class SavedBytes:
    """Counts the bytes of all quantised tensors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packed = 0
        original = Float8Tensor.__init__

        def counting(packed: Float8Tensor, tensor: Tensor) -> None:
            original(packed, tensor)
            self.packed += packed._values.nbytes + packed._scale.nbytes

        monkeypatch.setattr(Float8Tensor, "__init__", counting)


def test_a_tensor_that_several_functions_save_is_quantised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.exp()  # keeps its result, and so do the two products
            return y * y.sin() + y * 2.0

    kept, module = SavedBytes(monkeypatch), Square()
    quantizer = ActivationQuantizer([module])
    out = module(X.clone().requires_grad_())
    rows = X.numel() // X.shape[-1]
    assert kept.packed == 2 * (X.numel() + 4 * rows), "y and sin(y)"
    out.sum().backward()
    del out
    assert not quantizer._quantized, "nothing is kept of freed tensors"


def test_other_values_in_the_same_memory_are_quantised_again() -> None:
    quantizer, x = ActivationQuantizer([]), X.clone()
    first = quantizer._pack(x)
    assert quantizer._pack(x) is first
    x.fill_(3.0)
    second = quantizer._pack(x)
    assert isinstance(second, Float8Tensor) and torch.equal(second.dequantize(), x)


def test_small_tensors_parameters_and_logarithms_of_sums_stay_exact() -> None:
    quantizer = ActivationQuantizer([], attention_heads={2})
    for tensor, kept in (
        (torch.randn(MIN_ELEMENTS), False),
        (torch.randn(MIN_ELEMENTS - 1), True),
        (torch.randn(8, 2, MIN_ELEMENTS), True),
        (torch.randn(8, 2, MIN_ELEMENTS, 2), True),
        (torch.ones(1, 1).expand(MIN_ELEMENTS, 4), True),
        (torch.ones(MIN_ELEMENTS, dtype=torch.int64), True),
        (torch.ones(MIN_ELEMENTS, dtype=torch.bool), True),
    ):
        assert isinstance(quantizer._pack(tensor), Tensor) == kept, tensor.shape
    linear = nn.Linear(200, 200)
    owning = ActivationQuantizer([linear])
    assert owning._pack(linear.weight) is linear.weight and isinstance(owning._pack(linear.weight.T), Tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_within_a_sixteenth_whatever_their_scale(dtype: torch.dtype) -> None:
    x = (torch.randn(64, 512) * torch.logspace(-3, 3, 64)[:, None]).to(dtype)
    x[3] = 0
    back = Float8Tensor(x).dequantize()
    assert back.dtype == dtype and (back[3] == 0).all()
    assert ((back - x).abs() <= x.abs() / 16 + x.abs().amax(1, keepdim=True) * 2**-18).all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_values_that_are_not_finite_stay_so(poison: float) -> None:
    x = torch.randn(4, 128)
    x[1, 7] = poison
    back = Float8Tensor(x).dequantize()
    assert not back[1].isfinite().all() and back[[0, 2, 3]].isfinite().all()


def test_gradients_of_attention_are_close() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (x @ w for w in self.weights)
            return attend(q, k, v, causal=True)

    def made(pack: bool) -> Tensor:
        torch.manual_seed(0)
        module = Attention()
        module.weights = nn.ParameterList(torch.randn(16, 16) for _ in range(3))  # type: ignore[assignment]
        if pack:
            ActivationQuantizer([module], attention_heads={8})
        return grads(module, torch.randn(4, 8, 700, 16))[1]

    exact, near = made(False), made(True)
    assert (exact - near).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_quantised_runs_learn_equally_well(stage: str, tmp_path: Path) -> None:
    store = build(tmp_path / "store", frames=[100] * 8)
    config = RunConfig.from_options(
        store=store.path, out=tmp_path / "a", stage=stage, preset="tiny", batch_frames=400, max_steps=2
    )
    plain, packed = Silent(), Silent()
    loop.start(config, plain)
    loop.start(config.with_options(out=tmp_path / "b", activations_8bit=True), packed)
    assert "activations wait for the backward pass in 8 bits" in packed.messages
    assert plain.begun is not None
    norm = {"sovits": "grad_norm_g", "gpt": "grad_norm"}[stage]
    steps = [[record for record in observer.records if "lr" in record] for observer in (plain, packed)]
    first, (one, other) = plain.begun[2][0], [records[0] for records in steps]
    assert one[first] == other[first], "the forward pass is the same"
    assert one[norm] != other[norm] == pytest.approx(one[norm], rel=0.02), "gradients are a little rougher"
    assert steps[1][-1][first] == pytest.approx(steps[0][-1][first], rel=0.02)
