"""One task: a list of utterances in, one sealed part in the store out. Runs in any process, knows no scheduler.

    decoded waves --engine--> spectra --> rows of the part --> sealed

All of it is iterators: a wave is decoded when the engine asks for it, and what an utterance comes to goes straight into
the part's arrays. Nobody holds on to what he has passed on, hence the `del`: an hour's wave, 230 MB, would be there
while the next one is decoded.
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
from dataclasses import dataclass, field, fields
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from headrace.featurize.audio.decode_pool import decode_utterances
from headrace.featurize.audio.recording import DEFAULT_LIMITS, Limits
from headrace.featurize.pipeline.part_rows import PartRows, UtteranceFeatures
from headrace.featurize.pipeline.phone_rows import add_phones
from headrace.featurize.pipeline.presets import Preset
from headrace.featurize.pipeline.stopwatch import Stopwatch
from headrace.featurize.scheduling.task_queue import Task
from headrace.featurize.spectral import engine
from headrace.featurize.spectral.dsp import SpectralRecipe
from headrace.store.errors import CorpusError, Rejected, StoreError
from headrace.store.schema import FeatureSpec, Reject, Utterance, digest
from headrace.store.storage import StoragePath
from headrace.store.writer import Compression, write_part

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to make of every utterance, and how."""

    preset: Preset
    specs: tuple[FeatureSpec, ...]
    compression: Compression = "none"
    limits: Limits = DEFAULT_LIMITS
    engine: str = "torch"
    device: str = "cpu"
    frontends: Mapping[str, str] = field(default_factory=dict)
    """By language, what reads its texts, as `text.versions` has it."""

    @property
    def features(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.specs)

    @property
    def symbols(self) -> str:
        """The table of `phones`, where they are made."""
        return next(str(spec.recipe["symbols"]) for spec in self.specs if spec.name == "phones")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTask(Task):
    """One unit of work, of retry and of commit."""

    number: int
    corpus: StoragePath
    store: StoragePath
    utterances: tuple[Utterance, ...]
    inputs: str
    """As `inputs` has it."""
    recipe: Recipe

    def __str__(self) -> str:
        return f"part {self.number:05d} ({self.utterances[0].id} to {self.utterances[-1].id})"


PartTaskT = TypeVar("PartTaskT", bound=PartTask)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What became of a task."""

    number: int
    utterances: int
    audio_seconds: float
    rejects: tuple[Reject, ...]
    seconds: dict[str, float]
    """Wall seconds by stage, in the worker."""
    cpu_seconds: float
    """Of the worker's process meanwhile, all threads: of this part alone where it does one at a time."""


_all_fields = attrgetter(*(field.name for field in fields(Utterance)))  # asdict takes ten times as long


def inputs_digest(utterances: Sequence[Utterance], recipe: Recipe) -> str:
    """Digest of everything that a part is made from: of the recordings themselves name and size, of the recipe the
    fingerprints of its features, and what reads the part's own languages."""
    languages = recipe.frontends.keys() & {utterance.language for utterance in utterances}
    frontends = {language: recipe.frontends[language] for language in languages}
    fingerprints = [spec.fingerprint for spec in recipe.specs]
    return digest([[_all_fields(utterance) for utterance in utterances], fingerprints, frontends])


def process_part(task: PartTask, threads: int = 1) -> PartReport:
    """Extract, write and seal one part. Doing it twice gives the same bytes.

    Args:
        threads: that decode.
    Raises:
        StoreError: the store cannot be written from here.
        CorpusError: the corpus cannot be read from here.
    """
    return write_sealed(
        task,
        lambda watch: extract(
            task.corpus,
            task.utterances,
            task.recipe,
            watch,
            frames=estimate_frames(task),
            isolated=task.attempt > 1,
            threads=threads,
        ),
    )


