"""One definition of mel, held against float64, librosa, upstream's own numbers, and the laws of signals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.parity import librosa_mfcc
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe, mfcc_content, slaney_mel, window
from tests.helpers.signals import RECIPES, assert_exact, narrow, voice


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("make", [voice, narrow])
def test_features_are_exact(name: str, make: Callable[[SpectralRecipe], np.ndarray]) -> None:
    recipe = RECIPES[name]
    assert_exact(make(recipe)[: 100 * recipe.hop], recipe)


@pytest.mark.parametrize("n_fft", [4, 6, 22, 62, 250, 400, 510, 512, 1024, 1280, 1470, 2048])
def test_any_even_transform_is_exact(n_fft: int) -> None:
    """Powers of two, of five, both, primes; most are not whole vectors."""
    hop = 2 * max(n_fft // 8, 1)
    recipe = SpectralRecipe(n_fft=n_fft, win=n_fft - n_fft // 5, hop=hop, n_mels=max(n_fft // 16, 1), n_mfcc=1)
    assert_exact(voice(recipe, 0.5)[: 37 * hop + hop // 2], recipe)


@pytest.mark.parametrize("frames", range(1, 19))
def test_the_shortest_utterances_are_exact(frames: int) -> None:
    """Both ends of the signal are mirrored into the same frames, blocks of frames are not full."""
    recipe = RECIPES["whisper-16k"]
    assert recipe.min_frames == 1
    assert_exact(voice(recipe)[4000 : 4000 + frames * recipe.hop], recipe)


@given(
    seed=st.integers(0, 2**32 - 1),
    loud=st.floats(-2, 0.3),
    quiet=st.floats(-9, -2),
    cycles=st.floats(0, 0.5),
    silent=st.booleans(),
)
def test_a_hiss_beside_a_tone_is_exact(seed: int, loud: float, quiet: float, cycles: float, silent: bool) -> None:
    """Up to 180 dB apart, where a float32 transform would leave rounding in the place of the hiss."""
    recipe = RECIPES["whisper-16k"]
    time = np.arange(16 * recipe.hop)
    wave = 10**loud * np.sin(2 * np.pi * cycles * time) + 10**quiet * np.random.default_rng(seed).normal(size=len(time))
    wave[len(wave) // 2 :] *= not silent
    assert_exact(wave.astype(np.float32), recipe)


def test_an_impulse_is_white() -> None:
    """|X| of one sample is the window there, in every bin."""
    recipe = SpectralRecipe()
    wave = torch.zeros(20 * 640)
    wave[6400] = 0.5
    mel, _ = Spectral(recipe).features(wave)
    at = 6400 + recipe.padding - 640 * np.arange(20)
    inside = (at >= 0) & (at < recipe.n_fft)
    height = np.where(inside, 0.5 * window(recipe)[np.where(inside, at, 0)], 0)
    expected = np.log(np.maximum(np.outer(np.sqrt(height**2 + 1e-8), slaney_mel(recipe).sum(0)), 1e-5))
    assert np.abs(mel.numpy() - expected).max() < 3e-6


def test_a_constant_is_in_the_lowest_bins_alone() -> None:
    recipe = SpectralRecipe()
    mel, _ = Spectral(recipe).features(torch.full((64_000,), 0.5))
    bins = np.flatnonzero(slaney_mel(recipe)[:2].any(0))  # Hann spreads a line over its two neighbours
    floor = np.log(np.maximum(1e-4 * slaney_mel(recipe).sum(0), 1e-5))
    assert (mel[:, bins] > -5).all()
    others = np.setdiff1d(np.arange(128), bins)
    assert np.abs(mel.numpy() - floor)[:, others].max() < 3e-6


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="1279 samples: at least 1280 are needed, 2 frames"):
        Spectral(SpectralRecipe()).features(torch.zeros(1279))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("make", [voice, narrow])
def test_mfcc_is_librosas(name: str, make: Callable[[SpectralRecipe], np.ndarray]) -> None:
    recipe = RECIPES[name]
    wave = make(recipe)[: 100 * recipe.hop]
    _, mfcc = Spectral(recipe).features(torch.from_numpy(wave))
    assert np.abs(mfcc.numpy() - librosa_mfcc(wave, recipe)).max() <= 1e-3


@pytest.mark.parametrize("name", RECIPES)
def test_mel_filters_are_librosas(name: str) -> None:
    recipe = RECIPES[name]
    expected = librosa.filters.mel(
        sr=recipe.sample_rate, n_fft=recipe.n_fft, n_mels=recipe.n_mels, fmin=recipe.fmin, fmax=recipe.fmax
    )
    assert np.abs(slaney_mel(recipe).T - expected).max() < 1e-8


@pytest.mark.parametrize("hz", [200.0, 1000.0, 3210.0, 12_000.0])
def test_a_tone_lands_in_its_mel_band(hz: float) -> None:
    recipe = SpectralRecipe()
    wave = torch.sin(2 * torch.pi * hz * torch.arange(32_000) / recipe.sample_rate)
    mel, _ = Spectral(recipe).features(wave)
    loudest = mel[10:-10].mean(0).argmax()
    support = np.flatnonzero(slaney_mel(recipe)[:, loudest]) * recipe.sample_rate / recipe.n_fft
    assert support.min() <= hz <= support.max()


@pytest.mark.parametrize("frames", [2, 3, 127, 128, 129, 257])
def test_frames_are_samples_over_hop_and_blocks_leave_no_seam(frames: int) -> None:
    recipe = SpectralRecipe()
    wave = torch.from_numpy(voice(recipe, 6.0)[: frames * recipe.hop])
    spectral = Spectral(recipe)
    mel, mfcc = spectral.features(wave)
    assert mel.shape == (frames, 128) and mfcc.shape == (frames, 20)
    assert torch.allclose(mel, spectral.log_mel(spectral.magnitude(wave)), atol=2e-5)


def test_the_trainers_mel_is_the_stores_and_has_gradients() -> None:
    recipe = SpectralRecipe()
    spectral = Spectral(recipe)
    wave = torch.from_numpy(voice(recipe)[: 2 * 32 * 640]).reshape(2, -1).requires_grad_()
    mel = spectral.log_mel(spectral.magnitude(wave))
    for row, values in zip(wave.detach(), mel.detach(), strict=True):
        assert torch.allclose(spectral.features(row)[0], values, atol=2e-5)
    mel.sum().backward()
    assert wave.grad is not None and torch.isfinite(wave.grad).all() and wave.grad.abs().sum() > 0


def test_autocast_does_not_reach_the_spectrum() -> None:
    spectral = Spectral(SpectralRecipe())
    wave = torch.from_numpy(voice(spectral.recipe)[: 64 * 640])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mel = spectral.log_mel(spectral.magnitude(wave))
    assert mel.dtype == torch.float32 and torch.equal(mel, spectral.log_mel(spectral.magnitude(wave)))


def test_silence_is_the_floor() -> None:
    spectral = Spectral(SpectralRecipe())
    mel, mfcc = spectral.features(torch.zeros(64_000))
    magnitude = spectral.magnitude(torch.zeros(64_000))
    assert torch.allclose(magnitude, torch.tensor(1e-4)) and torch.isfinite(mfcc).all()
    assert (mel >= np.log(1e-5)).all()


def test_a_recipe_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="fmax"):
        SpectralRecipe(sample_rate=16_000, fmax=16_000)
    with pytest.raises(ValueError, match="even"):
        SpectralRecipe(n_fft=2047)


def test_content_of_an_utterance_does_not_depend_on_its_batch() -> None:
    lengths = torch.tensor([40, 1, 7, 23])
    mfcc = torch.randn(4, 40, 20, generator=torch.Generator().manual_seed(0))
    batch = mfcc_content(mfcc, lengths, 768)
    assert batch.shape == (4, 40, 768)
    for row, n in enumerate(lengths.tolist()):
        alone = mfcc_content(mfcc[row : row + 1, :n], lengths[row : row + 1], 768)
        assert torch.allclose(batch[row, :n], alone[0], atol=1e-6)
        assert not batch[row, n:].any()


def test_content_holds_mfcc_deltas_and_their_deltas() -> None:
    ramp = torch.arange(30.0)[None, :, None].expand(1, 30, 4) * torch.tensor([1.0, 2.0, -1.0, 5.0])
    static, delta, delta2 = mfcc_content(ramp, torch.tensor([30]), 12)[0, 10:20].split(4, dim=1)
    assert torch.allclose(static.diff(dim=0), delta[1:], atol=1e-5), "the delta of a ramp is its slope"
    assert torch.allclose(delta2, torch.zeros_like(delta2), atol=1e-6)
    with pytest.raises(ValueError, match="at least 12"):
        mfcc_content(ramp, torch.tensor([30]), 11)


def test_spectrogram_and_mel_are_upstreams(golden: Path) -> None:
    fixture = np.load(golden / "features_audio.npz")
    spectral = Spectral(SpectralRecipe())
    magnitude = spectral.magnitude(torch.from_numpy(fixture["wave"]))
    assert np.abs(magnitude.numpy().T - fixture["spec_v2"]).max() <= 1e-4
    assert np.abs(spectral.log_mel(magnitude).numpy().T - fixture["mel_v2_from_wave"]).max() <= 1e-4
    batch = spectral.log_mel(spectral.magnitude(torch.from_numpy(fixture["batch_wave"])))
    assert np.abs(batch.numpy().transpose(0, 2, 1) - fixture["batch_mel_v2"]).max() <= 1e-4
    silence = torch.zeros(fixture["silence_spec"].shape[1] * 640)
    assert np.allclose(spectral.magnitude(silence).numpy().T, fixture["silence_spec"])
