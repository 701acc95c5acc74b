"""How well an utterance is recorded, from the levels of its frames: numbers that a condition on utterances can name.

T frames of hop samples.
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
"""dB that digital silence is given."""
DB_OF_NAT = 20 / math.log(10)
"""dB of an amplitude that is e times another."""
LOUD, QUIET = 0.95, 0.10
"""Quantiles of the frames' levels that stand for speech and for what lies behind it."""
BELOW_LOUD = 30.0
"""dB under the loud frames that count as silence."""
FLAT, RUN = 0.99, 3
"""A clipped sample is one of so many in a row that reach this share of the utterance's peak. The peak, and not full
scale: recordings are brought to another level after they were clipped."""
PIECE = 1 << 12
"""Frames that are looked at together."""


def levels(wave: np.ndarray) -> np.ndarray:
    """Mean power of every frame in dB of full scale.

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
    """Of the whole utterance, in dB of full scale."""
    return float(10 * np.log10(np.mean(10 ** (levels_T.astype(np.float64) / 10))))


def snr(levels_T: np.ndarray) -> float:
    """dB between its loud and its quiet frames, as NIST's stnr compares quantiles. Too low where nobody ever pauses."""
    quiet, loud = np.quantile(levels_T, [QUIET, LOUD])
    return float(loud - quiet)


def silence(levels_T: np.ndarray) -> float:
    """Share of its frames, 0 to 1, that lie far below the loud ones; 1 of digital silence."""
    loud = np.quantile(levels_T, LOUD)
    return float(np.mean(levels_T < loud - BELOW_LOUD)) if loud > LOWEST else 1.0


def clipped(wave: np.ndarray) -> float:
    """Share of its samples, 0 to 1, that lie on flattened peaks.

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
class Quality(Derived):
    """One number of every utterance's waveform."""

    needs, axis, dtype = ("wave",), "utterance", "float32"

    @staticmethod
    @abstractmethod
    def of(wave: np.ndarray) -> float:
        """Of (T, hop) int16."""

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for wave in part.utterances("wave"):
            yield np.array([self.of(wave)], np.float32)


@dataclass(frozen=True, kw_only=True)
class Level(Quality):
    """Of the whole utterance, in dB of full scale."""

    name = "level"

    @staticmethod
    def of(wave: np.ndarray) -> float:
        return level(levels(wave))


@dataclass(frozen=True, kw_only=True)
class Snr(Quality):
    """dB between loud and quiet frames."""

    name = "snr"

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"loud": LOUD, "quiet": QUIET}

    @staticmethod
    def of(wave: np.ndarray) -> float:
        return snr(levels(wave))


@dataclass(frozen=True, kw_only=True)
class Silence(Quality):
    """Share of frames far below the loud ones."""

    name = "silence"

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"loud": LOUD, "below_db": BELOW_LOUD}

    @staticmethod
    def of(wave: np.ndarray) -> float:
        return silence(levels(wave))


@dataclass(frozen=True, kw_only=True)
class Clipped(Quality):
    """Share of samples on flattened peaks."""

    name = "clipped"

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"flat": FLAT, "run": RUN}

    @staticmethod
    def of(wave: np.ndarray) -> float:
        return clipped(wave)


KINDS: tuple[type[Quality], ...] = (Level, Snr, Silence, Clipped)
