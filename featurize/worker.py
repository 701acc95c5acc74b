"""One task: a list of utterances in, one sealed part in the store out. Runs in any process, knows no scheduler."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featurize import align, decode, praat, symbols, text
from featurize.dsp import Spectral, SpectralRecipe
from featurize.presets import Preset
from store.errors import Rejected
from store.schema import FeatureSpec, Reject, Utterance, digest
from store.writer import Compression, Part, write_part


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to make of every utterance, and how."""

    preset: Preset
    specs: tuple[FeatureSpec, ...]
    compression: Compression = "none"
    device: str = "cpu"

    @property
    def features(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.specs)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTask:
    """One unit of work, of retry and of commit."""

    number: int
    corpus: Path
    store: Path
    utterances: tuple[Utterance, ...]
    recipe: Recipe

    @property
    def inputs(self) -> str:
        """Digest of everything the part is made from, the recordings themselves by name and size."""
        return digest([[asdict(u) for u in self.utterances], [spec.fingerprint for spec in self.recipe.specs]])


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent, by stage."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What became of a task."""

    number: int
    utterances: int
    audio_seconds: float
    rejects: tuple[Reject, ...]
    seconds: dict[str, float]
    """Wall seconds by stage, in the worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One utterance's features, and its columns of the part."""

    utterance: Utterance
    arrays: dict[str, np.ndarray]
    columns: dict[str, int]


def process_part(task: PartTask) -> PartReport:
    """Extract, write and seal one part. Doing it twice gives the same bytes."""
    watch = Stopwatch()
    samples, rejects = extract_all(task.corpus, task.utterances, task.recipe, watch)
    samples.sort(key=lambda sample: sample.columns["frames"])  # by header they are; a decoder may see it otherwise
    with watch("write"):
        write_part(task.store, _part(task, samples, rejects), task.recipe.compression)
    hop, rate = task.recipe.preset.spectral.hop, task.recipe.preset.spectral.sample_rate
    return PartReport(
        number=task.number,
        utterances=len(samples),
        audio_seconds=sum(sample.columns["frames"] for sample in samples) * hop / rate,
        rejects=tuple(rejects),
        seconds=dict(watch.seconds),
    )


def extract_all(
    corpus: Path, utterances: Sequence[Utterance], recipe: Recipe, watch: Stopwatch
) -> tuple[list[Sample], list[Reject]]:
    """Every utterance becomes a sample or a reject; one bad file never costs a good one."""
    samples, rejects = [], []
    for utterance in utterances:
        try:
            samples.append(extract(corpus, utterance, recipe, watch))
        except Rejected as error:
            rejects.append(Reject(utterance.id, error.stage, error.reason))
    return samples, rejects


def extract(corpus: Path, utterance: Utterance, recipe: Recipe, watch: Stopwatch) -> Sample:
    """All features of one utterance.

    Raises:
        Rejected: it cannot be used; stage and reason say why.
    """
    spectral = recipe.preset.spectral
    with watch("decode"):
        wave = decode.waveform(corpus, utterance, spectral.sample_rate, recipe.preset.level)
    frames, dropped = divmod(len(wave), spectral.hop)
    if frames < spectral.min_frames:
        needed = spectral.min_frames * spectral.hop / spectral.sample_rate
        raise Rejected("features", f"{len(wave) / spectral.sample_rate:.3f} s is too short: {needed:.3f} s are needed")
    wave = wave[: frames * spectral.hop]
    arrays = {"wave": wave.reshape(frames, spectral.hop)}
    columns = {"frames": frames, "samples_dropped": dropped, "phones_n": 0, "aligned": 0}
    if recipe.features & {"mel", "mfcc"}:
        with watch("spectral"):
            arrays["mel"], arrays["mfcc"] = _spectral_features(wave, spectral, recipe.device)
    if "phones" in recipe.features:
        with watch("text"):
            arrays |= _phones(corpus, utterance, frames, spectral)
        columns |= {"phones_n": len(arrays["phones"]), "aligned": int(arrays["phone_frames"].sum() == frames)}
    return Sample(utterance=utterance, arrays=arrays, columns=columns)


@cache
def _spectral(recipe: SpectralRecipe, device: str) -> Spectral:
    return Spectral(recipe).to(device)


def _spectral_features(wave: np.ndarray, recipe: SpectralRecipe, device: str) -> tuple[np.ndarray, np.ndarray]:
    """(samples,) int16 to mel (T, M) and mfcc (T, C), float16."""
    samples = torch.from_numpy(wave).to(device).float() / 32768
    mel, mfcc = _spectral(recipe, device).features(samples)
    if not torch.isfinite(mfcc).all():
        raise Rejected("features", "the spectrum is not finite")
    return mel.half().cpu().numpy(), mfcc.half().cpu().numpy()


def _phones(corpus: Path, utterance: Utterance, frames: int, spectral: SpectralRecipe) -> dict[str, np.ndarray]:
    """Symbols of the TextGrid with their times where there is one, else of the text, untimed."""
    if not utterance.alignment:
        ids = symbols.ids(text.phonemise(utterance.text, utterance.language))
        return {
            "phones": ids,
            "phone_end": np.full(len(ids), -1, np.int32),
            "phone_frames": np.zeros(len(ids), np.int32),
        }
    start, stop = utterance.start / utterance.sample_rate, utterance.stop / utterance.sample_rate
    names, ends = align.symbols_and_ends(praat.read_textgrid(corpus / utterance.alignment, start, stop))
    end, durations = align.phone_index(ends, sample_rate=spectral.sample_rate, hop=spectral.hop, frames=frames)
    return {"phones": symbols.ids(names), "phone_end": end, "phone_frames": durations}


def _part(task: PartTask, samples: list[Sample], rejects: list[Reject]) -> Part:
    specs = task.recipe.specs
    columns: dict[str, Any] = {
        name: np.asarray([sample.columns[name] for sample in samples], np.int32)
        for name in ("frames", "samples_dropped", "phones_n", "aligned")
    }
    return Part(
        number=task.number,
        specs=specs,
        arrays={spec.name: _concatenated(spec, samples) for spec in specs},
        lengths=columns,
        strings={name: [getattr(s.utterance, name) for s in samples] for name in ("id", "speaker", "language", "text")},
        rejects=rejects,
        inputs=task.inputs,
    )


def _concatenated(spec: FeatureSpec, samples: list[Sample]) -> np.ndarray:
    empty = np.empty((0, *spec.row_shape), spec.dtype)
    return np.concatenate([empty, *(sample.arrays[spec.name] for sample in samples)])
