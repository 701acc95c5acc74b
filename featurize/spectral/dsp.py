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

from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.featurize.spectral.float32 import exact_float32
from headrace.featurize.spectral.recipe import SpectralRecipe, dct, slaney_mel, window


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
