"""From a stretch of a recording to mono int16 samples at the store's rate.

Headers are not trusted: what was decoded is what counts. Resampling is soxr's, whose aliases lie under -120 dB.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr

from featurize.presets import Level
from store.errors import Rejected
from store.schema import Utterance

LOUDEST = 2.2
"""Peak above which a float recording is not speech at any sane level; the same limit as upstream's."""


def waveform(root: Path, utterance: Utterance, sample_rate: int, level: Level) -> np.ndarray:
    """Decode, mix down, resample and level one utterance.

    Args:
        root: of the corpus; `utterance.audio` is relative to it.
        sample_rate: wanted, in Hz.
    Returns:
        (samples,) int16.
    Raises:
        Rejected: unreadable, shorter than its header says, not finite, or absurdly loud.
    """
    mono = _mono(_read(root / utterance.audio, utterance))
    if not np.isfinite(mono).all():
        raise Rejected("decode", f"{utterance.audio} holds NaN or infinite samples: encode it again from its source")
    if utterance.sample_rate != sample_rate:
        mono = soxr.resample(mono, utterance.sample_rate, sample_rate, quality="HQ")
    peak = float(np.abs(mono).max(initial=0))
    if peak > LOUDEST:
        raise Rejected("decode", f"{utterance.audio} peaks at {peak:.1f}, full scale is 1.0: scale it down")
    return to_int16(mono, level)


def to_int16(mono: np.ndarray, level: Level) -> np.ndarray:
    """(samples,) float32 in [-1, 1] to int16, truncated towards zero; what lies beyond full scale is clipped."""
    scaled = mono * np.float32(32768)
    if level == "gpt-sovits":
        peak = np.abs(mono).max(initial=0)
        if peak > 0:
            scaled = mono / peak * np.float32(0.95 * 0.5 * 32768) + np.float32(0.5 * 32768) * mono
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def _read(path: Path, utterance: Utterance) -> np.ndarray:
    """(samples, channels) int16 or float32, exactly as many samples as the utterance has by its header."""
    expected = utterance.stop - utterance.start
    try:
        with soundfile.SoundFile(path) as file:
            _check_rate(file, utterance)
            file.seek(utterance.start)
            # Integers are read as they are: to float32 they cost 5 to 7 times as much in libsndfile as in NumPy.
            samples = file.read(expected, dtype="int16" if file.subtype == "PCM_16" else "float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise Rejected("decode", f"{utterance.audio} cannot be decoded: {error}") from error
    if len(samples) != expected:
        raise Rejected(
            "decode", f"{utterance.audio} ends after {len(samples)} of {expected} samples: the file is cut short"
        )
    return samples


def _check_rate(file: soundfile.SoundFile, utterance: Utterance) -> None:
    if file.samplerate != utterance.sample_rate:
        raise Rejected(
            "decode", f"{utterance.audio} is at {file.samplerate} Hz and was at {utterance.sample_rate} when scanned"
        )


def _mono(samples: np.ndarray) -> np.ndarray:
    """(samples, channels) to (samples,) float32 in [-1, 1]: the mean. Column by column, since NumPy's mean over the
    short axis takes ten times as long."""
    channels = samples.shape[1]
    total = samples[:, 0].astype(np.float32)
    for channel in range(1, channels):
        total += samples[:, channel]
    scale = channels * (32768 if samples.dtype == np.int16 else 1)
    return total * np.float32(1 / scale)
