"""Forecast of a run from a few of its batches: memory, time, and the largest batches that fit on graphics cards.

The memory of a step is counted tensor by tensor, on any device. Its peak is modelled as linear in the padded frames and
in the utterances of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import psutil
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from headrace.store.errors import UsageError
from headrace.train.config import RunConfig
from headrace.train.data.batch_plan import Position
from headrace.train.data.stream import Epoch, Stream
from headrace.train.distributed.sharded_network import largest_gathered
from headrace.train.measure.clusters import (
    CARDS,
    NETWORK_GBIT,
    Cluster,
    DecoderWork,
    KernelCounter,
    UpdateWork,
    compare,
    forms_for,
    state_bytes,
)
from headrace.train.measure.graph_memory import GraphMemory, InputCounter, captured_shapes
from headrace.train.measure.memory_tracking import MemoryTracker
from headrace.train.models.blocks import BLOCKS
from headrace.train.monitoring import metrics
from headrace.train.monitoring.observer import Observer
from headrace.train.parallel_form import parse_form
from headrace.train.speeds import FASTEST, Speeds, count_speeds, parse_speeds, shares
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.stage import Stage, check_ids
from headrace.train.trainer import auto_settings, launching
from headrace.train.trainer.setup import TrainingSetup, set_up

BATCHES = 4
"""Batches that are measured, from the shortest utterances to the longest."""
STATE_BYTES = 12
"""Bytes of a parameter: weight and two moments, in float32."""
SPARE = 1.25
"""Factor on the memory of a step: workspaces of kernels, fragmentation."""
USABLE = 0.92
"""Usable share of a card's memory: the driver takes the rest, or fragmentation wastes it."""
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMeasurement:
    """Memory and time of one step."""

    frames: int
    """Padded."""
    utterances: int
    peak: int
    """Peak of bytes in use, gradients included."""
    inputs: int
    """Bytes of inputs that its CUDA graphs would keep."""
    seconds: float


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Memory of a step as a linear model: bytes that are fixed, per padded frame and per utterance."""

    fixed: float
    frame: float
    utterance: float

    @classmethod
    def fit(cls, steps: Sequence[StepMeasurement], what: Literal["peak", "inputs"] = "peak") -> MemoryModel:
        """Fit to measurements by least squares; negative parts become 0."""
        sizes = np.array([[1, step.frames, step.utterances] for step in steps], float)
        scale, measured = sizes.max(0), np.array([getattr(step, what) for step in steps], float)
        solution = np.linalg.lstsq(sizes / scale, measured, rcond=None)[0] / scale
        return cls(*np.maximum(solution, 0).tolist())

    def bytes_of(self, frames: np.ndarray, utterances: np.ndarray) -> np.ndarray:
        """Return the bytes of batches with so many padded frames and utterances each."""
        return self.fixed + self.frame * frames + self.utterance * utterances

    def with_fixed(self, more_bytes: float) -> MemoryModel:
        """Return the model of a step that takes so many bytes more, or fewer, whatever its batch."""
        return replace(self, fixed=max(0.0, self.fixed + more_bytes))

    def with_graphs(self, graphs: GraphMemory, inputs: MemoryModel) -> MemoryModel:
        """Return the model of a step beside graphs, whose pool is as large as the step.

        Args:
            inputs: of a pass.
        """
        parts = zip(astuple(self), astuple(inputs), strict=True)
        return MemoryModel(*[2 * step + graphs.passes * own for step, own in parts]).with_fixed(graphs.gradients)

    def max_batch_frames(self, spare_bytes: float) -> int:
        """Return the largest `batch_frames` whose worst batch, with as many utterances as it may have, fits."""
        frame = self.frame + self.utterance / auto_settings.MIN_FRAMES_COUNTED
        return max(0, int((spare_bytes / SPARE - self.fixed) / frame))


class _MemoryModels(NamedTuple):
    """The memory of steps."""

    plain: MemoryModel
    """On a CPU, or on one of several GPUs."""
    alone_on_cuda: MemoryModel
    """On the only GPU, with graphs if there are any."""

    @classmethod
    def fit(cls, steps: Sequence[StepMeasurement], graphs: GraphMemory | None) -> _MemoryModels:
        """Fit to measurements."""
        plain = MemoryModel.fit(steps)
        return cls(plain, plain.with_graphs(graphs, MemoryModel.fit(steps, "inputs")) if graphs else plain)


def forecast(
    config: RunConfig,
    epochs: int,
    observer: Observer,
    cards: Sequence[Cluster] = (),
    network_gbit: float = NETWORK_GBIT,
) -> dict[str, Any]:
    """Measure what a run would take, without starting it.

    Args:
        config: `out` is not used.
        epochs: of the run, for the total time.
        cards: clusters that are compared, in `clusters`, as `headrace.train.measure.clusters.compare` does.
        network_gbit: Gbit/s of each of their machines to the others.
    Returns:
        parameters (by network), state_gib, teacher_gib (its weights; its forward pass is part of the step), step_gib
        (peak of the largest step), graphs (None, or bytes that CUDA graphs take: `GraphMemory`), room (by card, and
        first `this device`: the largest `batch_frames` that fits, with graphs on a card that captures them),
        steps_per_epoch, step_s, hours, measured, and the automatic settings.
        Where `config` has speeds, steps and hours are of so many processes, the fastest of which has this device, and
        there are `shares` (of each in the frames of a step) and `rank_frames` (the largest batch that each gets) too.
    Raises:
        As `headrace.train.trainer.loop.start`. UsageError too where `speeds` is `auto`.
    """
    speeds, world = _speeds(config), max(1, count_speeds(config.distributed.speeds))
    half = config.compute.precision != "fp32"  # what `auto` is on cards
    setup, inputs = set_up(config.with_options(fp32_steps=0), observer), InputCounter()
    if captures := _captures(setup, epochs, world):
        setup.stage.capture_passes(inputs)
    with setup.stream(Position.start()) as stream:
        epoch = stream.epoch(stream.position)
        batches = _spread_batches(epoch)
        _measure(setup, stream, epoch, batches[0], inputs)  # allocates what stays: moments, the entries of a codebook
        steps = [_measure(setup, stream, epoch, members, inputs) for members in batches]
        graphs = _graph_memory(setup, epoch, steps, epochs) if captures else None
        shared = stream.epoch(Position.start(world, speeds=speeds)) if world > 1 else epoch
        memory = _MemoryModels.fit(steps, graphs)
        compared = _compare(setup, stream, epoch, batches, memory, cards, epochs, network_gbit, half) if cards else {}
    summary = _summary(setup, shared, speeds, steps, memory, epochs)
    return summary | _shares(shared, speeds) | compared | _settings(setup, steps, graphs)


def _settings(setup: TrainingSetup, steps: Sequence[StepMeasurement], graphs: GraphMemory | None) -> dict[str, Any]:
    """Return what was measured, and with which settings."""
    config = setup.config
    return {
        "stage": config.model.stage,
        "preset": config.model.preset,
        "device": str(setup.device),
        "precision": config.compute.precision,
        "batch_frames": config.data.batch_frames,
        "graphs": asdict(graphs) | {"gib": graphs.total / GIB} if graphs else None,
        "measured": [asdict(step) for step in steps],
    }


def _speeds(config: RunConfig) -> Speeds:
    """Return the speeds of the run that is planned."""
    speeds = parse_speeds(config.distributed.speeds)
    if speeds is None:
        raise UsageError("--speeds auto is measured by the processes of a run: to plan one, give their speeds.")
    return speeds


def _shares(epoch: Epoch, speeds: Speeds) -> dict[str, Any]:
    """Return the share of each rank in the frames of a step, and its largest batch; nothing for one rank."""
    world = epoch.plan.world
    if world == 1:
        return {}
    return {
        "speeds": list(speeds or (FASTEST,) * world),
        "shares": shares(speeds, world),
        "rank_frames": _padded_frames(epoch)[epoch.plan.turns].max(0).tolist(),
    }


def _captures(setup: TrainingSetup, epochs: int, world: int) -> bool:
    """Return whether a run on CUDA captures its passes.

    Raises:
        UsageError: that is asked for, and not possible.
    """
    run = replace(setup, config=setup.config.with_options(max_epochs=epochs, max_steps=0))
    return launching.choose_graphs(setup.config, True, world, launching.passes_of_a_shape(run))[0]


def _graph_memory(
    setup: TrainingSetup, epoch: Epoch, steps: Sequence[StepMeasurement], epochs: int
) -> GraphMemory | None:
    """Return what the graphs of a run take; None if no shape comes often enough."""
    utterances = np.diff(epoch.plan.bounds)
    lengths = _padded_frames(epoch) // utterances
    shapes = captured_shapes(utterances, lengths, epochs, setup.config.data.fixed_shapes)
    if not len(shapes):
        return None
    sizes = shapes.prod(1), shapes[:, 0]
    trained = (p for network in _networks(setup.stage).values() for p in network.parameters() if p.requires_grad)
    return GraphMemory(
        passes=len(shapes),
        pool=float(MemoryModel.fit(steps).bytes_of(*sizes).max()),
        inputs=float(MemoryModel.fit(steps, "inputs").bytes_of(*sizes).sum()),
        gradients=sum(parameter.nbytes for parameter in trained),
    )


def _padded_frames(epoch: Epoch) -> np.ndarray:
    """Return (M,) int64: the padded frames of each batch of a plan."""
    plan = epoch.plan
    longest = np.maximum.reduceat(epoch.padded[plan.order], plan.bounds[:-1])
    return longest * np.diff(plan.bounds)


def _summary(
    setup: TrainingSetup,
    epoch: Epoch,
    speeds: Speeds,
    steps: Sequence[StepMeasurement],
    memory: _MemoryModels,
    epochs: int,
) -> dict[str, Any]:
    networks = {name: sum(p.numel() for p in module.parameters()) for name, module in _networks(setup.stage).items()}
    state, plan = STATE_BYTES * sum(networks.values()), epoch.plan
    held = state + setup.stage.teacher_bytes
    slowest = (_padded_frames(epoch)[plan.turns] * (FASTEST / np.array(speeds or (FASTEST,)))).max(1)
    epoch_s = float(slowest.sum()) * sum(step.seconds for step in steps) / sum(step.frames for step in steps)
    updates = -(-plan.steps // setup.stage.optim.grad_accum)
    here = memory.alone_on_cuda if setup.device.type == "cuda" else memory.plain
    room = {"this device": here.max_batch_frames(USABLE * _memory(setup.device) - held)}
    for name, card in CARDS.items():
        room[name] = memory.alone_on_cuda.max_batch_frames(USABLE * card.gib * GIB - held)
    return {
        "parameters": networks,
        "state_gib": state / GIB,
        "teacher_gib": setup.stage.teacher_bytes / GIB,
        "step_gib": max(step.peak for step in steps) / GIB,
        "room": room,
        "steps_per_epoch": updates,
        "step_s": epoch_s / updates,
        "epochs": epochs,
        "hours": epochs * epoch_s / 3600,
    }


def _compare(
    setup: TrainingSetup,
    stream: Stream,
    epoch: Epoch,
    batches: Sequence[np.ndarray],
    memory: _MemoryModels,
    cards: Sequence[Cluster],
    epochs: int,
    network_gbit: float,
    half: bool,
) -> dict[str, Any]:
    """Return `clusters`: what each form takes on each of them."""
    work, rooms = _count_work(setup, stream, epoch, batches, half), {}
    for cluster in cards:
        model = memory.alone_on_cuda if cluster.processes == 1 else memory.plain
        for name in forms_for(cluster, work.decoder):
            state, gradients = state_bytes(work, parse_form(name), cluster.processes)
            fewer = gradients - 4 * work.parameters
            spare = USABLE * CARDS[cluster.name].gib * GIB - state - setup.stage.teacher_bytes
            rooms[cluster, name] = model.with_fixed(fewer).max_batch_frames(spare)
    rows = compare(
        work,
        cards,
        rooms,
        frames=setup.config.data.batch_frames,
        batches=epoch.plan.steps,
        epochs=epochs,
        network_gbit=network_gbit,
    )
    return {"clusters": rows, "work": asdict(work), "network_gbit": network_gbit}


def _count_work(
    setup: TrainingSetup, stream: Stream, epoch: Epoch, batches: Sequence[np.ndarray], half: bool
) -> UpdateWork:
    """Count what a mean update takes, of batches from the shortest utterances to the longest."""
    kernels, flop, positions = 0, 0, 0
    for members in batches:
        batch = stream.read(epoch.numbers[members])
        positions += len(batch) * int(batch.phones_n.max() + batch.frames.max() // 2)
        with FlopCounterMode(display=False) as operations, KernelCounter() as counter:
            setup.stage.step([batch])
        kernels, flop = kernels + counter.count, flop + operations.get_total_flops()
    count, passes = len(batches), setup.stage.optim.grad_accum
    networks = list(_networks(setup.stage).values())
    return UpdateWork(
        flop=passes * flop / count,
        kernels=passes * kernels / count,
        batches=passes,
        parameters=sum(p.numel() for network in networks for p in network.parameters()),
        gathered=max(largest_gathered(network, BLOCKS) for network in networks),
        half=half,
        decoder=_decoder_work(setup.stage, positions / count, half),
    )


def _decoder_work(stage: Stage, positions: float, half: bool) -> DecoderWork | None:
    """Return what dividing the layers of a decoder depends on.

    Args:
        positions: of a mean batch, phones and codes.
    """
    if not isinstance(stage, GptStage):
        return None
    sizes = stage.config
    return DecoderWork(
        layers=sizes.layers,
        heads=sizes.heads,
        parameters=sum(parameter.numel() for parameter in stage.model.h.parameters()),
        hidden_bytes=positions * sizes.channels * (2 if half else 4),
    )


def _memory(device: torch.device) -> int:
    """Return the bytes of memory of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def _spread_batches(epoch: Epoch) -> list[np.ndarray]:
    """Return batches from the shortest utterances to the longest, as indices into `epoch.numbers`."""
    plan = epoch.plan
    chosen = np.linspace(0, len(plan.bounds) - 2, min(BATCHES, len(plan.bounds) - 1)).round().astype(int)
    return [np.sort(plan.order[plan.bounds[batch] : plan.bounds[batch + 1]]) for batch in chosen]


def _measure(
    setup: TrainingSetup, stream: Stream, epoch: Epoch, members: np.ndarray, inputs: InputCounter
) -> StepMeasurement:
    """Measure the memory of one step, which slows it, and the time of another."""
    batch = stream.read(epoch.numbers[members])
    check_ids(setup.stage, setup.data.store, batch)
    inputs.bytes = 0
    with MemoryTracker() as memory:
        metrics.to_floats(setup.stage.step([batch]))
    kept, start = inputs.bytes, time.perf_counter()
    metrics.to_floats(setup.stage.step([batch]))  # synchronises with the device
    seconds = time.perf_counter() - start
    frames = len(members) * int(epoch.padded[members].max())
    return StepMeasurement(frames=frames, utterances=len(members), peak=memory.peak, inputs=kept, seconds=seconds)


def _networks(stage: Stage) -> dict[str, nn.Module]:
    return {name: value for name, value in vars(stage).items() if isinstance(value, nn.Module) and name != "spectral"}
