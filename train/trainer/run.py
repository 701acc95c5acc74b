"""A training run between two steps: its data, its model, and how far it is."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from signal import Signals
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.store.errors import RunError
from headrace.store.storage.local import commit_file
from headrace.train import distributed
from headrace.train.checkpoints.checkpoint import Checkpoints, random_state, set_random_state
from headrace.train.config import RunConfig, config_path
from headrace.train.data.batch import Batch, amounts
from headrace.train.data.batch_plan import Position, plan_epoch
from headrace.train.data.stream import read_batch
from headrace.train.data.training_data import check_same
from headrace.train.monitoring import evaluation_samples, metrics
from headrace.train.monitoring.metrics import MetricsLog
from headrace.train.monitoring.observer import Audience, Observer
from headrace.train.monitoring.tensorboard import Board
from headrace.train.stages import registry
from headrace.train.trainer.plateau import Plateau
from headrace.train.trainer.quarantine import Quarantine, members
from headrace.train.trainer.setup import make_ready

SKIPS_IN_A_ROW = 50
"""Updates that may be left out one after the other because gradients are not finite. Finding the loss scale of fp16
takes a dozen."""


class Run:
    """A run between two steps: its data, its model, and how far it is. On each rank the same one."""

    def __init__(self, config: RunConfig, state: dict[str, Any] | None, observer: Observer) -> None:
        """
        Args:
            state: a checkpoint to go on from; None begins at step 0.
        """
        first = distributed.rank() == 0
        self.board = Board(config.out / "tensorboard") if config.monitoring.tensorboard and first else None
        audience = (observer, self.board) if self.board else (observer,)
        self.observer = observer = Audience(*audience) if first else Audience()
        ready = make_ready(config, observer)
        self.device, self.precision, self.config = ready.device, ready.precision, ready.config
        self.data, self.stage = ready.data, ready.stage
        self.step = self.skips = 0
        self.plateau, self.quarantine = Plateau(), Quarantine(self.data.store.ids)
        if distributed.rank():
            torch.manual_seed(
                (config.model.seed << 16) + distributed.rank()
            )  # weights are the same on all ranks, noise is not
        position = self._restore(state) if state else self._begin()
        self.hearing = evaluation_samples.of_run(self.config, ready) if first else None
        if self.hearing:
            observer.say(self.hearing.line())
        self.checkpoints = Checkpoints(config.out / "checkpoints")
        self.log = self._write_down() if first else None
        self.validation = self._validation_batches()
        self.stream = ready.stream(position)
        observer.started(self.step, self._last_step(), self.stage.shown)

    @property
    def finished(self) -> bool:
        config = self.config
        return bool(
            (config.schedule.max_steps and self.step >= config.schedule.max_steps)
            or (config.schedule.max_epochs and self.stream.position.epoch >= config.schedule.max_epochs)
            or (config.schedule.patience and self.plateau.since >= config.schedule.patience)
        )

    def due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def train_step(self) -> None:
        """One update, from as many batches as make one, and one line."""
        begun, epoch, rate = time.perf_counter(), self.stream.position.epoch, self.stage.learning_rate
        batches, wait = self._next_batches()
        self.precision.step_number = self.step
        if self.precision.halved and self.step == self.precision.fp32_steps:
            self.stage.pieces.count = 1  # what float32 had no room for may fit from here on
        pieces, precision = self.stage.pieces.count, self.precision.name if self.precision.halved else "fp32"
        terms = self.stage.step(batches)
        values = metrics.to_floats(terms)  # here the device is waited for
        self.step += 1
        if self.stage.pieces.count > pieces:
            self._say_pieces()
        if self.stream.position.epoch > epoch:
            self.stage.end_epoch()
        spoilt = self._spoilt(batches, values) if values["skipped"] or values["exploded"] else {}
        self._record(
            split="train",
            step=self.step,
            epoch=epoch + 1,
            **values,
            lr=rate,
            loss_scale=self.precision.scaler.get_scale(),
            precision=precision,
            step_s=time.perf_counter() - begun,
            wait_s=wait,
            **amounts(batches),
            quarantined=len(self.quarantine.held),
            **spoilt,
        )
        self._check_progress(values)

    def validate(self) -> None:
        """Mean losses over the held-out utterances. Leaves weights and random numbers as they are."""
        begun, sums = time.perf_counter(), dict[str, Tensor]()
        for numbers in self.validation:
            batch = read_batch(self.data.store, self.stage.features, numbers)
            registry.check_ids(self.stage, self.data.store, batch)
            for name, value in self.stage.validate(batch.to(self.device)).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * len(batch)
        if not sums:
            return
        count = len(self.data.validation)
        values = metrics.to_floats({name: value / count for name, value in sums.items()})
        epoch, scores = self.stream.position.epoch + 1, self._hear()
        seconds = time.perf_counter() - begun
        self._record(
            split="validation", step=self.step, epoch=epoch, **values, **scores, utterances=count, seconds=seconds
        )
        self._follow(values[self.stage.shown[0]])

    def save(self) -> None:
        random = distributed.gathered(random_state())
        if distributed.rank():
            return
        self.checkpoints.save(
            self.step,
            {
                "stage": self.stage.state_dict(),
                "stream": self.stream.position.to_json(),
                "random": random,
                "pieces": self.stage.pieces.count,
                "plateau": self.plateau.to_json(),
                "quarantine": self.quarantine.to_json(),
                "store": self.data.store.fingerprint_of(self.stage.features),
                "config": self.config.to_json(),
            },
            best=self.plateau.best_step,
        )

    def farewell(self, number: Signals) -> str:
        return (
            f"{number.name} came: stopped after step {self.step}, saved {self.checkpoints.path(self.step)}. "
            f"Go on with: train run {self.config.store} --out {self.config.out} --resume"
        )

    def summary(self) -> dict[str, Any]:
        """`metrics.summarise`, and where and how the run was made. Draws curves.png."""
        out, shown = self.config.out, self.stage.shown
        records = metrics.read(out / "metrics.jsonl")
        metrics.draw_curves(records, shown, out / "curves.png")
        return {
            "run": str(out),
            "checkpoint": str(self.checkpoints.path(self.step)),
            "stage": self.config.model.stage,
            "preset": self.config.model.preset,
            "device": str(self.device),
            "ranks": distributed.world(),
            "precision": self.precision.name,
            "batch_frames": self.config.data.batch_frames,
            "validation_utterances": len(self.data.validation),
            "quarantined": self.quarantine.names(self.quarantine.held),
            "data": self.data.to_json(),
            "shown": list(shown),
            **metrics.summarise(records, shown),
        }

    def _hear(self) -> dict[str, float]:
        """Speak what was held out. Mean opinions on it."""
        if self.hearing is None:
            return {}
        try:
            heard = self.hearing.hear(self.step)
        except OSError as error:
            self.observer.say(f"step {self.step}: samples are not written, training goes on: {error.strerror}")
            return {}
        self.observer.heard(self.step, heard)
        return evaluation_samples.mean_scores(heard)

    def _last_step(self) -> int | None:
        """Where the run stops, as far as the epoch under way tells."""
        config, updates = self.config, self.stage.optim.accumulate * self.plateau.growth
        epochs = config.schedule.max_epochs * -(-self.stream.steps // updates)
        return min((last for last in (config.schedule.max_steps, epochs) if last), default=None)

    def _next_batches(self) -> tuple[list[Batch], float]:
        """The batches of an update: fewer at the end of an epoch. And the seconds that were waited for them."""
        epoch, wait = self.stream.position.epoch, 0.0
        batches: list[Batch] = []
        while len(batches) < self.stage.optim.accumulate * self.plateau.growth:
            batch = next(self.stream)
            wait += self.stream.wait_s
            registry.check_ids(self.stage, self.data.store, batch)
            batches.append(self.quarantine.without(batch))
            if self.stream.position.epoch > epoch:
                break
        return batches, wait

    def _validation_batches(self) -> list[np.ndarray]:
        held, config = self.data.validation, self.config
        if not len(held) or not config.schedule.validate_every:
            return []
        plan = plan_epoch(
            self.data.store.frames[held],
            Position.start(),
            batch_frames=config.data.batch_frames,
            seed=0,
            max_utterances=config.data.max_utterances,
        )
        return [held[plan.batch(step, 0)] for step in range(plan.steps)]

    def _begin(self) -> Position:
        for line in registry.initialise(self.stage, self.config):
            self.observer.say(line)
        return Position.start()

    def _restore(self, state: dict[str, Any]) -> Position:
        check_same(self.data.store, state["store"], self.stage.features)
        self.stage.load_state_dict(state["stage"])
        self.stage.pieces.count = state["pieces"]
        self.plateau = Plateau(**state["plateau"])
        self.quarantine = Quarantine(self.data.store.ids, state["quarantine"])
        if distributed.rank() < len(state["random"]):
            set_random_state(state["random"][distributed.rank()])
        self.step = state["step"]
        return Position.from_json(state["stream"])

    def _write_down(self) -> MetricsLog:
        """Make the folder of the run, with its config; its metrics go on after the step that is done."""
        self.config.out.mkdir(parents=True, exist_ok=True)
        _save_config(self.config)
        return MetricsLog(self.config.out / "metrics.jsonl", upto=self.step)

    def _spoilt(self, batches: Sequence[Batch], values: dict[str, float]) -> dict[str, Any]:
        """An update came to nothing, or nearly: says whose fault it was. Returns which utterances were in it."""
        if not values["skipped"]:
            self.observer.say(f"step {self.step}: {self.quarantine.suspicion(batches)}")
            return {"scaled_down": self.quarantine.names(members(batches))}
        for line in self.quarantine.blame(self.stage, batches, values, self.device):
            self.observer.say(f"step {self.step}: {line}")
        return {"left_out": self.quarantine.names(members(batches))}

    def _follow(self, loss: float) -> None:
        """What the validation loss is followed for: the best checkpoint, growing batches, stopping early."""
        self.plateau.note(self.step, loss)
        config, plateau = self.config, self.plateau
        if config.optim.grow_batch and plateau.grow():
            self.observer.say(f"validation no longer improves: updates of {plateau.growth} times as many batches")
        if config.schedule.patience and plateau.since >= config.schedule.patience:
            self.observer.say(f"stopping: no validation since step {plateau.best_step} was better")

    def _check_progress(self, values: dict[str, float]) -> None:
        """Stop a run that no longer learns: the stage leaves out updates whose gradients are not finite."""
        self.skips = self.skips + 1 if values["skipped"] else 0
        if self.skips == SKIPS_IN_A_ROW:
            raise RunError(
                f"Training diverged: the gradients of {SKIPS_IN_A_ROW} steps up to step {self.step} were not finite. "
                f"Resume {self.config.out} with --precision fp32, or from an earlier checkpoint."
            )

    def _say_pieces(self) -> None:
        self.observer.say(
            f"step {self.step} ran out of memory: from here on each batch is computed in {self.stage.pieces.count} "
            "pieces, with the same result; a smaller --batch-frames would be quicker"
        )

    def _record(self, **record: Any) -> None:
        if self.log is not None:
            self.log.write(record)
        self.observer.recorded(record)


def _save_config(config: RunConfig) -> None:
    """Write config.json, whole or not at all."""
    draft = config.out / "config.tmp"
    draft.write_text(json.dumps(config.to_json(), indent=1) + "\n")
    commit_file(draft, config_path(config.out))