def write_sealed(task: PartTask, extracting: Callable[[Stopwatch], tuple[PartRows, list[Reject]]]) -> PartReport:
    """Write and seal what `extracting` makes of a task, and report. Raises as `process_part`."""
    _check_paths(task)
    _configure_process()
    started = time.process_time()
    watch = Stopwatch()
    rows, rejects = extracting(watch)
    with watch("write"):
        write_part(task.store, rows.part(task.number, rejects, task.inputs), task.recipe.compression)
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
    """A worker elsewhere that lacks the shared disk would reject every recording, or build a store of its own."""
    check_store(task.store)
    if isinstance(task.corpus, Path) and not task.corpus.is_dir():
        raise CorpusError(
            f"There is no {task.corpus} on {platform.node()}, where a worker runs: all workers must see the corpus "
            "under one path."
        )


def check_store(store: StoragePath) -> None:
    """
    Raises:
        StoreError: the store is not to be seen from this worker.
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
    """Every utterance becomes rows of a part or a reject; one bad file never costs a good one.

    Args:
        frames: about as many as all of them have.
        isolated, threads: as in `intake.decoded`.
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
    """Samples, each with its wave, as rows of a part of about so many frames, with spectra where the recipe asks for
    any. Those that come to nothing join the rejects."""
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
"""Of two parts at a time in a worker on a GPU one has the device, while the one before it is written."""


def _first_decoded(waves: Iterator[Item]) -> Iterator[Item]:
    """The same; the first is decoded already, and others by the threads that work ahead."""
    return itertools.chain([next(waves)], waves)


def _with_spectra(
    samples: Iterator[tuple[UtteranceFeatures, np.ndarray]], recipe: Recipe, watch: Stopwatch
) -> Iterator[tuple[UtteranceFeatures, Any]]:
    """Samples with what an engine makes of their waves, or with these where no spectrum is asked for."""
    if not recipe.features & {"mel", "mfcc"}:
        return samples
    spectra = engine.load(recipe.engine, recipe.device, recipe.preset.spectral).spectra(samples)
    return watch.each("spectral", spectra)


def estimate_frames(task: PartTask) -> int:
    """As many as there will be, by the headers, or a few more."""
    spectral = task.recipe.preset.spectral
    return sum(int(u.seconds * spectral.sample_rate) // spectral.hop + 1 for u in task.utterances)


def _samples(
    corpus: StoragePath,
    waves: Iterable[tuple[Utterance, np.ndarray | Rejected]],
    recipe: Recipe,
    watch: Stopwatch,
    rejects: list[Reject],
) -> Iterator[tuple[UtteranceFeatures, np.ndarray]]:
    """What can be made without a spectrum, with the wave that the spectrum is of, (T * hop,) int16."""
    for utterance, wave in watch.each("decode", waves):
        try:
            if isinstance(wave, Rejected):
                raise wave
            sample = make_features(utterance, wave, recipe.preset.spectral)
            if "phones" in recipe.features:
                with watch("text"):
                    add_phones(corpus, sample, recipe.preset.spectral, recipe.symbols)
        except Rejected as error:
            rejects.append(Reject(utterance.id, error.stage, error.reason))
        else:
            yield sample, sample.arrays["wave"].reshape(-1)
            del sample, wave


def make_features(utterance: Utterance, wave: np.ndarray, spectral: SpectralRecipe) -> UtteranceFeatures:
    frames, dropped = divmod(len(wave), spectral.hop)
    if frames < spectral.min_frames:
        needed = spectral.min_frames * spectral.hop / spectral.sample_rate
        raise Rejected("features", f"{len(wave) / spectral.sample_rate:.3f} s is too short: {needed:.3f} s are needed")
    return UtteranceFeatures(
        utterance=utterance,
        arrays={"wave": wave[: frames * spectral.hop].reshape(frames, spectral.hop)},
        columns={"frames": frames, "samples_dropped": dropped, "phones_n": 0, "aligned": 0},
    )
