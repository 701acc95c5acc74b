"""Compiled operations on the samples of a recording, each in one pass over memory.

NumPy needs three to five passes, and 30 times as long for the mean of two channels. Shapes: S samples, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.featurize.spectral.simd import compiled


def mix_down(samples: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write the mean of the channels to `out`, with full scale at 1.

    Args:
        samples: (S, C) int16 or float32, contiguous.
        out: at least (S,) float32.
    Returns:
        (S,) float32, the beginning of `out`.
    """
    length, channels = samples.shape
    scale = np.float32(1 / (channels * 32768 if samples.dtype == np.int16 else channels))
    _mix_down(samples.reshape(-1), channels, scale, out)
    return out[:length]


def add_moments(samples: np.ndarray, moments: np.ndarray) -> None:
    """Add number, sum and sum of squares of each channel's samples, and of their mean, of every 17th sample.

    Args:
        samples: (S, C) int16 or float32, contiguous.
        moments: (C + 1, 3) float64, that of the mean last.
    """
    _add_moments(samples.reshape(-1), moments)


def peak_magnitude(samples: np.ndarray) -> np.float32:
    """Return the largest magnitude of (S,) float32 samples. It is not finite if any sample is not."""
    return np.int32(_largest_magnitude(samples.view(np.int32))).view(np.float32)


def apply_level(
    samples: np.ndarray, peak: np.float32, normalised: np.float32, original: np.float32, out: np.ndarray
) -> None:
    """Write x / peak * normalised + x * original to `out`, clipped to int16 and truncated towards zero.

    Args:
        samples: (S,) float32, finite.
        peak: the recording's largest magnitude.
        normalised: gain of the waveform scaled to a peak of 1.
        original: gain of the waveform itself.
        out: (S,) int16.
    """
    _apply_level(samples, peak, normalised, original, out)


@compiled
def _mix_down(samples: Any, channels: int, scale: Any, out: Any) -> None:
    length = len(samples) // channels
    if channels == 1:
        for i in range(length):
            out[i] = np.float32(samples[i]) * scale
    elif channels == 2:
        for i in range(length):
            out[i] = (np.float32(samples[2 * i]) + np.float32(samples[2 * i + 1])) * scale
    else:
        for i in range(length):
            total = np.float32(0)
            for channel in range(channels):
                total += np.float32(samples[i * channels + channel])
            out[i] = total * scale


_STRIDE = 17
"""A prime: no sample rate is a multiple of it, so that no usual tone looks constant."""


@compiled
def _add_moments(samples: Any, moments: Any) -> None:
    channels = len(moments) - 1
    for i in range(0, len(samples) // channels, _STRIDE):
        total = 0.0
        for channel in range(channels + 1):
            value = np.float64(samples[i * channels + channel]) if channel < channels else total / channels
            total += value
            moments[channel, 0] += 1
            moments[channel, 1] += value
            moments[channel, 2] += value * value


@compiled
def _largest_magnitude(bits: Any) -> Any:
    # Magnitudes sort like their bits, with infinity and NaN last; LLVM vectorises the maximum of integers.
    largest = np.int32(0)
    for i in range(len(bits)):
        largest = max(largest, bits[i] & np.int32(0x7FFFFFFF))
    return largest


@compiled
def _apply_level(samples: Any, peak: Any, normalised: Any, original: Any, out: Any) -> None:
    for i in range(len(samples)):
        value = samples[i] / peak * normalised + samples[i] * original
        out[i] = np.int16(min(max(value, np.float32(-32768)), np.float32(32767)))
