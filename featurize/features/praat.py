"""What Praat does here, through parselmouth: F0."""

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
"""Praat's own defaults for To Pitch (ac)."""

_lock = threading.Lock()  # Praat keeps its state in globals


def pitch(wave: np.ndarray, sample_rate: int, *, floor: float, ceiling: float) -> np.ndarray:
    """F0 of every frame by Praat's autocorrelation method (Boersma 1993, IFA Proceedings 17).

    Praat lays its windows out evenly about the middle of a sound, as many as fit. With as much silence before and after
    as makes room for one window a frame, the t-th is centred on the t-th frame, on sample t * hop + hop / 2, where that
    of the STFT is centred too: nothing is interpolated.

    Args:
        wave: (T, hop) int16.
        floor, ceiling: Hz.
    Returns:
        (T,) float32 in Hz, 0 where not voiced.
    """
    import parselmouth

    hop = wave.shape[1]
    silence = max(0, int((pitch_window(sample_rate, floor) - hop / 2) // 2))
    sound = parselmouth.Sound(np.pad(wave.reshape(-1) / 32768, silence), sample_rate)
    with _lock:
        found = sound.to_pitch_ac(hop / sample_rate, floor, pitch_ceiling=ceiling, **PITCH)
    return found.selected_array["frequency"].astype(np.float32)


def pitch_window(sample_rate: int, floor: float) -> float:
    """Samples that Praat looks at for one value: three periods of the floor."""
    return 3 * sample_rate / floor
