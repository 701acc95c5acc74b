"""Small corpora made on the spot: buzzes of many lengths with sentences to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

WORDS = "the quick brown fox jumps over a lazy dog while seven rivers run down to open water".split()


def buzz(seconds: float, rate: int, seed: int) -> np.ndarray:
    """A voiced-looking sound, (samples,) float32."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(110 + 60 * random.random() + 20 * np.sin(5 * time)) / rate
    wave = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(11 * time))
    return (0.2 * wave + 0.002 * random.normal(size=len(time))).astype(np.float32)


def sentence(seed: int, count: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, count)) + "."


def make_tree(root: Path, count: int = 24, *, seconds: float = 1.0, rates: tuple[int, ...] = (32_000, 16_000)) -> Path:
    """`count` recordings of two speakers with a .txt beside each; lengths from half of `seconds` to twice that."""
    for n in range(count):
        folder = root / f"speaker{n % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        rate, length = rates[n % len(rates)], seconds * (0.5 + 1.5 * n / count)
        suffix = "flac" if n % 3 else "wav"
        soundfile.write(folder / f"{n // 2:03d}.{suffix}", buzz(length, rate, n), rate)
        (folder / f"{n // 2:03d}.txt").write_text(sentence(n, 2 + n % 7) + "\n", encoding="utf-8")
    return root
