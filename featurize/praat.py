"""What Praat does here, through parselmouth: F0, and reading TextGrids of any of its file forms and encodings."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featurize.align import SLACK_S, Alignment, Tier
from store.errors import Rejected

if TYPE_CHECKING:  # takes 0.2 s and 70 MB to import, and most corpora do without
    import parselmouth

PHONE_TIERS = frozenset({"phones", "phone", "phonemes", "phoneme", "segments", "segment"})
WORD_TIERS = frozenset({"words", "word"})
TOLERANCE_S = 0.05
"""How far from the audio's end a TextGrid may end. Aligners round to their frames, 10 to 25 ms."""

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

_DECIMALS = 17  # of a second: a float64 comes back exactly
_NO_WORDS = frozenset({"sil", "sp", "spn", "<eps>", "<sil>", "<unk>"})
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


def read_textgrid(path: Path, start_s: float, stop_s: float) -> Alignment:
    """Phones and words of a TextGrid.

    Tiers are known by name, in any case: phones, phone, phonemes, segments, ...; words, word; with a speaker in
    front as the Montreal Forced Aligner writes them ("anna - phones").

    Args:
        start_s, stop_s: the time, on the TextGrid's clock, that the audio covers; times are returned from start_s on.
    Raises:
        Rejected: stage "align"; no TextGrid, not exactly one tier of phones, intervals that overlap or lie outside,
            or a TextGrid that is not of this audio by its length.
    """
    tiers, (first_s, last_s) = _read(path)
    if abs(first_s - start_s) > TOLERANCE_S or abs(last_s - stop_s) > TOLERANCE_S:
        raise _rejected(
            path, f"runs from {first_s:.3f} to {last_s:.3f} s, the audio from {start_s:.3f} to {stop_s:.3f} s"
        )
    phones = _tier(tiers, PHONE_TIERS, path)
    if phones is None:
        raise _rejected(path, f"has no tier of phones; its tiers: {', '.join(name for name, _ in tiers) or 'none'}")
    words = _tier(tiers, WORD_TIERS, path) or Tier((), np.empty(0), np.empty(0))
    for tier in (phones, words):
        _check_order(tier, start_s, stop_s, path)
    return Alignment(_shifted(phones, start_s), _shifted(words, start_s), stop_s - start_s)


def read_words(path: Path) -> str:
    """The text of a TextGrid: the labels of its tier of words. Raises Rejected("align") where there is none."""
    tiers, _ = _read(path)
    words = _tier(tiers, WORD_TIERS, path)
    if words is None:
        raise _rejected(path, "has no tier of words to take the text from")
    return " ".join(label for label in words.labels if label.casefold() not in _NO_WORDS)


def _read(path: Path) -> tuple[list[tuple[str, Tier]], tuple[float, float]]:
    """Every interval tier with its name, and the time that the TextGrid covers."""
    import parselmouth
    from parselmouth.praat import call

    with _lock:
        try:
            grid = parselmouth.read(str(path))
        except parselmouth.PraatError as error:
            raise _rejected(path, f"cannot be read: {str(error).splitlines()[0]}") from None
        if not isinstance(grid, parselmouth.TextGrid):
            raise _rejected(path, f"is a {type(grid).__name__}, not a TextGrid")
        tiers = [
            (call(grid, "Get tier name", number), _table(call(grid, "Extract one tier", number), path))
            for number in range(1, call(grid, "Get number of tiers") + 1)
            if call(grid, "Is interval tier", number)
        ]
        return tiers, (grid.xmin, grid.xmax)


def _table(grid: parselmouth.TextGrid, path: Path) -> Tier:
    """The intervals of a grid's one tier that have labels. In one call: one call an interval costs 0.3 ms each."""
    from parselmouth.praat import call

    table = call(grid, "Down to Table", False, _DECIMALS, False, False)
    rows = [row.split("\t") for row in call(table, "List", False).splitlines()[1:]]
    if any(len(row) != 3 for row in rows):
        raise _rejected(path, "has a tab or a line break in a label")
    return Tier(
        tuple(label.strip() for _, label, _ in rows),
        np.asarray([float(start) for start, _, _ in rows]),
        np.asarray([float(end) for _, _, end in rows]),
    )


def _tier(tiers: list[tuple[str, Tier]], names: frozenset[str], path: Path) -> Tier | None:
    found = [(name, tier) for name, tier in tiers if name.rpartition(" - ")[2].strip().casefold() in names]
    if len(found) > 1:
        raise _rejected(path, f"has {len(found)} tiers of the kind ({', '.join(name for name, _ in found)}): keep one")
    return found[0][1] if found else None


def _check_order(tier: Tier, start_s: float, stop_s: float, path: Path) -> None:
    if not tier.labels:
        return
    if tier.starts_s[0] < start_s - TOLERANCE_S or tier.ends_s[-1] > stop_s + TOLERANCE_S:
        raise _rejected(path, f"has intervals outside of its {stop_s - start_s:.3f} s")
    if (tier.ends_s < tier.starts_s).any() or (tier.starts_s[1:] < tier.ends_s[:-1] - SLACK_S).any():
        raise _rejected(path, "has intervals that overlap")


def _shifted(tier: Tier, start_s: float) -> Tier:
    return Tier(tier.labels, tier.starts_s - start_s, tier.ends_s - start_s)


def _rejected(path: Path, reason: str) -> Rejected:
    return Rejected("align", f"{path.name} {reason}")
