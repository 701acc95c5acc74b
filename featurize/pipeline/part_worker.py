"""Process one task: read a list of utterances, and seal one part of the store. Independent of any scheduler.

    decoded waves --engine--> spectra --> rows of the part --> sealed

All stages are iterators: a wave is decoded when the engine needs it, and features go straight into the part's arrays.
Stages drop their references (`del`) to what they yielded: otherwise an hour's wave, 230 MB, would stay in memory while
the next one is decoded.
"""

from __future__ import annotations

import ctypes
import itertools
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from headrace.featurize.alignment.label_files import is_json
from headrace.featurize.audio.decode_pool import DecodedOrReject, decode_utterances
from headrace.featurize.audio.recording import DEFAULT_LIMITS, Limits
from headrace.featurize.pipeline.contents import Checksums
from headrace.featurize.pipeline.part_rows import PartRows, UtteranceFeatures
from headrace.featurize.pipeline.phone_rows import add_phones
from headrace.featurize.pipeline.presets import Preset
from headrace.featurize.pipeline.stopwatch import Stopwatch
from headrace.featurize.scheduling.task_queue import Task
from headrace.featurize.spectral import engine
from headrace.featurize.spectral.dsp import SpectralRecipe
from headrace.featurize.text import reading_options
from headrace.featurize.text.languages.sinitic.polyphone_network import PolyphoneNetwork
from headrace.featurize.text.reading_options import ReadingOptions
from headrace.store.errors import CorpusError, Rejected, StoreError, rejecting
from headrace.store.schema import FeatureSpec, Reject, Utterance, digest
from headrace.store.storage import StoragePath
from headrace.store.writer import Compression, write_part

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The features to make of every utterance, and their settings."""

    preset: Preset
    specs: tuple[FeatureSpec, ...]
    compression: Compression = "none"
    limits: Limits = DEFAULT_LIMITS
    engine: str = "torch"
    device: str = "cpu"
    frontends: Mapping[str, str] = field(default_factory=dict)
    """Versions of the text frontends by language, as `g2p.versions` returns them."""
    g2pw: PolyphoneNetwork | None = None
    """Network of polyphones; `specs` have its digest."""

    @property
    def features(self) -> frozenset[str]:
        """Return the names of the features."""
        return frozenset(spec.name for spec in self.specs)

    @property
    def reading(self) -> ReadingOptions:
        """Return the options of reading texts."""
        return replace(reading_options.of_specs({spec.name: spec for spec in self.specs}), g2pw=self.g2pw)

    @property
    def symbols(self) -> str:
        """Return the symbol table of `phones`."""
        return next(str(spec.recipe["symbols"]) for spec in self.specs if spec.name == "phones")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTask(Task):
    """A part to make: the unit of work, of retries and of commits."""

    number: int
    corpus: StoragePath
    store: StoragePath
    utterances: tuple[Utterance, ...]
    inputs: str
    """Digest of what the part is made from (`inputs_digest`)."""
    segments: frozenset[str] = frozenset()
    """Ids of the segments of the part that stand for their recordings (`contents.owners`)."""
    recipe: Recipe

    def files_of(self, utterance: Utterance) -> tuple[str, ...]:
        """Return the names of the files that are read for an utterance: its recording first."""
        alignment = utterance.alignment if "phones" in self.recipe.features else ""
        return (utterance.audio, alignment) if alignment and not is_json(alignment) else (utterance.audio,)

    def __str__(self) -> str:
        return f"part {self.number:05d} ({self.utterances[0].id} to {self.utterances[-1].id})"


PartTaskT = TypeVar("PartTaskT", bound=PartTask)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """The outcome of a task."""

    number: int
    utterances: int
    audio_seconds: float
    rejects: tuple[Reject, ...]
    seconds: dict[str, float]
    """Wall seconds by stage, in the worker."""
    cpu_seconds: float
    """CPU seconds of all threads of the worker's process meanwhile, including parts that it makes at the same time."""


_all_fields = attrgetter(
    *(field.name for field in fields(Utterance) if field.compare)
)  # asdict takes ten times as long


