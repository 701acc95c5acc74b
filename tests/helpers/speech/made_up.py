"""Made-up speech: words of sounds whose spectra differ, with known times; and parts of a store that hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.featurize.features.derived import Part
from headrace.featurize.text.symbols import ids
from headrace.store.schema import FeatureSpec

RATE, HOP = 16_000, 320
NAMES = ("AA1", "IY1", "UW1", "S", "SH", "M", "T", "EH0", "OW1", "F")


@dataclass(frozen=True)
class Said:
    wave: np.ndarray
    phones: np.ndarray
    words: np.ndarray
    times: np.ndarray
    """(P, 2) samples: the truth."""


def say(random: np.random.Generator, words: int = 5) -> Said:
    """Words of made-up sounds, one spectrum a phone, with pauses at marks, at both ends and between some words."""
    sounds, phones, owners, times = [_sound(random, "", random.integers(1500, 4000))], [], [], []
    for word in range(words):
        for name in (*random.choice(NAMES, random.integers(2, 5)), *([","] if random.random() < 0.2 else [])):
            start = sum(map(len, sounds))
            length = 0 if name == "," and random.random() < 0.3 else random.integers(1000, 2600)
            sounds.append(_sound(random, name, length))
            phones.append(name)
            owners.append(word + 100 * (name == ","))
            times.append((start, start + length))
        if random.random() < 0.3:
            sounds.append(_sound(random, "", random.integers(1500, 4000)))
    samples = np.concatenate([*sounds, _sound(random, "", random.integers(1500, 4000))])
    wave = samples[: len(samples) // HOP * HOP].reshape(-1, HOP)
    return Said(wave, ids(phones), np.array(owners, np.int16), np.minimum(times, wave.size).astype(np.int32))


def _sound(random: np.random.Generator, name: str, length: int) -> np.ndarray:
    """A few tones of its own in a little noise; of a pause, the noise alone."""
    noise = 30 * random.normal(size=length)
    if name in NAMES:
        tones = 300 + 350 * np.random.default_rng(NAMES.index(name)).permutation(18)[:3]
        noise = noise + 1500 * np.sin(2 * np.pi * tones[:, None] * np.arange(length) / RATE).sum(0)
    return np.rint(noise).astype(np.int16)


def part_of(
    said: Sequence[Said], words: bool = True, learned: dict[str, np.ndarray] | None = None, **more: Any
) -> Part:
    specs = {
        "wave": FeatureSpec(name="wave", axis="frames", dtype="int16", channels=HOP, recipe={"sample_rate": RATE}),
        **{
            name: FeatureSpec(name=name, axis="phones", dtype="int32", channels=None)
            for name in ("phones", "phone_end")
        },
    }
    arrays = {
        "wave": [one.wave for one in said],
        "phones": [one.phones for one in said],
        "phone_end": [np.full(len(one.phones), -1, np.int32) for one in said],
        **more,
    }
    if words:
        specs["phone_word"] = FeatureSpec(name="phone_word", axis="phones", dtype="int16", channels=None)
        arrays["phone_word"] = [one.words for one in said]
    strings = {"speaker": [f"speaker{n % 2}" for n in range(len(said))], "frames": [len(one.wave) for one in said]}
    return Part(specs, arrays.__getitem__, learned=lambda name: learned or {}, strings=strings.__getitem__)
