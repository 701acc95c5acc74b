"""Add features to a store whose parts are sealed.

A feature is made part by part, after the features that it needs, and each array is sealed by itself. Whoever resumes
skips what is sealed. Readers see a feature once all parts have it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch

from headrace.featurize.features import learned_state
from headrace.featurize.features.derived import Derived, LearningLog, Part, parts_to_learn_from, sealed_part
from headrace.featurize.pipeline import build_report
from headrace.featurize.pipeline.feature_rows import compute_rows
from headrace.featurize.pipeline.feature_steps import FeatureStep, check_same_recipe, plan_steps, specs_of_store
from headrace.featurize.pipeline.joined_stores import learn_over, merge_steps
from headrace.featurize.pipeline.observer import SILENT, AddObserver
from headrace.featurize.pipeline.part_worker import PartReport, check_store
from headrace.featurize.pipeline.stopwatch import Stopwatch
from headrace.featurize.scheduling import dask_cluster
from headrace.featurize.scheduling.task_queue import Task
from headrace.featurize.spectral import engine
from headrace.store import added_arrays, index, layout, learned_models
from headrace.store.advice import BUILD_AGAIN, command
from headrace.store.errors import StoreError
from headrace.store.multi_store import store_paths
from headrace.store.root_attributes import read_attributes
from headrace.store.schema import FeatureSpec
from headrace.store.storage import StoragePath, storage_of
from headrace.store.writer import Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class AddConfig:
    """Options of `featurize add`."""

    store: StoragePath
    """A store, or a text file with a list of stores, which get models in common."""
    features: tuple[Derived, ...]
    workers: int | None = None
    """Worker processes on this machine; None starts as many as it has CPUs and memory for."""
    scheduler: str | None = None
    """Address of a running Dask scheduler whose workers are used instead."""
    device: str = "auto"
    """Where networks run: auto, cpu or cuda."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddTask(Task):
    """Makes one array of one part."""

    store: StoragePath
    number: int
    feature: Derived
    specs: Mapping[str, FeatureSpec]
    """The feature, and those that were there before it."""
    device: str
    compression: Compression
    seconds: float
    """Duration of the part's audio."""

    def __str__(self) -> str:
        return f"{self.feature.name} of part {self.number:05d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddReport(PartReport):
    """What became of an `AddTask`."""

    counts: dict[str, int]
    """Remarks for the user, and how often each came."""


def add(config: AddConfig, observer: AddObserver = SILENT) -> dict[str, Any]:
    """Add features to a store, or resume adding them.

    Returns:
        The content of `add.json`: for each feature its parts, hours, seconds, rate and library versions, and how long
        each stage took. For a list of stores, `stores` has that of each, by path.
    Raises:
        NotAStore: there is no store.
        StoreError: it is incomplete, lacks what the features are made from, or is being written by another command.
        RecipeMismatch: it has one of the features, made with another recipe.
        HeadraceError: parts failed; all others are sealed.
    """
    roots = [root.resolve() for root in store_paths(config.store)]
    plans = [_plan(root, config.features) for root in roots]
    with ExitStack() as stack:
        for root in sorted(roots, key=str):  # the order in which others lock them, so that none waits for another
            stack.enter_context(storage_of(root).write_lock(root))
            storage_of(root).clear_temporary(root)  # of a command that was killed
        parts = max(len(layout.sealed_parts(root)) for root in roots)
        workers = FeatureWorkers(parts, config.workers, config.scheduler, config.device, observer, stack)
        added = (
            _add_joined(roots, plans, workers, observer)
            if len(roots) > 1
            else [run_steps(roots[0], plans[0], workers, observer)]
        )
        made = [{"added": one, "wall_seconds_by_stage": wall_seconds_by_stage(one)} for one in added]
        for root, report in zip(roots, made, strict=True):
            build_report.write(root, "add.json", json.dumps(report, indent=2) + "\n")
            storage_of(root).clear_temporary(root)
    return made[0] if len(roots) == 1 else {"stores": dict(zip(map(str, roots), made, strict=True))}


def _plan(root: StoragePath, features: Sequence[Derived]) -> list[FeatureStep]:
    """Return what to make in a store.

    Raises:
        StoreError: its build was not finished, or its parts were sealed with one of the arrays.
    """
    attributes, numbers = read_attributes(root), layout.sealed_parts(root)
    if len(numbers) < attributes["plan"]["parts"]:
        raise StoreError(f"{root} is not complete: {BUILD_AGAIN}.")
    steps = plan_steps(features, specs_of_store(attributes), learned_models.digests(root), store=root)
    own = index.read_seal(root, numbers[0])["crc32c"] if numbers else {}
    if built := [step.spec.name for step in steps if step.spec.name in own]:
        asked = ", ".join(feature.name for feature in features)
        raise StoreError(f"The parts of {root} were made with {', '.join(built)} (asked for: {asked}): add others.")
    return steps


