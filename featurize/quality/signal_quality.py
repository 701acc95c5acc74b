"""Recording quality of utterances from the levels of their frames, as columns for `--where` conditions.

Shapes: T frames of hop samples.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.spectral import reverberation
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
SPECTRA = 100
"""Loudest frames whose mean spectrum tells the bandwidth."""
BELOW_PEAK, ABOVE_ROUNDING = 80.0, 6.0
"""dB: a frequency is present above the first, counted from the peak of the spectrum, and the noise of rounding."""
WINDOW = 12.0
"""Parameter of the Kaiser window whose side lobes lie 90 dB below."""
ROUNDING = 1 / 12
"""Power of the error of rounding to int16, per sample."""
LOWEST_BAND, HIGHEST_BAND = 150.0, 7500.0
"""Hz, bounds of the bands in which a decay is looked for."""


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


def dc_offset(wave: np.ndarray) -> float:
    """Return the mean of the samples as a share, 0 to 1, of their root mean square; 0 for digital silence."""
    samples = wave.reshape(-1).astype(np.float64)
    power = float(samples @ samples)
    return abs(float(samples.sum())) / math.sqrt(len(samples) * power) if power else 0.0


def reverberation_time(wave: np.ndarray, sample_rate: int) -> float:
    """Return the seconds in which the sound of the room falls by 60 dB (RT60); 0 where its decay is not heard.

    Only the end of the recording is listened to. About one in seven dry recordings happens to end like a small room,
    of 0.8 s at most, and one in three of a large room ends otherwise: the median of a speaker tells more than a value.

    Args:
        wave: (T, hop) int16.
    """
    step = round(sample_rate * reverberation.FRAME_S)
    samples = wave.reshape(-1)[-(reverberation.TAIL_FRAMES + 200) * step :]
    frames = samples[: len(samples) // step * step].reshape(-1, step) / FULL_SCALE
    if not len(frames):
        return 0.0
    power = np.abs(np.fft.rfft(frames * np.hanning(step + 2)[1:-1], axis=1)) ** 2
    edges = np.geomspace(LOWEST_BAND, min(HIGHEST_BAND, 0.45 * sample_rate), reverberation.BANDS + 1)
    first = np.round(edges * step / sample_rate).astype(int)
    bands = np.add.reduceat(power[:, : first[-1]], first[:-1], axis=1)
    rate = reverberation.decay_rate(bands)
    return -60 / rate if rate else 0.0


@dataclass(frozen=True)
class Recording:
    """The waveform of an utterance, with what several measures need of it."""

    wave: np.ndarray
    """(T, hop) int16."""
    sample_rate: int

    @cached_property
    def levels(self) -> np.ndarray:
        """(T,) float32: see `levels`."""
        return levels(self.wave)


def bandwidth(recording: Recording) -> float:
    """Return the highest frequency in Hz that the loud frames hold; 0 for digital silence.

    A recording that once had a lower sample rate, or was compressed, has nothing but rounding above it.
    """
    wave = recording.wave
    if not wave.any():
        return 0.0
    loud = wave[np.argsort(-recording.levels, kind="stable")[:SPECTRA]].astype(np.float64)
    window = np.kaiser(wave.shape[1], WINDOW)
    power = (np.abs(np.fft.rfft(loud * window, axis=1)) ** 2).mean(0)
    noise = ROUNDING * (window @ window) * 10 ** (ABOVE_ROUNDING / 10)
    present = np.flatnonzero(power > max(noise, power.max() * 10 ** (-BELOW_PEAK / 10)))
    return float((present[-1] if len(present) else 0) * recording.sample_rate / wave.shape[1])


@dataclass(frozen=True, kw_only=True)
class SignalFeature(Derived):
    """Base of features with one number per utterance, measured from its waveform."""

    needs, axis, dtype = ("wave",), "utterance", "float32"

    @staticmethod
    @abstractmethod
    def measure(recording: Recording) -> float:
        """Measure the recording of an utterance."""

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        sample_rate = part.specs["wave"].recipe["sample_rate"]
        for wave in part.utterances("wave"):
            yield np.array([self.measure(Recording(wave, sample_rate))], np.float32)


@dataclass(frozen=True, kw_only=True)
class Level(SignalFeature):
    """Mean power of the whole utterance, in dB of full scale."""

    name, missing = "level", LOWEST

    @staticmethod
    def measure(recording: Recording) -> float:
        return level(recording.levels)


@dataclass(frozen=True, kw_only=True)
class Snr(SignalFeature):
    """Signal-to-noise ratio: dB between loud and quiet frames."""

    name = "snr"

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"loud": LOUD, "quiet": QUIET}

    @staticmethod
    def measure(recording: Recording) -> float:
        return snr(recording.levels)


@dataclass(frozen=True, kw_only=True)
class Silence(SignalFeature):
    """Share of frames far below the loud ones."""

    name, missing = "silence", 1.0

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"loud": LOUD, "below_db": BELOW_LOUD}

    @staticmethod
    def measure(recording: Recording) -> float:
        return silence(recording.levels)


@dataclass(frozen=True, kw_only=True)
class Clipped(SignalFeature):
    """Share of samples on flattened peaks."""

    name, missing = "clipped", 1.0

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"flat": FLAT, "run": RUN}

    @staticmethod
    def measure(recording: Recording) -> float:
        return clipped(recording.wave)


@dataclass(frozen=True, kw_only=True)
class Bandwidth(SignalFeature):
    """Highest frequency in Hz that the recording holds."""

    name = "bandwidth"

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"below_peak_db": BELOW_PEAK, "above_rounding_db": ABOVE_ROUNDING, "frames": SPECTRA}

    @staticmethod
    def measure(recording: Recording) -> float:
        return bandwidth(recording)


@dataclass(frozen=True, kw_only=True)
class DcOffset(SignalFeature):
    """Mean of the samples, as a share of their root mean square."""

    name, missing = "dc_offset", 1.0

    @staticmethod
    def measure(recording: Recording) -> float:
        return dc_offset(recording.wave)


@dataclass(frozen=True, kw_only=True)
class Reverberation(SignalFeature):
    """Reverberation time of the room in seconds, 0 where its decay is not heard."""

    name = "reverberation"

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"range_db": reverberation.RANGE_DB, "bands": reverberation.BANDS}

    @staticmethod
    def measure(recording: Recording) -> float:
        return reverberation_time(recording.wave, recording.sample_rate)


KINDS: tuple[type[SignalFeature], ...] = (Level, Snr, Silence, Clipped, Bandwidth, DcOffset, Reverberation)
