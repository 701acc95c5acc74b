"""Render the quality of a store as a single HTML page without scripts and network access.

The template escapes all text from the corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from headrace.featurize.quality.corpus_statistics import CorpusStatistics, MetadataReader
from headrace.featurize.report import clips
from headrace.featurize.report.measures import (
    MEASURES,
    Entry,
    Filter,
    Measure,
    WorstList,
    format_value,
    known_values,
    outlier_limits,
)
from headrace.store import rejects
from headrace.store.reader import Store
from headrace.store.units import format_hours

SOUND_BYTES = 24 << 20
"""Most bytes of audio in a page."""
SPEAKERS = 30
"""Most speakers, and languages, that are listed."""
REJECT_KINDS = 20
"""Most kinds of rejects that are listed."""
EDGES = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 60)
"""Bounds of the classes of duration, in seconds."""
MAX_TEXT = 400
"""Most characters of a text that are displayed."""
BINS = 40


def write(
    draft: Path,
    store: Store,
    statistics: CorpusStatistics,
    filters: Sequence[Filter],
    worst: Sequence[WorstList],
    progress: Callable[[int, int], None],
) -> None:
    """Write the page to `draft`.

    Args:
        progress: called with the number of lists rendered, and of all lists.
    """
    budget, drawn = SOUND_BYTES // max(1, len(worst)), []
    render = _Renderer(store)
    for done, one in enumerate(worst, 1):
        drawn.append(render(one, budget))
        progress(done, len(worst))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["hours"] = format_hours
    speakers = _ranked(store, statistics.speakers.most_common(SPEAKERS))
    others = len(statistics.speakers) - len(speakers)
    page = environment.get_template("page.html").render(
        name=str(store.path).rstrip("/").rpartition("/")[2],
        facts=_facts(store, statistics),
        languages=_ranked(store, statistics.languages.most_common(SPEAKERS)),
        lengths=_lengths(statistics.columns["duration"]),
        rejects=_rejects(store),
        speakers=speakers,
        more_speakers=f" (and {others:,} more)" if others else "",
        measures=[_distribution(statistics, one) for one in MEASURES if len(known_values(statistics, one))],
        filters=filters,
        worst=drawn,
        notes=_notes(store, statistics),
    )
    draft.write_text(page, encoding="utf-8", errors="replace")


def _facts(store: Store, statistics: CorpusStatistics) -> list[tuple[str, str]]:
    return [
        ("utterances", f"{len(store):,}"),
        ("audio", format_hours(store.hours)),
        ("speakers", f"{len(statistics.speakers):,}"),
        ("languages", f"{len(statistics.languages):,}"),
        ("repeated texts", f"{len(statistics.same_text):,}"),
        ("sample rate", f"{store.sample_rate:,} Hz"),
    ]


def _rejects(store: Store) -> list[tuple[str, str]]:
    """Return the stage, and the number with an example, of each kind of reject that the lists of the stores have."""
    listed = chain.from_iterable(rejects.read(member.path)[0] for member in store.members)
    return [(kind.stage, str(kind)) for kind in rejects.group(listed)[:REJECT_KINDS]]


def _notes(store: Store, statistics: CorpusStatistics) -> list[str]:
    every = "all of them" if len(statistics.analysed) == len(store) else "spread evenly over the store"
    sealed, planned = store.progress
    incomplete = f"The build of this store is not finished: the page is of {sealed:,} of its {planned:,} parts."
    return [
        *([] if store.complete else [incomplete]),
        f"{len(statistics.analysed):,} of {len(store):,} recordings were analysed, {every}. Numbers that the store has "
        "as columns are of all utterances; the others are of those analysed.",
        f"Equal texts were searched for among all, nearly equal ones among {statistics.compared:,}.",
        f"Players hold the first {clips.SECONDS:g} seconds, as MP3 of small size, and {SOUND_BYTES >> 20} MiB of them "
        "in all, shared evenly by the lists: where one's share is used up, its last utterances have none. Listen for "
        "noise, clipping and wrong texts; the fine sound is in the store.",
    ]


def _ranked(store: Store, frames: Sequence[tuple[str, int]]) -> list[tuple[str, str, str]]:
    """Return name, hours, and percentage of the largest, for each."""
    largest = max((count for _, count in frames), default=1) or 1
    to_hours = store.hop / store.sample_rate / 3600
    return [(name or "unnamed", format_hours(n * to_hours), f"{100 * n / largest:.1f}") for name, n in frames]


def _lengths(duration: np.ndarray) -> list[tuple[str, str, str]]:
    kinds = np.searchsorted(EDGES, duration, side="right") - 1
    hours = np.bincount(kinds, duration, len(EDGES)) / 3600
    names = [*(f"{a} to {b} s" for a, b in pairwise(EDGES)), f"{EDGES[-1]} s and more"]
    rows = zip(names, hours.tolist(), strict=True)
    return [(name, format_hours(one), f"{100 * one / hours.max():.1f}") for name, one in rows if one]


def _distribution(statistics: CorpusStatistics, measure: Measure) -> dict[str, Any]:
    """Return the histogram of a measure for the template, 300 by 80."""
    values = known_values(statistics, measure)
    low = float(np.quantile(values, 0.005, method="lower"))
    high = float(np.quantile(values, 0.995, method="higher"))
    span = (low, high) if high > low else (low - 0.5, low + 0.5)
    counts, _ = np.histogram(values, BINS, span)
    width, heights = 300 / BINS, 80 * counts / counts.max()
    limits = [limit for limit in outlier_limits(measure, values) if limit is not None and span[0] <= limit <= span[1]]
    return {
        "title": measure.title,
        "description": measure.description,
        "count": f"{len(values):,}",
        "low": format_value(measure, low),
        "median": format_value(measure, float(np.median(values))),
        "high": format_value(measure, high),
        "bars": [(f"{n * width:.1f}", f"{width - 1:.1f}", round(h, 1)) for n, h in enumerate(heights.tolist())],
        "limits": [f"{300 * (limit - span[0]) / (span[1] - span[0]):.1f}" for limit in limits],
    }


class _Renderer:
    """Renders lists of utterances. An utterance in several lists is encoded once."""

    def __init__(self, store: Store) -> None:
        self._store, self._metadata = store, MetadataReader(store)
        self._images: dict[int, tuple[str, str]] = {}
        self._sounds: dict[int, str] = {}

    def __call__(self, worst: WorstList, budget: int) -> dict[str, Any]:
        utterances = []
        for one in worst.entries:
            rendered = self._utterance(one, budget)
            budget -= sum(map(len, rendered["sounds"]))
            utterances.append(rendered)
        count = f"{len(utterances):,} of {worst.count:,}"
        return {"title": worst.title, "remark": worst.remark, "shown": count, "utterances": utterances}

    def _utterance(self, one: Entry, budget: int) -> dict[str, Any]:
        store, wave, mel = self._store, *self._image(one.number)
        numbers = [one.number] if one.duplicate_of is None else [one.number, one.duplicate_of]
        sounds = [self._sound(number) for number in numbers] if budget > 0 and "wave" in store.features else []
        return {
            "value": one.value,
            "wave": wave,
            "mel": mel,
            "sounds": sounds if sum(map(len, sounds)) <= budget else [],
            "seconds": f"{store.frames[one.number] * store.hop / store.sample_rate:.2f}",
            "text": self._text(one.number),
            **{name: self._metadata(name, one.number) for name in ("id", "speaker", "language")},
            "duplicate_of": "" if one.duplicate_of is None else self._metadata("id", one.duplicate_of),
            "duplicate_text": "" if one.duplicate_of is None else self._text(one.duplicate_of),
        }

    def _text(self, number: int) -> str:
        text = self._metadata("text", number)
        return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"

    def _image(self, number: int) -> tuple[str, str]:
        if number not in self._images:
            store = self._store
            wave = clips.waveform_path(store.read("wave", number)) if "wave" in store.features else ""
            self._images[number] = wave, clips.mel_image(store, number)
        return self._images[number]

    def _sound(self, number: int) -> str:
        if number not in self._sounds:
            self._sounds[number] = clips.audio_player(self._store.read("wave", number), self._store.sample_rate)
        return self._sounds[number]
