"""When buckets of gradients are sent, in which order, and what becomes of them. Another rank with the same gradients is
played here; real ones are in `test_ranks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headrace.train.distributed import GradientBuckets, ReductionOptions, gradient_buckets
from headrace.train.distributed.phases import PHASES, REDUCING

WIDTH = 4


class Peer:
    """Another rank, which sends what this one sends, so that sums are twice as large."""

    def __init__(self) -> None:
        self.sent: list[Tensor] = []
        self.phases: list[str] = []

    def all_reduce(self, tensor: Tensor, group: None, async_op: bool) -> Peer.Work:
        assert async_op and group is None, "these gradients are those of all processes"
        self.sent.append(tensor.clone())
        return self.Work(self, tensor, self.sent[-1])

    class Work:
        def __init__(self, peer: Peer, tensor: Tensor, sent: Tensor) -> None:
            self.peer, self.tensor, self.sent = peer, tensor, sent

        def wait(self) -> None:
            self.peer.phases.append(PHASES.phase)
            assert torch.equal(self.tensor, self.sent), "what is on its way was changed"
            self.tensor.mul_(2)


class Model(nn.Sequential):
    """Four layers. `before` is called in a backward pass between the gradients of the last two and the first two."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)))
        self.before: Callable[[], None] = lambda: None

    def forward(self, x: Tensor) -> Tensor:
        half = self[1](self[0](x))
        half.register_hook(lambda _: self.before())
        return self[3](self[2](half))

    def loss(self, rows: slice) -> Tensor:
        return self(INPUTS[rows]).square().sum()


INPUTS = torch.linspace(-1, 1, 6 * WIDTH).view(6, WIDTH)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Peer:
    made = Peer()
    monkeypatch.setattr(gradient_buckets, "world_size", lambda: 2)
    monkeypatch.setattr(gradient_buckets.dist, "all_reduce", made.all_reduce)
    monkeypatch.setattr(gradient_buckets, "BUCKET_BYTES", 1)
    return made


def accumulate(model: Model, gradients: GradientBuckets, *parts: slice) -> None:
    gradients.begin()
    for part in parts:
        loss = model.loss(part)
        if part is parts[-1]:
            gradients.expect_last()
        loss.backward()
    gradients.finish()


def alone() -> list[Tensor]:
    """Twice the gradients of one process, in the order of the layers."""
    model = Model()
    model.loss(slice(0, 6)).backward()
    return [2 * p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("overlap", [True, False])
def test_buckets_are_sent_in_the_last_backward_pass_of_an_update(peer: Peer, overlap: bool) -> None:
    model, seen = Model(), list[int]()
    gradients = GradientBuckets(model.parameters(), ReductionOptions(overlap=overlap))
    model.before = lambda: seen.append(len(peer.sent))
    for update in (1, 2):
        accumulate(model, gradients, slice(0, 2), slice(2, 6))
        assert len(peer.sent) == 4 * update
    assert seen == ([0, 2, 4, 6] if overlap else [0, 0, 4, 4])
    assert set(peer.phases) == {REDUCING}
    for layer, want, first, second in zip(model, alone(), peer.sent[3::-1], peer.sent[:3:-1], strict=True):
        torch.testing.assert_close(layer.weight.grad, want)
        assert torch.equal(first, second) and torch.equal(2 * second.view_as(want), layer.weight.grad)


def test_a_try_that_ran_out_of_memory_sends_nothing_twice(peer: Peer) -> None:
    """Gradients that were complete stay; those of the others come from smaller pieces."""
    model = Model()
    gradients = GradientBuckets(model.parameters(), ReductionOptions())

    def out_of_memory() -> None:
        raise torch.OutOfMemoryError("no room")

    model.before = out_of_memory
    with pytest.raises(torch.OutOfMemoryError):
        accumulate(model, gradients, slice(0, 6))
    assert len(peer.sent) == 2
    model.before = lambda: None
    for _ in range(2):  # the next update is an ordinary one
        accumulate(model, gradients, slice(0, 3), slice(3, 6))
        for layer, want in zip(model, alone(), strict=True):
            torch.testing.assert_close(layer.weight.grad, want)
    assert len(peer.sent) == 8


@pytest.mark.parametrize("unused", [0, 3])
def test_a_parameter_that_is_not_used_changes_no_order_and_counts_as_zero(peer: Peer, unused: int) -> None:
    model = Model()
    gradients = GradientBuckets(model.parameters(), ReductionOptions())
    del model._modules[str(unused)]
    layers = list(model)
    gradients.begin()
    gradients.expect_last()
    nn.Sequential(*layers)(INPUTS).square().sum().backward()
    assert len(peer.sent) == (3 if unused == 0 else 0)
    gradients.finish()
    assert [bool(sent.any()) for sent in peer.sent] == [3 - unused != place for place in range(4)]


def test_buckets_are_full_and_hold_every_trainable_parameter_once(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_buckets, "BUCKET_BYTES", 2 * WIDTH * WIDTH * 4)
    model = Model()
    model[2].requires_grad_(False)
    accumulate(model, GradientBuckets(model.parameters(), ReductionOptions()), slice(0, 6))
    assert [len(sent) for sent in peer.sent] == [2 * WIDTH * WIDTH, WIDTH * WIDTH]
    assert model[2].weight.grad is None
    for number in (0, 1, 3):
        torch.testing.assert_close(model[number].weight.grad, alone()[number])


@pytest.mark.parametrize("overlap", [True, False])
def test_gradients_are_rounded_on_their_way_only(peer: Peer, overlap: bool) -> None:
    model = Model()
    gradients = GradientBuckets(model.parameters(), ReductionOptions(dtype=torch.bfloat16, overlap=overlap))
    for _ in range(2):
        accumulate(model, gradients, slice(0, 2), slice(2, 6))
    assert {sent.dtype for sent in peer.sent} == {torch.bfloat16}
    for layer, sent, want in zip(model, peer.sent[3::-1], alone(), strict=True):
        assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
        assert torch.equal(layer.weight.grad, 2 * sent.float().view(WIDTH, WIDTH))
        torch.testing.assert_close(layer.weight.grad, want, rtol=1e-2, atol=1e-2)


def test_one_process_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(gradient_buckets.dist, "all_reduce", fail)
    model = Model()
    gradients = GradientBuckets(model.parameters(), ReductionOptions())
    for _ in range(2):
        accumulate(model, gradients, slice(0, 3), slice(3, 6))
    for layer, want in zip(model, alone(), strict=True):
        torch.testing.assert_close(2 * layer.weight.grad, want)
