"""The state of a training run between two steps, and what advances it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from signal import Signals
from typing import Any, NamedTuple

import torch

from headrace.featurize.files import run_checkpoints
from headrace.store.errors import RunError
from headrace.store.units import format_size
from headrace.train import distributed
from headrace.train.checkpoints.background import BackgroundCheckpoints, BackgroundCopies
from headrace.train.checkpoints.checkpoint import KEEP_NEWEST, Checkpoints, random_state, set_random_state, tensor_bytes
from headrace.train.checkpoints.copies import copies_of
from headrace.train.config import RunConfig
from headrace.train.config_sections import parse_save_every
from headrace.train.data.batch import Batch, amounts
from headrace.train.data.batch_plan import Position
from headrace.train.data.training_data import check_same_store
from headrace.train.distributed.phases import COMPUTING, COPYING, PHASES, READING, SAVING, SYNCHRONISING, VALIDATING
from headrace.train.launcher import launched_elastically
from headrace.train.monitoring import evaluation_samples
from headrace.train.monitoring.metrics import DelayedValues
from headrace.train.monitoring.observer import Observer
from headrace.train.parallel_form import parse_form
from headrace.train.stages.stage import check_ids
from headrace.train.trainer import launching
from headrace.train.trainer.bad_updates import BadUpdates
from headrace.train.trainer.calibration import calibrate
from headrace.train.trainer.plateau import Plateau
from headrace.train.trainer.quarantine import Quarantine
from headrace.train.trainer.rank_speeds import RankSpeeds, check_speeds, describe
from headrace.train.trainer.recorder import RunRecorder
from headrace.train.trainer.run_folder import HANGS
from headrace.train.trainer.setup import set_up
from headrace.train.trainer.validation import Validator


class SubmittedUpdate(NamedTuple):
    """An update whose values the host does not know yet."""

    step: int
    epoch: int
    start: float
    """When the host began with it."""
    batches: list[Batch]
    values: DelayedValues
    fields: dict[str, Any]
    """What else is recorded of it."""


class Run:
    """A training run between two steps: its data, its model and its progress. The same on each rank."""

    def __init__(self, config: RunConfig, state: dict[str, Any] | None, observer: Observer) -> None:
        """
        Args:
            state: a checkpoint to continue from; None begins at step 0.
        Raises:
            UsageError: its speeds, or the form in which processes share it, are for another number of them.
        """
        form = parse_form(config.distributed.parallel)
        form.sizes(distributed.world_size())
        self._together, self._noise_share = form.readers_share, form.noise_share
        readers, noise = distributed.world_size() // self._together, distributed.rank() // self._noise_share
        check_speeds(config.distributed.speeds, readers)
        self.recorder = RunRecorder(config, observer)
        self.observer = self.recorder.observer
        self.setup = setup = launching.apply(set_up(config, self.observer, resumes=state is not None), self.observer)
        self.device, self.precision, self.config = setup.device, setup.precision, setup.config
        self.data, self.stage = setup.data, setup.stage
        self.step, self.plateau, self.quarantine = 0, Plateau(), Quarantine(self.data.store.ids)
        self.kept: list[int] = []
        self._unsettled: SubmittedUpdate | None = None
        self._settled_at = 0.0
        self._epoch_ended, self._averaged = False, True
        if noise:  # weights are the same on all ranks, noise is not
            torch.manual_seed((config.model.seed << 16) + noise)
        position = self._restore(state) if state is not None else self._begin()
        distributed.broadcast_state(self.stage.state_dict())
        if self.stage.quantisation is not None:
            self.stage.quantisation.calibrate()
        self._allocate()
        self.stage.microbatches.splits = max(self.stage.microbatches.splits, self._least_pieces)
        samples = None
        if distributed.rank() == 0:
            samples = evaluation_samples.sample_writer(
                self.config, self.stage, self.data, self.device, self.observer.log
            )
        self.validator = Validator(setup, samples, self.observer)
        self.bad_updates = BadUpdates(self.stage, self.quarantine, self.device, self.observer)
        self.checkpoints = Checkpoints(config.out / "checkpoints")
        self.recorder.open(self.config, self.step)
        schedule = self.config.schedule
        most = KEEP_NEWEST + 1 + (schedule.keep if schedule.save_every else 0)
        size = format_size(tensor_bytes(self.stage.state_dict()))  # on all ranks, where they share the model
        self.observer.log(f"checkpoints: at most {most} are kept, of {size} each")
        self.saving = self._begin_saving()
        self.speeds = RankSpeeds(config.distributed.speeds, self.device, readers)
        self._open_stream(self.speeds.begin(position))
        PHASES.step = self.step
        distributed.watch(config.distributed.rank_timeout, config.out / HANGS, self.device)
        self.observer.started(self.step, self._last_step(), self.stage.tracked_metrics)

    @property
    def finished(self) -> bool:
        """Whether the run has reached its last step or epoch, or validations no longer improve."""
        schedule = self.config.schedule
        return bool(
            (schedule.max_steps and self.step >= schedule.max_steps)
            or (schedule.max_epochs and self.stream.position.epoch >= schedule.max_epochs)
            or (schedule.patience and self.plateau.since >= schedule.patience)
        )

    @property
    def begins_with_weights(self) -> bool:
        """Whether no step was made of a run that begins with given weights: what they are worth is validated first."""
        return bool(self.step == 0 and self.config.model.source and self.config.schedule.validate_every)

    def is_due(self, every: int) -> bool:
        """Return whether an action that happens every `every` steps, 0 for never, is due after this step."""
        return every > 0 and self.step % every == 0

    @property
    def is_to_be_kept(self) -> bool:
        """Whether the checkpoint of this step is one that `save_every` asks for."""
        steps, epochs = parse_save_every(self.config.schedule.save_every)
        done = self.stream.position.epoch
        return self.is_due(steps) or bool(epochs and self._epoch_ended and done % epochs == 0)

    def train_step(self, stop: Sequence[Signals] = ()) -> int:
        """Make one update, from as many batches as it takes, and record the metrics of the one before it.

        Args:
            stop: signals that came to this rank, to which a handler may add.
        Returns:
            The number of a signal that came to any of the ranks, the same on all of them; 0 for none.
        """
        start, position, rate = time.perf_counter(), self.stream.position, self.stage.learning_rate
        copying = PHASES.seconds().get(COPYING, 0.0)
        batches, stages = self._next_batches()
        precision = self._begin_step()
        microbatches = self.stage.microbatches.splits
        with PHASES.enter(COMPUTING), self.speeds.measure(batches):
            terms = self.stage.step(batches)
        self._averaged = False
        values = DelayedValues(terms | {"loss_scale": self.precision.loss_scale()})
        self.step += 1
        if self.is_due(self.config.distributed.average_every):
            self.average()
        counts, caught = self._exchange(batches, stop)
        if self.stage.microbatches.splits > microbatches:
            self._log_out_of_memory()
        self._epoch_ended = self.stream.position.epoch > position.epoch
        if self._epoch_ended:
            self.stage.end_epoch()
        self.settle()  # the update before this one, while the device computes this one
        copied = PHASES.seconds().get(COPYING, 0.0) - copying
        fields = {"lr": rate, "precision": precision, **stages, "copy_s": copied, **counts}
        self._unsettled = SubmittedUpdate(self.step, position.epoch + 1, start, batches, values, fields)
        if not self.settles_late:
            self.settle()
        PHASES.finish_step(self.step, time.perf_counter() - start)
        following = self.speeds.follow(position, self.stream.position)
        if following != self.stream.position:
            self.stream.close()
            self._open_stream(following)
        return caught

    @property
    def settles_late(self) -> bool:
        """Whether the values of an update are read after the next one is submitted: on a CPU they are there at once."""
        return self.device.type != "cpu"

    def settle(self) -> None:
        """Read and record the values of the last update that was submitted, and handle them if it was a bad one.

        Raises:
            RunError: training diverged.
        """
        update, self._unsettled = self._unsettled, None
        if update is None:
            return
        with PHASES.enter(SYNCHRONISING):
            values = update.values.read()
        # Of updates in a row each takes from where the one before it was done, not from where it was submitted.
        start, self._settled_at = max(update.start, self._settled_at), time.perf_counter()
        utterances = self.bad_updates.report(update.step, update.batches, values)
        self.recorder.record(
            split="train",
            step=update.step,
            epoch=update.epoch,
            **values,
            **update.fields,
            step_s=self._settled_at - start,
            quarantined=len(self.quarantine.quarantined),
            **utterances,
        )
        self.bad_updates.check_divergence(update.step, values)

    def close(self) -> None:
        """Stop reading."""
        self.stream.close()

    def _exchange(self, batches: Sequence[Batch], stop: Sequence[Signals]) -> tuple[dict[str, Any], int]:
        """Tell the other ranks of this step, in one message: how much it held, into how many pieces, and of a signal.

        From here on all ranks split their batches as that one does which has the least memory.

        Returns:
            Frames, utterances and share of padding, over all ranks; and the number of the signal, or 0.
        """
        told = (*amounts(batches), self.stage.microbatches.splits, max(stop, default=0))
        *counts, pieces, caught = zip(*distributed.gather_integers(told), strict=True)
        self.stage.microbatches.splits = max(pieces)
        frames, utterances, padded = (of_ranks[:: self._together] for of_ranks in counts)
        padding = 1 - sum(frames) / sum(padded)
        return {"frames": sum(frames), "utterances": sum(utterances), "padding": padding}, max(caught)

    def validate(self) -> None:
        """Validate and record the losses; then note the best step, and grow batches where that is due.

        The values are those of the first rank, on all of them: what follows from them is decided once.
        """
        self.settle()
        self.average()
        start = time.perf_counter()
        with PHASES.enter(VALIDATING):
            values = distributed.agreed(self.validator.validate(self.step))
        if not values:
            return
        self.recorder.record(
            split="validation",
            step=self.step,
            epoch=self.stream.position.epoch + 1,
            **values,
            utterances=len(self.data.validation),
            seconds=time.perf_counter() - start,
        )
        self._follow_validation(values[self.stage.tracked_metrics[0]])

    def average(self) -> None:
        """Let all machines have one model, where they have trained copies of their own since the last time."""
        if not self._averaged:
            self.stage.average()
        self._averaged = True

    def check_weights(self) -> None:
        """Check that all ranks have the same weights and the same state of optimisers.

        Raises:
            RunError: they have not.
        """
        part, state = self.stage.held_state()
        distributed.check_state(state, self.step, part)

    def save(self) -> None:
        """Begin to save a checkpoint: each random state that ranks have, and all else of the first one.

        Raises:
            RunError: ranks have not the same weights, or the checkpoint before it could not be written; or training
                diverged.
        """
        self.settle()
        self.average()
        self.check_weights()
        random = distributed.all_gather(random_state(self.device))[:: self._noise_share]
        of_stage = self.stage.state_dict()
        if distributed.rank():
            return
        if self.is_to_be_kept:
            self.kept = [*self.kept, self.step][-self.config.schedule.keep :]
        state = {
            "kept": self.kept,
            "stage": of_stage,
            "stream": self.stream.position.to_json(),
            "random": random,
            "pieces": self.stage.microbatches.splits,
            "plateau": self.plateau.to_json(),
            "quarantine": self.quarantine.to_json(),
            "store": self.data.store.fingerprint_of(self.stage.features),
            "config": self.config.to_json(),
            "codebook": self.stage.codebook,
            "origin": self.setup.origin.to_json(),
        }
        with PHASES.enter(SAVING):
            self.saving.save(self.step, state, before=partial(self._steps_to_keep, self.step, tuple(self.kept)))

    def interruption_message(self, number: Signals) -> str:
        """Return what to tell the user when a signal stops the run."""
        command = f"train run {self.config.store} --out {self.config.out} --resume"
        return f"{number.name} came: stopped after step {self.step}, saved {self.checkpoints.path(self.step)}. " + (
            "The same command continues." if launched_elastically() else f"Continue with: {command}"
        )

    def summary(self) -> dict[str, Any]:
        """Return `metrics.summarise`, and where and how the run was made. Draws curves.png."""
        config, tracked = self.config, self.stage.tracked_metrics
        return {
            "run": str(config.out),
            "checkpoint": str(self.checkpoints.path(self.step)),
            "stage": config.model.stage,
            "preset": config.model.preset,
            "device": str(self.device),
            "ranks": distributed.world_size(),
            "precision": self.precision.name,
            "batch_frames": config.data.batch_frames,
            "validation_utterances": len(self.data.validation),
            "quarantined": self.quarantine.ids(self.quarantine.quarantined),
            "data": self.data.to_json(),
            "tracked_metrics": list(tracked),
            **self.recorder.summarise(tracked),
        }

    def _open_stream(self, position: Position) -> None:
        """Read batches from a position on, and tell the user how they are shared out."""
        self.stream = self.setup.stream(position)
        if position.speeds:
            self.observer.log(f"speeds, and shares of each step: {describe(position.speeds, len(position.speeds))}")

    def _begin_saving(self) -> BackgroundCheckpoints:
        """Return what saves checkpoints, and copies them if that was asked for.

        Raises:
            RunError: the place of the copies has those of another run.
            StorageError, OSError: nothing can be written there.
        """
        copies = copies_of(self.config.out, self.config.schedule.checkpoint_to)
        if copies is None:
            return BackgroundCheckpoints(self.checkpoints)
        distributed.on_first_rank(lambda: copies.begin(self.config))
        return BackgroundCheckpoints(self.checkpoints, BackgroundCopies(copies, self.observer.log))

    def _steps_to_keep(self, step: int, kept: Sequence[int]) -> set[int]:
        """Flush the metrics to disk, and return the steps whose checkpoints stay when that of `step` is written."""
        self.recorder.sync()
        return {*kept, run_checkpoints.best_of(self.config.out, [*self.checkpoints.steps(), step])}

    def _begin(self) -> Position:
        """Load pretrained weights and return the first position."""
        for line in self.stage.load_pretrained(self.config.model):
            self.observer.log(line)
        if self.stage.quantisation is not None:
            self.observer.log(calibrate(self.setup))
        return Position.start()

    def _allocate(self) -> None:
        """Allocate what an update needs beside activations.

        Raises:
            RunError: it does not fit, in whatever pieces batches are computed.
        """
        try:
            self.stage.allocate()
        except torch.OutOfMemoryError as error:
            raise RunError(
                "The model, its gradients and the state of its optimisers do not fit into the device's memory: train a "
                "smaller preset, or end what else uses the device."
            ) from error

    def _restore(self, state: dict[str, Any]) -> Position:
        """Restore the state of a checkpoint and return its position.

        Raises:
            RunError: the store is another one, or the checkpoint lacks what this run needs.
        """
        try:
            return self._restore_state(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            path = Checkpoints(self.config.out / "checkpoints").path(state["step"])
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RunError(
                f"{path} does not fit this run ({reason[:200]}): move it away, and --resume continues from the one "
                "before it."
            ) from error

    def _restore_state(self, state: dict[str, Any]) -> Position:
        """Restore the state of a checkpoint and return its position."""
        if state["store"] is not None:  # of a pruned run that has read none yet
            check_same_store(self.data.store, state["store"], self.stage.features)
        self.stage.load_state_dict(state["stage"])
        self.stage.microbatches.splits = state["pieces"]
        self.plateau = Plateau(**state["plateau"])
        self.quarantine = Quarantine(self.data.store.ids, state["quarantine"])
        noise = distributed.rank() // self._noise_share
        if noise < len(state["random"]):
            set_random_state(state["random"][noise], self.device)
        self.step, self.kept = state["step"], list(state.get("kept", ()))
        return Position.from_json(state["stream"])

    def _last_step(self) -> int | None:
        """Return the step at which the run stops, as far as it is known in the current epoch."""
        schedule = self.config.schedule
        epochs = schedule.max_epochs * -(-self.stream.steps // self._batches_per_update)
        return min((last for last in (schedule.max_steps, epochs) if last), default=None)

    @property
    def _least_pieces(self) -> int:
        return max(1, self.config.compute.microbatches)

    @property
    def _batches_per_update(self) -> int:
        return self.stage.optim.grad_accum * self.plateau.growth

    def _next_batches(self) -> tuple[list[Batch], dict[str, float]]:
        """Return the batches of an update, fewer at the end of an epoch, and what they took.

        That are the seconds that were waited for them, that planning took, and that threads took to read them.
        """
        epoch, seconds = self.stream.position.epoch, dict.fromkeys(("wait_s", "plan_s", "read_s"), 0.0)
        batches: list[Batch] = []
        while len(batches) < self._batches_per_update and self.stream.position.epoch == epoch:
            with PHASES.enter(READING):
                batch = next(self.stream)
            for name in seconds:
                seconds[name] += getattr(self.stream, name)
            check_ids(self.stage, self.data.store, batch)
            batches.append(self.quarantine.without_quarantined(batch))
        return batches, seconds

    def _begin_step(self) -> str:
        """Set the precision of this step, and return its name."""
        self.precision.step_number = self.step
        if self.precision.is_half and self.step == self.precision.fp32_steps:
            self.stage.microbatches.splits = self._least_pieces  # half precision may fit what float32 did not
        return self.precision.name if self.precision.is_half else "fp32"

    def _follow_validation(self, loss: float) -> None:
        """Note the best step, grow batches, and say when the run stops early."""
        config, plateau = self.config, self.plateau
        plateau.update(self.step, loss)
        if config.optim.grow_batch and plateau.grow():
            self.observer.log(f"validation no longer improves: updates of {plateau.growth} times as many batches")
        if config.schedule.patience and plateau.since >= config.schedule.patience:
            self.observer.log(f"stopping: no validation since step {plateau.best_step} was better")

    def _log_out_of_memory(self) -> None:
        self.observer.log(
            f"step {self.step} ran out of memory: from here on each batch is computed in "
            f"{self.stage.microbatches.splits} pieces, with the same result; a smaller --batch-frames would be quicker"
        )
