"""Build a store from a corpus: scan, plan, extract part by part, seal, index. Resuming skips sealed parts."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from headrace.featurize.audio.recording import DEFAULT_LIMITS, Limits
from headrace.featurize.corpus import scanner as corpora
from headrace.featurize.corpus.formats.table_files import Columns
from headrace.featurize.features.derived import Derived
from headrace.featurize.files.source import root_of
from headrace.featurize.pipeline import (
    add_features,
    build_report,
    contents,
    corpus_growth,
    part_plan,
    reject_limit,
    replaced_recordings,
    store_state,
    text_check,
)
from headrace.featurize.pipeline.feature_registry import DERIVED_FEATURES, create_features, dependencies
from headrace.featurize.pipeline.feature_steps import FeatureStep, plan_steps, specs_of_store
from headrace.featurize.pipeline.observer import SILENT, BuildObserver
from headrace.featurize.pipeline.part_worker import PartReport, PartTask, PartTaskT, Recipe, inputs_digest, process_part
from headrace.featurize.pipeline.presets import Preset, feature_specs, sealed_features_for
from headrace.featurize.scheduling import dask_cluster
from headrace.featurize.spectral import engine
from headrace.featurize.spectral.engine import Choice
from headrace.featurize.text import g2p, reading_options
from headrace.featurize.text.dictionary import EMPTY, Dictionary
from headrace.featurize.text.languages.sinitic.polyphone_network import PolyphoneNetwork
from headrace.featurize.text.reading_options import ReadingOptions
from headrace.featurize.text.symbols import DEFAULT_TABLE, IPA_TABLE
from headrace.store import index, layout, learned_models, rejects
from headrace.store.advice import command
from headrace.store.errors import RecipeMismatch, StoreError
from headrace.store.integrity.foreign import foreign_entries
from headrace.store.integrity.scan_record import ScanRecord
from headrace.store.names import shown
from headrace.store.schema import Reject, Utterance
from headrace.store.storage import StoragePath, storage_of
from headrace.store.writer import Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """Options of `featurize build`."""

    corpus: StoragePath
    out: StoragePath
    preset: Preset
    features: tuple[str, ...]
    format: str | None = None
    """One of `headrace.featurize.FORMATS`; None detects it."""
    columns: Columns | None = None
    """What the columns of a table hold; None finds them by their usual names."""
    audio: StoragePath | None = None
    """Folder in which recordings are looked for that are not where the corpus says."""
    follow_outside: bool = False
    language: str = "en"
    """ISO code of the language of utterances whose corpus does not name one."""
    alignments: StoragePath | None = None
    """Folder of alignment files, laid out like the corpus; None looks for them in the corpus."""
    max_segment_s: float | None = None
    """Utterances longer than this are split at pauses of their alignment. None splits nothing."""
    part_hours: float | None = None
    """Hours of audio per part; None chooses by the size of the corpus."""
    workers: int | None = None
    """Worker processes on this machine; None starts as many as it has CPUs and memory for."""
    scheduler: str | None = None
    """Address of a running Dask scheduler whose workers are used instead."""
    engine: str = "auto"
    device: str = "auto"
    compression: Compression = "none"
    limits: Limits = DEFAULT_LIMITS
    max_rejects: float = reject_limit.DEFAULT_SHARE
    """Share of the utterances, 0 to 1: a build that rejects more stops as soon as that is evident. 1 never stops it."""
    symbols: str | None = None
    """Symbol table of the phones, one of `headrace.featurize.text.symbols.TABLES`. None goes on with that of the store,
    and begins one with the first that has the phones of all languages of the corpus."""
    dictionary: Dictionary | None = None
    """Words with readings of their own. None goes on with those of the store."""
    g2pw: PolyphoneNetwork | None = None
    """Network that reads Chinese characters of several readings. A store that was begun with one needs it again."""
    strip_markup: bool = False
    """Whether markup of texts is dropped and counted; else it is the reason of a reject."""
    languages: tuple[str, ...] = ()
    """Languages of the scanned corpus. Their frontends are part of the recipe."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of derived features, by the feature's name; None stands for the default."""

    @property
    def recipe(self) -> Recipe:
        """Return what to make of every utterance.

        Raises:
            UsageError: `features` has an unknown name, or the frontend of a language is not installed.
        """
        features = (*self.features, *sealed_features_for(dependencies(self.derived)))
        frontends = g2p.versions(self.languages) if "phones" in features else {}
        return Recipe(
            preset=self.preset,
            specs=feature_specs(
                self.preset,
                features,
                self.symbols or DEFAULT_TABLE,
                ReadingOptions(self.dictionary or EMPTY, self.g2pw),
            ),
            compression=self.compression,
            limits=self.limits,
            frontends=frontends,
            g2pw=self.g2pw,
        )

    @property
    def derived(self) -> tuple[Derived, ...]:
        """Return the features that are added to the sealed parts.

        Raises:
            UsageError: an option belongs to a feature that was not asked for, or has an impossible value.
        """
        return create_features([name for name in self.features if name in DERIVED_FEATURES], self.options)

    def with_languages_of(self, utterances: Iterable[Utterance]) -> BuildConfig:
        """Return this configuration with the languages of these utterances, and a table of symbols for them."""
        languages = tuple(sorted({utterance.language for utterance in utterances}))
        symbols = self.symbols or (IPA_TABLE if g2p.read_in_ipa(languages) else DEFAULT_TABLE)
        return replace(self, languages=languages, symbols=symbols)


