"""A small store to train on: voices that are sums of harmonics, as quick to make as to learn. And who watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace import store
from headrace.featurize.pipeline.presets import PRESETS, Preset, feature_specs
from headrace.featurize.spectral.dsp import Spectral
from headrace.store import index, layout
from headrace.store.reader import Store
from headrace.store.schema import FeatureSpec
from headrace.store.writer import Compression, Part, create_store, write_part
from headrace.train.monitoring.evaluation_samples import Sample

PRESET = PRESETS["gpt-sovits-v2"]
FRAMES = (20, 24, 30, 33, 34, 40, 41, 45, 50, 52, 60, 61, 64, 70, 75, 80, 81, 90, 96, 100)


CODES = 64
"""Of the codebook, as the tiny models have it."""


def build(
    root: Path,
    frames: Sequence[int] = FRAMES,
    preset: Preset = PRESET,
    parts: int = 2,
    codes: int = CODES,
    poisoned: Sequence[int] = (),
    short: bool = False,
    compression: Compression = "none",
    ids: Sequence[str] = (),
    speaker: str = "s",
) -> Store:
    """A sealed store with wave, mfcc, phones and semantic; utterance n is called `utt<n>`, and has a phone every ten
    frames, spoken as five codes that follow from it.

    Args:
        codes: ids of `semantic` are below.
        poisoned: utterances whose mfcc are not numbers.
        short: whether the last of an odd number of frames has no code.
        ids: other ids of the first utterances.
    """
    recipe = {"quantiser": "test", "codebook": CODES, "hz": 25}
    semantic = FeatureSpec(name="semantic", axis="tokens", dtype="int16", channels=None, recipe=recipe)
    specs = (*feature_specs(preset, ("wave", "mfcc", "phones")), semantic)
    create_store(
        root,
        {
            "format": layout.FORMAT,
            "sample_rate": preset.spectral.sample_rate,
            "hop": preset.spectral.hop,
            "preset": preset.name,
            "features": [spec.to_json() for spec in specs],
            "compression": compression,
            "plan": {"parts": parts, "utterances": len(frames), "digest": ""},
        },
    )
    cuts = [len(frames) * part // parts for part in range(parts + 1)]
    for number in range(parts):
        part = _part(number, specs, range(cuts[number], cuts[number + 1]), frames, preset)
        part = _with_codes(_poisoned(part, poisoned), codes, short)
        part.strings["id"][: max(0, len(ids) - cuts[number])] = ids[cuts[number] : cuts[number + 1]]
        part.strings["speaker"][:] = [speaker] * len(part.strings["id"])
        write_part(root, part, compression)
    index.write(root, index.derive(root))
    return store.open(root)


def _part(number: int, specs: tuple, members: range, frames: Sequence[int], preset: Preset) -> Part:
    spectral = Spectral(preset.spectral)
    waves = [_voice(n, frames[n], preset) for n in members]
    mfcc = [spectral.features(torch.from_numpy(wave.ravel() / np.float32(32768)))[1].numpy() for wave in waves]
    lengths = np.array([frames[n] for n in members], np.int32)
    phones_n = np.maximum(1, lengths // 10)
    durations = np.concatenate([np.diff(np.arange(p + 1) * t // p) for p, t in zip(phones_n, lengths, strict=True)])
    return Part(
        number=number,
        specs=specs,
        arrays={
            "wave": np.concatenate(waves),
            "mfcc": np.concatenate(mfcc).astype(np.float16),
            "phones": np.concatenate([(n + np.arange(p)) % 700 for n, p in zip(members, phones_n, strict=True)]).astype(
                np.int16
            ),
            "phone_end": np.concatenate([np.cumsum(d) for d in np.split(durations, np.cumsum(phones_n)[:-1])]).astype(
                np.int32
            )
            * preset.spectral.hop,
            "phone_frames": durations.astype(np.int32),
            "phone_word": np.full(int(phones_n.sum()), -1, np.int16),
        },
        lengths={"frames": lengths, "phones_n": phones_n.astype(np.int32), "aligned": np.ones_like(lengths)},
        strings={
            "id": [f"utt{n}" for n in members],
            "speaker": ["s"] * len(members),
            "language": ["en"] * len(members),
            "text": ["la"] * len(members),
        },
    )


def _with_codes(part: Part, codes: int, short: bool) -> Part:
    lengths = (part.lengths["frames"] + (not short)) // 2
    phones = np.split(part.arrays["phones"], np.cumsum(part.lengths["phones_n"])[:-1])
    spoken = [
        (phones[n][np.minimum(np.arange(count) // 5, len(phones[n]) - 1)] * 7 + np.arange(count) % 5) % codes
        for n, count in enumerate(lengths)
    ]
    return replace(
        part,
        arrays={**part.arrays, "semantic": np.concatenate(spoken).astype(np.int16)},
        lengths={**part.lengths, "tokens_n": lengths.astype(np.int32)},
    )


def _poisoned(part: Part, numbers: Sequence[int]) -> Part:
    bounds = np.append(0, np.cumsum(part.lengths["frames"]))
    mfcc = part.arrays["mfcc"].copy()
    for row, name in enumerate(part.strings["id"]):
        if int(name.removeprefix("utt")) in numbers:
            mfcc[bounds[row] : bounds[row + 1]] = np.nan
    return replace(part, arrays={**part.arrays, "mfcc": mfcc})


def _voice(number: int, frames: int, preset: Preset) -> np.ndarray:
    """(frames, hop) int16: ten harmonics of a tone of its own, in a little noise."""
    recipe = preset.spectral
    time = np.arange(frames * recipe.hop) / recipe.sample_rate
    tones = sum(np.sin(2 * np.pi * (100 + 10 * number) * k * time) / k for k in range(1, 11))
    noise = np.random.default_rng(number).standard_normal(len(time))
    return (3000 * tones + 30 * noise).astype(np.int16).reshape(frames, recipe.hop)


class Silent:
    """A `headrace.train.monitoring.observer.Observer` that remembers."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.spoken: dict[int, list[Sample]] = {}
        self.begun: tuple[int, int | None, tuple[str, ...]] | None = None

    def log(self, line: str) -> None:
        self.messages.append(line)

    def started(self, step: int, last_step: int | None, tracked: Sequence[str]) -> None:
        self.begun = (step, last_step, tuple(tracked))

    def recorded(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def samples_written(self, step: int, samples: Sequence[Sample]) -> None:
        self.spoken[step] = list(samples)
