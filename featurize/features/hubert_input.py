"""What GPT-SoVITS feeds to HuBERT. Needs no torch.

Shapes: S samples.
"""

from __future__ import annotations

import numpy as np
import soxr

RATE = 16_000
FIELD = 400
"""Receptive field of a frame of HuBERT, in samples at RATE; fewer samples make no frame."""
FULL_SCALE = 1145.14
"""Full scale of the samples that GPT-SoVITS feeds to HuBERT, without further normalisation."""


def gain(samples: np.ndarray, level: str) -> np.float32:
    """Return the factor that scales int16 samples for HuBERT, to FULL_SCALE.

    As in GPT-SoVITS, the signal is the mean of the recording as it is and of the recording at a peak of 0.95. A store
    of level `gpt-sovits` holds that mean already.
    """
    if level == "gpt-sovits":
        return np.float32(FULL_SCALE / 32768)
    peak = max(1, int(samples.max()), -int(samples.min())) / 32768
    return np.float32((0.5 * 0.95 / peak + 0.5) * FULL_SCALE / 32768)


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Resample to (S,) float32 at RATE, zero-padded to at least FIELD samples."""
    samples_16k: np.ndarray = soxr.resample(samples, rate, RATE, quality="HQ")
    return np.pad(samples_16k, (0, max(0, FIELD - len(samples_16k))))