@dataclass(frozen=True, slots=True)
class ScannedCorpus:
    """A scanned corpus: each of its utterances is in one of the two lists."""

    root: StoragePath
    utterances: list[Utterance]
    rejects: list[Reject]
    markup: Mapping[str, int] = field(default_factory=dict)
    """What was dropped of the texts, and how often."""

    @property
    def record(self) -> ScanRecord:
        """Return what the store records of the scan."""
        return ScanRecord(len(self.utterances) + len(self.rejects), tuple(self.rejects))


def scan(config: BuildConfig, observer: BuildObserver = SILENT) -> ScannedCorpus:
    """Read what the corpus holds, without decoding.

    Raises:
        CorpusError: it has no usable utterance.
    """
    utterances: list[Utterance] = []
    rejects: list[Reject] = []
    markup = Counter[str]()
    for item in corpora.scan(
        config.corpus,
        config.format,
        follow_outside=config.follow_outside,
        limits=config.limits,
        language=config.language,
        alignments=config.alignments,
        max_segment_s=config.max_segment_s,
        audio=config.audio,
        columns=config.columns,
        strip_markup=config.strip_markup,
        dropped=markup,
    ):
        if isinstance(item, Utterance):
            utterances.append(item)
        else:
            rejects.append(item)
        observer.scanning(len(utterances), len(rejects))
    if not utterances:
        raise reject_limit.nothing_usable(rejects, f"{config.corpus}")
    return ScannedCorpus(root_of(config.corpus), utterances, rejects, dict(markup.most_common()))


def plan_parts(corpus: ScannedCorpus, config: BuildConfig, kept: Sequence[int] = ()) -> list[PartTask]:
    """Divide the corpus into parts of similar lengths. The same corpus gives the same plan on any machine.

    Args:
        kept: numbers of the parts of the store that stay. Further parts hold the utterances that these lack.
    Raises:
        StoreError: a kept part was made from utterances that the corpus no longer has.
    """
    recipe, store = config.with_languages_of(corpus.utterances).recipe, config.out.resolve()
    members, rest = corpus_growth.assign_to_parts(corpus.utterances, config.out, kept, recipe)
    hours = config.part_hours
    part_seconds = hours * 3600 if hours else layout.default_part_seconds(sum(u.seconds for u in rest))
    standing = contents.owners(itertools.chain(itertools.chain.from_iterable(members.values()), rest))
    free = (number for number in itertools.count() if number not in members)
    for utterances in part_plan.divide(rest, part_seconds):
        members[next(free)] = utterances
    return [
        PartTask(
            number=number,
            corpus=corpus.root,
            store=store,
            utterances=tuple(utterances),
            inputs=inputs_digest(utterances, recipe),
            segments=frozenset(u.id for u in utterances if u.id != u.audio and u.id in standing),
            recipe=recipe,
        )
        for number, utterances in sorted(members.items())
    ]


def build(config: BuildConfig, observer: BuildObserver = SILENT) -> dict[str, Any]:
    """Build a store, or resume building it.

    Returns:
        The content of `build.json`: counts, hours, seconds, rate, seconds by stage and library versions.
    Raises:
        UsageError: `features` has an unknown name, or `out` is a folder that is not a store.
        CorpusError: the corpus has no usable utterance, or too few (`BuildConfig.max_rejects`).
        RecipeMismatch: the store was begun with other features or another preset.
        StoreError: since the store was begun the corpus changed other than by growing; or the disk is full, or another
            command writes the store.
        HeadraceError: parts failed; all others are sealed.
    """
    started = time.perf_counter()
    derived, _ = config.derived, config.recipe  # errors in the options are raised before the scan
    store_state.check_output(config.out)
    there = store_state.read_root(config.out)
    corpus = scan(config, observer)
    config = _choose_symbols(_choose_reading(config, there), there, corpus, observer)
    recipe = config.recipe
    if there:
        store_state.check_recipe(config.out, there, store_state.root_attributes(recipe))
    joined = store_state.added_specs(there)
    own = {spec.name: spec for spec in recipe.specs}
    steps = plan_steps(derived, own | joined, learned_models.digests(config.out), joined, config.out)
    found = there["plan"] if there else None
    store_plan = corpus_growth.choose_plan(config.out, found, partial(plan_parts, corpus, config))
    if there and store_plan.to_json() != there["plan"]:
        observer.note(f"{config.out} grows: {there['plan']['utterances']} utterances to {len(corpus.utterances)}")
        left = [name for name in joined if name not in {step.spec.name for step in steps}]
        if left:
            remedy = command("featurize add", config.out, ",".join(left))
            observer.note(f"{', '.join(left)}: the new parts get it by {remedy}")
    return build_parts(config, corpus, store_plan.tasks, process_part, observer, started, steps, store_plan.grown)


