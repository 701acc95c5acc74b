"""Import a prepared directory of GPT-SoVITS into a store, part by part, without changing its features.

The directory has no log-mel and MFCC; they are computed from the waveforms if requested.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headrace.featurize.exchange import gpt_sovits_dir
from headrace.featurize.exchange.gpt_sovits_inventory import TableRow, scan_directory
from headrace.featurize.pipeline import build, store_state
from headrace.featurize.pipeline.build import BuildConfig, ScannedCorpus
from headrace.featurize.pipeline.contents import Checksums
from headrace.featurize.pipeline.observer import SILENT, BuildObserver
from headrace.featurize.pipeline.part_rows import PartRows, UtteranceFeatures
from headrace.featurize.pipeline.part_worker import (
    PartReport,
    PartTask,
    Recipe,
    estimate_frames,
    fill_rows,
    inputs_digest,
    make_features,
    write_sealed,
)
from headrace.featurize.pipeline.presets import PHONE_ARRAYS, PRESETS, feature_specs
from headrace.featurize.pipeline.stopwatch import Stopwatch
from headrace.featurize.text import symbols
from headrace.store import layout
from headrace.store.errors import CorpusError, Rejected, UsageError, rejecting
from headrace.store.schema import FeatureSpec, Reject, Utterance, digest
from headrace.store.storage import StoragePath

PRESET = PRESETS["gpt-sovits-v2"]
COMPUTED = ("mel", "mfcc")
ALWAYS = ("wave", "phones")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig:
    """Options of `store import`."""

    folder: Path
    out: StoragePath
    features: tuple[str, ...] = ()
    """Features to import or compute; empty imports all that the directory has."""
    list_file: Path | None = None
    """Upstream's list of the same recordings, for speakers and languages. Without it the folder's name is the speaker,
    and phones tell the language."""
    workers: int | None = None
    """Worker processes on this machine; None starts as many as it has CPUs and memory for."""
    scheduler: str | None = None
    """Address of a running Dask scheduler whose workers are used instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportTask(PartTask):
    """A part to import, with the table rows of its utterances."""

    lines: tuple[TableRow, ...]
    """One row per utterance."""

    def files_of(self, utterance: Utterance) -> tuple[str, ...]:
        """Return the names of the recording and of the tensors that the directory has for it."""
        name, root = utterance.audio.rpartition("/")[2], Path(str(self.corpus))
        there = [one for one in gpt_sovits_dir.FOLDERS if one in self.recipe.features]
        tensors = [gpt_sovits_dir.tensor_file(one, name) for one in there]
        return (utterance.audio, *(file for file in tensors if (root / file).exists()))


def import_directory(config: ImportConfig, observer: BuildObserver = SILENT) -> dict[str, Any]:
    """Import a prepared directory into a store, or resume the import.

    Returns:
        The content of `build.json`.
    Raises:
        UsageError: the directory lacks a feature, or `out` is a folder that is not a store.
        CorpusError: `folder` is no prepared directory, or nothing in it can be used.
        StoreError: the directory changed since the store was begun, the disk is full, or another command writes it.
    """
    started = time.perf_counter()
    store_state.check_output(config.out)
    features = choose_features(config.folder, config.features)
    corpus, lines = scan_directory(config.folder, features, config.list_file, observer.scanning)
    building = BuildConfig(
        corpus=config.folder,
        out=config.out,
        preset=PRESET,
        features=features,
        workers=config.workers,
        scheduler=config.scheduler,
        device="auto" if set(COMPUTED) & set(features) else "cpu",
        max_rejects=1,
    )
    tasks = plan_parts(corpus, lines, features, config.out)
    return build.build_parts(building, corpus, tasks, import_part, observer, started)


def choose_features(folder: Path, features: Sequence[str]) -> tuple[str, ...]:
    """Return the features to import: the requested ones, or all that the directory has.

    Raises:
        CorpusError: `folder` is not a prepared directory.
        UsageError: a requested feature is neither in the directory nor computable.
    """
    there = [name for name, file in gpt_sovits_dir.FILES.items() if (folder / file).exists()]
    if "bert" in there and not any((folder / gpt_sovits_dir.FOLDERS["bert"]).iterdir()):
        there.remove("bert")  # upstream makes the folder for any language
    missing = [gpt_sovits_dir.FILES[name] for name in ALWAYS if name not in there]
    if missing:
        raise CorpusError(
            f"{folder} is no prepared directory of GPT-SoVITS: it has no {' and no '.join(missing)}. Name the folder "
            "logs/EXPERIMENT that upstream's preparation wrote."
        )
    absent = [name for name in features if name not in (*there, *COMPUTED)]
    if absent:
        raise UsageError(
            f"--features has {', '.join(absent)}; {folder} holds {', '.join(there)}, and {' and '.join(COMPUTED)} can "
            "be computed."
        )
    return tuple(dict.fromkeys((*ALWAYS, *(features or there))))


