"""Recording quality of utterances from the levels of their frames, as columns for `--where` conditions.

Shapes: T frames of hop samples.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.featurize.features.derived import Derived, Part
from headrace.store.schema import FeatureSpec

FULL_SCALE = 32768.0
LOWEST = -100.0
"""Level of digital silence, in dB."""
DB_OF_NAT = 20 / math.log(10)
"""dB in one neper: the ratio of amplitudes e."""
LOUD, QUIET = 0.95, 0.10
"""Quantiles of the frames' levels that stand for speech and for background noise."""
BELOW_LOUD = 30.0
"""Frames this many dB below the loud ones count as silence."""
FLAT, RUN = 0.99, 3
"""Clipping: at least RUN samples in a row that reach this share of the utterance's peak. The peak counts, not full
scale, because recordings may be scaled after they were clipped."""
PIECE = 1 << 12
"""Frames that are processed at a time."""


def levels(wave: np.ndarray) -> np.ndarray:
    """Return the mean power of every frame in dB of full scale.

    Args:
        wave: (T, hop) int16.
    Returns:
        (T,) float32, LOWEST at least.
    """
    power = np.empty(len(wave), np.float32)
    for start in range(0, len(wave), PIECE):
        piece = wave[start : start + PIECE].astype(np.float32)
        np.einsum("th,th->t", piece, piece, out=power[start : start + PIECE])
    return 10 * np.log10(np.maximum(power / (wave.shape[1] * FULL_SCALE**2), 10 ** (LOWEST / 10)))


def level(levels_T: np.ndarray) -> float:
    """Return the mean power of the whole utterance in dB of full scale."""
    return float(10 * np.log10(np.mean(10 ** (levels_T.astype(np.float64) / 10))))


def snr(levels_T: np.ndarray) -> float:
    """Return the signal-to-noise ratio in dB: loud minus quiet frames, by quantiles as in NIST's stnr.

    It is too low where the speaker never pauses.
    """
    quiet, loud = np.quantile(levels_T, [QUIET, LOUD])
    return float(loud - quiet)


def silence(levels_T: np.ndarray) -> float:
    """Return the share of frames, 0 to 1, that are far below the loud ones; 1 for digital silence."""
    loud = np.quantile(levels_T, LOUD)
    return float(np.mean(levels_T < loud - BELOW_LOUD)) if loud > LOWEST else 1.0


def clipped(wave: np.ndarray) -> float:
    """Return the share of samples, 0 to 1, on flattened peaks.

    Args:
        wave: (T, hop) int16.
    """
    samples = wave.reshape(-1)
    if not len(samples):
        return 0.0
    limit = max(1.0, FLAT * max(float(samples.max()), -float(samples.min())))
    at_peak = np.concatenate(([False], (samples >= limit) | (samples <= -limit), [False]))
    first, last = np.flatnonzero(np.diff(at_peak)).reshape(-1, 2).T
    runs = last - first
    return float(runs[runs >= RUN].sum() / len(samples))


@dataclass(frozen=True, kw_only=True)
class SignalFeature(Derived):
    """Base of features with one number per utterance, measured from its waveform."""

    needs, axis, dtype = ("wave",), "utterance", "float32"

    @staticmethod
    @abstractmethod
    def measure(wave: np.ndarray) -> float:
        """Measure a waveform (T, hop) int16."""

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for wave in part.utterances("wave"):
            yield np.array([self.measure(wave)], np.float32)


@dataclass(frozen=True, kw_only=True)
class Level(SignalFeature):
    """Mean power of the whole utterance, in dB of full scale."""

    name, missing = "level", LOWEST

    @staticmethod
    def measure(wave: np.ndarray) -> float:
        return level(levels(wave))


@dataclass(frozen=True, kw_only=True)
class Snr(SignalFeature):
    """Signal-to-noise ratio: dB between loud and quiet frames."""

    name = "snr"

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"loud": LOUD, "quiet": QUIET}

    @staticmethod
    def measure(wave: np.ndarray) -> float:
        return snr(levels(wave))


@dataclass(frozen=True, kw_only=True)
class Silence(SignalFeature):
    """Share of frames far below the loud ones."""

    name, missing = "silence", 1.0

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"loud": LOUD, "below_db": BELOW_LOUD}

    @staticmethod
    def measure(wave: np.ndarray) -> float:
        return silence(levels(wave))


@dataclass(frozen=True, kw_only=True)
class Clipped(SignalFeature):
    """Share of samples on flattened peaks."""

    name, missing = "clipped", 1.0

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"flat": FLAT, "run": RUN}

    @staticmethod
    def measure(wave: np.ndarray) -> float:
        return clipped(wave)


KINDS: tuple[type[SignalFeature], ...] = (Level, Snr, Silence, Clipped)
