"""Adds features to a store whose parts are sealed: what is needed first, part by part, every array sealed by itself.
Resumes by skipping what is sealed; readers see a feature when all parts have it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from headrace.featurize.features import learned_state
from headrace.featurize.features.derived import Derived, sealed_part
from headrace.featurize.pipeline import build_report
from headrace.featurize.pipeline.feature_steps import FeatureStep, check_same_recipe, plan_steps, specs_of_store
from headrace.featurize.pipeline.part_worker import PartReport, check_store
from headrace.featurize.pipeline.stopwatch import Stopwatch
from headrace.featurize.scheduling import dask_cluster
from headrace.featurize.scheduling.task_queue import Task
from headrace.featurize.spectral import engine
from headrace.store import added_arrays, index, layout, learned_models
from headrace.store.errors import StoreError
from headrace.store.reader import read_attributes
from headrace.store.schema import FeatureSpec
from headrace.store.storage import StoragePath, storage_of
from headrace.store.writer import Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class AddConfig:
    """What `featurize add` was asked for."""

    store: StoragePath
    features: tuple[Derived, ...]
    workers: int | None = None
    """Processes on this machine; None has as many as it takes."""
    scheduler: str | None = None
    """Address of a running Dask scheduler whose workers are used instead."""
    device: str = "auto"
    """Where networks run: auto, cpu or cuda."""


class AddObserver(dask_cluster.WorkerObserver, Protocol):
    """Told what happens, as it happens; of one feature after the other."""

    def planned(self, parts: int, sealed: int, hours: float, hours_sealed: float) -> None: ...

    def part_done(self, report: PartReport) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AddTask(Task):
    """One array of one part."""

    store: StoragePath
    number: int
    feature: Derived
    specs: Mapping[str, FeatureSpec]
    """Of the feature, and of those that are there before it."""
    device: str
    compression: Compression
    seconds: float
    """Of audio."""

    def __str__(self) -> str:
        return f"{self.feature.name} of part {self.number:05d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddReport(PartReport):
    counts: dict[str, int]
    """What a person should be told, and how often it came."""


def add(config: AddConfig, observer: AddObserver) -> dict[str, Any]:
    """Add features to a store, or finish that.

    Returns:
        What `add.json` holds: by feature the parts, hours, seconds and rate, and versions.
    Raises:
        NotAStore: there is none.
        StoreError: it is not complete, holds not what the features are made from, or another command writes it.
        RecipeMismatch: it has one of them made otherwise.
        HeadraceError: parts could not be done; all others are sealed.
    """
    attributes = read_attributes(config.store)
    if len(layout.sealed_parts(config.store)) < attributes["plan"]["parts"]:
        raise StoreError(
            f"{config.store} is not complete: run featurize build again first, it goes on where it stopped."
        )
    steps = plan_steps(config.features, specs_of_store(attributes), learned_models.digests(config.store))
    with storage_of(config.store).write_lock(config.store):
        storage_of(config.store).clear_temporary(config.store)  # of a command that was killed
        root = config.store.resolve()
        made = {"added": run_steps(root, steps, config.workers, config.scheduler, observer, config.device)}
        build_report.write(config.store, "add.json", json.dumps(made, indent=2) + "\n")
        storage_of(config.store).clear_temporary(config.store)
    return made


def run_steps(
    root: StoragePath,
    steps: Sequence[FeatureStep],
    workers: int | None,
    scheduler: str | None,
    observer: AddObserver,
    device: str = "auto",
) -> dict[str, Any]:
    """Make what is not there, and name each feature in the root once all parts have it. The caller holds the lock.

    Args:
        device: auto, cpu or cuda, of features that are made on GPUs.
    Returns:
        By feature, what it took.
    Raises:
        RecipeMismatch: a feature was begun otherwise.
        StoreError: an array was made from other inputs than are there now, or cannot be written.
        HeadraceError: parts could not be done; all others are sealed.
    """
    attributes = read_attributes(root)
    numbers = layout.sealed_parts(root)
    frame_seconds = attributes["hop"] / attributes["sample_rate"]
    seconds = {
        n: seal["frames"] * frame_seconds for n, seal in zip(numbers, index.read_seals(root, numbers), strict=True)
    }
    made, watch = {}, Stopwatch()
    with ExitStack() as stack:
        pools: dict[str, dask_cluster.Executor] = {}
        for step in watch.each("learn", _learn_steps(root, steps, numbers, observer)):
            left = _parts_without(root, step, numbers)
            _report_plan(step.spec, seconds, left, observer)
            on = _device_for(step.feature, device, scheduler)
            if left and on not in pools:
                pools[on] = stack.enter_context(_start_workers(len(numbers), workers, scheduler, on, observer))
            pool = pools.get(on)
            tasks = [
                AddTask(
                    store=root,
                    number=number,
                    feature=step.feature,
                    specs=step.specs,
                    device=pool.device if pool else on,
                    compression=attributes["compression"],
                    seconds=seconds[number],
                )
                for number in left
            ]
            learning = {"learn_seconds": watch.seconds["learn"]} if step.feature.learns else {}
            made[step.spec.name] = _run_tasks(tasks, pool, observer) | {"parts": len(numbers)} | learning
            added_arrays.publish(root, step.spec, numbers)
    return made


def _learn_steps(
    root: StoragePath, steps: Sequence[FeatureStep], numbers: Sequence[int], observer: AddObserver
) -> Iterator[FeatureStep]:
    """The steps, each with what it learns learned and its spec as that makes it. The parts have what the ones before
    it make by the time that it is asked for.

    Raises:
        RecipeMismatch: something was learned for other options.
    """
    known: dict[str, FeatureSpec] = {}
    for step in steps:
        feature = step.feature
        known = {**step.specs, **known}
        model = _learned_digest(root, feature, known, numbers, observer) if feature.learns else ""
        known[feature.name] = feature.spec(known, model)
        yield FeatureStep(feature=feature, specs=dict(known))


def _learned_digest(
    root: StoragePath, feature: Derived, specs: Mapping[str, FeatureSpec], numbers: Sequence[int], observer: AddObserver
) -> str:
    """The digest of what a feature learns; learned now where it was not before."""
    spec, file = feature.spec(specs), learned_models.model_file(feature.name)
    if (model := learned_models.digests(root).get(feature.name)) is None:
        observer.note(f"{feature.name} is learned from {len(numbers)} parts, into {file}")
        parts = [sealed_part(root, number, specs) for number in numbers]
        return learned_state.write(root, spec, feature.learn(parts, observer.note))
    remedy = f"finish that with the same options, or begin anew by removing {file}, and {feature.name} from all parts"
    check_same_recipe(learned_state.learned_for(root, feature.name), spec, remedy)
    return model


def _parts_without(root: StoragePath, step: FeatureStep, numbers: Sequence[int]) -> list[int]:
    """Parts that have not got the array. Those that have were made from what is there, in the same way."""

    def is_there(number: int) -> bool:
        name = step.spec.name
        seal = added_arrays.read_seal(root, name, number)
        if seal is None:
            return False
        remedy = f"finish that with the same options, or begin anew by removing {name} from all parts"
        check_same_recipe(FeatureSpec.from_json(seal), step.spec, remedy)
        if seal["inputs"] != added_arrays.input_digests(root, number, step.feature.needs):
            folder = layout.part_path(root, number) / name
            raise StoreError(f"{folder} was made from other inputs: remove that folder and run the same command again.")
        return True

    return [number for number, there in zip(numbers, storage_of(root).map(is_there, numbers), strict=True) if not there]


def _device_for(feature: Derived, asked: str, scheduler: str | None) -> str:
    """Where a feature is made: cpu or cuda; on a running cluster also auto, which its workers settle."""
    if not feature.on_gpu or asked == "cpu":
        return "cpu"
    return asked if scheduler else engine.choose("torch", asked).device


def _start_workers(
    parts: int, asked: int | None, scheduler: str | None, device: str, observer: AddObserver
) -> AbstractContextManager[dask_cluster.Executor]:
    """Workers for so many parts."""
    if not scheduler:
        takes, reason = dask_cluster.capacity(device)
        asked, reason = (asked, "asked for") if asked else (takes, reason)
        observer.note(f"workers {asked} on {device}: {reason}")
    return dask_cluster.executor(min(asked or parts, parts), scheduler, device, observer)


def _report_plan(spec: FeatureSpec, seconds: Mapping[int, float], left: Sequence[int], observer: AddObserver) -> None:
    total, to_do = sum(seconds.values()) / 3600, sum(seconds[number] for number in left) / 3600
    observer.note(f"{spec.name} {spec.fingerprint[:6]}")
    observer.planned(len(seconds), len(seconds) - len(left), total, total - to_do)


def _run_tasks(tasks: Sequence[AddTask], pool: dask_cluster.Executor | None, observer: AddObserver) -> dict[str, Any]:
    """Do what is to be done, and give account of it."""
    started, counts = time.perf_counter(), Counter[str]()
    reports: list[AddReport] = []
    for report in pool.map(add_part, tasks) if pool else ():
        reports.append(report)
        counts.update(report.counts)
        observer.part_done(report)
    return build_report.summarize(reports, time.perf_counter() - started) | {"counts": dict(counts)}


def add_part(task: AddTask, threads: int = 1) -> AddReport:
    """Make, write and seal one array of one part. Doing it twice gives the same bytes.

    Raises:
        StoreError: the store is not to be seen or cannot be written from here.
    """
    check_store(task.store)
    torch.set_num_threads(threads)
    started, watch = time.process_time(), Stopwatch()
    feature, spec = task.feature, task.specs[task.feature.name]
    part = sealed_part(task.store, task.number, task.specs, task.device)
    with watch(feature.name):
        rows = list(feature.rows(part))
        values = np.concatenate([np.empty((0, *spec.row_shape), spec.dtype), *rows])
    with watch("write"):
        inputs = added_arrays.input_digests(task.store, task.number, feature.needs)
        added_arrays.write(task.store, task.number, spec, values, inputs, task.compression)
    return AddReport(
        number=task.number,
        utterances=len(rows),
        audio_seconds=task.seconds,
        rejects=(),
        seconds=dict(watch.seconds),
        cpu_seconds=time.process_time() - started,
        counts=dict(part.counts),
    )
