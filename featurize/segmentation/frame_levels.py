"""The level of each frame of a recording, decoded block by block: an hour of it takes a megabyte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from headrace.featurize.audio.decode import Decoded, mono_blocks
from headrace.featurize.audio.recording import Limits
from headrace.featurize.segmentation.speech_activity import FRAME_S, LOWEST
from headrace.store.errors import Rejected
from headrace.store.schema import Utterance
from headrace.store.storage import StoragePath

FRAME_RATE = round(1 / FRAME_S)
STEPS_PER_DB = 100
"""Levels are kept as int16, in hundredths of a dB, as a waveform of FRAME_RATE: a child process can return them."""


def frame_samples(sample_rate: int) -> int:
    """Return the samples in a frame of a recording: FRAME_S, to the nearest sample."""
    return round(sample_rate * FRAME_S)


def decode_levels(root: StoragePath, utterance: Utterance, frame_rate: int, level: str, limits: Limits) -> Decoded:
    """Return the level of each frame of a recording, in hundredths of a dB of full scale. A `Decoder`.

    The mean of a frame, which is no sound, is left out of its level. An unfinished last frame is left out.

    Args:
        root, utterance, limits: as for `decode`.
        frame_rate, level: not used; there is one frame rate, FRAME_RATE.
    Returns:
        (T,) int16 for the waveform.
    Raises:
        Rejected: the recording is unreadable, damaged, truncated, too long, or not finite.
    """
    samples = frame_samples(utterance.sample_rate)
    powers = [_powers(frames) for frames in _frames(mono_blocks(root, utterance, limits), samples)]
    levels = 10 * np.log10(np.maximum(np.concatenate([np.empty(0), *powers]), 10 ** (LOWEST / 10)))
    if not np.isfinite(levels).all():
        raise Rejected("decode", "it contains NaN or infinite samples: encode it again from its source")
    return Decoded(np.rint(levels * STEPS_PER_DB).astype(np.int16))


def to_db(levels: np.ndarray) -> np.ndarray:
    """Return (T,) float32 levels in dB of those of `decode_levels`."""
    return levels.astype(np.float32) / STEPS_PER_DB


def _frames(blocks: Iterable[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """Yield (n, samples) whole frames of blocks of any length, with what was left over of the block before."""
    rest = np.empty(0, np.float32)
    for block in blocks:
        joined = np.concatenate([rest, block])
        whole = len(joined) // samples * samples
        yield joined[:whole].reshape(-1, samples)
        rest = joined[whole:]


def _powers(frames: np.ndarray) -> np.ndarray:
    centred = frames - frames.mean(axis=1, keepdims=True)
    return np.asarray(np.einsum("ns,ns->n", centred, centred, dtype=np.float64) / frames.shape[1])
