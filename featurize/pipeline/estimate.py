"""Summarise a corpus, and estimate the cost of a build. Decodes only a short calibration; writes nothing."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from headrace.featurize.features.derived import Part
from headrace.featurize.forced_alignment.hmm_aligner import scarcity
from headrace.featurize.pipeline.build import BuildConfig, ScannedCorpus
from headrace.featurize.pipeline.feature_steps import FeatureStep, plan_steps
from headrace.featurize.pipeline.part_rows import PartRows
from headrace.featurize.pipeline.part_worker import Recipe, extract
from headrace.featurize.pipeline.stopwatch import Stopwatch
from headrace.featurize.scheduling.dask_cluster import capacity
from headrace.featurize.spectral.engine import choose
from headrace.store import layout, rejects
from headrace.store.schema import Utterance

HISTOGRAM_SECONDS = (0, 1, 2, 4, 6, 8, 10, 15, 20, 30, 60)
"""Lower edges of the length histogram; the last bin is open."""

PHONES_PER_SECOND = 14
"""Rate of read English speech, to estimate the size of phone features before texts are read."""


def summarize_corpus(corpus: ScannedCorpus) -> dict[str, Any]:
    """Return counts, hours and problems of a scanned corpus, ready for JSON."""
    seconds = np.asarray([u.seconds for u in corpus.utterances])
    kinds = Counter(f"{_suffix(u)} {u.sample_rate / 1000:g} kHz" for u in corpus.utterances)
    aligned = sum(bool(u.alignment) for u in corpus.utterances)
    bins = np.searchsorted(HISTOGRAM_SECONDS, seconds, side="right") - 1
    return {
        "utterances": len(corpus.utterances),
        "rejects": len(corpus.rejects),
        "hours": float(seconds.sum()) / 3600,
        "seconds": {
            "shortest": float(seconds.min()),
            "median": float(np.median(seconds)),
            "longest": float(seconds.max()),
        },
        "formats": dict(kinds.most_common()),
        "speakers": _hours_by(corpus.utterances, "speaker"),
        "languages": _hours_by(corpus.utterances, "language"),
        "aligned": aligned,
        "align_warning": scarcity(float(seconds.sum())) if aligned < len(corpus.utterances) else "",
        "histogram": dict(zip(map(str, HISTOGRAM_SECONDS), _counts(bins), strict=True)),
        "reject_kinds": [asdict(kind) for kind in rejects.group(corpus.rejects)],
        "markup": dict(corpus.markup),
    }


def estimate(corpus: ScannedCorpus, config: BuildConfig, *, budget_seconds: float = 3.0) -> dict[str, Any]:
    """Estimate the size of the store and the time to build it, by extracting some utterances in this process.

    Args:
        budget_seconds: the calibration stops after about this long.
    Returns:
        store_bytes, hours_per_second for all workers, seconds to the end, and how much audio was tried.
    """
    choice, config = choose(config.engine, config.device), config.with_languages_of(corpus.utterances)
    recipe = replace(config.recipe, engine=choice.engine, device=choice.device)
    steps = plan_steps(config.derived, {spec.name: spec for spec in recipe.specs})
    workers = config.workers or capacity(choice.device)[0]
    tried: list[Utterance] = []
    begun = 0.0

    def within_budget() -> Iterator[Utterance]:
        nonlocal begun
        for utterance in _pick_spread(corpus.utterances):
            tried.append(utterance)
            yield utterance
            begun = begun or time.perf_counter()  # the first one also pays for imports and dictionaries
            if time.perf_counter() - begun > budget_seconds:
                return

    rows, rejects = extract(corpus.root, within_budget(), recipe, Stopwatch(), isolated=True)
    spent = time.perf_counter() - begun
    seconds = sum(u.seconds for u in tried)
    per_second = spent / max(seconds - tried[0].seconds, 1e-3) + _time_derived(steps, rows) / seconds
    total = sum(u.seconds for u in corpus.utterances)
    return {
        "store_bytes": int(total * bytes_per_second(recipe, steps)),
        "hours_per_second": workers / per_second / 3600,
        "seconds": total * per_second / workers,
        "calibration_seconds_of_audio": seconds,
        "calibration_rejects": len(rejects),
        "calibration_utterances": len(rows),
        **{name: rows.ids_counted(name) for name in layout.RECORDING_COUNTS},
        "workers": workers,
        "preset": config.preset.name,
    }


def _time_derived(steps: Sequence[FeatureStep], rows: PartRows) -> float:
    """Return the seconds that the derived features of these rows take."""
    part = rows.part(0, (), "")
    pieces = {
        spec.name: np.split(part.arrays[spec.name], np.cumsum(part.lengths[layout.LENGTH_COLUMNS[spec.axis]])[:-1])
        for spec in part.specs
    }
    begun = time.perf_counter()
    for step in steps if len(rows) else ():
        # Features that are learned have no model yet, and the time of a network depends on the device.
        if not (step.feature.learns or step.feature.on_gpu) and pieces.keys() >= set(step.feature.needs):
            pieces[step.spec.name] = list(step.feature.rows(Part(step.specs, pieces.__getitem__)))
    return time.perf_counter() - begun


def bytes_per_second(recipe: Recipe, steps: Sequence[FeatureStep]) -> float:
    """Return the uncompressed bytes of a store per second of audio."""
    specs = [*recipe.specs, *(step.spec for step in steps)]
    spectral = recipe.preset.spectral
    rates = {"frames": spectral.sample_rate / spectral.hop, "phones": PHONES_PER_SECOND, "tokens": 25, "utterance": 0}
    return sum(rates[s.axis] * np.dtype(s.dtype).itemsize * (s.channels or 1) for s in specs)


def _pick_spread(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Return up to 64 utterances from the whole distribution of lengths, shuffled."""
    by_length = sorted(utterances, key=lambda u: u.seconds)
    picks = np.unique(np.linspace(0, len(by_length) - 1, min(64, len(by_length))).astype(int))
    return [by_length[n] for n in np.random.default_rng(0).permutation(picks)]


def _suffix(utterance: Utterance) -> str:
    return PurePosixPath(utterance.audio).suffix.lstrip(".").lower()


def _hours_by(utterances: Sequence[Utterance], name: str) -> dict[str, float]:
    hours: defaultdict[str, float] = defaultdict(float)
    for utterance in utterances:
        hours[getattr(utterance, name)] += utterance.seconds / 3600
    return dict(sorted(hours.items(), key=lambda item: -item[1]))


def _counts(bins: np.ndarray) -> list[int]:
    return np.bincount(bins, minlength=len(HISTOGRAM_SECONDS)).tolist()
