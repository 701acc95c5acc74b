"""A training run between two steps: its data, its model, and how far it is."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from signal import Signals
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from featurize.dsp import Spectral, SpectralRecipe
from store.errors import RunError
from store.place import commit_file
from train import choices, metrics
from train.checkpoint import Checkpoints, set_random_state
from train.config import RunConfig, config_path
from train.data import Requirements, open_data
from train.metrics import MetricsLog, Record
from train.plan import Position, plan_epoch
from train.precision import Precision
from train.stage import PRESETS, SovitsStage
from train.stream import Stream, StreamConfig, read_batch

SKIPS_IN_A_ROW = 50
"""Updates that may be left out one after the other because gradients are not finite. Finding the loss scale of fp16
takes a dozen."""


class Observer(Protocol):
    """Told what happens, as it happens."""

    def say(self, line: str) -> None:
        """A remark, or a choice that was made and why."""

    def started(self, step: int, last: int | None) -> None:
        """Steps done before, and the step to stop at, where one is known."""

    def recorded(self, record: Record) -> None:
        """A line of metrics.jsonl."""


class Run:
    """A run between two steps: its data, its model, and how far it is."""

    def __init__(self, config: RunConfig, state: dict[str, Any] | None, observer: Observer) -> None:
        """
        Args:
            state: a checkpoint to go on from; None begins at step 0.
        """
        self.device, reason = choices.choose_device(config.device)
        observer.say(f"device {self.device}: {reason}")
        self.precision = Precision.choose(config.precision, self.device)
        observer.say(f"precision {self.precision.reason}")
        self.config = _settled(config, self.device, self.precision, observer)
        recipe = SpectralRecipe()
        self.data = open_data(
            config.store,
            requirements(recipe),
            where=config.where,
            balance=config.balance,
            evenness=config.evenness,
        )
        for line in self.data.lines():
            observer.say(line)
        self.observer, self.step, self.skipped = observer, 0, 0
        torch.manual_seed(config.seed)
        model, optim = PRESETS[config.preset]
        self.stage = SovitsStage(model, Spectral(recipe), precision=self.precision, device=self.device, optim=optim)
        position = self._restore(state) if state else Position.start()
        self.checkpoints = Checkpoints(config.out / "checkpoints")
        config.out.mkdir(parents=True, exist_ok=True)
        _save_config(self.config)
        self.log = MetricsLog(config.out / "metrics.jsonl", upto=self.step)
        self.validation = self._validation_batches()
        self.stream = self._stream(position)
        observer.started(self.step, config.max_steps or None)

    @property
    def finished(self) -> bool:
        config = self.config
        return bool(
            (config.max_steps and self.step >= config.max_steps)
            or (config.max_epochs and self.stream.position.epoch >= config.max_epochs)
        )

    def due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def train_step(self) -> None:
        """One batch, one update, one line."""
        begun, epoch = time.perf_counter(), self.stream.position.epoch
        batch = next(self.stream)
        terms = self.stage.step(batch.to(self.device))
        rate, values = self.stage.learning_rate, metrics.to_floats(terms)  # here the device is waited for
        self.step += 1
        if self.stream.position.epoch > epoch:
            self.stage.end_epoch()
        self._check(values)
        self._record(
            split="train",
            step=self.step,
            epoch=epoch + 1,
            **values,
            lr=rate,
            loss_scale=self.precision.scaler.get_scale(),
            step_s=time.perf_counter() - begun,
            wait_s=self.stream.wait_s,
            frames=int(batch.frames.sum()),
            utterances=len(batch),
            padding=batch.padding,
        )

    def validate(self) -> None:
        """Mean losses over the held-out utterances. Leaves weights and random numbers as they are."""
        begun, sums = time.perf_counter(), dict[str, Tensor]()
        for numbers in self.validation:
            batch = read_batch(self.data.store, self.stage.features, numbers).to(self.device)
            for name, value in self.stage.validate(batch).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * len(batch)
        if not sums:
            return
        count = len(self.data.validation)
        values = metrics.to_floats({name: value / count for name, value in sums.items()})
        epoch, seconds = self.stream.position.epoch + 1, time.perf_counter() - begun
        self._record(split="validation", step=self.step, epoch=epoch, **values, utterances=count, seconds=seconds)

    def save(self) -> None:
        self.checkpoints.save(
            self.step,
            {
                "stage": self.stage.state_dict(),
                "stream": self.stream.position.to_json(),
                "store": self.data.store.fingerprint_of(self.stage.features),
                "config": self.config.to_json(),
            },
        )

    def farewell(self, number: Signals) -> str:
        return (
            f"{number.name} came: stopped after step {self.step}, saved {self.checkpoints.path(self.step)}. "
            f"Go on with: train run {self.config.store} --out {self.config.out} --resume"
        )

    def summary(self) -> dict[str, Any]:
        """`metrics.summarise`, and where and how the run was made. Draws curves.png."""
        out = self.config.out
        records = metrics.read(out / "metrics.jsonl")
        metrics.draw_curves(records, out / "curves.png")
        return {
            "run": str(out),
            "checkpoint": str(self.checkpoints.path(self.step)),
            "preset": self.config.preset,
            "device": str(self.device),
            "precision": self.precision.name,
            "batch_frames": self.config.batch_frames,
            "validation_utterances": len(self.data.validation),
            "data": self.data.to_json(),
            **metrics.summarise(records),
        }

    def _stream(self, position: Position) -> Stream:
        config = StreamConfig(
            batch_frames=self.config.batch_frames, max_utterances=self.config.max_utterances, seed=self.config.seed
        )
        features, pin = self.stage.features, self.device.type == "cuda"
        data = self.data
        return Stream(data.store, features, data.training, config, position=position, pin=pin, repeated=data.repeated)

    def _validation_batches(self) -> list[np.ndarray]:
        held, config = self.data.validation, self.config
        if not len(held) or not config.validate_every:
            return []
        plan = plan_epoch(
            self.data.store.frames[held],
            Position.start(),
            batch_frames=config.batch_frames,
            seed=0,
            max_utterances=config.max_utterances,
        )
        return [held[plan.batch(step, 0)] for step in range(plan.steps)]

    def _restore(self, state: dict[str, Any]) -> Position:
        path, now = self.data.store.path, self.data.store.fingerprint_of(self.stage.features)
        if state["store"] != now:
            raise RunError(
                f"{path} is not the store that this run was trained on: give that one, or start a new run.",
                f"store now:      {now}",
                f"store of run:   {state['store']}",
            )
        self.stage.load_state_dict(state["stage"])
        set_random_state(state["random"])
        self.step = state["step"]
        return Position.from_json(state["stream"])

    def _check(self, values: dict[str, float]) -> None:
        """Stop a run that no longer learns: the stage leaves out updates whose gradients are not finite."""
        self.skipped = self.skipped + 1 if values["skipped"] else 0
        if self.skipped == SKIPS_IN_A_ROW:
            raise RunError(
                f"Training diverged: the gradients of {SKIPS_IN_A_ROW} steps up to step {self.step} were not finite. "
                f"Resume {self.config.out} with --precision fp32, or from an earlier checkpoint."
            )

    def _record(self, **record: Any) -> None:
        self.log.write(record)
        self.observer.recorded(record)


def requirements(recipe: SpectralRecipe) -> Requirements:
    """What the features of a store must be made like for SoVITS."""
    return {
        "wave": {"sample_rate": recipe.sample_rate, "hop": recipe.hop},
        "mfcc": recipe.to_json(),
        "phones": {"symbols": "gpt-sovits-v2"},
    }


def _settled(config: RunConfig, device: torch.device, precision: Precision, observer: Observer) -> RunConfig:
    """The config with every choice made, and said."""
    frames, why = choices.choose_batch_frames(config.batch_frames, device)
    observer.say(f"batch_frames {frames}: {why}")
    utterances, why = choices.choose_max_utterances(config.max_utterances, frames)
    observer.say(f"max_utterances {utterances}: {why}")
    return replace(config, precision=precision.name, batch_frames=frames, max_utterances=utterances)


def _save_config(config: RunConfig) -> None:
    """Write config.json, whole or not at all."""
    draft = config.out / "config.tmp"
    draft.write_text(json.dumps(config.to_json(), indent=1) + "\n")
    commit_file(draft, config_path(config.out))
