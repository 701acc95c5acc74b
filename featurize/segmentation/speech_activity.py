"""Tell speech from silence by the level of each frame.

    levels --> active speech level (ITU-T P.56), noise floor around each frame --> threshold --> runs of speech

A run begins where the level exceeds the threshold. It extends, in both directions, over what exceeds a lower one: a
recording whose level hovers around a single threshold would fall to pieces. Levels are in dB of full scale.

Shapes: T frames of FRAME_S, R runs of speech.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

FRAME_S = 0.01
"""Duration of a frame."""
LOWEST = -120.0
"""Level of digital silence."""
MARGIN = 15.9
"""dB from the active speech level down to the level that counts as speech: method B of ITU-T P.56."""
DEEPEST = 45.0
"""dB below the active speech level: what is quieter is not speech, however quiet the background is."""
ABOVE_FLOOR = 9.0
"""dB above the noise floor: noise alone exceeds it by chance in no frame of an hour."""
LEAST_ABOVE_FLOOR = 6.0
"""dB above the noise floor of the whole recording: what is quieter is not speech, however loud the noise is."""
FLOOR_STEP, FLOOR_SAMPLES = 10, 200
"""The noise floor of a frame is that of FLOOR_SAMPLES frames around it, every FLOOR_STEP-th: of 20 s."""
QUIET = 10
"""Percentile of the levels that counts as noise."""
SMOOTHED = 3
"""Frames over which powers are averaged: the power of noise varies from frame to frame."""
CLICK_S = 0.05
"""A sound that is shorter, and lies alone, is not speech."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What counts as speech."""

    level: float | None = None
    """dB of full scale that speech exceeds; None finds it from the speech and the noise of the recording."""
    hysteresis: float = 4.0
    """dB below that level down to which a run of speech extends."""


def active_level(levels_T: np.ndarray) -> float:
    """Return the level of the speech without its pauses, by method B of ITU-T P.56 on levels of frames.

    It is the mean power of the frames above the highest threshold that lies MARGIN below it; LOWEST for digital
    silence.
    """
    loudest_first = np.sort(levels_T.astype(np.float64))[::-1]
    loudest_first = loudest_first[loudest_first > LOWEST]
    if not len(loudest_first):
        return LOWEST
    means = 10 * np.log10(np.cumsum(10 ** (loudest_first / 10)) / np.arange(1, len(loudest_first) + 1))
    within = int(np.argmax(np.append(means - loudest_first > MARGIN, True)))
    return float(means[within - 1])


def speech_runs(levels_T: np.ndarray, activity: Activity = Activity()) -> np.ndarray:
    """Return (R, 2) int64 first frame of each run of speech and one past its last, ascending.

    Args:
        levels_T: (T,) level of each frame.
        activity: what counts as speech.
    """
    if not len(levels_T):
        return np.empty((0, 2), np.int64)
    smooth_T = _smoothed(levels_T)
    threshold_T = _threshold(levels_T, smooth_T) if activity.level is None else np.full(len(levels_T), activity.level)
    runs = _runs(smooth_T > np.maximum(threshold_T - activity.hysteresis, LOWEST + 1))
    is_loud = np.concatenate(([0], np.cumsum(smooth_T > threshold_T)))
    return runs[is_loud[runs[:, 1]] > is_loud[runs[:, 0]]]


def without_clicks(runs: np.ndarray, pause: int) -> np.ndarray:
    """Return the runs without short sounds that have a pause of `pause` frames on both sides."""
    gaps = np.concatenate(([pause], runs[1:, 0] - runs[:-1, 1], [pause]))
    is_click = (runs[:, 1] - runs[:, 0] < CLICK_S / FRAME_S) & (gaps[:-1] >= pause) & (gaps[1:] >= pause)
    return runs[~is_click]


def _smoothed(levels_T: np.ndarray) -> np.ndarray:
    """Return (T,) levels of the mean power of SMOOTHED frames around each."""
    powers = np.pad(10 ** (levels_T.astype(np.float64) / 10), SMOOTHED // 2, mode="edge")
    return np.asarray(10 * np.log10(sliding_window_view(powers, SMOOTHED).mean(axis=1)))


def _threshold(levels_T: np.ndarray, smooth_T: np.ndarray) -> np.ndarray:
    """Return (T,) the level that speech exceeds at each frame.

    Where nobody pauses for FLOOR_SAMPLES the floor is that of speech, hence the limit; a recording of noise has none.
    """
    speech = active_level(levels_T)
    sampled = smooth_T[::FLOOR_STEP]
    around = sliding_window_view(np.pad(sampled, (FLOOR_SAMPLES // 2,) * 2, mode="reflect"), FLOOR_SAMPLES | 1)
    floor_T = np.repeat(np.percentile(around, QUIET, axis=1), FLOOR_STEP)[: len(smooth_T)]
    highest = max(speech - MARGIN, float(np.percentile(sampled, QUIET)) + LEAST_ABOVE_FLOOR)
    return np.clip(floor_T + ABOVE_FLOOR, speech - DEEPEST, highest)


def _runs(is_speech_T: np.ndarray) -> np.ndarray:
    """Return (R, 2) bounds of the runs of true values."""
    return np.flatnonzero(np.diff(np.concatenate(([False], is_speech_T, [False])))).reshape(-1, 2).astype(np.int64)
