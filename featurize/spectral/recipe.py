"""The recipe of spectrogram, log-mel and MFCC, and what follows from it alone. Needs no torch.

Shapes: S samples, T = S // hop frames, F = n_fft // 2 + 1 bins, M mel bands, C cepstral coefficients.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MAX_MELS = 1024
"""Mel bands of a recipe: the filters of 32,768 would take 8 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralRecipe:
    """Everything that changes the numbers of `mel` and `mfcc`, given the waveform."""

    sample_rate: int = 32_000
    """Hz."""
    n_fft: int = 2048
    """Samples of the transform."""
    win: int = 2048
    """Samples of its periodic Hann window, centred between zeros where it is shorter than the transform."""
    hop: int = 640
    """Samples between frames."""
    n_mels: int = 128
    fmin: float = 0.0
    """Hz, lower edge of the first mel band."""
    fmax: float = 16_000.0
    """Hz, upper edge of the last mel band."""
    n_mfcc: int = 20

    def __post_init__(self) -> None:
        for holds, expected, *keys in (
            (1000 <= self.sample_rate <= 768_000, "from 1000 to 768000 Hz", "sample_rate"),
            (4 <= self.n_fft <= 65_536 and self.n_fft % 2 == 0, "even, from 4 to 65536 samples", "n_fft"),
            (1 <= self.win <= self.n_fft, "from 1 to n_fft samples", "win", "n_fft"),
            (2 <= self.hop <= self.n_fft and self.hop % 2 == 0, "even, from 2 to n_fft samples", "hop", "n_fft"),
            (0 <= self.fmin < self.fmax, "at least 0 Hz and below fmax", "fmin", "fmax"),
            (2 * self.fmax <= self.sample_rate, "at most half of sample_rate", "fmax", "sample_rate"),
            (1 <= self.n_mels <= self.n_fft // 2, "from 1 to n_fft / 2 bands", "n_mels", "n_fft"),
            (self.n_mels <= MAX_MELS, f"at most {MAX_MELS} bands", "n_mels"),
            (1 <= self.n_mfcc <= self.n_mels, "from 1 to n_mels coefficients", "n_mfcc", "n_mels"),
        ):
            if not holds:
                given = ", ".join(f"{key}={getattr(self, key)}" for key in keys)
                raise ValueError(f"{given}: {keys[0]} must be {expected}")

    @property
    def padding(self) -> int:
        """Return the samples reflected at both ends, so that S samples give exactly S // hop frames."""
        return (self.n_fft - self.hop) // 2

    @property
    def min_frames(self) -> int:
        """Return the fewest frames that can be reflected: the waveform must be longer than the padding."""
        return self.padding // self.hop + 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON stores them."""
        return asdict(self)


def magnitude(wave_S: np.ndarray, recipe: SpectralRecipe) -> np.ndarray:
    """Return the linear spectrogram sqrt(re^2 + im^2 + 1e-8) of one recording, as `Spectral.magnitude` does by torch.

    Args:
        wave_S: float32 in [-1, 1], S > padding.
    Returns:
        (T, F) float32.
    """
    padded = np.pad(wave_S, recipe.padding, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, recipe.n_fft)[:: recipe.hop]
    spectrum = np.fft.rfft(frames * window(recipe).astype(np.float32))
    return np.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-8).astype(np.float32)


def window(recipe: SpectralRecipe) -> np.ndarray:
    """Return the periodic Hann window of `win` samples, centred between zeros: (n_fft,) float64."""
    before = (recipe.n_fft - recipe.win) // 2
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(recipe.win) / recipe.win)
    return np.pad(hann, (before, recipe.n_fft - recipe.win - before))


def slaney_mel(recipe: SpectralRecipe) -> np.ndarray:
    """Return the mel filters of a recipe, (F, M) float64."""
    bins_hz = np.linspace(0, recipe.sample_rate / 2, recipe.n_fft // 2 + 1)
    return slaney_filters(bins_hz, recipe.fmin, recipe.fmax, recipe.n_mels)


def slaney_filters(bins_hz: np.ndarray, fmin: float, fmax: float, n_mels: int) -> np.ndarray:
    """Return triangular filters on Slaney's mel scale, each of unit area (Auditory Toolbox, 1998).

    Args:
        bins_hz: (F,) frequencies of the transform's bins.
        fmin: Hz, the lower edge of the first band.
        fmax: Hz, the upper edge of the last band.
    Returns:
        (F, n_mels) float64.
    """
    low, high = _hz_to_mel(np.array([fmin, fmax]))
    corners = _mel_to_hz(np.linspace(low, high, n_mels + 2))
    width = np.diff(corners)
    rising = (bins_hz[:, None] - corners[None, :-2]) / width[:-1]
    falling = (corners[None, 2:] - bins_hz[:, None]) / width[1:]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (corners[2:] - corners[:-2]))


_LINEAR = 200 / 3  # Hz per mel up to 1 kHz, which is mel 15; from there 27 mels span a factor of 6.4
_LOG_STEP = math.log(6.4) / 27


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    return np.where(hz < 1000, hz / _LINEAR, 15 + np.log(np.maximum(hz, 1e-9) / 1000) / _LOG_STEP)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * _LINEAR, 1000 * np.exp((mel - 15) * _LOG_STEP))


def dct(n: int, count: int) -> np.ndarray:
    """Return the first `count` columns of the orthonormal DCT-II of length n: (n, count) float64."""
    k, i = np.arange(count), np.arange(n)[:, None]
    basis = np.cos(np.pi * k * (2 * i + 1) / (2 * n)) * math.sqrt(2 / n)
    basis[:, 0] /= math.sqrt(2)
    return basis
