"""From a corpus to a store: scan, plan, extract part by part, seal, index. Resumes by skipping what is sealed."""

from __future__ import annotations

import fcntl
import itertools
import json
import platform
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from featurize import corpus as corpora
from featurize.cluster import executor
from featurize.presets import Preset, feature_specs
from featurize.worker import PartReport, PartTask, Recipe, process_part
from store import index, layout
from store.errors import CorpusError, RecipeMismatch, StoreError, UsageError
from store.reader import read_attributes
from store.schema import Reject, Utterance, digest
from store.writer import Compression, commit_file, create, disk_error


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """What `featurize build` was asked for."""

    corpus: Path
    out: Path
    preset: Preset
    features: tuple[str, ...]
    format: str | None = None
    """One of `featurize.corpus.FORMATS`; None recognises it."""
    follow_outside: bool = False
    part_hours: float | None = None
    """Audio per part; None chooses by the size of the corpus."""
    workers: int = 1
    scheduler: str | None = None
    device: str = "cpu"
    compression: Compression = "none"


class Observer(Protocol):
    """Told what happens, as it happens."""

    def scanning(self, utterances: int, rejects: int) -> None: ...

    def planned(self, parts: int, sealed: int, hours: float, hours_sealed: float) -> None: ...

    def part_done(self, report: PartReport) -> None: ...


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus as scanned: everything in it is in one list or the other."""

    root: Path
    utterances: list[Utterance]
    rejects: list[Reject]


def scan(config: BuildConfig, observer: Observer) -> Corpus:
    """Read what the corpus holds; decode nothing.

    Raises:
        CorpusError: there is nothing usable in it.
    """
    utterances: list[Utterance] = []
    rejects: list[Reject] = []
    for item in corpora.scan(config.corpus, config.format, follow_outside=config.follow_outside):
        if isinstance(item, Utterance):
            utterances.append(item)
        else:
            rejects.append(item)
        observer.scanning(len(utterances), len(rejects))
    if not utterances:
        reasons = Counter(reject.reason for reject in rejects).most_common(3)
        raise CorpusError(
            f"None of the {len(rejects)} utterances of {config.corpus} can be used; the commonest reasons:",
            *(f"{count} x {reason}" for reason, count in reasons),
        )
    root = config.corpus if config.corpus.is_dir() else config.corpus.parent
    return Corpus(root.resolve(), utterances, rejects)


def plan(corpus: Corpus, config: BuildConfig) -> list[PartTask]:
    """Cut the corpus into parts of neighbouring lengths. The same corpus gives the same plan on any machine."""
    seconds = np.asarray([utterance.seconds for utterance in corpus.utterances])
    hours = config.part_hours
    part_seconds = hours * 3600 if hours else layout.automatic_part_seconds(float(seconds.sum()))
    order, bounds = layout.plan_parts(seconds, part_seconds)
    recipe = Recipe(
        preset=config.preset,
        specs=feature_specs(config.preset, config.features),
        compression=config.compression,
        device=config.device,
    )
    return [
        PartTask(
            number=number,
            corpus=corpus.root,
            store=config.out.resolve(),
            utterances=tuple(corpus.utterances[n] for n in order[start:stop]),
            recipe=recipe,
        )
        for number, (start, stop) in enumerate(itertools.pairwise(bounds))
    ]


def build(config: BuildConfig, observer: Observer) -> dict[str, Any]:
    """Make or finish a store.

    Returns:
        What `build.json` holds: counts, hours, seconds, rate, seconds by stage, versions.
    Raises:
        CorpusError: nothing usable in the corpus.
        RecipeMismatch: the store was begun with other features or another preset.
        StoreError: the corpus changed since the store was begun, the disk is full, or another build is at work.
    """
    started = time.perf_counter()
    _check_out(config.out)
    corpus = scan(config, observer)
    tasks = plan(corpus, config)
    attributes = _attributes(config, tasks, corpus)
    config.out.mkdir(parents=True, exist_ok=True)
    with _only_builder(config.out):
        _begin(config.out, attributes)
        pending = _pending(config.out, tasks)
        _announce(tasks, pending, observer)
        reports = _extract(pending, config, observer)
        return _finish(corpus, config, tasks, reports, time.perf_counter() - started)


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder for the store.")
    if out.is_dir() and any(out.iterdir()) and not (out / "tmp").is_dir() and not (out / "zarr.json").exists():
        raise UsageError(f"--out {out} holds other things and is no store; name a new or an empty folder.")


def _attributes(config: BuildConfig, tasks: Sequence[PartTask], corpus: Corpus) -> dict[str, Any]:
    """Root attributes of the store. Equal ones mean that a build goes on where another stopped."""
    spectral = config.preset.spectral
    return {
        "format": layout.FORMAT,
        "sample_rate": spectral.sample_rate,
        "hop": spectral.hop,
        "preset": config.preset.name,
        "compression": config.compression,
        "features": [spec.to_json() for spec in tasks[0].recipe.specs],
        "plan": {
            "parts": len(tasks),
            "utterances": len(corpus.utterances),
            "digest": digest([task.inputs for task in tasks]),
        },
    }


@contextmanager
def _only_builder(out: Path) -> Iterator[None]:
    """Hold the store's lock: two builds at once would do everything twice."""
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(f"Another featurize build is writing {out}: wait for it, or name another --out.") from None
        yield


