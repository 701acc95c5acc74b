"""What a run would take, measured on a few of its batches: memory, time, and the batches that cards have room for.

What a step makes and still holds is counted tensor by tensor, on any device: at its peak that is taken to be linear in
the padded frames and in the utterances of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from headrace.train.config import RunConfig
from headrace.train.data.batch_plan import Position
from headrace.train.data.stream import Epoch, Stream
from headrace.train.measure.memory_tracking import Living
from headrace.train.monitoring import metrics
from headrace.train.monitoring.observer import Observer
from headrace.train.stages import registry
from headrace.train.stages.registry import Stage
from headrace.train.trainer import auto_settings
from headrace.train.trainer.setup import TrainingSetup, set_up

BATCHES = 4
"""That are measured: from those of the shortest utterances to those of the longest."""
STATE_BYTES = 12
"""Of a parameter: weight and two moments, in float32."""
SPARE = 1.25
"""On what a step holds: workspaces of kernels, blocks that do not fit."""
USABLE = 0.92
"""Of a card's memory: the rest is the driver's, and lost between blocks."""
CARDS = {"T4": 15.0, "V100": 31.7, "A100 40": 39.4, "L40S": 44.5, "A100 80": 79.2, "H100": 79.2, "H200": 139.8}
"""GiB that a program sees."""
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One step."""

    frames: int
    """Padded."""
    utterances: int
    peak: int
    """Bytes of what it made and still held, gradients among them."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of a step: fixed, for each padded frame, and for each utterance."""

    fixed: float
    frame: float
    utterance: float

    @classmethod
    def of(cls, steps: Sequence[Measured]) -> Need:
        """The least squares fit; what would be negative is 0."""
        sizes = np.array([[1, step.frames, step.utterances] for step in steps], float)
        scale = sizes.max(0)
        fit = np.linalg.lstsq(sizes / scale, np.array([step.peak for step in steps], float), rcond=None)[0] / scale
        return cls(*np.maximum(fit, 0).tolist())

    def room(self, spare_bytes: float) -> int:
        """The largest frame budget whose worst batch, of as many utterances as it may have, fits."""
        frame = self.frame + self.utterance / auto_settings.SHORTEST_COUNTED
        return max(0, int((spare_bytes / SPARE - self.fixed) / frame))


def forecast(config: RunConfig, epochs: int, observer: Observer) -> dict[str, Any]:
    """Measure a run without beginning it.

    Args:
        config: `out` is not used.
        epochs: to look ahead.
    Returns:
        parameters (by network), state_gib, step_gib (what the largest step makes and holds), room (by card, and first
        `this device`: the largest budget of frames that fits), steps_per_epoch, step_s, hours, measured, and what was
        chosen.
    Raises:
        As `headrace.train.trainer.loop.start`.
    """
    setup = set_up(config.with_options(fp32_steps=0), observer)
    config = setup.config
    with setup.stream(Position.start()) as stream:
        epoch = stream.epoch(stream.position)
        spread = _spread(epoch)
        _measure(setup, stream, epoch, spread[0])  # makes what stays: moments, the entries of a codebook
        steps = [_measure(setup, stream, epoch, members) for members in spread]
    return _account(setup, epoch, steps, epochs) | {
        "stage": config.model.stage,
        "preset": config.model.preset,
        "device": str(setup.device),
        "precision": config.compute.precision,
        "batch_frames": config.data.batch_frames,
        "measured": [asdict(step) for step in steps],
    }


def _account(setup: TrainingSetup, epoch: Epoch, steps: Sequence[Measured], epochs: int) -> dict[str, Any]:
    networks = {name: sum(p.numel() for p in module.parameters()) for name, module in _networks(setup.stage).items()}
    state, need, plan = STATE_BYTES * sum(networks.values()), Need.of(steps), epoch.plan
    longest = np.maximum.reduceat(epoch.padded[plan.order], plan.bounds[:-1])
    padded = int((longest * np.diff(plan.bounds)).sum()) / plan.world
    epoch_s = padded * sum(step.seconds for step in steps) / sum(step.frames for step in steps)
    updates = -(-plan.steps // setup.stage.optim.accumulate)
    gib_of = {"this device": _memory(setup.device) / GIB} | CARDS
    return {
        "parameters": networks,
        "state_gib": state / GIB,
        "step_gib": max(step.peak for step in steps) / GIB,
        "room": {card: need.room(USABLE * gib * GIB - state) for card, gib in gib_of.items()},
        "steps_per_epoch": updates,
        "step_s": epoch_s / updates,
        "epochs": epochs,
        "hours": epochs * epoch_s / 3600,
    }


def _memory(device: torch.device) -> int:
    """Bytes that a device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def _spread(epoch: Epoch) -> list[np.ndarray]:
    """Batches from the shortest utterances to the longest, full ones of their lengths. Indices of `epoch.numbers`."""
    plan = epoch.plan
    every = np.linspace(0, len(plan.bounds) - 2, min(BATCHES, len(plan.bounds) - 1)).round().astype(int)
    return [np.sort(plan.order[plan.bounds[batch] : plan.bounds[batch + 1]]) for batch in every]


def _measure(setup: TrainingSetup, stream: Stream, epoch: Epoch, members: np.ndarray) -> Measured:
    """One step whose memory is counted, which takes time, and one whose time counts."""
    batch = stream.read(epoch.numbers[members])
    registry.check_ids(setup.stage, setup.data.store, batch)
    with Living() as living:
        metrics.to_floats(setup.stage.step([batch]))
    begun = time.perf_counter()
    metrics.to_floats(setup.stage.step([batch]))  # here the device is waited for
    seconds = time.perf_counter() - begun
    frames = len(members) * int(epoch.padded[members].max())
    return Measured(frames=frames, utterances=len(members), peak=living.peak, seconds=seconds)


def _networks(stage: Stage) -> dict[str, nn.Module]:
    return {name: value for name, value in vars(stage).items() if isinstance(value, nn.Module) and name != "spectral"}
