"""Speech is told from silence by its level, whatever the level and the noise of a recording."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.featurize.segmentation.speech_activity import (
    LOWEST,
    Activity,
    active_level,
    speech_runs,
    without_clicks,
)


def levels(*runs: tuple[int, float]) -> np.ndarray:
    """Frames of constant levels, each run given by its number of frames and its level."""
    return np.concatenate([np.full(frames, level, np.float32) for frames, level in runs])


def found(*runs: tuple[int, float], activity: Activity | None = None) -> list[list[int]]:
    return speech_runs(levels(*runs), activity or Activity()).tolist()


def test_the_active_level_is_that_of_the_speech_however_long_the_pauses_are() -> None:
    for silence in (0, 100, 10_000):
        assert active_level(levels((100, -20), (silence, -70))) == pytest.approx(-20, abs=1e-3)
    assert active_level(levels((50, -20), (50, -30))) == pytest.approx(10 * np.log10((1e-2 + 1e-3) / 2), abs=1e-3)
    assert active_level(levels((100, LOWEST))) == LOWEST
    assert active_level(np.empty(0, np.float32)) == LOWEST


def test_frames_just_within_the_margin_of_p56_count_and_those_beyond_do_not() -> None:
    mean = -20 + 10 * np.log10(0.5 * (1 + 10**-1.58))
    assert active_level(levels((100, -20), (100, -35.8))) == pytest.approx(mean, abs=1e-3)
    assert active_level(levels((100, -20), (100, -36))) == pytest.approx(-20, abs=1e-3)
    # The mean of all, with the noise, is less than the margin above the noise: that is not where speech ends.
    assert active_level(levels((100, -20), (900, -45))) == pytest.approx(-20, abs=1e-3)


@pytest.mark.parametrize("gain", [0, -30])
@pytest.mark.parametrize("noise", [LOWEST, -80, -60, -45])
def test_speech_is_found_at_any_level_and_in_any_noise(gain: float, noise: float) -> None:
    quiet = max(noise + gain, LOWEST)
    runs = found((300, quiet), (100, -20 + gain), (300, quiet), (50, -30 + gain), (300, quiet))
    assert len(runs) == 2
    assert np.abs(np.array(runs) - [[300, 400], [700, 750]]).max() <= 1


def test_noise_that_changes_slowly_is_no_speech() -> None:
    noise = np.linspace(-80, -45, 20_000).astype(np.float32)
    noise[5000:5100] = noise[15_000:15_100] = -20
    assert np.abs(speech_runs(noise) - [[5000, 5100], [15_000, 15_100]]).max() <= 1


def test_a_run_begins_above_the_threshold_and_extends_down_to_the_hysteresis() -> None:
    spoken = ((100, -80.0), (20, -43.0), (50, -30.0), (20, -43.0), (100, -80.0))
    runs = found(*spoken, activity=Activity(level=-40, hysteresis=4))
    assert np.abs(np.array(runs) - [[100, 190]]).max() <= 1
    runs = found(*spoken, activity=Activity(level=-40, hysteresis=2))
    assert np.abs(np.array(runs) - [[120, 170]]).max() <= 1
    assert found((100, -80.0), (20, -43.0), (100, -80.0), activity=Activity(level=-40, hysteresis=4)) == []


def test_silence_and_nothing_hold_no_speech() -> None:
    assert found((1000, LOWEST)) == []
    assert speech_runs(np.empty(0, np.float32)).shape == (0, 2)


def test_a_recording_of_noise_holds_no_speech() -> None:
    random = np.random.default_rng(0)
    assert speech_runs((-50 + random.normal(size=60_000)).astype(np.float32)).tolist() == []


def test_noise_alone_exceeds_its_floor_nowhere() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(size=(60_000, 160)) * 1e-3
    speech = levels((100, -20.0))
    runs = speech_runs(np.concatenate([10 * np.log10((noise**2).mean(1)), speech]).astype(np.float32))
    assert np.abs(runs - [[60_000, 60_100]]).max() <= 1


def test_a_click_alone_is_dropped_and_one_beside_speech_is_not() -> None:
    runs = np.array([[0, 4], [100, 104], [130, 200], [300, 305]])
    assert without_clicks(runs, 50).tolist() == [[100, 104], [130, 200], [300, 305]]
    assert without_clicks(runs, 97).tolist() == [[0, 4], [100, 104], [130, 200], [300, 305]]