def _begin(out: Path, attributes: dict[str, Any]) -> None:
    """Create the store, or see that the one that is there is this one."""
    shutil.rmtree(out / "tmp", ignore_errors=True)  # drafts of a build that was killed
    if not (out / "zarr.json").exists():
        create(out, attributes)
        return
    found = read_attributes(out)
    for key in ("preset", "compression", "features"):
        if found.get(key) != attributes[key]:
            raise RecipeMismatch(
                f"{out} was begun with another {key}: ask for what it has, or name another --out.",
                f"in store:  {_brief(found.get(key))}",
                f"asked for: {_brief(attributes[key])}",
            )
    if found["plan"] != attributes["plan"]:
        raise StoreError(
            f"The corpus or --part-hours changed since {out} was begun: build into another --out.",
            f"in store:  {found['plan']['utterances']} utterances in {found['plan']['parts']} parts",
            f"asked for: {attributes['plan']['utterances']} utterances in {attributes['plan']['parts']} parts",
        )


def _brief(value: Any) -> str:
    """Features by name and fingerprint, anything else as it is."""
    if isinstance(value, list):
        return "  ".join(f"{spec['name']} {spec['fingerprint'][:6]}" for spec in value)
    return str(value)


def _pending(out: Path, tasks: Sequence[PartTask]) -> list[PartTask]:
    """What is not sealed yet. What is sealed was made from the same recordings, texts and recipes."""
    sealed = set(layout.sealed_parts(out))
    for task in tasks:
        if task.number in sealed and index.read_seal(out, task.number)["inputs"] != task.inputs:
            folder = layout.part_path(out, task.number)
            raise StoreError(f"{folder} was made from other inputs: remove that folder and run the same command again.")
    return [task for task in tasks if task.number not in sealed]


def _announce(tasks: Sequence[PartTask], pending: Sequence[PartTask], observer: Observer) -> None:
    total, left = (sum(u.seconds for task in some for u in task.utterances) / 3600 for some in (tasks, pending))
    observer.planned(len(tasks), len(tasks) - len(pending), total, total - left)


def _extract(pending: Sequence[PartTask], config: BuildConfig, observer: Observer) -> list[PartReport]:
    if not pending:
        return []
    index.drop(config.out)
    reports = []
    with executor(min(config.workers, len(pending)), config.scheduler) as workers:
        for report in workers.map(process_part, pending):
            reports.append(report)
            observer.part_done(report)
    return reports


def _finish(
    corpus: Corpus, config: BuildConfig, tasks: Sequence[PartTask], reports: Sequence[PartReport], seconds: float
) -> dict[str, Any]:
    """Write what is derived from the parts: the index, the list of rejects, and the account of this build."""
    columns = index.derive(config.out)
    index.write(config.out, columns)
    rejects = sorted(corpus.rejects + _sealed_rejects(config.out, tasks), key=lambda reject: reject.id)
    _write_text(config.out, "rejects.jsonl", "".join(f"{reject.to_json()}\n" for reject in rejects))
    account = _account(config, tasks, reports, seconds) | {
        "utterances": int(columns.bounds[-1]),
        "rejects": len(rejects),
        "hours": _hours(columns.columns["frames"], config),
    }
    _write_text(config.out, "build.json", json.dumps(account, indent=2) + "\n")
    shutil.rmtree(config.out / "tmp", ignore_errors=True)
    return account


def _sealed_rejects(out: Path, tasks: Sequence[PartTask]) -> list[Reject]:
    return [Reject(**fields) for task in tasks for fields in index.read_seal(out, task.number)["rejects"]]


def _hours(frames: np.ndarray, config: BuildConfig) -> float:
    spectral = config.preset.spectral
    return float(frames.sum(dtype=np.int64)) * spectral.hop / spectral.sample_rate / 3600


def _account(
    config: BuildConfig, tasks: Sequence[PartTask], reports: Sequence[PartReport], seconds: float
) -> dict[str, Any]:
    stages: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        for stage, spent in report.seconds.items():
            stages[stage] += spent
    built = sum(report.audio_seconds for report in reports) / 3600
    return {
        "parts": len(tasks),
        "parts_built": len(reports),
        "hours_built": built,
        "seconds": seconds,
        "hours_per_second": built / seconds,
        "seconds_by_stage": dict(stages),
        "preset": config.preset.name,
        "features": list(config.features),
        "engine": "torch",
        "device": config.device,
        "workers": config.workers,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("headrace", "torch", "zarr", "numpy", "soundfile", "soxr")},
    }


def _write_text(out: Path, name: str, text: str) -> None:
    draft = out / "tmp" / name
    try:
        draft.parent.mkdir(exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        commit_file(draft, out / name)
    except OSError as error:
        raise disk_error(error, str(out / name)) from error
