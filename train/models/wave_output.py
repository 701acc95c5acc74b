"""Speech as 16-bit samples, in a WAV file or raw. Needs no torch.

Shapes: S samples.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from headrace.featurize.audio.libsndfile import soundfile
from headrace.store.errors import RunError
from headrace.store.storage.output_files import output_file


def check_finite(wave_S: np.ndarray, rate: int) -> None:
    """Raise RunError if a waveform is not finite, with the place: as samples it would be noise."""
    wrong = np.flatnonzero(~np.isfinite(wave_S))
    if len(wrong):
        raise RunError(
            f"The speech is not finite from {wrong[0] / rate:.2f} s on, at {len(wrong):,} of {len(wave_S):,} samples: "
            "speak with another checkpoint, by --at, or with other weights."
        )


def raw_audio(wave_S: np.ndarray, rate: int) -> bytes:
    """Return a waveform as raw 16-bit samples, little-endian and without a header: the samples of `write_wave`."""
    check_finite(wave_S, rate)
    encoded = io.BytesIO()
    soundfile.write(encoded, wave_S, rate, subtype="PCM_16", format="RAW", endian="LITTLE")
    return encoded.getvalue()


def write_wave(path: Path, wave_S: np.ndarray, rate: int) -> None:
    """Write a WAV file of 16-bit PCM, whatever the suffix of the path; what is there is replaced by the complete file.

    Raises:
        StoreError: it cannot be written. The file is not written by libsndfile, whose errors carry no reason.
        RunError: the waveform is not finite. Nothing is written.
    """
    check_finite(wave_S, rate)
    encoded = io.BytesIO()
    soundfile.write(encoded, wave_S, rate, subtype="PCM_16", format="WAV")
    with output_file(path) as draft:
        draft.write_bytes(encoded.getbuffer())