def _choose_reading(config: BuildConfig, there: Mapping[str, Any] | None) -> BuildConfig:
    """Return the configuration with the dictionary of the store, if there is one.

    Raises:
        RecipeMismatch: another one was asked for, or another network of polyphones than the store was begun with.
    """
    if not there or "phones" not in config.features:
        return config
    specs = specs_of_store(there)
    kept, network = reading_options.of_specs(specs).dictionary, reading_options.recipe_of(specs).get("g2pw")
    if (config.g2pw.digest if config.g2pw else None) != network:
        had = "the network whose files have the SHA-256 " + str(network)[:12] if network else "no network"
        remedy = "give its folder by --g2pw" if network else "leave --g2pw out"
        raise RecipeMismatch(
            f"Characters of several readings in {config.out} were read by {had}: {remedy}, or name another --out."
        )
    if config.dictionary is not None and config.dictionary != kept:
        has = f"{len(kept.entries)} words of another dictionary" if kept else "no dictionary"
        raise RecipeMismatch(
            f"The texts of {config.out} were read with {has}: leave --dictionary out, or name another --out."
        )
    return replace(config, dictionary=kept)


def _choose_symbols(
    config: BuildConfig, there: Mapping[str, Any] | None, corpus: ScannedCorpus, observer: BuildObserver
) -> BuildConfig:
    """Return the configuration for a scanned corpus; a store that is there keeps its table of symbols."""
    phones = specs_of_store(there).get("phones") if there else None
    asked = config.symbols or (str(phones.recipe["symbols"]) if phones else None)
    chosen = replace(config, symbols=asked).with_languages_of(corpus.utterances)
    if reason := symbols_reason(chosen, asked):
        observer.note(f"symbols {chosen.symbols}: {reason}")
    return chosen


def symbols_reason(config: BuildConfig, asked: str | None) -> str:
    """Return why a table of symbols was chosen that was not asked for; empty if it is the usual one, or without use."""
    if asked or config.symbols != IPA_TABLE or "phones" not in config.recipe.features:
        return ""
    read = ", ".join(g2p.read_in_ipa(config.languages))
    return f"only it has the phones of {read}; with --symbols {DEFAULT_TABLE} they are rejected"


def build_parts(
    config: BuildConfig,
    corpus: ScannedCorpus,
    tasks: Sequence[PartTaskT],
    process: Callable[[PartTaskT, int], PartReport],
    observer: BuildObserver,
    started: float,
    steps: Sequence[FeatureStep] = (),
    grown: corpus_growth.Generations = (),
) -> dict[str, Any]:
    """Make the planned parts that are not sealed yet, add derived features, and write the index and the report.

    Args:
        process: the function that a worker calls with a task and a number of threads.
        started: time of the command's start, by `time.perf_counter`.
        steps: features that are added to the sealed parts.
        grown: as in `corpus_growth.StorePlan`.
    """
    with storage_of(config.out).write_lock(config.out):
        attributes = store_state.root_attributes(tasks[0].recipe) | {
            "plan": corpus_growth.StorePlan(tasks, grown).to_json()
        }
        write_times = replaced_recordings.check(config.out, tasks, observer.note)
        store_state.begin_store(config.out, attributes, tasks, corpus.record)
        write_times()
        if foreign := foreign_entries(config.out):
            observer.note(f"not the store's, and left alone: {', '.join(map(shown, foreign))}")
        pending = store_state.unsealed_tasks(config.out, tasks)
        _report_plan(tasks, pending, observer)
        done = {"parts": len(tasks), "preset": config.preset.name, "features": list(config.features)}
        done |= {"markup": dict(corpus.markup)}
        limit = _begin_limit(config, corpus, tasks, pending)
        done |= _run_tasks(pending, process, config, observer, started, limit)
        if missing := store_state.unsealed_tasks(config.out, tasks):
            raise StoreError(f"{missing[0]} was done and is not in {config.out}: do all workers see the same disk?")
        build_report.write_derived(config.out)
        _check_not_empty(config, corpus, done)
        stages = done["wall_seconds_by_stage"] = {"scan and parts": done["seconds"]}
        if steps:
            with ExitStack() as stack:
                workers = add_features.FeatureWorkers(
                    len(tasks), config.workers, config.scheduler, config.device, observer, stack
                )
                added = done["added"] = add_features.run_steps(config.out.resolve(), steps, workers, observer)
            stages |= add_features.wall_seconds_by_stage(added)
        return build_report.finish_store(config.out, done, config.preset.spectral)


