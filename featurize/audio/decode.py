"""Decode a recording, or a segment of it, to mono int16 samples at the store's sample rate.

A recording is decoded in blocks that fit into the cache. Each is mixed down and resampled before the next one. This is
faster than processing the recording in one piece, where every step passes through main memory, and needs little more
memory than the result. soxr resamples, with aliases below -120 dB; its streaming mode gives the same bits as one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import soxr

from headrace.featurize.audio.recording import BLOCK_SAMPLES, DEFAULT_LIMITS, Limits, decode_blocks
from headrace.featurize.audio.sample_kernels import add_moments, apply_level, mix_down, peak_magnitude
from headrace.store import layout
from headrace.store.errors import Rejected
from headrace.store.schema import Utterance
from headrace.store.storage import StoragePath

Level = Literal["none", "gpt-sovits"]
"""Level normalisation. `none`: the waveform is unchanged. `gpt-sovits`: half of the waveform plus half of the waveform
scaled to a peak of 0.95, as upstream prepares recordings."""


class Decoded(NamedTuple):
    """The waveform of an utterance, and what was counted of its recording."""

    wave: np.ndarray
    """(samples,) int16."""
    dead_channels: int = 0
    """Channels that hold nothing of the speech, as `ChannelPowers.dead` counts them."""
    clipped_samples: int = 0
    """Samples of the waveform that were beyond full scale, as those of float recordings may be, and are clipped."""

    @property
    def counts(self) -> dict[str, int]:
        """Return the counts by name, one for each of `layout.RECORDING_COUNTS`."""
        return {name: getattr(self, name) for name in layout.RECORDING_COUNTS}


Decoder: TypeAlias = Callable[[StoragePath, Utterance, int, Level, Limits], Decoded]
"""A function with the signature of `decode`."""
_PIECE_SAMPLES = 1 << 23  # 32 MiB: from this size on malloc returns memory to the system as soon as it is freed
FULL_SCALE = 32768
"""Of int16: no sample of an integer recording is beyond it."""
MAX_PEAK = 2.2
"""Largest magnitude that a float recording of speech may have; the same limit as upstream's."""
MAX_CANCELLED_DB = 20.0
"""A mean of channels that is so much softer than that of independent ones: one channel is the other, inverted."""
DEAD_BELOW_DB = 30.0
"""A channel so far below the loudest one adds no more than 3 % to their mean: nobody is heard on it."""


def waveform(
    root: StoragePath, utterance: Utterance, sample_rate: int, level: Level, limits: Limits = DEFAULT_LIMITS
) -> np.ndarray:
    """Decode, mix down, resample and normalise the level of one utterance.

    Args:
        root: folder that `utterance.audio` is relative to; a bucket only for a segment.
        sample_rate: of the result, in Hz.
        level: level normalisation.
        limits: maximum duration and decoding time.
    Returns:
        (samples,) int16.
    Raises:
        Rejected: the recording is unreadable, damaged, truncated, too long, not finite, or far too loud.
    """
    return decode(root, utterance, sample_rate, level, limits).wave


def decode(
    root: StoragePath, utterance: Utterance, sample_rate: int, level: Level, limits: Limits = DEFAULT_LIMITS
) -> Decoded:
    """Decode an utterance as `waveform` does, and count what is wrong with its recording."""
    channels = ChannelPowers()
    mono, rate = mono_blocks(root, utterance, limits, channels), utterance.sample_rate
    if rate != sample_rate:
        mono = _resample(mono, rate, sample_rate)
    pieces, peak = _collect(mono, round(utterance.seconds * sample_rate) + 1)
    _check_levels(peak, channels.cancelled_db, limits)
    clipped_samples = count_clipped(pieces, peak, level)
    return Decoded(to_int16(pieces, peak, level), channels.dead, clipped_samples)


def _check_levels(peak: np.float32, cancelled_db: float, limits: Limits) -> None:
    """Raise Rejected if a recording is too loud or too soft, or has channels that cancel each other.

    Args:
        peak: of the mean of all channels, full scale at 1.
        cancelled_db: see `ChannelPowers`.
    """
    if peak > MAX_PEAK:
        raise Rejected("decode", f"it peaks at {peak:.1f}, full scale is 1.0: scale it down")
    if cancelled_db > MAX_CANCELLED_DB:
        raise Rejected("decode", "its channels cancel each other in their mean: save one of them alone, or invert one")
    if 0 < peak < 10 ** (limits.min_peak_db / 20):  # levelling makes no noise of zeros, and `silence` finds them
        told = f"it peaks at {20 * np.log10(peak):.0f} dB of full scale"
        advice = f"record it louder than {limits.min_peak_db:g} dB, or allow it with --min-peak"
        raise Rejected("decode", f"{told}: {advice}")


