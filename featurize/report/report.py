"""Write a report on the quality of a store: an HTML page, and its numbers as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from headrace.featurize.quality import dnsmos
from headrace.featurize.quality.corpus_statistics import CorpusStatistics, compute_statistics
from headrace.featurize.report import page
from headrace.featurize.report.measures import MEASURES, Filter, WorstList, known_values, suggest_filters, worst_lists
from headrace.store.reader import Store
from headrace.store.storage.output_files import output_file

Stage: TypeAlias = Literal["read", "rated", "drawn"]
"""Stages of a report: parts are read, recordings are rated by DNSMOS, lists of utterances are rendered."""
Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of items done, and the total."""


def _no_progress(stage: Stage) -> AbstractContextManager[Progress]:
    return nullcontext(lambda done, total: None)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A written page, and the data in it."""

    path: Path
    """Path of the HTML page."""
    complete: bool
    """Whether the build of the store is finished."""
    utterances: int
    hours: float
    statistics: CorpusStatistics
    filters: Sequence[Filter]
    lists: Sequence[WorstList]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of the page, as JSON types."""
        statistics = self.statistics
        values = {measure.name: known_values(statistics, measure) for measure in MEASURES}
        return {
            "page": str(self.path),
            "bytes": self.path.stat().st_size,
            "complete": self.complete,
            "utterances": self.utterances,
            "hours": self.hours,
            "analysed": len(statistics.analysed),
            "measures": {
                name: {"known": len(some), "quartiles": np.quantile(some, [0.25, 0.5, 0.75]).round(6).tolist()}
                for name, some in values.items()
                if len(some)
            },
            "same_text": len(statistics.same_text),
            "near_text": len(statistics.near_text[0]),
            "near_sound": len(statistics.near_sound[0]),
            "filters": [
                {"title": one.title, "where": one.where, "remark": one.remark}
                | (one.selection.to_json() if one.selection else {})
                for one in self.filters
            ],
            "lists": {one.title: len(one.entries) for one in self.lists},
        }


def write_report(
    store: Store,
    out: Path,
    *,
    max_recordings: int = 20_000,
    max_mos: int = 100,
    max_listed: int = 50,
    progress: Callable[[Stage], AbstractContextManager[Progress]] = _no_progress,
) -> Report:
    """Write a report on the quality of a store as a self-contained HTML page.

    Args:
        store: what `headrace.store.open` returns.
        out: the page.
        max_recordings: utterances whose audio is analysed, at most; they are spread evenly over the store.
        max_mos: recordings that DNSMOS rates, at most, where it is installed and the store has no column `mos`.
        max_listed: utterances in each list of the worst, at most.
        progress: returns a context manager for each stage, whose value is told how far the stage is.
    Raises:
        UsageError: `out` is a folder.
        StoreError: the store is empty, or the page cannot be written. Then the last page stays.
    """
    with output_file(out) as draft:
        with progress("read") as watch:
            statistics = compute_statistics(store, max_recordings, watch)
        with progress("rated") as watch:
            _rate(store, statistics, max_mos, watch)
        filters, lists = suggest_filters(store, statistics), worst_lists(statistics, max_listed)
        with progress("drawn") as watch:
            page.write(draft, store, statistics, filters, lists, watch)
    return Report(
        path=out,
        complete=store.complete,
        utterances=len(store),
        hours=store.hours,
        statistics=statistics,
        filters=filters,
        lists=lists,
    )


def _rate(store: Store, statistics: CorpusStatistics, most: int, progress: Progress) -> None:
    """Add a column `mos` with DNSMOS ratings of some of the analysed recordings, unless the store has one."""
    count = min(most, len(statistics.analysed))
    if "mos" in statistics.columns or not count or not dnsmos.is_installed():
        return
    column = np.full(len(store), np.nan, np.float32)
    chosen = statistics.analysed[np.linspace(0, len(statistics.analysed) - 1, count).astype(int)].tolist()
    for done, number in enumerate(chosen, 1):
        column[number] = dnsmos.first_window_mos(store.read("wave", number), store.sample_rate)
        progress(done, count)
    statistics.columns["mos"] = column