def _begin_limit(
    config: BuildConfig, corpus: ScannedCorpus, tasks: Sequence[PartTask], pending: Sequence[PartTask]
) -> reject_limit.RejectLimit:
    """Return the count of rejects so far, and read texts of the parts to come.

    Raises:
        CorpusError: more is rejected than `config.max_rejects` permits.
    """
    limit = reject_limit.RejectLimit(config.max_rejects, corpus.record, corpus.root, config.out)
    limit.add(rejects.sealed(config.out, sorted({task.number for task in tasks} - {task.number for task in pending})))
    left = list(itertools.chain.from_iterable(task.utterances for task in pending))
    if len(left) > reject_limit.MIN_TEXTS and config.max_rejects < 1:
        seconds, most = reject_limit.TEXT_SECONDS, reject_limit.MIN_TEXTS
        recipe = pending[0].recipe
        limit.check_texts(text_check.check_texts(corpus.root, left, recipe, budget_seconds=seconds, most=most))
    return limit


def _check_not_empty(config: BuildConfig, corpus: ScannedCorpus, done: dict[str, Any]) -> None:
    """Raise CorpusError if every utterance was rejected. The list of rejects is written before."""
    if index.read(config.out).bounds[-1]:
        return
    build_report.finish_store(config.out, done, config.preset.spectral)
    every = [*corpus.rejects, *rejects.sealed(config.out, layout.sealed_parts(config.out))]
    raise reject_limit.nothing_usable(every, f"{corpus.root}", f" {config.out / rejects.FILE} lists all.")


def _report_plan(tasks: Sequence[PartTask], pending: Sequence[PartTask], observer: BuildObserver) -> None:
    hours = {task.number: sum(utterance.seconds for utterance in task.utterances) / 3600 for task in tasks}
    total = sum(hours.values())
    sealed = total - sum(hours[task.number] for task in pending)
    observer.planned(len(tasks), len(tasks) - len(pending), total, sealed)


def _run_tasks(
    pending: Sequence[PartTaskT],
    process: Callable[[PartTaskT, int], PartReport],
    config: BuildConfig,
    observer: BuildObserver,
    started: float,
    limit: reject_limit.RejectLimit,
) -> dict[str, Any]:
    """Run the tasks and summarise their reports. Raises CorpusError if they reject too much."""
    reports: list[PartReport] = []
    used: dict[str, Any] = {"engine": None, "device": None, "reason": "nothing was to be done", "workers": 0}
    if pending:
        index.delete(config.out)
        with _start_workers(config, len(pending), observer) as (workers, choice):
            observer.note(f"engine {choice.engine} on {choice.device}: {choice.reason}")
            recipe = replace(pending[0].recipe, engine=choice.engine, device=choice.device)
            for report in workers.map(process, (replace(task, recipe=recipe) for task in pending)):
                reports.append(report)
                observer.part_done(report)
                limit.add(report.rejects)
        used = {"engine": choice.engine, "device": choice.device, "reason": choice.reason, "workers": workers.workers}
    return used | build_report.summarize(reports, time.perf_counter() - started)


@contextmanager
def _start_workers(
    config: BuildConfig, parts: int, observer: BuildObserver
) -> Iterator[tuple[dask_cluster.Executor, Choice]]:
    """Start workers for so many parts, and choose the engine where the work is done."""
    if config.scheduler:
        with dask_cluster.executor(0, config.scheduler, config.device, observer) as workers:
            offered = f"the workers there offer {'GPUs' if workers.device == 'cuda' else 'no GPU'}"
            because = offered if config.device == "auto" else ""
            yield workers, workers.call(engine.choose, config.engine, workers.device, because)
        return
    choice = engine.choose(config.engine, config.device)
    takes, reason = dask_cluster.capacity(choice.device)
    count = config.workers or takes
    observer.note(f"workers {count}: {'asked for' if config.workers else reason}")
    with dask_cluster.executor(min(count, parts), None, choice.device, observer) as workers:
        yield workers, choice
