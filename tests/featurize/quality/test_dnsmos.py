"""DNSMOS' ratings are those of the package speechmos, whose code is not run, and of stores made before."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soxr

from headrace.featurize.features.derived import Part
from headrace.featurize.quality import dnsmos
from headrace.featurize.quality.mos import Mos
from headrace.store.errors import UsageError
from headrace.store.schema import FeatureSpec

RATE, HOP = 32_000, 640
WAVE = FeatureSpec(name="wave", axis="frames", dtype="int16", channels=HOP, recipe={"sample_rate": RATE})
THEIRS = {"mos": "ovrl_mos", "mos_speech": "sig_mos", "mos_background": "bak_mos", "mos_p808": "p808_mos"}


def speech(seconds: float, rate: int = RATE) -> np.ndarray:
    """(n,) float32: a gliding voice with pauses, over noise."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * time)) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(3 * time) > -0.4)
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.15 * voice + 0.003 * noise).astype(np.float32)


def without_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "speechmos", None)


def test_without_the_package_there_is_no_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    without_networks(monkeypatch)
    assert not dnsmos.is_installed() and dnsmos.scorer() is None
    with pytest.raises(UsageError, match=r"pip install 'headrace\[mos\]'"):
        dnsmos.model_file()


@pytest.mark.parametrize("seconds", [0.01, 3.0, 7.0, 9.5, 12.2])
def test_scores_are_those_of_speechmos(seconds: float) -> None:
    theirs = pytest.importorskip("speechmos.dnsmos")
    wave = speech(seconds)
    expected = theirs.run(soxr.resample(wave, RATE, 16_000).clip(-1, 1), 16_000)
    found = dnsmos.scores(wave, RATE)
    assert tuple(found) == dnsmos.NAMES
    assert found == pytest.approx({ours: expected[name] for ours, name in THEIRS.items()}, abs=1e-4)


def test_every_window_of_a_long_waveform_is_rated(monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[np.ndarray] = []
    monkeypatch.setattr(dnsmos, "p835", lambda window: windows.append(window) or dict.fromkeys(dnsmos.SCALES, 1.0))
    monkeypatch.setattr(dnsmos, "p808", lambda window: float(len(windows)))
    samples = np.arange(20 * 16_000) / 16_000 / 20
    assert dnsmos.scores(samples, 16_000) == {"mos_speech": 1, "mos_background": 1, "mos": 1, "mos_p808": 6.0}
    assert [round(float(window[0]) * 20) for window in windows] == list(range(11))
    assert {window.shape for window in windows} == {(dnsmos.WINDOW,)}


def test_samples_beyond_full_scale_are_clipped() -> None:
    square = np.sign(np.sin(np.arange(RATE) / 20)).astype(np.float32)
    resampled = dnsmos.at_model_rate(square, RATE)
    assert len(resampled) == 16_000 and abs(resampled).max() == 1


@pytest.mark.parametrize("seconds", [2.0, 11.0])
def test_the_feature_rates_the_first_window(seconds: float) -> None:
    theirs = pytest.importorskip("speechmos.dnsmos")
    wave = (speech(seconds) * 32767).astype(np.int16).reshape(-1, HOP)
    spec = Mos().spec({"wave": WAVE})
    part = Part({"wave": WAVE, "mos": spec}, lambda name: [wave])
    heard = soxr.resample(wave.reshape(-1) / np.float32(32768), RATE, 16_000).clip(-1, 1)
    expected = theirs.run(np.resize(heard, dnsmos.WINDOW), 16_000)["ovrl_mos"]
    assert float(next(Mos().rows(part))[0]) == pytest.approx(expected, abs=1e-4)


def test_another_network_than_the_recipe_names_is_refused() -> None:
    pytest.importorskip("speechmos")
    spec = FeatureSpec(name="mos", axis="utterance", dtype="float32", channels=None, recipe={"weights": "0" * 64})
    with pytest.raises(UsageError, match="is not here what it was"):
        next(Mos().rows(Part({"wave": WAVE, "mos": spec}, lambda name: [])))
