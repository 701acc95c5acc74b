"""Input of the HMM aligner: MFCC every 10 ms with deltas and delta-deltas, normalised by speaker.

Shapes: T frames of 10 ms, D = 3 COEFFICIENTS channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from headrace.featurize.spectral import reverberation
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe

WINDOW_S, STEP_S = 0.025, reverberation.FRAME_S
BANDS, COEFFICIENTS = 40, 13
CHANNELS = 3 * COEFFICIENTS
HIGHEST_HZ = 8000
DELTA = 2
"""Frames on either side that a delta is computed from (The HTK Book, section 5.6)."""
SPEAKER = "speaker "
"""Prefix of a speaker's name among named arrays: (2, D), mean and standard deviation."""


def recipe(sample_rate: int) -> SpectralRecipe:
    """Return the spectral recipe for a sample rate in Hz. The hop is even, and within a sample of 10 ms."""
    window = round(WINDOW_S * sample_rate)
    return SpectralRecipe(
        sample_rate=sample_rate,
        n_fft=1 << (window - 1).bit_length(),
        win=window,
        hop=2 * round(STEP_S * sample_rate / 2),
        n_mels=BANDS,
        fmax=min(HIGHEST_HZ, sample_rate / 2),
        n_mfcc=COEFFICIENTS,
    )


class Cepstra:
    """Computes cepstra of waveforms of one sample rate."""

    def __init__(self, sample_rate: int) -> None:
        self._spectral = Spectral(recipe(sample_rate))
        self.step = self._spectral.recipe.hop
        """Samples between frames."""

    def __call__(self, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute cepstra (T, D), and the power (T, reverberation.BANDS), of a waveform (frames, hop) int16.

        Both are float32.
        """
        mel, mfcc = self._spectral.features(torch.tensor(wave.reshape(-1)))
        slope = _delta(mfcc.numpy())
        power = reverberation.in_bands(np.exp(2 * mel.numpy().astype(np.float64))).astype(np.float32)
        return np.concatenate([mfcc.numpy(), slope, _delta(slope)], 1), power


def _delta(x_TD: np.ndarray) -> np.ndarray:
    """Return the slope of the line through each frame and its neighbours, with the end frames repeated."""
    count, padded = len(x_TD), np.pad(x_TD, ((DELTA, DELTA), (0, 0)), mode="edge")
    rise = sum(k * (padded[DELTA + k :][:count] - padded[DELTA - k :][:count]) for k in range(1, DELTA + 1))
    return np.asarray(rise / (2 * sum(k * k for k in range(1, DELTA + 1))), np.float32)


def normalise(
    cepstra: Sequence[np.ndarray], speakers: Sequence[str], known: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Bring every speaker to mean 0 and variance 1, in place.

    Args:
        cepstra: (T, D) of each utterance.
        speakers: of each utterance.
        known: means and deviations, as returned. Those of other speakers are computed from these utterances.
    Returns:
        (2, D) means and deviations that were used, by SPEAKER and name.
    """
    used: dict[str, np.ndarray] = {}
    for speaker in sorted(set(speakers)):
        frames_of_speaker = [x_TD for x_TD, name in zip(cepstra, speakers, strict=True) if name == speaker]
        name = SPEAKER + speaker
        used[name] = known[name] if name in known else _moments(np.concatenate(frames_of_speaker))
        mean, deviation = used[name]
        for x_TD in frames_of_speaker:
            x_TD -= mean
            x_TD /= deviation
    return used


def _moments(x_TD: np.ndarray) -> np.ndarray:
    mean, deviation = x_TD.mean(0, dtype=np.float64), x_TD.std(0, dtype=np.float64)
    return np.stack([mean, np.maximum(deviation, 1e-3)]).astype(np.float32)
