"""Recordings of which it is known when somebody speaks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Talk(NamedTuple):
    """A recording of known phrases."""

    wave: np.ndarray
    """(samples,) float32."""
    phrases: np.ndarray
    """(P, 2) start and end of each phrase, in seconds."""


def phrase(seconds: float, rate: int, random: np.random.Generator) -> np.ndarray:
    """Syllables of 0.1 to 0.25 s, with closures of 0.03 to 0.12 s between them; loud at both ends."""
    time = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 8)) + 0.3 * random.normal(size=len(time))
    level, at = np.zeros(len(time)), 0.0
    while at < seconds:
        syllable = random.uniform(0.1, 0.25)
        level[round(at * rate) : round((at + syllable) * rate)] = random.uniform(0.3, 1.0)
        at += syllable + random.uniform(0.03, 0.12)
    edge = round(0.05 * rate)
    level[:edge], level[-edge:] = 0.5, 0.5
    return (0.1 * tone * level).astype(np.float32)


def talk(
    minutes: float,
    *,
    rate: int = 16_000,
    noise_db: float = -70.0,
    pauses: tuple[float, float] = (0.7, 2.5),
    seed: int = 0,
) -> Talk:
    """Phrases of 0.5 to 8 s with pauses between them, in noise."""
    random = np.random.default_rng(seed)
    pieces, phrases, samples = list[np.ndarray](), list[tuple[float, float]](), 0
    while samples < minutes * 60 * rate:
        pause = np.zeros(round(random.uniform(*pauses) * rate), np.float32)
        spoken = phrase(random.uniform(0.5, 8.0), rate, random) * np.float32(random.uniform(0.5, 1.0))
        start = samples + len(pause)
        phrases.append((start / rate, (start + len(spoken)) / rate))
        pieces += [pause, spoken]
        samples = start + len(spoken)
    wave = np.concatenate([*pieces, np.zeros(rate, np.float32)])
    return Talk((wave + 10 ** (noise_db / 20) * random.normal(size=len(wave))).astype(np.float32), np.array(phrases))
