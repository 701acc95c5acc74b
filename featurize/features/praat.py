"""F0 by Praat, through parselmouth."""

from __future__ import annotations

import threading

import numpy as np

PITCH = {
    "max_number_of_candidates": 15,
    "very_accurate": False,
    "silence_threshold": 0.03,
    "voicing_threshold": 0.45,
    "octave_cost": 0.01,
    "octave_jump_cost": 0.35,
    "voiced_unvoiced_cost": 0.14,
}
"""Praat's defaults for `To Pitch (ac)`."""

_lock = threading.Lock()  # Praat keeps its state in globals


def pitch(wave: np.ndarray, sample_rate: int, *, floor: float, ceiling: float) -> np.ndarray:
    """Compute F0 of every frame by Praat's autocorrelation method (Boersma 1993, IFA Proceedings 17).

    Praat places as many windows as fit evenly about the middle of a sound. Silence is added at both ends until there is
    one window for each frame. Window t is then centred on sample t * hop + hop / 2, as that of the STFT is, and nothing
    is interpolated.

    Args:
        wave: (T, hop) int16.
        sample_rate, floor, ceiling: Hz.
    Returns:
        (T,) float32 in Hz, 0 where not voiced.
    """
    import parselmouth

    hop = wave.shape[1]
    padding = max(0, int((pitch_window(sample_rate, floor) - hop / 2) // 2))
    sound = parselmouth.Sound(np.pad(wave.reshape(-1) / 32768, padding), sample_rate)
    with _lock:
        track = sound.to_pitch_ac(hop / sample_rate, floor, pitch_ceiling=ceiling, **PITCH)
    return track.selected_array["frequency"].astype(np.float32)


def pitch_window(sample_rate: int, floor: float) -> float:
    """Return the length of Praat's window in samples: three periods of the floor."""
    return 3 * sample_rate / floor
