"""From a stretch of a recording to mono int16 samples at the store's rate.

A recording is decoded in blocks that stay in the cache, each mixed down and resampled before the next: that takes less
time than the same in one piece, where all of it goes through memory once per step, and little more memory than the
result. Resampling is soxr's, whose aliases lie under -120 dB; its stream gives the same bits as all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeAlias

import numpy as np
import soxr

from headrace.featurize.audio.recording import BLOCK, USUAL, Limits, blocks
from headrace.featurize.audio.sample_kernels import levelled, mean, peak_of
from headrace.store.errors import Rejected
from headrace.store.schema import Utterance
from headrace.store.storage import StoragePath

Level = Literal["none", "gpt-sovits"]
"""`gpt-sovits`: half of the waveform as it is plus half of it brought to a peak of 0.95, as upstream prepares its
recordings. `none`: the waveform as it is."""
Decoder: TypeAlias = Callable[[StoragePath, Utterance, int, Level, Limits], np.ndarray]
"""`waveform`, or what stands in for it."""
_PIECE = 1 << 23  # samples, 32 MiB: from that size on malloc gives memory back as soon as it is freed
LOUDEST = 2.2
"""Peak above which a float recording is not speech at any sane level; the same limit as upstream's."""


def waveform(
    root: StoragePath, utterance: Utterance, sample_rate: int, level: Level, limits: Limits = USUAL
) -> np.ndarray:
    """Decode, mix down, resample and level one utterance.

    Args:
        root: a folder of this machine; `utterance.audio` is relative to it.
        sample_rate: wanted, in Hz.
        limits: what is too long.
    Returns:
        (samples,) int16.
    Raises:
        Rejected: unreadable, damaged, cut short, too long, not finite, or absurdly loud.
    """
    mono, rate = _mono(blocks(root, utterance, limits)), utterance.sample_rate
    if rate != sample_rate:
        mono = _resampled(mono, rate, sample_rate)
    pieces, peak = _gathered(mono, round(utterance.seconds * sample_rate) + 1)
    if peak > LOUDEST:
        raise Rejected("decode", f"it peaks at {peak:.1f}, full scale is 1.0: scale it down")
    return to_int16(pieces, peak, level)


def to_int16(pieces: list[np.ndarray], peak: np.float32, level: Level) -> np.ndarray:
    """Level, and truncate towards zero; what lies beyond full scale is clipped.

    Args:
        pieces: (samples,) float32 in [-1, 1] each. They are taken away one by one, so that not all of both is held.
        peak: the largest magnitude in them.
    Returns:
        (samples,) int16.
    """
    stop = sum(map(len, pieces))
    wave = np.empty(stop, np.int16)
    loud, plain = (0.95 * 0.5 * 32768, 0.5 * 32768) if level == "gpt-sovits" and peak > 0 else (0, 32768)
    while pieces:
        piece = pieces.pop()
        stop -= len(piece)
        levelled(piece, peak or np.float32(1), np.float32(loud), np.float32(plain), wave[stop : stop + len(piece)])
    return wave


def _mono(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """(samples, channels) to (samples,) float32 in [-1, 1], the mean; in a buffer that is used again."""
    buffer = np.empty(BLOCK, np.float32)
    for samples in blocks:
        yield mean(samples, buffer)


def _resampled(blocks: Iterable[np.ndarray], rate: int, wanted: int) -> Iterator[np.ndarray]:
    stream = soxr.ResampleStream(rate, wanted, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _gathered(blocks: Iterable[np.ndarray], expected: int) -> tuple[list[np.ndarray], np.float32]:
    """All of them in few pieces, and the largest magnitude.

    Args:
        expected: so many samples, about.
    """
    pieces, used, peak = [np.empty(min(expected, _PIECE), np.float32)], 0, np.float32(0)
    for block in blocks:
        peak = np.maximum(peak, peak_of(block))
        if not np.isfinite(peak):
            raise Rejected("decode", "it holds NaN or infinite samples: encode it again from its source")
        if used + len(block) > len(pieces[-1]):
            pieces[-1] = pieces[-1][:used]
            pieces.append(np.empty(_PIECE, np.float32))
            used = 0
        pieces[-1][used : used + len(block)] = block
        used += len(block)
    pieces[-1] = pieces[-1][:used]
    return pieces, peak
