from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from headrace.train.models import layers
from headrace.train.models.layers import DROPOUT_LEVELS, Dropout, drop

COUNT = 4_000_000


@pytest.mark.parametrize("share", [2**-16, 0.1, 0.5, 0.999])
def test_the_share_is_dropped_and_the_mean_stays(share: float) -> None:
    """Within four standard deviations of binomial numbers, and of their sum over any 1,000 neighbours."""
    torch.manual_seed(0)
    dropped = drop(torch.ones(COUNT), share)
    none, kept = sorted(set(dropped.tolist()))
    assert none == 0 and kept == pytest.approx(1 / (1 - share), rel=1 / DROPOUT_LEVELS / (1 - share))
    deviation, rounded = math.sqrt(share * (1 - share) / COUNT), round(share * DROPOUT_LEVELS) / DROPOUT_LEVELS
    assert float((dropped == 0).float().mean()) == pytest.approx(rounded, abs=4 * deviation)
    assert float(dropped.mean()) == pytest.approx(1, abs=4 * deviation / (1 - share))
    counts = (dropped == 0).float().view(-1, 1000).sum(1)
    assert float(counts.var()) == pytest.approx(1000 * share * (1 - share), rel=0.3 if share > 1e-3 else 1)


def test_elements_are_dropped_independently_of_their_neighbours_and_of_the_next_call() -> None:
    """Correlations of what shares a random number, and of what follows, are those of independent elements."""
    torch.manual_seed(1)
    first, second = ((drop(torch.ones(COUNT), 0.3) == 0).float() - 0.3 for _ in range(2))
    for one, other in ((first, second), *((first[:-k], first[k:]) for k in (1, 2, 3, 4, 5, 8))):
        correlation = float((one * other).mean()) / (0.3 * 0.7)
        assert abs(correlation) < 4 / math.sqrt(COUNT)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (2, 3, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_shape_and_type_stay(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.ones(shape, dtype=dtype)
    dropped = drop(x, 0.5)
    assert dropped.shape == x.shape and dropped.dtype == dtype
    assert set(dropped.flatten().tolist()) <= {0.0, 2.0}


def test_the_gradient_is_that_of_what_is_kept() -> None:
    torch.manual_seed(2)
    x = torch.randn(100, 3).mT.requires_grad_()  # whose elements do not lie in their order
    dropped = drop(x, 0.25)
    (gradient,) = torch.autograd.grad(dropped.square().sum(), x)
    kept = dropped != 0
    torch.testing.assert_close(dropped, x * kept / 0.75)
    torch.testing.assert_close(gradient, 2 * x * kept / 0.75**2)


def test_a_seed_gives_the_same_again_in_recomputed_passes_too() -> None:
    def run(*, recompute: bool) -> tuple[Tensor, Tensor]:
        x = torch.ones(50, requires_grad=True)
        torch.manual_seed(3)
        out = checkpoint(drop, x, 0.5, use_reentrant=False) if recompute else drop(x, 0.5)
        torch.rand(5)
        return out, torch.autograd.grad(out.sum(), x)[0]

    plain, again = run(recompute=False), run(recompute=True)
    torch.testing.assert_close(plain, again, rtol=0, atol=0)
    assert not torch.equal(drop(torch.ones(50), 0.5), drop(torch.ones(50), 0.5))


def test_nothing_is_dropped_or_drawn_outside_training_or_of_no_share() -> None:
    layer, x = Dropout(0.5), torch.randn(10)
    state = torch.get_rng_state()
    assert layer.eval()(x) is x and Dropout(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(layer.train()(x), x)


def test_a_share_of_nearly_all_leaves_finite_numbers() -> None:
    assert drop(torch.ones(COUNT), 1 - 1e-9).isfinite().all()


def test_a_compiler_is_given_an_operator_that_it_can_fuse() -> None:
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph.code)
        return graph.forward

    torch.compile(drop, backend=backend, fullgraph=True)(torch.ones(8), 0.5)  # type: ignore[arg-type]
    assert "dropout" in graphs[0] and "random_" not in graphs[0]


def test_devices_with_a_kernel_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "lacks_kernel", lambda _: False)
    x = torch.ones(100)
    torch.manual_seed(4)
    found = drop(x, 0.5)
    torch.manual_seed(4)
    torch.testing.assert_close(found, F.dropout(x, 0.5), rtol=0, atol=0)
