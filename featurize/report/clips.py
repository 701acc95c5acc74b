"""Audio and images of utterances as data URLs, so that the page is a single file."""

from __future__ import annotations

import base64
import io

import numpy as np
import soxr
from PIL import Image

from headrace.featurize.audio.libsndfile import soundfile
from headrace.store.reader import Store

SECONDS = 6.0
"""Longest clip."""
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Sample rates of MP3, in Hz."""
RATE = 24_000
"""Rate in Hz to which recordings of other rates are resampled."""
WIDTH, HEIGHT = 160, 40


def audio_player(wave: np.ndarray, rate: int) -> str:
    """Return the first SECONDS of a recording as a data URL, in MP3 at about 5 kB a second.

    Args:
        wave: (T, hop) int16.
        rate: sample rate in Hz.
    """
    samples = wave.reshape(-1)[: int(SECONDS * rate)]
    if rate not in RATES:
        samples, rate = soxr.resample(samples, rate, RATE), RATE
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.9)
    return _url("audio/mpeg", file.getvalue())


def waveform_path(wave: np.ndarray) -> str:
    """Return the mirrored envelope of a waveform as an SVG path, WIDTH by HEIGHT."""
    samples = np.abs(wave.reshape(-1).astype(np.int32))
    bounds = np.linspace(0, len(samples), min(WIDTH, len(samples)), endpoint=False).astype(np.int64)
    peaks = np.maximum.reduceat(samples, bounds) / 32768 * (HEIGHT / 2)
    x = np.linspace(0, WIDTH, len(peaks))
    above = [f"{a:.0f},{HEIGHT / 2 - p:.1f}" for a, p in zip(x, peaks, strict=True)]
    below = [f"{a:.0f},{HEIGHT / 2 + p:.1f}" for a, p in zip(x[::-1], peaks[::-1], strict=True)]
    return "M" + " ".join(above + below) + "Z"


def mel_image(store: Store, number: int) -> str:
    """Return the mel spectrogram as a small grey PNG in a data URL; empty where the store has none."""
    if "mel" not in store.features:
        return ""
    mel = store.read("mel", number).astype(np.float32).T[::-1]
    low, high = np.quantile(mel, [0.05, 0.999])
    grey = 255 * (1 - np.clip((mel - low) / max(float(high - low), 1e-6), 0, 1))
    image = Image.fromarray(grey.astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    file = io.BytesIO()
    image.quantize(16).save(file, "PNG", optimize=True)
    return _url("image/png", file.getvalue())


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
