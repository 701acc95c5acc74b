"""Rooms are heard by how their sound decays, and dry recordings have none."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.featurize.spectral import reverberation
from headrace.featurize.spectral.reverberation import band_rates, decay_rate, speech_end

BANDS = 16


def recording(seed: int, rate: float, *, frames: int = 120, slopes: float = 0.0, drop: float = 35.0) -> np.ndarray:
    """Power of syllables, and of a room in which they decay at a rate in dB per second, by one more in each band."""
    random = np.random.default_rng(seed)
    syllables = 10 * np.sin(np.arange(150) / 150 * 12 * np.pi)[:, None] + random.normal(scale=4, size=(150, BANDS))
    time = reverberation.FRAME_S * np.arange(frames)[:, None]
    decay = np.maximum(rate * (1 + slopes * np.linspace(-1, 1, BANDS)) * time, -drop)
    level = np.concatenate([syllables, decay + random.normal(scale=3, size=(frames, BANDS))])
    return np.asarray(10 ** ((level - 30) / 10))


@pytest.mark.parametrize("rt60", [0.8, 1.2, 2.0])
def test_decay_of_a_room_is_heard(rt60: float) -> None:
    heard = [decay_rate(recording(seed, -60 / rt60)) for seed in range(20)]
    assert np.mean(np.array(heard) < 0) >= 0.8
    assert -60 / np.median([rate for rate in heard if rate]) == pytest.approx(rt60, rel=0.15)


def test_gain_changes_nothing() -> None:
    power = recording(0, -40)
    assert decay_rate(1e-3 * power) == pytest.approx(decay_rate(power), rel=1e-9) and decay_rate(power) < 0


@pytest.mark.parametrize(
    "power",
    [
        pytest.param(recording(0, -600), id="a voice that stops"),
        pytest.param(recording(0, -40, frames=15), id="too short a fall"),
        pytest.param(recording(0, -4), id="too slow a fall"),
        pytest.param(recording(0, -40, slopes=0.9), id="bands that fall one after the other"),
        pytest.param(recording(0, -0.0), id="no fall"),
        pytest.param(np.zeros((200, BANDS)), id="digital silence"),
        pytest.param(np.ones((3, BANDS)), id="three frames"),
        pytest.param(np.ones((0, BANDS)), id="nothing"),
    ],
)
def test_what_is_no_room(power: np.ndarray) -> None:
    assert decay_rate(power) == 0


def in_room(seed: int, rate: float, speech: int = 150, frames: int = 280) -> np.ndarray:
    """Power of syllables in a room, as loud as the direct sound, that decays at a rate in dB per second."""
    random = np.random.default_rng(seed)
    dry = np.zeros((frames, BANDS))
    dry[:speech] = 10 ** (np.cumsum(random.normal(scale=3, size=(speech, BANDS)), 0) % 8 / 10)
    kernel = 10 ** (rate * reverberation.FRAME_S / 10 * np.arange(frames))
    room = np.stack([np.convolve(band, kernel)[:frames] / kernel.sum() for band in dry.T], 1)
    return (dry + room) * random.gamma(4, 0.25, size=dry.shape) + 1e-5


def test_speech_ends_where_the_room_goes_on_alone() -> None:
    recordings = [in_room(seed, -45) for seed in range(20)]
    heard = [rates for power in recordings if (rates := band_rates(power)).any()]
    assert len(heard) >= 15
    ends = [speech_end(power, np.median(heard, 0)) for power in recordings]
    assert np.mean(np.abs(np.array(ends) - 150) <= 20) >= 0.9


@pytest.mark.parametrize("frames", [0, 3, 30])
def test_short_recordings_are_speech_throughout(frames: int) -> None:
    assert speech_end(np.ones((frames, BANDS)), np.full(reverberation.BANDS, -45.0)) == frames
    assert not band_rates(np.ones((frames, BANDS))).any()
