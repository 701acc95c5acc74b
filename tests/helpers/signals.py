"""Speech-like signals, and a check of spectra against a float64 reference."""

from __future__ import annotations

import numpy as np
import soxr
import torch

from benchmarks.parity import float64_features
from headrace.featurize.pipeline.presets import PRESETS
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe

RECIPES = {name: preset.spectral for name, preset in PRESETS.items()}


def voice(recipe: SpectralRecipe, seconds: float = 3.0) -> np.ndarray:
    """A buzz of gliding pitch through drifting formants, with a silence in the middle; float32."""
    time = np.arange(int(seconds * recipe.sample_rate)) / recipe.sample_rate
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * time)) / recipe.sample_rate
    formant = 900 + 500 * np.sin(3 * time)
    harmonics = (np.sin(k * phase) / k * np.exp(-(((k * 150 - formant) / 900) ** 2)) for k in range(1, 40))
    wave = sum(harmonics) + 0.003 * np.random.default_rng(0).normal(size=len(time))
    wave[len(wave) // 2 : len(wave) // 2 + recipe.sample_rate // 3] = 0
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def narrow(recipe: SpectralRecipe) -> np.ndarray:
    """The same buzz, loud, as if recorded at half the rate: the upper half of the bands holds the rounding of int16
    samples and nothing else."""
    half = SpectralRecipe(sample_rate=recipe.sample_rate // 2, fmax=1000)
    wave = soxr.resample(1.9 * voice(half), half.sample_rate, recipe.sample_rate, quality="HQ")
    return np.rint(wave * 32767).astype(np.int16).astype(np.float32) / 32768


def assert_exact(wave: np.ndarray, recipe: SpectralRecipe) -> None:
    """As near to the float64 reference as float32 can say it."""
    mel, mfcc = Spectral(recipe).features(torch.from_numpy(wave))
    exact_mel, exact_mfcc = float64_features(wave, recipe)
    assert mel.shape == exact_mel.shape == (len(wave) // recipe.hop, recipe.n_mels) and mel.dtype == torch.float32
    assert mfcc.shape == exact_mfcc.shape == (len(wave) // recipe.hop, recipe.n_mfcc) and mfcc.dtype == torch.float32
    assert np.abs(mel.numpy() - exact_mel).max() <= 3e-6
    assert np.abs(mfcc.numpy() - exact_mfcc).max() <= 3e-4
