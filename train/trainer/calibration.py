"""Calibration of a model that is trained for INT8, on utterances of its store."""

from __future__ import annotations

import numpy as np

from headrace.train.data.batch_reader import read_batch
from headrace.train.trainer.setup import TrainingSetup

UTTERANCES = 24
"""Utterances on which ranges of activations are calibrated."""


def calibrate(setup: TrainingSetup) -> str:
    """Calibrate the ranges of a stage's activations on evenly spaced utterances. Returns a message.

    They are utterances that the run is trained on, one after the other: padding has no part in it.
    """
    training, stage = setup.data.training, setup.stage
    numbers = training[np.unique(np.linspace(0, len(training) - 1, min(UTTERANCES, len(training))).astype(int))]
    stage.calibrate(
        read_batch(setup.data.store, stage.features, number[None]).to(setup.device) for number in np.sort(numbers)
    )
    return f"quantize int8: ranges of activations are calibrated on {len(numbers)} utterances"
