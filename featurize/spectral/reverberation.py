"""Reverberation: how fast sound decays in the room of a recording.

After a voice stops, reverberation falls by the same number of dB in every second (Sabine 1922), in all bands of
frequency. Speech itself does not: a voice falls within some hundredths of a second, and its bands one after the other.
So a long fall in step is the room. Knowing its rates, one can tell the room from the voice: what is no louder than the
earlier sound has decayed to is the room (Lebart, Boucher and Denbigh 2001 predict late reverberation so).

Shapes: T frames, K bands of frequency.
"""

from __future__ import annotations

import math

import numpy as np

FRAME_S = 0.01
"""Seconds between frames."""
BANDS = 8
"""Bands that must fall together."""
TAIL_FRAMES = 400
"""Frames at the end that are searched for a decay."""
RANGE_DB, ABOVE_FLOOR_DB = 35.0, 6.0
"""A decay is looked at from the loud frames down to RANGE_DB below them, or to a little above the quietest frames."""
LOUD, FLOOR = 0.95, 0.02
"""Quantiles of the levels of loud and of the quietest frames."""
SPEECH_DB, DECAY_DB = 8.0, 2.5
"""Standard deviations of the levels of speech around their mean, and of a decay around its line."""
MIN_FRAMES, MIN_DROP_DB = 25, 12.0
"""The shortest and the smallest fall that tells of a room."""
RATES = (-150.0, -8.0)
"""Possible rates of a decay in dB per second: those of reverberation times from 0.4 to 7.5 s."""
MAX_DEVIATION_DB, MAX_BAND_DEVIATION_DB = 3.5, 3.6
"""Standard deviations from the line that a decay has at most: of all bands together, and in half of the bands."""
EARLIER = (10, 40)
"""The frames ago from whose sound the room's is predicted: 0.1 to 0.4 s."""
DIRECT_DB, LAST_FRAMES = 1.75, 8
"""How much louder than the room speech is in the mean of all bands; and frames at the end that are not looked at."""
NOTHING_DB = 80.0
"""What lies as far below the loudest band and frame is no sound, but what compression left of one."""
HALVES = (0.6, 1.7)
"""The rates of both halves of a decay are within these multiples of its own."""


def decay_rate(power_TK: np.ndarray) -> float:
    """Return the rate of the decay at the end of a recording in dB per second, below 0; 0 where none is heard.

    The recording may end before its room is silent. The decay begins where two lines describe the levels best, a level
    one for speech and a falling one.

    Args:
        power_TK: of bands in frames FRAME_S apart, K >= BANDS.
    """
    start, end = _fall(power_TK)
    return _rate(_db(power_TK[start:end].sum(1)), _db(in_bands(power_TK[start:end])))