def inputs_digest(utterances: Sequence[Utterance], recipe: Recipe) -> str:
    """Return a digest of everything that a part is made from.

    It covers the utterances (recordings by name and size), the fingerprints of the features, and the versions of the
    frontends of the part's languages.
    """
    languages = recipe.frontends.keys() & {utterance.language for utterance in utterances}
    frontends = {language: recipe.frontends[language] for language in languages}
    fingerprints = [spec.fingerprint for spec in recipe.specs]
    return digest([[_all_fields(utterance) for utterance in utterances], fingerprints, frontends])


def process_part(task: PartTask, threads: int = 1) -> PartReport:
    """Extract, write and seal one part. Running it twice writes the same bytes.

    Args:
        threads: number of decoding threads.
    Raises:
        StoreError: the store cannot be written from this worker.
        CorpusError: the corpus cannot be read from this worker.
    """
    checksums = Checksums(task.corpus, task.segments, task.files_of)
    return write_sealed(
        task,
        lambda watch: extract(
            task.corpus,
            checksums.taken(task.utterances),
            task.recipe,
            watch,
            frames=estimate_frames(task),
            isolated=task.attempt > 1,
            threads=threads,
        ),
        checksums.joined,
    )


def write_sealed(
    task: PartTask,
    extracting: Callable[[Stopwatch], tuple[PartRows, list[Reject]]],
    contents: Callable[[], str] = str,
) -> PartReport:
    """Write and seal the rows that `extracting` returns, and report. Raises the errors of `process_part`.

    Args:
        contents: returns the checksums of the recordings afterwards, as `Part` has them.
    """
    _check_paths(task)
    _configure_process()
    started = time.process_time()
    watch = Stopwatch()
    rows, rejects = extracting(watch)
    with watch("write"):
        part = replace(rows.part(task.number, rejects, task.inputs), contents=contents())
        write_part(task.store, part, task.recipe.compression)
    rows.release()
    spectral = task.recipe.preset.spectral
    return PartReport(
        number=task.number,
        utterances=len(rows),
        audio_seconds=rows.frames * spectral.hop / spectral.sample_rate,
        rejects=tuple(rejects),
        seconds=dict(watch.seconds),
        cpu_seconds=time.process_time() - started,
    )


@cache
def _configure_process() -> None:
    """Set what a process that makes parts needs once: one thread, and an allocator that keeps freed memory.

    Dask has the allocator of its workers return whatever is freed beyond 64 kB. To ask for it again, zeroed, is a fifth
    of the CPU time of a part.
    """
    torch.set_num_threads(1)  # the parallelism is between parts
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(_TRIM_THRESHOLD, 32 << 20)
        libc.mallopt(_MMAP_THRESHOLD, 16 << 20)  # what is larger still goes back at once


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def _check_paths(task: PartTask) -> None:
    """Check that this worker sees the store and the corpus.

    Without the shared disk it would reject every recording, or write another store.
    """
    check_store(task.store)
    if isinstance(task.corpus, Path) and not task.corpus.is_dir():
        raise CorpusError(
            f"There is no {task.corpus} on {platform.node()}, where a worker runs: all workers must see the corpus "
            "under one path."
        )


def check_store(store: StoragePath) -> None:
    """Check that this worker sees the store.

    Raises:
        StoreError: it does not.
    """
    if not (store / "zarr.json").exists():
        raise StoreError(
            f"There is no store {store} on {platform.node()}, where a worker runs: all workers must see it under one "
            "path."
        )


def extract(
    corpus: StoragePath,
    utterances: Iterable[Utterance],
    recipe: Recipe,
    watch: Stopwatch,
    *,
    frames: int = 0,
    isolated: bool,
    threads: int = 1,
) -> tuple[PartRows, list[Reject]]:
    """Extract the features of utterances; return the rows of a part, and the rejects.

    Args:
        frames: estimated frames of all utterances.
        isolated, threads: as in `decode_pool.decode_utterances`.
    """
    rejects: list[Reject] = []
    rate, level = recipe.preset.spectral.sample_rate, recipe.preset.level
    waves = decode_utterances(corpus, utterances, rate, level, isolated=isolated, threads=threads, limits=recipe.limits)
    if recipe.device == "cuda":
        waves = _first_decoded(waves)
    samples = _samples(corpus, waves, recipe, watch, rejects)
    return fill_rows(samples, recipe, watch, rejects, frames), rejects


