"""What a run would take, measured on a few of its batches: memory, time, and the batches that cards have room for.

What autograd keeps for the backward pass is counted tensor by tensor, on any device: at its peak it is taken to be
linear in the padded frames and in the utterances of a batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from train import choices, metrics, stages
from train.config import RunConfig
from train.data import Data
from train.observer import Observer
from train.plan import Plan, Position, plan_epoch
from train.ready import make_ready
from train.stages import Stage
from train.stream import read_batch

BATCHES = 4
"""That are measured: from those of the shortest utterances to those of the longest."""
STATE_BYTES = 16
"""Of a parameter: weight, gradient and two moments, in float32."""
SPARE = 1.25
"""On what autograd keeps: results that are on their way, workspaces of kernels, blocks that do not fit."""
USABLE = 0.92
"""Of a card's memory: the rest is the driver's, and lost between blocks."""
CARDS = {"T4": 15.0, "V100": 31.7, "A100 40": 39.4, "L40S": 44.5, "A100 80": 79.2, "H100": 79.2, "H200": 139.8}
"""GiB that a program sees."""
GIB = 2**30


class Kept:
    """Counts bytes that autograd keeps, as `torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack)`. Tensors
    that share memory count once; parameters do not count."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.now = self.peak = 0
        self._own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        self._holders: Counter[int] = Counter()

    def pack(self, tensor: Tensor) -> _Held:
        return _Held(tensor, self)

    def unpack(self, held: _Held) -> Tensor:
        return held.tensor

    def hold(self, tensor: Tensor, change: int) -> None:
        storage = tensor.untyped_storage()
        at = storage.data_ptr()
        if at in self._own:
            return
        before = self._holders[at]
        self._holders[at] = before + change
        if (before > 0) != (before + change > 0):
            self.now += change * storage.nbytes()
            self.peak = max(self.peak, self.now)


class _Held:
    """A tensor for as long as a graph needs it."""

    def __init__(self, tensor: Tensor, kept: Kept) -> None:
        self.tensor, self._kept = tensor, kept
        kept.hold(tensor, 1)

    def __del__(self) -> None:
        self._kept.hold(self.tensor, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One step."""

    frames: int
    """Padded."""
    utterances: int
    kept: int
    """Bytes, at the peak."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that autograd keeps: fixed, for each padded frame, and for each utterance."""

    fixed: float
    frame: float
    utterance: float

    @classmethod
    def of(cls, steps: Sequence[Measured]) -> Need:
        """The least squares fit; what would be negative is 0."""
        sizes = np.array([[1, step.frames, step.utterances] for step in steps], float)
        scale = sizes.max(0)
        fit = np.linalg.lstsq(sizes / scale, np.array([step.kept for step in steps], float), rcond=None)[0] / scale
        return cls(*np.maximum(fit, 0).tolist())

    def room(self, spare_bytes: float) -> int:
        """The largest frame budget whose worst batch, of as many utterances as it may have, fits."""
        frame = self.frame + self.utterance / choices.SHORTEST_COUNTED
        return max(0, int((spare_bytes / SPARE - self.fixed) / frame))


def forecast(config: RunConfig, epochs: int, observer: Observer) -> dict[str, Any]:
    """Measure a run without beginning it.

    Args:
        config: `out` is not used.
        epochs: to look ahead.
    Returns:
        parameters (by network), state_gib, kept_gib (of the largest batch), room (by card, the largest budget of frames
        that fits), steps_per_epoch, step_s, hours, measured, and what was chosen.
    Raises:
        As `train.loop.start`.
    """
    ready = make_ready(replace(config, fp32_steps=0), observer)
    config, data, stage, device = ready.config, ready.data, ready.stage, ready.device
    plan = plan_epoch(
        data.store.frames[data.training],
        Position.start(),
        batch_frames=config.batch_frames,
        seed=config.seed,
        max_utterances=config.max_utterances,
    )
    steps = [_measure(stage, data, numbers, device) for numbers in _spread(plan, data)]
    return _account(stage, plan, data, steps, epochs) | {
        "stage": config.stage,
        "preset": config.preset,
        "device": str(device),
        "precision": config.precision,
        "batch_frames": config.batch_frames,
        "measured": [asdict(step) for step in steps],
    }


def _account(stage: Stage, plan: Plan, data: Data, steps: Sequence[Measured], epochs: int) -> dict[str, Any]:
    networks = {name: sum(p.numel() for p in module.parameters()) for name, module in _networks(stage).items()}
    state, need = STATE_BYTES * sum(networks.values()), Need.of(steps)
    longest = np.maximum.reduceat(data.store.frames[data.training][plan.order], plan.bounds[:-1])
    padded = int((longest * np.diff(plan.bounds)).sum())
    epoch_s = padded * sum(step.seconds for step in steps) / sum(step.frames for step in steps)
    updates = -(-plan.steps // stage.optim.accumulate)
    return {
        "parameters": networks,
        "state_gib": state / GIB,
        "kept_gib": max(step.kept for step in steps) / GIB,
        "room": {card: need.room(USABLE * gib * GIB - state) for card, gib in CARDS.items()},
        "steps_per_epoch": updates,
        "step_s": epoch_s / updates,
        "epochs": epochs,
        "hours": epochs * epoch_s / 3600,
    }


def _spread(plan: Plan, data: Data) -> list[np.ndarray]:
    """Batches from the shortest utterances to the longest, full ones of their lengths."""
    every = np.linspace(0, plan.steps - 1, min(BATCHES, plan.steps)).round().astype(int)
    bounds = [(plan.bounds[batch], plan.bounds[batch + 1]) for batch in every]
    return [np.sort(data.training[plan.order[start:stop]]) for start, stop in bounds]


def _measure(stage: Stage, data: Data, numbers: np.ndarray, device: torch.device) -> Measured:
    """One step that counts, after one that only warms up and counts what is kept: counting takes time."""
    batch = read_batch(data.store, stage.features, numbers)
    stages.check_ids(stage, data.store, batch)
    kept = Kept([p for module in _networks(stage).values() for p in module.parameters()])
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        metrics.to_floats(stage.step([batch]))
    begun = time.perf_counter()
    metrics.to_floats(stage.step([batch]))  # here the device is waited for
    seconds = time.perf_counter() - begun
    frames = len(batch) * int(batch.frames.max())
    return Measured(frames=frames, utterances=len(batch), kept=kept.peak, seconds=seconds)


def _networks(stage: Stage) -> dict[str, nn.Module]:
    return {name: value for name, value in vars(stage).items() if isinstance(value, nn.Module) and name != "spectral"}
