"""A store's quality as one page that needs nothing beside it: no network, no script. What comes from the corpus is
escaped by the template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from headrace.featurize.quality.corpus_statistics import Appraisal, Names
from headrace.featurize.report import clips
from headrace.featurize.report.measures import MEASURES, Filter, Listed, Measure, Worst, known, limits_of, shown_value
from headrace.store.reader import Store
from headrace.store.units import format_hours

SOUND_BYTES = 24 << 20
"""Of all players of a page."""
SPEAKERS = 30
"""That are named."""
EDGES = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 60)
"""Seconds: classes of length."""
LONGEST_TEXT = 400
"""Characters of a text that are shown."""
BINS = 40


def write(
    target: Path,
    store: Store,
    found: Appraisal,
    filters: Sequence[Filter],
    worst: Sequence[Worst],
    watch: Callable[[int, int], None],
) -> None:
    """
    Args:
        watch: told how many lists of utterances are drawn, and how many there are.
    """
    budget, drawn = SOUND_BYTES // max(1, len(worst)), []
    show = _Shower(store)
    for done, one in enumerate(worst, 1):
        drawn.append(show(one, budget))
        watch(done, len(worst))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["hours"] = format_hours
    speakers = _ranked(store, found.speakers.most_common(SPEAKERS))
    others = len(found.speakers) - len(speakers)
    page = environment.get_template("page.html").render(
        name=str(store.path).rstrip("/").rpartition("/")[2],
        facts=_facts(store, found),
        languages=_ranked(store, found.languages.most_common(SPEAKERS)),
        lengths=_lengths(found.columns["duration"]),
        speakers=speakers,
        more_speakers=f" (and {others:,} more)" if others else "",
        measures=[_distribution(found, one) for one in MEASURES if len(known(found, one))],
        filters=filters,
        worst=drawn,
        notes=_notes(store, found),
    )
    target.write_text(page, encoding="utf-8", errors="replace")


def _facts(store: Store, found: Appraisal) -> list[tuple[str, str]]:
    return [
        ("utterances", f"{len(store):,}"),
        ("audio", format_hours(store.hours)),
        ("speakers", f"{len(found.speakers):,}"),
        ("languages", f"{len(found.languages):,}"),
        ("repeated texts", f"{len(found.same_text):,}"),
        ("sample rate", f"{store.sample_rate:,} Hz"),
    ]


def _notes(store: Store, found: Appraisal) -> list[str]:
    every = "all" if len(found.heard) == len(store) else "evenly spread through the store"
    return [
        f"{len(found.heard):,} of {len(store):,} recordings were heard, {every}. Numbers that the store has as columns "
        "are of all utterances; the others are of those heard.",
        f"Equal texts were looked for among all, nearly equal ones among {found.compared:,}.",
        f"Players hold the first {clips.SECONDS:g} seconds, as MP3 of small size, and {SOUND_BYTES >> 20} MiB of them "
        "in all, shared evenly by the lists: where one's share is used up, its last utterances have none. Listen for "
        "noise, clipping and wrong texts; the fine sound is in the store.",
    ]


def _ranked(store: Store, frames: Sequence[tuple[str, int]]) -> list[tuple[str, str, str]]:
    """Name, hours, and share of the largest in per cent."""
    most = max((count for _, count in frames), default=1) or 1
    to_hours = store.hop / store.sample_rate / 3600
    return [(name or "unnamed", format_hours(n * to_hours), f"{100 * n / most:.1f}") for name, n in frames]


def _lengths(duration: np.ndarray) -> list[tuple[str, str, str]]:
    kinds = np.searchsorted(EDGES, duration, side="right") - 1
    hours = np.bincount(kinds, duration, len(EDGES)) / 3600
    names = [*(f"{a} to {b} s" for a, b in pairwise(EDGES)), f"{EDGES[-1]} s and more"]
    rows = zip(names, hours.tolist(), strict=True)
    return [(name, format_hours(one), f"{100 * one / hours.max():.1f}") for name, one in rows if one]


def _distribution(found: Appraisal, measure: Measure) -> dict[str, Any]:
    """A histogram in a field of 300 by 80."""
    values = known(found, measure)
    low = float(np.quantile(values, 0.005, method="lower"))
    high = float(np.quantile(values, 0.995, method="higher"))
    span = (low, high) if high > low else (low - 0.5, low + 0.5)
    counts, _ = np.histogram(values, BINS, span)
    width, heights = 300 / BINS, 80 * counts / counts.max()
    limits = [limit for limit in limits_of(measure, values) if limit is not None and span[0] <= limit <= span[1]]
    return {
        "title": measure.title,
        "says": measure.says,
        "count": f"{len(values):,}",
        "low": shown_value(measure, low),
        "median": shown_value(measure, float(np.median(values))),
        "high": shown_value(measure, high),
        "bars": [(f"{n * width:.1f}", f"{width - 1:.1f}", round(h, 1)) for n, h in enumerate(heights.tolist())],
        "limits": [f"{300 * (limit - span[0]) / (span[1] - span[0]):.1f}" for limit in limits],
    }


class _Shower:
    """Draws lists of utterances; one that is in several of them is drawn and encoded once."""

    def __init__(self, store: Store) -> None:
        self._store, self._name = store, Names(store)
        self._looks: dict[int, tuple[str, str]] = {}
        self._sounds: dict[int, str] = {}

    def __call__(self, worst: Worst, budget: int) -> dict[str, Any]:
        utterances = []
        for one in worst.listed:
            shown = self._utterance(one, budget)
            budget -= sum(map(len, shown["sounds"]))
            utterances.append(shown)
        count = f"{len(utterances):,} of {worst.count:,}"
        return {"title": worst.title, "remark": worst.remark, "shown": count, "utterances": utterances}

    def _utterance(self, one: Listed, budget: int) -> dict[str, Any]:
        store, wave, mel = self._store, *self._look(one.number)
        numbers = [one.number] if one.twin is None else [one.number, one.twin]
        sounds = [self._sound(number) for number in numbers] if budget > 0 and "wave" in store.features else []
        return {
            "value": one.value,
            "wave": wave,
            "mel": mel,
            "sounds": sounds if sum(map(len, sounds)) <= budget else [],
            "seconds": f"{store.frames[one.number] * store.hop / store.sample_rate:.2f}",
            "text": self._text(one.number),
            **{name: self._name(name, one.number) for name in ("id", "speaker", "language")},
            "twin": "" if one.twin is None else self._name("id", one.twin),
            "twin_text": "" if one.twin is None else self._text(one.twin),
        }

    def _text(self, number: int) -> str:
        text = self._name("text", number)
        return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"

    def _look(self, number: int) -> tuple[str, str]:
        if number not in self._looks:
            store = self._store
            wave = clips.outline(store.read("wave", number)) if "wave" in store.features else ""
            self._looks[number] = wave, clips.picture(store, number)
        return self._looks[number]

    def _sound(self, number: int) -> str:
        if number not in self._sounds:
            self._sounds[number] = clips.player(self._store.read("wave", number), self._store.sample_rate)
        return self._sounds[number]
