"""Compute spectrogram, log-mel and MFCC, by one definition for the featurizer and the trainer.

Shapes: B batch, S samples, T = S // hop frames, F = n_fft // 2 + 1 bins, M mel bands, C cepstral coefficients.
Windows, filters and the DCT are built in float64 and cast once; autocast is switched off inside.

The Fourier transform of `features`, which fills stores, runs in float64: in float32 its rounding, some 3e-6 beside a
loud voice, is of the size of the quietest bands (speech that was recorded at 16 kHz has nothing above 8 kHz but the
rounding of its samples), and log-mel was up to 6e-3 off a float64 reference, 1e-3 at the 99.9th percentile. With
`cpu_kernel` all of `features` takes less than twice the time of bare float32 transforms. `magnitude`, which
training calls, is float32: losses do not see 6e-3 in such bands, and most cards do float64 at a 64th of the rate.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.featurize.spectral.float32 import exact_float32

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


class Spectral(nn.Module):
    """Spectrogram, log-mel and MFCC of one recipe. Moves between devices like any module; has no parameters."""

    window: Tensor
    mel_basis_FM: Tensor

    def __init__(self, recipe: SpectralRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self._constant("window", window(recipe))
        self._constant("mel_basis_FM", slaney_mel(recipe))

    def _constant(self, name: str, value: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(value).float(), persistent=False)

    def magnitude(self, wave: Tensor) -> Tensor:
        """Return the linear spectrogram sqrt(re^2 + im^2 + 1e-8).

        Args:
            wave: (..., S) samples in [-1, 1], S > padding. Differentiable.
        Returns:
            (..., T, F) float32.
        """
        with exact_float32(wave.device):
            return torch.sqrt(self._power(self._frames(wave.float()), self.window) + 1e-8)

    def log_mel(self, magnitude: Tensor) -> Tensor:
        """Return the natural log of the mel-filtered linear spectrogram, floored at 1e-5.

        Args:
            magnitude: (..., T, F). Differentiable.
        Returns:
            (..., T, M) float32.
        """
        with exact_float32(magnitude.device):
            return torch.log(torch.clamp(magnitude.float() @ self.mel_basis_FM, min=1e-5))

    @torch.inference_mode()
    def features(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-mel and MFCC of one utterance, computed on the CPU wherever the module is.

        MFCC is the orthonormal DCT-II of the power mel in dB, floored 80 dB under the utterance's peak (Davis and
        Mermelstein 1980; the conventions are librosa's).

        Args:
            wave: (S,) samples in [-1, 1], or int16, S >= min_frames * hop.
        Returns:
            mel (T, M) and mfcc (T, C), both float32.
        Raises:
            ValueError: there are too few samples to reflect, or for one frame.
        """
        from headrace.featurize.spectral import (
            cpu_kernel,  # not above: Numba takes 0.3 s to import, and training never needs it
        )

        needed = self.recipe.min_frames * self.recipe.hop
        if len(wave) < needed:
            raise ValueError(f"{len(wave)} samples: at least {needed} are needed, {self.recipe.min_frames} frames")
        samples = wave if wave.dtype == torch.int16 else wave.float()
        mel, mfcc = cpu_kernel.features(self._tables, samples.contiguous().numpy())
        return torch.from_numpy(mel), torch.from_numpy(mfcc)

    @cached_property
    def _tables(self) -> Any:
        from headrace.featurize.spectral.kernel_tables import make_tables

        recipe = self.recipe
        return make_tables(recipe.hop, window(recipe), slaney_mel(recipe), dct(recipe.n_mels, recipe.n_mfcc))

    def _frames(self, wave: Tensor) -> Tensor:
        """Return overlapping views of the padded waveform, (..., S) to (..., T, n_fft)."""
        pad, shape = self.recipe.padding, wave.shape[:-1]
        padded = F.pad(wave.reshape(-1, 1, wave.shape[-1]), (pad, pad), mode="reflect")
        return padded.reshape(*shape, -1).unfold(-1, self.recipe.n_fft, self.recipe.hop)

    @staticmethod
    def _power(frames: Tensor, window: Tensor) -> Tensor:
        """Return the power spectrum, (..., n_fft) to (..., F).

        `abs().square()` takes 4.6 times as long: it computes a hypotenuse.
        """
        spectrum = torch.fft.rfft(frames * window)
        return spectrum.real * spectrum.real + spectrum.imag * spectrum.imag


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


def mfcc_content(mfcc_BTC: Tensor, frames_B: Tensor, width: int) -> Tensor:
    """Return content features without HuBERT: MFCC, deltas and delta-deltas of neighbouring frames.

    Each utterance is brought to zero mean and unit variance per coefficient; deltas are regressions over two frames
    to either side (HTK Book 5.6.5). As many neighbouring frames as fit are laid side by side; the rest of the width
    is zero. An utterance's values do not depend on the batch it is in.

    Args:
        mfcc_BTC: (B, T, C), any float dtype.
        frames_B: (B,) valid frames, each at least 1.
        width: channels of the result, at least 3 * C.
    Returns:
        (B, T, width) float32, zero past each utterance's end.
    """
    B, T, C = mfcc_BTC.shape
    if width < 3 * C:
        raise ValueError(f"width {width} cannot hold {C} MFCC with deltas and delta-deltas: at least {3 * C}")
    context = width // (3 * C)
    left, right = context // 2, context - 1 - context // 2
    reach = 4  # two frames for deltas, two more for deltas of deltas
    steps = torch.arange(-left - reach, T + right + reach, device=mfcc_BTC.device)
    index_BT = steps.clamp(min=0).minimum(frames_B[:, None] - 1)  # both ends repeat their last valid frame
    valid_BT1 = (torch.arange(T, device=mfcc_BTC.device) < frames_B[:, None])[..., None]
    normal = _normalised(mfcc_BTC.float(), valid_BT1, frames_B)
    static = normal.gather(1, index_BT[..., None].expand(-1, -1, C))
    delta = _delta(static)
    stack = torch.cat((static[:, reach:-reach], delta[:, 2:-2], _delta(delta)), dim=2)
    near = stack.unfold(1, context, 1).transpose(2, 3).reshape(B, T, context * 3 * C)
    return F.pad(near * valid_BT1, (0, width - near.shape[2]))


def _normalised(x_BTC: Tensor, valid_BT1: Tensor, frames_B: Tensor) -> Tensor:
    count = frames_B[:, None, None]
    mean = (x_BTC * valid_BT1).sum(1, keepdim=True) / count
    centred = (x_BTC - mean) * valid_BT1
    return centred / torch.sqrt(centred.square().sum(1, keepdim=True) / count + 1e-5)


def _delta(x_BTC: Tensor) -> Tensor:
    """Return the deltas of frames, (B, T, C) to (B, T - 4, C)."""
    end = x_BTC.shape[1]
    return (2 * (x_BTC[:, 4:] - x_BTC[:, : end - 4]) + (x_BTC[:, 3 : end - 1] - x_BTC[:, 1 : end - 3])) / 10
