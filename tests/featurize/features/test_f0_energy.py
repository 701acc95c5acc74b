"""F0 and energy: truth, frames, silence; whatever the length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import parselmouth
import pytest
import torch

from headrace.featurize.features.derived import F0, Energy, Part, apply_in_pieces
from headrace.featurize.pipeline.feature_registry import DERIVED_FEATURES
from headrace.featurize.pipeline.presets import PRESETS, Preset, feature_specs
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe, window
from headrace.store.errors import StoreError, UsageError

V2 = PRESETS["gpt-sovits-v2"]


def part(*waves: np.ndarray, preset: Preset = V2) -> Part:
    specs = {spec.name: spec for spec in feature_specs(preset, ("wave", "mel"))}
    return Part(specs, {"wave": waves}.__getitem__)


def int16(wave: np.ndarray, hop: int) -> np.ndarray:
    """(samples,) in [-1, 1] to (frames, hop)."""
    return (32767 * wave[: len(wave) // hop * hop]).round().astype(np.int16).reshape(-1, hop)


def centres(frames: int, recipe: SpectralRecipe) -> np.ndarray:
    """Seconds."""
    return (np.arange(frames) + 0.5) * recipe.hop / recipe.sample_rate


def glide(
    seconds: float, first: float, octaves: float, rate: int
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """A sum of harmonics whose F0 moves by so many octaves a second, and that F0 by time."""

    def f0(time: np.ndarray) -> np.ndarray:
        return first * 2.0 ** (octaves * time)

    phase = 2 * np.pi * np.cumsum(f0(np.arange(int(seconds * rate)) / rate)) / rate
    return sum(np.sin(k * phase) / k for k in range(1, 9)) / 4, f0


def voice(f0: float, seconds: float, rate: int, seed: int) -> np.ndarray:
    """Pulses with jitter and shimmer through three formants, in a little noise."""
    random = np.random.default_rng(seed)
    steps = rate / f0 * (1 + 0.005 * random.standard_normal(int(seconds * f0) + 1))
    pulses = np.zeros(int(seconds * rate))
    at = np.cumsum(steps).astype(int)
    at = at[at < len(pulses)]
    pulses[at] = 1 + 0.1 * random.standard_normal(len(at))
    time = np.arange(rate // 20) / rate
    formants = ((600, 80), (1200, 100), (2500, 150))
    response = sum(np.exp(-np.pi * width * time) * np.sin(2 * np.pi * formant * time) for formant, width in formants)
    wave = np.convolve(pulses, response)[: len(pulses)]
    return 0.3 * wave / abs(wave).max() + 0.001 * random.standard_normal(len(wave))


def cents(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.abs(1200 * np.log2(found / truth))


@pytest.mark.parametrize("name", ["gpt-sovits-v2", "hifigan-22k", "whisper-16k"])
@pytest.mark.parametrize("octaves", [-1.5, 0, 1.5])
def test_f0_of_a_glide_is_its_own_at_the_centre_of_every_frame(name: str, octaves: float) -> None:
    """Half a frame aside, the steep ones would be off by 10 to 18 cents."""
    recipe = PRESETS[name].spectral
    for seconds, first in ((0.5, 300.0), (0.803, 210.0), (1.2, 320.0 if octaves < 0 else 110.0)):
        wave, truth = glide(seconds, first, octaves, recipe.sample_rate)
        frames = int16(wave, recipe.hop)
        (found,) = F0().rows(part(frames, preset=PRESETS[name]))
        assert found.shape == (len(frames),) and found.dtype == np.float32
        inner = slice(2, -2)
        off = cents(found[inner], truth(centres(len(frames), recipe))[inner])
        assert off.max() < 2 and (found[1:-1] > 0).all()


def test_f0_of_voices_that_come_and_go() -> None:
    rate, hop = 32_000, 640
    for seed, f0 in enumerate((95.0, 140.0, 215.0, 330.0)):
        silence = 1e-4 * np.random.default_rng(seed).standard_normal(rate // 2)
        wave = np.concatenate((silence, voice(f0, 1.0, rate, seed), silence))
        (found,) = F0().rows(part(int16(wave, hop)))
        time = centres(len(found), V2.spectral)
        inside, outside = (time > 0.54) & (time < 1.46), (time < 0.46) | (time > 1.54)
        assert (found[inside] > 0).mean() > 0.97 and (found[outside] > 0).mean() < 0.03
        assert np.median(cents(found[inside & (found > 0)], f0)) < 15


def test_inside_f0_is_what_praat_itself_says() -> None:
    """Three periods of 60 Hz are two and a half frames: Praat's own times are then the frames' centres, two fewer."""
    wave, _ = glide(1.0, 150.0, 0.8, 32_000)
    wave += 0.02 * np.random.default_rng(0).standard_normal(len(wave))
    frames = int16(wave, 640)
    (found,) = F0(floor=60).rows(part(frames))
    praat = parselmouth.Sound(frames.reshape(-1) / 32768, 32_000).to_pitch_ac(time_step=0.02, pitch_floor=60)
    assert np.allclose(praat.xs(), centres(len(frames), V2.spectral)[1:-1])
    assert np.allclose(found[2:-2], praat.selected_array["frequency"][1:-1], rtol=1e-6)


def test_silence_and_noise_are_not_voiced() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(64_000)
    silent, noisy = F0().rows(part(np.zeros((50, 640), np.int16), int16(noise, 640)))
    assert not silent.any() and (noisy > 0).mean() < 0.2


def test_what_is_too_short_for_praat_is_not_voiced_and_counted() -> None:
    wave, _ = glide(1.0, 200.0, 0.0, 32_000)
    frames = int16(wave, 640)
    of = part(frames[:1], frames[:2], frames[:3])
    one, two, three = F0(floor=50).rows(of)
    assert (len(one), len(two), len(three)) == (1, 2, 3)
    assert not one.any() and not two.any() and (three > 0).all()
    assert dict(of.counts) == {"shorter than three periods of the floor": 2}


@pytest.mark.parametrize("feature", [F0(), Energy()])
def test_long_recordings_come_in_pieces_that_do_not_show(feature: F0 | Energy, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = np.concatenate([voice(f0, 1.5, 32_000, int(f0)) * level for f0, level in ((120, 1), (220, 0.5), (160, 1))])
    frames = int16(wave, 640)
    monkeypatch.setattr(type(feature), "PIECE", 1000)
    (whole,) = feature.rows(part(frames))
    monkeypatch.setattr(type(feature), "PIECE", 90)
    (pieces,) = feature.rows(part(frames))
    assert len(frames) > 2 * 90 and np.allclose(pieces, whole, rtol=1e-5)


def test_pieces_give_back_every_frame_once() -> None:
    rows = np.arange(60).reshape(30, 2)
    for length, margin in ((1, 0), (7, 2), (10, 30), (30, 1), (64, 5)):
        assert np.array_equal(apply_in_pieces(lambda piece: piece, rows, length, margin), rows)


@pytest.mark.parametrize("floor, ceiling", [(0, 600), (-75, 600), (600, 75), (300, 300), (75, np.inf)])
def test_an_f0_that_cannot_be_is_refused(floor: float, ceiling: float) -> None:
    with pytest.raises(UsageError, match=f"from {floor:g} to {ceiling:g} Hz"):
        F0(floor=floor, ceiling=ceiling)


def noise(frames: int, recipe: SpectralRecipe) -> np.ndarray:
    return np.random.default_rng(frames).integers(-9000, 9000, (frames, recipe.hop), np.int16)


@pytest.mark.parametrize("name", ["gpt-sovits-v2", "gpt-sovits-v3", "hifigan-22k", "whisper-16k"])
def test_energy_is_parsevals(name: str) -> None:
    """The norm over the bins of a one-sided spectrum, from the samples under the window: no transform needed."""
    recipe = PRESETS[name].spectral
    frames = noise(300, recipe)
    (found,) = Energy().rows(part(frames, preset=PRESETS[name]))
    padded = np.pad(frames.reshape(-1) / 32768, recipe.padding, mode="reflect")
    under = np.lib.stride_tricks.sliding_window_view(padded, recipe.n_fft)[:: recipe.hop] * window(recipe)
    ends = under.sum(1) ** 2 + (under * (-1.0) ** np.arange(recipe.n_fft)).sum(1) ** 2
    truth = np.sqrt((recipe.n_fft * (under**2).sum(1) + ends) / 2)
    assert found.shape == (300,) and found.dtype == np.float32
    assert np.allclose(found, truth, rtol=1e-5)


def test_energy_is_that_of_the_trainers_spectrogram_and_grows_with_the_amplitude() -> None:
    frames = noise(40, V2.spectral)
    loud, quiet = Energy().rows(part(2 * frames, frames))
    assert np.allclose(loud, 2 * quiet, rtol=1e-5)
    magnitude = Spectral(V2.spectral).magnitude(torch.from_numpy(frames.reshape(-1) / np.float32(32768)))
    assert np.allclose(quiet, magnitude.norm(dim=-1).numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["f0", "energy"])
def test_the_fingerprint_tells_what_the_numbers_come_from(name: str) -> None:
    def fingerprint(preset: str) -> str:
        return DERIVED_FEATURES[name]().spec(part(preset=PRESETS[preset]).specs).fingerprint

    assert fingerprint("gpt-sovits-v2") == fingerprint("gpt-sovits-v2") != fingerprint("whisper-16k")


def test_options_are_part_of_the_recipe() -> None:
    there = part().specs
    assert F0(floor=50).spec(there).recipe["floor"] == 50.0
    assert F0(floor=75).spec(there).fingerprint == F0().spec(there).fingerprint != F0(floor=50).spec(there).fingerprint


def test_energy_needs_to_be_told_which_stft() -> None:
    there = {"wave": part().specs["wave"]}
    with pytest.raises(StoreError, match="the STFT of mel or mfcc"):
        Energy().spec(there)