def _add_joined(
    roots: Sequence[StoragePath],
    plans: Sequence[Sequence[FeatureStep]],
    workers: FeatureWorkers,
    observer: AddObserver,
) -> list[dict[str, Any]]:
    """Add features to several stores. What one learns is learned from all of them, and is the same in all."""
    added: list[dict[str, Any]] = [{} for _ in roots]
    learning: dict[str, float] = {}
    for group in merge_steps(plans):
        for feature in group:
            if feature.learns:
                started = time.perf_counter()
                learn_over(roots, feature, LearningLog(observer.note, partial(observer.learning, feature.name)))
                learning[feature.name] = time.perf_counter() - started
        for root, one in zip(roots, added, strict=True):
            observer.note(f"{', '.join(feature.name for feature in group)} of {root}")
            one |= run_steps(root, _plan(root, group), workers, observer)
            for feature in filter(attrgetter("learns"), group):
                one[feature.name]["learn_seconds"] = learning[feature.name]
    return added


def run_steps(
    root: StoragePath, steps: Sequence[FeatureStep], workers: FeatureWorkers, observer: AddObserver
) -> dict[str, Any]:
    """Make the features that parts lack, and publish each once all parts have it. The caller holds the write lock.

    Returns:
        For each feature, what it took.
    Raises:
        RecipeMismatch: a feature was begun with another recipe.
        StoreError: an array was made from other inputs than the store has now, or cannot be written.
        HeadraceError: parts failed; all others are sealed.
    """
    made = {}
    runner = _StepRunner(root, workers, observer)
    for step, learn_seconds in _learn_steps(root, steps, runner.numbers, observer):
        started = time.perf_counter()
        made[step.spec.name] = runner.run(step) | ({"learn_seconds": learn_seconds} if step.feature.learns else {})
        added_arrays.publish(root, step.spec, runner.numbers)
        made[step.spec.name]["wall_seconds"] = time.perf_counter() - started
    return made


