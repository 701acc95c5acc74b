"""Captures that CUDA fails, by torch's own context manager around a device that is not there: the run goes on eagerly.

Of the device there are streams, memory pools and a generator, with what torch 2.11 leaves of a capture that fails: the
generator takes it for underway, and draws nothing outside of it; so does the allocator, and frees nothing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headrace.train.stages.cuda_graphs import WARM_UPS, CudaGraph, GraphedPasses
from headrace.train.stages.stage import Stage
from tests.helpers.gpt_steps import gpt_stage, text_batch
from tests.helpers.runs import assert_same
from tests.helpers.sovits_steps import sovits_stage, speech_batch
from tests.train.stages.simulated_graphs import SimulatedGraph

STEPS = {
    "gpt": [[text_batch([12, 9], seed)] for seed in range(6)],
    "sovits": [[speech_batch([20, 12], seed)] for seed in range(6)],
}
UNSUPPORTED = "aten::sort_stable is not supported when stream is capturing"


class Generator:
    """CUDA's: a state that may be that of a capture."""

    def __init__(self, offset: int = 40) -> None:
        self.offset, self.capturing = offset, False

    def clone_state(self) -> Generator:
        return Generator(self.offset)

    def graphsafe_set_state(self, other: Generator) -> None:
        self.offset, self.capturing = other.offset, other.capturing


class Device:
    """What torch knows of a device."""

    def __init__(self, fails: str, at: int) -> None:
        self.fails, self.at = fails, at
        self.captures = 0
        self.stream, self.generator = "main", Generator()
        self.pools: dict[Any, int] = {}
        self.underway: list[Any] = []

    def begin_allocating(self, pool: Any) -> None:
        self.underway.append(pool)
        self.pools[pool] = self.pools.get(pool, 0) + 1

    def end_allocating(self, _: int, pool: Any) -> None:
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release(self, _: int, pool: Any) -> None:
        self.pools[pool] -= 1
        assert self.pools[pool] >= 0

    def use(self, stream: str) -> _Stream:
        return _Stream(self, stream)

    def graph(self) -> _Graph:
        return _Graph(self)


class _Stream:
    """`torch.cuda.stream`, which leaves a stream only if it is told to."""

    def __init__(self, device: Device, stream: str) -> None:
        self._device, self._stream = device, stream

    def __enter__(self) -> None:
        self._before, self._device.stream = self._device.stream, self._stream

    def __exit__(self, *_: object) -> None:
        self._device.stream = self._before


class _Graph:
    """`torch.cuda.CUDAGraph`, in the order of torch 2.11."""

    def __init__(self, device: Device) -> None:
        self._device, self._recorded = device, SimulatedGraph(None)
        self._pool: Any = None
        self._ended = False

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        device = self._device
        assert capture_error_mode == "thread_local" and device.stream == "side"
        device.captures += 1
        device.generator.capturing = True
        device.begin_allocating(pool)
        self._pool = pool
        if self._fails("begin"):
            raise torch.AcceleratorError("CUDA error: operation would make the legacy stream depend on a capturing one")
        self._recorded.begin()

    def capture_end(self) -> None:
        device = self._device
        self._recorded.end()
        if self._fails("middle", "end"):
            raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture\nSee ...")
        device.end_allocating(0, self._pool)
        device.generator.capturing = False
        self._ended = True

    def replay(self) -> None:
        assert self._ended and not self._device.generator.capturing
        self._recorded.replay()

    def __del__(self) -> None:
        if self._ended:
            self._device.release(0, self._pool)

    def _fails(self, *ways: str) -> bool:
        return self._device.fails in ways and self._device.captures == self._device.at


def placed(monkeypatch: pytest.MonkeyPatch, fails: str = "", at: int = 1) -> Device:
    """Let torch take a device for one that is there.

    Args:
        fails: where the capture fails: begin, middle, end, or memory.
        at: number of the capture that does.
    """
    device = Device(fails, at)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", device.graph)
    monkeypatch.setattr(torch.cuda, "stream", device.use)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: device.stream)
    monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", "side")
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "default_generators", (device.generator,))
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", device.end_allocating, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", device.release, raising=False)
    monkeypatch.setattr(torch.Tensor, "backward", failing_backward(device))
    return device


def failing_backward(device: Device) -> Any:
    """Return a backward pass of which, in the capture that fails, all gradients but the last kernels' are there."""
    backward = torch.Tensor.backward

    def call(loss: torch.Tensor) -> None:
        backward(loss)
        if device.underway and device.captures == device.at:
            if device.fails == "middle":
                raise RuntimeError(UNSUPPORTED)
            if device.fails == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee ...")

    return call


def stage_of(kind: str) -> Stage:
    return gpt_stage() if kind == "gpt" else sovits_stage()


def trained(stage: Stage, kind: str) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(7)
    stage.allocate()
    return [stage.step(batches) for batches in STEPS[kind]]


@pytest.fixture(autouse=True)
def none_made() -> None:
    SimulatedGraph.made = []


@pytest.mark.parametrize(
    ("kind", "at"), [("gpt", 1), ("sovits", 1), ("sovits", 2)], ids=["gpt", "discriminator", "generator"]
)
@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        ("begin", "CUDA error: operation would make the legacy stream depend on a capturing one"),
        ("middle", UNSUPPORTED),
        ("end", "CUDA error: operation failed due to a previous error during capture"),
        ("memory", "CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_a_run_goes_on_as_if_no_capture_had_been_tried(
    monkeypatch: pytest.MonkeyPatch, kind: str, at: int, fails: str, reason: str
) -> None:
    expected, random = trained(eager := stage_of(kind), kind), torch.get_rng_state()
    device, said = placed(monkeypatch, fails, at), list[str]()
    stage = stage_of(kind)
    stage.capture_passes(GraphedPasses(1, said.append))
    assert_same(trained(stage, kind), expected)
    assert_same(stage.state_dict(), eager.state_dict())
    assert torch.equal(torch.get_rng_state(), random)
    assert said == [f"CUDA graphs: off from here on, since the pass 'update' could not be captured ({reason})"]
    assert device.captures == at and not any(graph.replays for graph in SimulatedGraph.made)
    assert device.stream == "main"
    assert (device.generator.offset, device.generator.capturing) == (40, False)
    assert not device.underway and not any(device.pools.values()), "memory of the captures is free"


@pytest.mark.parametrize(("kind", "graphs"), [("gpt", 1), ("sovits", 2)])
def test_captures_that_do_not_fail_share_a_pool(monkeypatch: pytest.MonkeyPatch, kind: str, graphs: int) -> None:
    expected = trained(stage_of(kind), kind)
    device, said = placed(monkeypatch), list[str]()
    stage = stage_of(kind)
    stage.capture_passes(GraphedPasses(1, said.append))
    assert_same(trained(stage, kind), expected)
    assert not said and device.captures == graphs and not device.underway and list(device.pools.values()) == [graphs]
    assert [graph.replays for graph in SimulatedGraph.made] == [len(STEPS[kind]) - WARM_UPS] * graphs
    assert device.stream == "main"
    stage.microbatches.release()
    assert list(device.pools.values()) == [0]


def test_errors_that_are_not_of_the_device_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    device = placed(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        CudaGraph(None).capture(lambda: 1 // 0)
    assert device.stream == "main" and not device.underway