def feature_specs_of(features: Sequence[str], lines: Sequence[TableRow]) -> tuple[FeatureSpec, ...]:
    """Return the specs of the store's arrays. A feature is float32 if any of its tensors is."""
    widest = {name for line in lines for name in line.widest}
    made = {spec.name: spec for spec in feature_specs(PRESET, (*ALWAYS, *COMPUTED))}
    for name in ("wave", *COMPUTED):  # upstream resamples by ffmpeg
        made[name] = replace(made[name], recipe={**made[name].recipe, "resampler": "swr"})
    made |= {
        name: gpt_sovits_dir.tensor_spec(name, "float32" if name in widest else "float16")
        for name in gpt_sovits_dir.FOLDERS
    }
    made |= {"semantic": gpt_sovits_dir.semantic_spec(), "phone_word": gpt_sovits_dir.word_spec()}
    brought = {"phones": PHONE_ARRAYS}
    return tuple(made[one] for name in features for one in brought.get(name, (name,)))


def plan_parts(
    corpus: ScannedCorpus, lines: Sequence[TableRow], features: Sequence[str], out: StoragePath
) -> list[ImportTask]:
    """Divide the utterances into parts of similar lengths, and return a task for each."""
    seconds = np.asarray([utterance.seconds for utterance in corpus.utterances])
    order, bounds = layout.plan_parts(seconds, layout.default_part_seconds(float(seconds.sum())))
    recipe = Recipe(preset=PRESET, specs=feature_specs_of(features, lines))

    def task(number: int, members: Sequence[int]) -> ImportTask:
        utterances, of_part = tuple(corpus.utterances[n] for n in members), tuple(lines[n] for n in members)
        return ImportTask(
            number=number,
            corpus=corpus.root,
            store=out.resolve(),
            utterances=utterances,
            inputs=digest([inputs_digest(utterances, recipe), [asdict(line) for line in of_part]]),
            segments=frozenset(utterance.id for utterance in utterances),
            recipe=recipe,
            lines=of_part,
        )

    parts = itertools.pairwise(bounds.tolist())
    return [task(number, order[start:stop].tolist()) for number, (start, stop) in enumerate(parts)]


def import_part(task: ImportTask, threads: int = 1) -> PartReport:
    """Read, write and seal one part. Running it twice writes the same bytes."""
    checksums = Checksums(task.corpus, task.segments, task.files_of)
    return write_sealed(task, lambda watch: _extract(task, watch, checksums), checksums.joined)


def _extract(task: ImportTask, watch: Stopwatch, checksums: Checksums) -> tuple[PartRows, list[Reject]]:
    rejects: list[Reject] = []
    samples = watch.each("read", _samples(task, rejects, checksums))
    return fill_rows(samples, task.recipe, watch, rejects, estimate_frames(task)), rejects


def _samples(
    task: ImportTask, rejects: list[Reject], checksums: Checksums
) -> Iterator[tuple[UtteranceFeatures, np.ndarray]]:
    for utterance, line in zip(checksums.taken(task.utterances), task.lines, strict=True):
        try:
            with rejecting("features"):
                sample = _sample(task, utterance, line)
        except Rejected as error:
            rejects.append(Reject(utterance.id, error.stage, error.reason))
        else:
            yield sample, sample.arrays["wave"].reshape(-1)


def _sample(task: ImportTask, utterance: Utterance, line: TableRow) -> UtteranceFeatures:
    root, name = Path(str(task.corpus)), utterance.audio.rpartition("/")[2]
    sample = make_features(utterance, gpt_sovits_dir.read_wave(root, name), PRESET.spectral)
    ids = symbols.ids(line.phones.split())
    unaligned = {"phone_end": np.full(len(ids), -1, np.int32), "phone_frames": np.zeros(len(ids), np.int32)}
    sample.arrays.update(phones=ids, phone_word=gpt_sovits_dir.words(line.characters, len(ids)), **unaligned)
    sample.columns["phones_n"] = len(ids)
    if "semantic" in task.recipe.features:
        sample.arrays["semantic"] = gpt_sovits_dir.codes(line.codes, sample.columns["frames"])
        sample.columns["tokens_n"] = len(sample.arrays["semantic"])
    for spec in task.recipe.specs:
        if spec.name in gpt_sovits_dir.FOLDERS:
            sample.arrays[spec.name] = gpt_sovits_dir.read_rows(root, name, spec, sample.columns)
    return sample
