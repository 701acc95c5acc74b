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
THEIRS = {"mos_speech": "sig_mos", "mos_background": "bak_mos", "mos": "ovrl_mos", "mos_p808": "p808_mos"}
SPEECHMOS = {
    0.01: (1.047542, 0.984216, 1.108437, 2.298236),
    3.0: (3.102117, 3.359751, 2.663706, 2.610810),
    7.0: (3.110634, 3.426266, 2.693365, 2.642844),
    9.5: (3.106053, 3.273804, 2.641046, 2.681611),
    12.2: (2.897386, 3.079739, 2.476858, 2.664584),
}
"""Seconds of `speech` to what the package speechmos 0.0.1.1 gives it, in the order of `THEIRS`. It takes 50 s of a CPU
to begin, so that only a soak test asks it."""
FIRST_WINDOW = {2.0: 2.598194, 11.0: 2.642209}
"""Likewise, the overall rating of the first nine seconds, of samples of 16 bits."""
needs_networks = pytest.mark.skipif(not dnsmos.is_installed(), reason="speechmos or onnxruntime is not installed")


def speech(seconds: float, rate: int = RATE) -> np.ndarray:
    """(n,) float32: a gliding voice with pauses, over noise."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * time)) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(3 * time) > -0.4)
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.15 * voice + 0.003 * noise).astype(np.float32)


def in_16_bits(seconds: float) -> np.ndarray:
    """(T, HOP) int16, as a store holds it."""
    return (speech(seconds) * 32767).astype(np.int16).reshape(-1, HOP)


def at_16_khz(wave: np.ndarray) -> np.ndarray:
    """(S,), as speechmos takes it."""
    resampled: np.ndarray = soxr.resample(wave, RATE, 16_000).clip(-1, 1)
    return resampled


def without_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "speechmos", None)


def test_without_the_package_there_is_no_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    without_networks(monkeypatch)
    assert not dnsmos.is_installed() and dnsmos.scorer() is None
    with pytest.raises(UsageError, match=r"pip install 'headrace\[mos\]'"):
        dnsmos.model_file()


@needs_networks
@pytest.mark.parametrize("seconds", SPEECHMOS)
def test_scores_are_those_of_speechmos(seconds: float) -> None:
    found = dnsmos.scores(speech(seconds), RATE)
    assert tuple(found) == tuple(THEIRS) == dnsmos.NAMES
    assert tuple(found.values()) == pytest.approx(SPEECHMOS[seconds], abs=1e-4)


@pytest.mark.soak
def test_speechmos_still_gives_these_scores() -> None:
    theirs = pytest.importorskip("speechmos.dnsmos")
    for seconds, scores in SPEECHMOS.items():
        given = theirs.run(at_16_khz(speech(seconds)), 16_000)
        assert tuple(given[name] for name in THEIRS.values()) == pytest.approx(scores, abs=2e-6)
    for seconds, mos in FIRST_WINDOW.items():
        window = np.resize(at_16_khz(in_16_bits(seconds).reshape(-1) / np.float32(32768)), dnsmos.WINDOW)
        assert theirs.run(window, 16_000)["ovrl_mos"] == pytest.approx(mos, abs=2e-6)


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


@needs_networks
@pytest.mark.parametrize("seconds", FIRST_WINDOW)
def test_the_feature_rates_the_first_window(seconds: float) -> None:
    spec = Mos().spec({"wave": WAVE})
    part = Part({"wave": WAVE, "mos": spec}, lambda name: [in_16_bits(seconds)])
    assert float(next(Mos().rows(part))[0]) == pytest.approx(FIRST_WINDOW[seconds], abs=1e-4)


def test_another_network_than_the_recipe_names_is_refused() -> None:
    pytest.importorskip("speechmos")
    spec = FeatureSpec(name="mos", axis="utterance", dtype="float32", channels=None, recipe={"weights": "0" * 64})
    with pytest.raises(UsageError, match="is not here what it was"):
        next(Mos().rows(Part({"wave": WAVE, "mos": spec}, lambda name: [])))