def wall_seconds_by_stage(added: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return how long each stage of adding features took, given the result of `run_steps`: learning, and making."""
    stages: dict[str, float] = {}
    for name, report in added.items():
        if learning := report.get("learn_seconds"):
            stages[f"learning {name}"] = learning
        stages[name] = report["wall_seconds"]
    return stages


class FeatureWorkers:
    """Workers that make features, of one store after the other; those for a device start when they are first needed."""

    def __init__(
        self,
        parts: int,
        workers: int | None,
        scheduler: str | None,
        device: str,
        observer: AddObserver,
        stack: ExitStack,
    ) -> None:
        """
        Args:
            parts: parts of the largest store.
            workers, scheduler, device: as in `AddConfig`.
            stack: ends the workers.
        """
        self._parts, self._workers, self._scheduler, self._device = parts, workers, scheduler, device
        self._observer, self._stack = observer, stack
        self._executors: dict[str, dask_cluster.Executor] = {}

    def device_for(self, feature: Derived) -> str:
        """Return where a feature is made: cpu or cuda; on a running cluster also auto, which its workers decide."""
        if not feature.on_gpu or self._device == "cpu":
            return "cpu"
        return self._device if self._scheduler else engine.choose("torch", self._device).device

    def started(self, device: str) -> dask_cluster.Executor | None:
        """Return the workers for a device, if they were needed before."""
        return self._executors.get(device)

    def start(self, device: str) -> dask_cluster.Executor:
        """Return the workers for a device; start them where there are none yet."""
        if device not in self._executors:
            asked = self._workers
            if not self._scheduler:
                takes, reason = dask_cluster.capacity(device)
                asked, reason = (asked, "asked for") if asked else (takes, reason)
                self._observer.note(f"workers {asked} on {device}: {reason}")
            count = min(asked or self._parts, self._parts)
            workers = dask_cluster.executor(count, self._scheduler, device, self._observer)
            self._executors[device] = self._stack.enter_context(workers)
        return self._executors[device]


class _StepRunner:
    """Makes features of one store, one after the other."""

    def __init__(self, root: StoragePath, workers: FeatureWorkers, observer: AddObserver) -> None:
        self.numbers = layout.sealed_parts(root)
        self._root, self._workers, self._observer = root, workers, observer
        attributes, seals = read_attributes(root), index.read_seals(root, self.numbers)
        frame_s = attributes["hop"] / attributes["sample_rate"]
        self._compression: Compression = attributes.get("compression", "none")
        self._seconds = {n: seal["frames"] * frame_s for n, seal in zip(self.numbers, seals, strict=True)}

    def run(self, step: FeatureStep) -> dict[str, Any]:
        """Make a feature in all parts that lack it, and return what it took."""
        missing = _parts_without(self._root, step, self.numbers)
        _report_plan(step.spec, self._seconds, missing, self._observer)
        device = self._workers.device_for(step.feature)
        executor = self._workers.start(device) if missing else self._workers.started(device)
        tasks = [
            AddTask(
                store=self._root,
                number=number,
                feature=step.feature,
                specs=step.specs,
                device=executor.device if executor else device,
                compression=self._compression,
                seconds=self._seconds[number],
            )
            for number in missing
        ]
        made = _run_tasks(tasks, executor, self._observer) | {"parts": len(self.numbers)}
        return made | self._failures(step.spec.name)

    def _failures(self, name: str) -> dict[str, Any]:
        """Return on which utterances a feature fails, as the seals of its arrays have it."""
        seals = filter(None, added_arrays.read_seals(self._root, name, self.numbers))
        failed = [{"id": id, "reason": reason} for seal in seals for id, reason in seal.get("failed", {}).items()]
        return {"failed": failed} if failed else {}


def _learn_steps(
    root: StoragePath, steps: Sequence[FeatureStep], numbers: Sequence[int], observer: AddObserver
) -> Iterator[tuple[FeatureStep, float]]:
    """Yield the steps, each after its model is learned, with the spec that follows from it, and seconds of learning.

    A step is asked for when the parts have the features of all steps before it.

    Raises:
        RecipeMismatch: a model was learned with other options.
    """
    known: dict[str, FeatureSpec] = {}
    for step in steps:
        feature = step.feature
        known = {**step.specs, **known}
        model, seconds = _learned_digest(root, feature, known, numbers, observer) if feature.learns else ("", 0.0)
        known[feature.name] = feature.spec(known, model)
        yield FeatureStep(feature=feature, specs=dict(known)), seconds


def _learned_digest(
    root: StoragePath, feature: Derived, specs: Mapping[str, FeatureSpec], numbers: Sequence[int], observer: AddObserver
) -> tuple[str, float]:
    """Return the digest of a feature's model, which is learned now unless the store has it, and how long that took."""
    spec, file = feature.spec(specs), learned_models.model_file(feature.name)
    if (model := learned_models.digests(root).get(feature.name)) is None:
        parts = parts_to_learn_from(feature, [(root, specs)])
        observer.note(f"{feature.name} is learned from {len(parts)} parts, into {file}")
        started, log = time.perf_counter(), LearningLog(observer.note, partial(observer.learning, feature.name))
        model = learned_state.write(root, spec, feature.learn(parts, log))
        return model, time.perf_counter() - started
    remedy = f"finish that with the same options, or run {command('featurize drop', root, feature.name)} first"
    check_same_recipe(learned_state.learned_for(root, feature.name), spec, remedy)
    return model, 0.0


def _parts_without(root: StoragePath, step: FeatureStep, numbers: Sequence[int]) -> list[int]:
    """Return the parts that lack the feature. Check that the others made it from the same inputs and recipe."""

    def is_there(number: int) -> bool:
        name = step.spec.name
        seal = added_arrays.read_seal(root, name, number)
        if seal is None:
            return False
        remedy = f"finish that with the same options, or run {command('featurize drop', root, name)} first"
        check_same_recipe(FeatureSpec.from_json(seal), step.spec, remedy)
        if seal["inputs"] != added_arrays.input_digests(root, number, step.feature.needs):
            folder = layout.part_path(root, number) / name
            drop = command("featurize drop", root, name)
            raise StoreError(f"{folder} was made from other inputs: run {drop}, and the same command again.")
        return True

    return [number for number, there in zip(numbers, storage_of(root).map(is_there, numbers), strict=True) if not there]


def _report_plan(spec: FeatureSpec, seconds: Mapping[int, float], left: Sequence[int], observer: AddObserver) -> None:
    total, to_do = sum(seconds.values()) / 3600, sum(seconds[number] for number in left) / 3600
    observer.note(f"{spec.name} {spec.fingerprint[:6]}")
    observer.planned(len(seconds), len(seconds) - len(left), total, total - to_do)


def _run_tasks(tasks: Sequence[AddTask], pool: dask_cluster.Executor | None, observer: AddObserver) -> dict[str, Any]:
    """Run the tasks and summarise their reports."""
    started, counts = time.perf_counter(), Counter[str]()
    reports: list[AddReport] = []
    for report in pool.map(add_part, tasks) if pool else ():
        reports.append(report)
        counts.update(report.counts)
        observer.part_done(report)
    return build_report.summarize(reports, time.perf_counter() - started) | {"counts": dict(counts)}


def add_part(task: AddTask, threads: int = 1) -> AddReport:
    """Make, write and seal one array of one part. Running it twice writes the same bytes.

    Raises:
        StoreError: the store cannot be read or written from this worker.
    """
    check_store(task.store)
    torch.set_num_threads(threads)
    started, watch = time.process_time(), Stopwatch()
    feature, spec = task.feature, task.specs[task.feature.name]

    def part_of(numbers: Sequence[int] | None) -> Part:
        return sealed_part(task.store, task.number, task.specs, task.device, numbers)

    with watch(feature.name):
        values, failed, part = compute_rows(feature, part_of)
    with watch("write"):
        ids = part.strings("id")
        failed |= {str(ids[number]): reason for number, reason in part.failed.items()}
        inputs = added_arrays.input_digests(task.store, task.number, feature.needs)
        added_arrays.write(task.store, task.number, spec, values, inputs, task.compression, failed)
    return AddReport(
        number=task.number,
        utterances=len(part.strings("id")),
        audio_seconds=task.seconds,
        rejects=(),
        seconds=dict(watch.seconds),
        cpu_seconds=time.process_time() - started,
        counts=dict(part.counts + Counter(part.failed.values())),
    )
