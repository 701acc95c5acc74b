"""Sounds that are like speech in spectrum and in pauses, for machines without a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

RATE = 44_100


def utterance(seconds: float, random: np.random.Generator, rate: int = RATE) -> np.ndarray:
    """Gliding harmonics with pauses, and a little noise: (samples,) int16."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 60 * np.sin(3 * time + random.uniform(0, 6))) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(9 * time) > -0.5)
    return (8000 * (0.3 * voice + 0.02 * random.standard_normal(len(time)))).astype(np.int16)


def utterances(seconds: float, rate: int) -> Iterator[np.ndarray]:
    """Utterances of 2 to 10 s, until they are so long together."""
    random, total = np.random.default_rng(0), 0.0
    while total < seconds:
        length = random.uniform(2, 10)
        total += length
        yield utterance(length, random, rate)


def write_corpus(folder: Path, seconds: float) -> Path:
    """Write FLAC at 44.1 kHz, with texts in English, as a list of GPT-SoVITS. Returns the folder."""
    import soundfile

    folder.mkdir(parents=True)
    lines = []
    for number, wave in enumerate(utterances(seconds, RATE)):
        soundfile.write(folder / f"{number:05d}.flac", wave, RATE)
        lines.append(f"{number:05d}.flac|nobody|EN|Some words are said here.")
    (folder / "corpus.list").write_text("\n".join(lines), encoding="utf-8")
    return folder