def band_rates(power_TK: np.ndarray) -> np.ndarray:
    """Return the rates of decay (BANDS,) in dB per second; zeros where `decay_rate` hears none.

    They are those of the second half of the fall, in which there is no voice left.
    """
    start, end = _fall(power_TK)
    if not decay_rate(power_TK):
        return np.zeros(BANDS)
    return _line(_db(in_bands(power_TK[(start + end) // 2 : end])))[0]


def speech_end(power_TK: np.ndarray, rates_K: np.ndarray) -> int:
    """Return the frame after the last one that is louder than the room alone would be.

    Args:
        power_TK: of bands in frames FRAME_S apart, K >= BANDS.
        rates_K: (BANDS,) the room's rates of decay in dB per second.
    Returns:
        A number of frames; all of them where no frame is louder.
    """
    band_TK, count = in_bands(power_TK).astype(np.float64), len(power_TK)
    first, last = EARLIER
    _, end = _fall(power_TK)
    if end <= last:
        return count
    decay_K = 10 ** (np.clip(rates_K, *RATES) * FRAME_S / 10)
    padded = np.concatenate([np.zeros((last, BANDS)), band_TK])
    earlier = sum(decay_K**ago * padded[last - ago :][:count] for ago in range(first, last + 1))
    room_TK = np.maximum(earlier / (last + 1 - first), band_TK.max() * 10 ** (-NOTHING_DB / 10))
    excess_T = (_db(_smooth(band_TK)) - _db(room_TK)).mean(1)
    direct = np.flatnonzero(excess_T[: end - LAST_FRAMES] > DIRECT_DB)
    return int(direct[-1]) + 1 if len(direct) else count


def in_bands(power_TK: np.ndarray) -> np.ndarray:
    """Return the power (T, BANDS) in bands of as many neighbouring ones each."""
    return np.asarray(np.add.reduceat(power_TK, np.arange(BANDS) * power_TK.shape[1] // BANDS, axis=1))


def _fall(power_TK: np.ndarray) -> tuple[int, int]:
    """Return the first frame of the fall at the end, and one past its last; the same one twice if there is none."""
    level_T = _db(power_TK.sum(1))
    if len(level_T) < MIN_FRAMES:
        return 0, 0
    floor, loud = np.quantile(level_T, [FLOOR, LOUD])
    heard = np.flatnonzero(_smooth(level_T[:, None])[:, 0] > max(loud - RANGE_DB, floor + ABOVE_FLOOR_DB))
    end = int(heard[-1]) + 1 if len(heard) else 0
    first = max(0, end - TAIL_FRAMES)
    if end - first < MIN_FRAMES:
        return end, end
    return first + _fall_begins(level_T[first:end]), end


def _smooth(values_TK: np.ndarray) -> np.ndarray:
    """Return the mean of five frames around each, with the end frames repeated."""
    padded = np.pad(values_TK, ((2, 2), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, np.full(5, 0.2), "valid") for column in padded.T], 1)


def _db(power: np.ndarray) -> np.ndarray:
    return np.asarray(10 * np.log10(np.maximum(power, 1e-12)), np.float64)


def _fall_begins(level_T: np.ndarray) -> int:
    """Return the first frame of the fall at the end, by the greatest likelihood of a constant and then a line."""
    count, time = len(level_T), np.arange(len(level_T), dtype=np.float64)
    level = level_T - level_T.mean()

    def from_here(values: np.ndarray) -> np.ndarray:
        """Return sums of the values from each frame to the end."""
        return np.cumsum(values[::-1])[::-1]

    n, after = count - time, from_here(level)
    spread = from_here(time**2) - from_here(time) ** 2 / n
    together = from_here(time * level) - from_here(time) * after / n
    fall = from_here(level**2) - after**2 / n - together**2 / np.maximum(spread, 1e-9)
    before = np.cumsum(level) - level
    speech = np.cumsum(level**2) - level**2 - before**2 / np.maximum(time, 1)
    cost = speech / SPEECH_DB**2 + fall / DECAY_DB**2 + 2 * time * math.log(SPEECH_DB / DECAY_DB)
    return int(np.argmin(cost[:-8]))


def _rate(level_T: np.ndarray, bands_TK: np.ndarray) -> float:
    """Return the rate of a fall in dB per second; 0 if it is none of a room."""
    if len(level_T) < MIN_FRAMES:
        return 0.0
    rate, deviation = _line(level_T)
    halves = [float(_line(half)[0]) for half in np.array_split(level_T, 2)]
    _, band_deviations = _line(bands_TK)
    is_room = (
        RATES[0] < rate < RATES[1]
        and -rate * len(level_T) * FRAME_S > MIN_DROP_DB
        and deviation < MAX_DEVIATION_DB
        and float(np.median(band_deviations)) < MAX_BAND_DEVIATION_DB
        and all(HALVES[0] < half / rate < HALVES[1] for half in halves)
    )
    return float(rate) if is_room else 0.0


def _line(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a line to levels (T,), or to each column of (T, K): return the slope in dB per second, and the deviation."""
    time = FRAME_S * (np.arange(len(levels)) - (len(levels) - 1) / 2)
    slope = time @ levels / (time @ time)
    return slope, (levels - levels.mean(0) - np.multiply.outer(time, slope)).std(0)
