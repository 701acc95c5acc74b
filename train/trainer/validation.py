"""Validation of a run: mean losses over the held-out utterances, and samples of them."""

from __future__ import annotations

import numpy as np

from headrace.store.errors import StoreError
from headrace.train import distributed
from headrace.train.data.batch_plan import Position, plan_epoch
from headrace.train.data.batch_reader import read_batch
from headrace.train.distributed.phases import PHASES
from headrace.train.monitoring import evaluation_samples, metrics
from headrace.train.monitoring.evaluation_samples import SampleWriter
from headrace.train.monitoring.observer import Observer
from headrace.train.stages.stage import check_ids
from headrace.train.trainer.setup import TrainingSetup


class Validator:
    """Computes validation losses, always over the same batches, and writes samples."""

    def __init__(self, setup: TrainingSetup, samples: SampleWriter | None, observer: Observer) -> None:
        """
        Args:
            samples: writes samples at each validation; None for none.
        """
        self._setup, self._samples, self._observer = setup, samples, observer
        self._batches = _batches(setup)
        if samples:
            observer.log(samples.describe())

    def validate(self, step: int) -> dict[str, float]:
        """Return mean losses, and on the first rank mean scores of the samples; empty if no utterance is held out.

        Each rank computes some of the batches. Their losses are summed in the order of the batches, so that the means
        do not depend on the number of ranks. Weights and random state stay as they are.
        """
        with self._setup.stage.whole():
            return self._validate(step)

    def _validate(self, step: int) -> dict[str, float]:
        """Do what `validate` does, with all weights on each rank."""
        rank, world = distributed.rank(), distributed.world_size()
        own = {number: self._losses(self._batches[number]) for number in range(rank, len(self._batches), world)}
        losses = {number: terms for of_rank in distributed.all_gather(own) for number, terms in of_rank.items()}
        if not losses:
            return {}
        sums: dict[str, float] = {}
        for number, utterances in enumerate(self._batches):
            for name, value in losses[number].items():
                sums[name] = sums.get(name, 0.0) + value * len(utterances)
        count = len(self._setup.data.validation)
        return {name: value / count for name, value in sums.items()} | self._write_samples(step)

    def _losses(self, utterances: np.ndarray) -> dict[str, float]:
        """Return the mean losses of a batch."""
        PHASES.beat()
        setup = self._setup
        batch = read_batch(setup.data.store, setup.stage.features, utterances)
        check_ids(setup.stage, setup.data.store, batch)
        return metrics.to_floats(setup.stage.validate(batch.to(setup.device)))

    def _write_samples(self, step: int) -> dict[str, float]:
        """Synthesise and write the samples. Returns their mean scores. Training continues if the disk is full."""
        if self._samples is None:
            return {}
        try:
            samples = self._samples.write(step)
        except (OSError, StoreError) as error:
            reason = error.message if isinstance(error, StoreError) else error.strerror
            self._observer.log(f"step {step}: samples are not written, training continues: {reason}")
            return {}
        self._observer.samples_written(step, samples)
        return evaluation_samples.mean_scores(samples)


def _batches(setup: TrainingSetup) -> list[np.ndarray]:
    """Return the utterance numbers of each validation batch."""
    validation, config = setup.data.validation, setup.config
    if not len(validation) or not config.schedule.validate_every:
        return []
    plan = plan_epoch(
        setup.data.store.frames[validation],
        Position.start(),
        batch_frames=config.data.batch_frames,
        seed=0,
        max_utterances=config.data.max_utterances,
    )
    return [validation[plan.batch(step, 0)] for step in range(plan.steps)]
