"""What is done to every sample of a recording, each in one pass, compiled: NumPy takes three to five, and thirty times
as long for the mean of two channels.

Shapes: S samples, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.featurize.spectral.simd import compiled


def mean(samples: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Of the channels, full scale at 1.

    Args:
        samples: (S, C) int16 or float32, contiguous.
        out: (S,) float32 or longer.
    Returns:
        (S,) float32, the beginning of `out`.
    """
    length, channels = samples.shape
    scale = np.float32(1 / (channels * 32768 if samples.dtype == np.int16 else channels))
    _mean(samples.reshape(-1), channels, scale, out)
    return out[:length]


def peak_of(samples: np.ndarray) -> np.float32:
    """Largest magnitude of (S,) float32; not finite if any of them is not."""
    return np.int32(_largest(samples.view(np.int32))).view(np.float32)


def levelled(samples: np.ndarray, divisor: np.float32, loud: np.float32, plain: np.float32, out: np.ndarray) -> None:
    """x / divisor * loud + x * plain, clipped to what int16 holds and truncated towards zero.

    Args:
        samples: (S,) float32, finite.
        out: (S,) int16.
    """
    _levelled(samples, divisor, loud, plain, out)


@compiled
def _mean(samples: Any, channels: int, scale: Any, out: Any) -> None:
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


@compiled
def _largest(bits: Any) -> Any:
    # Magnitudes are ordered as their bits are, infinity and NaN above all; a maximum of integers is vectorised.
    largest = np.int32(0)
    for i in range(len(bits)):
        largest = max(largest, bits[i] & np.int32(0x7FFFFFFF))
    return largest


@compiled
def _levelled(samples: Any, divisor: Any, loud: Any, plain: Any, out: Any) -> None:
    for i in range(len(samples)):
        value = samples[i] / divisor * loud + samples[i] * plain
        out[i] = np.int16(min(max(value, np.float32(-32768)), np.float32(32767)))