class ChannelPowers:
    """The power of each channel of a recording, and of their mean, around its average in each block, summed up."""

    def __init__(self) -> None:
        self._powers = np.empty(0)

    def add(self, block: np.ndarray) -> None:
        """Add a block (samples, channels) int16 or float32."""
        moments = np.zeros((block.shape[1] + 1, 3))
        add_moments(block, moments)
        count, total, squares = moments.T
        powers = np.maximum(squares - total**2 / np.maximum(count, 1), 0)
        self._powers = self._powers + powers if len(self._powers) else powers

    @property
    def dead(self) -> int:
        """Return how many channels are constant, or DEAD_BELOW_DB below the loudest; 0 if none is heard."""
        powers = self._powers[:-1]
        loudest = powers.max(initial=0)
        return int((powers <= loudest * 10 ** (-DEAD_BELOW_DB / 10)).sum()) if loudest > 0 else 0

    @property
    def cancelled_db(self) -> float:
        """Return by how many dB the mean of the channels is softer than that of independent ones would be; 0 of one."""
        if not len(self._powers):
            return 0.0
        *powers, mean = self._powers
        independent = sum(powers) / len(powers) ** 2
        return float(10 * np.log10(independent / mean)) if mean > 0 else np.inf if independent > 0 else 0.0


def to_int16(pieces: list[np.ndarray], peak: np.float32, level: Level) -> np.ndarray:
    """Normalise the level, clip to full scale, and truncate towards zero.

    Args:
        pieces: float32 arrays (samples,), full scale at 1. The list is emptied, so that each piece is freed once used.
        peak: the largest magnitude in them.
        level: level normalisation.
    Returns:
        (samples,) int16.
    """
    stop = sum(map(len, pieces))
    wave = np.empty(stop, np.int16)
    normalised, original = _gains(peak, level)
    gains = peak or np.float32(1), np.float32(normalised), np.float32(original)
    while pieces:
        piece = pieces.pop()
        stop -= len(piece)
        apply_level(piece, *gains, wave[stop : stop + len(piece)])
    return wave


def count_clipped(pieces: list[np.ndarray], peak: np.float32, level: Level) -> int:
    """Return how many samples `to_int16` clips, of the same arguments."""
    normalised, original = _gains(peak, level)
    if not normalised + peak * original > FULL_SCALE:
        return 0
    limit = FULL_SCALE / (normalised / peak + original)
    return sum(int(np.count_nonzero(np.abs(piece) > limit)) for piece in pieces)


def _gains(peak: np.float32, level: Level) -> tuple[float, float]:
    """Return the gains of the waveform scaled to a peak of 1, and of the waveform itself."""
    return (0.95 * 0.5 * 32768, 0.5 * 32768) if level == "gpt-sovits" and peak > 0 else (0, 32768)


def mono_blocks(
    root: StoragePath, utterance: Utterance, limits: Limits, channels: ChannelPowers | None = None
) -> Iterator[np.ndarray]:
    """Decode an utterance block by block and mix it down, or take the channel that is heard.

    Args:
        root, utterance, limits: as for `decode_blocks`.
        channels: gets the power of each channel, if there are several.
    Yields:
        (samples,) float32, full scale at 1, in a buffer that is reused for the next block.
    Raises:
        Rejected: as `decode_blocks`.
    """
    buffer = np.empty(BLOCK_SAMPLES, np.float32)
    for block in map(partial(_heard, utterance.channel), decode_blocks(root, utterance, limits)):
        if block.shape[1] > 1 and channels is not None:
            channels.add(block)
        yield mix_down(block, buffer)


def _heard(channel: int, block: np.ndarray) -> np.ndarray:
    """Return a block (samples, channels) of all channels, or of the one that is heard."""
    if channel < 0:
        return block
    if channel >= block.shape[1]:
        raise Rejected("decode", f"it has {block.shape[1]} channels, numbered from 0: there is no channel {channel}")
    return np.ascontiguousarray(block[:, channel : channel + 1])


def _resample(blocks: Iterable[np.ndarray], rate: int, target_rate: int) -> Iterator[np.ndarray]:
    stream = soxr.ResampleStream(rate, target_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _collect(blocks: Iterable[np.ndarray], expected: int) -> tuple[list[np.ndarray], np.float32]:
    """Copy all blocks into a few large pieces.

    Args:
        expected: approximate number of samples.
    Returns:
        The pieces and the largest magnitude in them.
    """
    pieces, used, peak = [np.empty(min(expected, _PIECE_SAMPLES), np.float32)], 0, np.float32(0)
    for block in blocks:
        peak = np.maximum(peak, peak_magnitude(block))
        if not np.isfinite(peak):
            raise Rejected("decode", "it contains NaN or infinite samples: encode it again from its source")
        if used + len(block) > len(pieces[-1]):
            pieces[-1] = pieces[-1][:used]
            pieces.append(np.empty(_PIECE_SAMPLES, np.float32))
            used = 0
        pieces[-1][used : used + len(block)] = block
        used += len(block)
    pieces[-1] = pieces[-1][:used]
    return pieces, peak