def fill_rows(
    samples: Iterator[tuple[UtteranceFeatures, np.ndarray]],
    recipe: Recipe,
    watch: Stopwatch,
    rejects: list[Reject],
    frames: int,
) -> PartRows:
    """Collect samples, each with its wave, into rows of a part of about `frames` frames.

    Spectra are added if the recipe has them. Samples whose spectra fail are appended to `rejects`.
    """
    rows = PartRows(recipe.specs, frames)
    with _DEVICE_LOCK if recipe.device == "cuda" else nullcontext():
        for sample, made in _with_spectra(samples, recipe, watch):
            if isinstance(made, Rejected):
                rejects.append(Reject(sample.utterance.id, made.stage, made.reason))
                continue
            if isinstance(made, engine.Spectra):
                sample.arrays.update(mel=made.mel, mfcc=made.mfcc)
            rows.add(sample)
            del sample, made
    return rows


_DEVICE_LOCK = threading.Lock()
"""Held by the part that uses the GPU. A worker makes two parts at a time: one computes while the other is written."""


def _first_decoded(waves: Iterator[Item]) -> Iterator[Item]:
    """Return the same waves after decoding the first. Decoding threads then work ahead."""
    return itertools.chain([next(waves)], waves)


def _with_spectra(
    samples: Iterator[tuple[UtteranceFeatures, np.ndarray]], recipe: Recipe, watch: Stopwatch
) -> Iterator[tuple[UtteranceFeatures, Any]]:
    """Yield samples with the spectra of their waves, or with the waves if the recipe has no spectra."""
    if not recipe.features & {"mel", "mfcc"}:
        return samples
    spectra = engine.load(recipe.engine, recipe.device, recipe.preset.spectral).spectra(samples)
    return watch.each("spectral", spectra)


def estimate_frames(task: PartTask) -> int:
    """Return an upper estimate of a part's frames from the headers of its recordings."""
    spectral = task.recipe.preset.spectral
    return sum(int(u.seconds * spectral.sample_rate) // spectral.hop + 1 for u in task.utterances)


def _samples(
    corpus: StoragePath,
    waves: Iterable[tuple[Utterance, DecodedOrReject]],
    recipe: Recipe,
    watch: Stopwatch,
    rejects: list[Reject],
) -> Iterator[tuple[UtteranceFeatures, np.ndarray]]:
    """Yield the features that need no spectrum, each with its wave, (T * hop,) int16."""
    for utterance, decoded in watch.each("decode", waves):
        try:
            if isinstance(decoded, Rejected):
                raise decoded
            with rejecting("features"):
                sample = make_features(utterance, decoded.wave, recipe.preset.spectral, decoded.counts)
            if "phones" in recipe.features:
                with watch("text"), rejecting("text"):
                    add_phones(corpus, sample, recipe.preset.spectral, recipe.symbols, recipe.reading)
        except Rejected as error:
            rejects.append(Reject(utterance.id, error.stage, error.reason))
        else:
            yield sample, sample.arrays["wave"].reshape(-1)
            del sample, decoded


def make_features(
    utterance: Utterance, wave: np.ndarray, spectral: SpectralRecipe, recording_counts: Mapping[str, int] | None = None
) -> UtteranceFeatures:
    """Return an utterance with its wave, cut to whole frames.

    Raises:
        Rejected: stage "features"; it is too short.
    """
    frames, dropped = divmod(len(wave), spectral.hop)
    if frames < spectral.min_frames:
        needed = spectral.min_frames * spectral.hop / spectral.sample_rate
        raise Rejected("features", f"{len(wave) / spectral.sample_rate:.3f} s is too short: {needed:.3f} s are needed")
    return UtteranceFeatures(
        utterance=utterance,
        arrays={"wave": wave[: frames * spectral.hop].reshape(frames, spectral.hop)},
        columns={"frames": frames, "samples_dropped": dropped, "phones_n": 0, "aligned": 0},
        recording_counts=recording_counts or {},
    )
