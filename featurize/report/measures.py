"""Quality measures of utterances, the `--where` conditions that they suggest, and the worst utterances by each.

Conditions select utterances by the code behind `train run --where`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headrace.featurize.forced_alignment.hmm_aligner import UNALIGNED_CONFIDENCE
from headrace.featurize.quality.corpus_statistics import CorpusStatistics
from headrace.store.advice import command
from headrace.store.conditions import MAX_CHARACTERS
from headrace.store.errors import UsageError
from headrace.store.reader import Store
from headrace.store.selection import Selection, columns_of, select

OUTLIER_IQRS = 2.0
"""Interquartile ranges beyond the quartiles from which a value is an outlier (the fences of Tukey 1977)."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number that utterances are ranked by."""

    name: str
    """Its column in `CorpusStatistics`."""
    title: str
    unit: str
    description: str
    """One or two sentences for the reader of the page."""
    where: str
    """The measure as an expression in a condition."""
    low: str = ""
    """Title of the list of lowest values; empty where low values are not a fault."""
    high: str = ""
    limits: tuple[float | None, float | None] = (None, None)
    """Values below the first or above the second are outliers. None: computed from quartiles."""
    by_ratio: bool = False
    """Whether quartiles are taken of the logarithm."""
    scale: float = 1.0
    """Factor from the column to the displayed `unit`."""
    unknown: float = math.nan
    """The value in the column where nothing could be measured."""


MEASURES = (
    Measure(
        name="duration",
        title="Length",
        unit="s",
        description="Seconds of audio. Very short utterances teach little, very long ones do not fit into a batch.",
        where="duration",
        low="shortest",
        high="longest",
        limits=(0.6, 54.0),
    ),
    Measure(
        name="rate",
        title="Phones per second",
        unit="/s",
        description="A text that is longer or shorter than what is said shows here first.",
        where="phones / duration",
        low="slowest",
        high="fastest",
        by_ratio=True,
    ),
    Measure(
        name="confidence",
        title="Alignment confidence",
        unit="nats",
        description="How well the sound fits the phones of its text, 0 at best. A wrong text is far below the others.",
        where="confidence",
        low="least like their text",
        unknown=UNALIGNED_CONFIDENCE,
    ),
    Measure(
        name="level",
        title="Level",
        unit="dB",
        description="Mean power of the whole utterance, in dB of full scale.",
        where="level",
        low="quietest",
        limits=(-40.0, None),
    ),
    Measure(
        name="snr",
        title="Signal to noise",
        unit="dB",
        description="Between the loud frames (95 % quantile) and the quiet ones (10 %): too low where nobody pauses.",
        where="snr",
        low="noisiest",
        limits=(15.0, None),
    ),
    Measure(
        name="silence",
        title="Silence",
        unit="%",
        description="Share of frames 30 dB or more below the loud ones.",
        where="silence",
        high="with most silence",
        limits=(None, 0.5),
        scale=100.0,
    ),
    Measure(
        name="clipped",
        title="Clipping",
        unit="%",
        description="Share of samples on flattened peaks: three or more in a row within 1 % of the largest sample.",
        where="clipped",
        high="most clipped",
        limits=(None, 0.001),
        scale=100.0,
    ),
    Measure(
        name="bandwidth",
        title="Bandwidth",
        unit="kHz",
        description="Highest frequency of the recording: one that once had 16 kHz, or was compressed, ends below.",
        where="bandwidth",
        low="narrowest",
        limits=(10_000.0, None),
        scale=0.001,
    ),
    Measure(
        name="dc_offset",
        title="DC offset",
        unit="%",
        description="Mean of the samples, as a share of their root mean square.",
        where="dc_offset",
        high="farthest off zero",
        limits=(None, 0.1),
        scale=100.0,
    ),
    Measure(
        name="reverberation",
        title="Reverberation",
        unit="s",
        description="Time in which the sound of the room falls by 60 dB; 0 where its decay is not heard at the end.",
        where="reverberation",
        high="most reverberant",
        limits=(None, 0.8),
    ),
    Measure(
        name="dead_channels",
        title="Dead channels",
        unit="",
        description="Channels of the recording that are constant, or 30 dB below the loudest: their mean is quieter.",
        where="dead_channels",
        high="most of them",
        limits=(None, 0.0),
    ),
    Measure(
        name="clipped_samples",
        title="Beyond full scale",
        unit="",
        description="Samples that were beyond full scale in the recording, and are clipped in the store.",
        where="clipped_samples",
        high="most of them",
        limits=(None, 0.0),
    ),
    Measure(
        name="mos",
        title="DNSMOS",
        unit="",
        description="Rating of the first nine seconds, predicted by a network, from 1, bad, to 5, excellent.",
        where="mos",
        low="lowest rated",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A suggested condition, and the utterances that it selects."""

    title: str
    where: str
    selection: Selection | None = None
    """None where the condition cannot be used yet, or excludes every utterance."""
    remark: str = ""
    """Why there is no selection, and what to do."""
    commands: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An utterance in a list, with the value that ranks it."""

    number: int
    value: str
    duplicate_of: int | None = None
    """Number of the utterance that it duplicates."""


@dataclass(frozen=True, kw_only=True)
class WorstList:
    """Utterances that are the worst by one measure."""

    title: str
    count: int
    """Number of utterances that the list was chosen from."""
    remark: str
    entries: Sequence[Entry] = field(repr=False)


def outlier_limits(measure: Measure, values: np.ndarray) -> tuple[float | None, float | None]:
    """Return the values below which, and above which, an utterance is an outlier; None where neither is a fault."""
    first, third = np.quantile(np.log(np.maximum(values, 1e-3)) if measure.by_ratio else values, [0.25, 0.75])
    fences = np.array([first - OUTLIER_IQRS * (third - first), third + OUTLIER_IQRS * (third - first)])
    low, high = (np.exp(fences) if measure.by_ratio else fences).tolist()
    usual_low, usual_high = measure.limits
    return (
        (_rounded(low, math.floor) if usual_low is None else usual_low) if measure.low else None,
        (_rounded(high, math.ceil) if usual_high is None else usual_high) if measure.high else None,
    )


def _rounded(value: float, to: Callable[[float], int]) -> float:
    """Round to three digits with `to`, so that values within the exact limit are within the rounded one."""
    unit = 10.0 ** (math.floor(math.log10(abs(value) or 1)) - 2)
    return float(f"{to(value / unit) * unit:.3g}")


def suggest_filters(store: Store, statistics: CorpusStatistics) -> list[Filter]:
    """Suggest conditions: one for each measure and limit, one for all of these, and one for each kind of duplicate."""
    filters = list(_measure_filters(store, statistics))
    usable = [item.where for item in filters if item.selection and item.selection.excluded.utterances]
    together = [count_selection(store, "All these", " and ".join(usable))] if len(usable) > 1 else []
    return [*filters, *together, *_duplicate_filters(store, statistics)]


def _measure_filters(store: Store, statistics: CorpusStatistics) -> Iterable[Filter]:
    for measure in MEASURES:
        values = known_values(statistics, measure)
        if not len(values):
            continue
        low, high = outlier_limits(measure, values)
        if low is not None:
            yield _limit_filter(store, measure, f">= {low:g}", values < low)
        if high is not None:
            yield _limit_filter(store, measure, f"<= {high:g}", values > high)


def _limit_filter(store: Store, measure: Measure, limit: str, fails: np.ndarray) -> Filter:
    where = f"{measure.where} {limit}"
    if measure.where == measure.name and measure.name not in columns_of(store):
        measured = f"{fails.sum():,} of the {len(fails):,} measured"
        return _missing_column(store, measure.title, where, measure.name, measured)
    return count_selection(store, measure.title, where)


def _missing_column(store: Store, title: str, where: str, column: str, fails: str) -> Filter:
    without = [str(member.path) for member in store.members if column not in member.features]
    commands = [command("featurize add", path, column) for path in without]
    remark = f"{fails} do not meet it. The store has no such column yet; this makes it:"
    return Filter(title=title, where=where, remark=remark, commands=commands)


def _duplicate_filters(store: Store, statistics: CorpusStatistics) -> Iterable[Filter]:
    title, where, repeated = "Same text", "repeated == 0", len(statistics.same_text)
    if "repeated" in store.features:
        yield count_selection(store, title, where)
    elif repeated:
        yield _missing_column(store, title, where, "repeated", f"{repeated:,} utterances")
    for title, pairs in (
        ("Nearly the same text", statistics.near_text),
        ("Nearly the same sound", statistics.near_sound),
    ):
        later = np.unique(pairs[0][:, 1])
        if len(later):
            yield _exclude_by_id(store, title, later)


def _exclude_by_id(store: Store, title: str, numbers: np.ndarray) -> Filter:
    """Return a condition that excludes utterances by id, or a remark where it would exceed MAX_CHARACTERS."""
    short = len(numbers) < MAX_CHARACTERS
    where = f"id not in [{', '.join(repr(str(name)) for name in store.ids[numbers])}]" if short else ""
    if short and len(where) <= MAX_CHARACTERS:
        return count_selection(store, title, where)
    remark = f"{len(numbers):,} utterances; a condition that names them would be longer than one may be."
    return Filter(title=title, where="", remark=remark)


def count_selection(store: Store, title: str, where: str) -> Filter:
    """Evaluate a condition: return it with the selected utterances, or with a remark where it fails."""
    item = Filter(title=title, where=where)
    try:
        return replace(item, selection=select(store, where))
    except UsageError as error:
        return replace(item, remark=error.message)


def known_values(statistics: CorpusStatistics, measure: Measure) -> np.ndarray:
    """Return the values of a measure where there is one."""
    values = statistics.columns.get(measure.name, np.empty(0))
    return values[np.isfinite(values) & (values != measure.unknown)]


def worst_lists(statistics: CorpusStatistics, max_entries: int) -> list[WorstList]:
    """Return the worst utterances by each measure, and duplicates; at most `max_entries` in each list."""
    lists = [
        _extremes(statistics, measure, name, sign, max_entries)
        for measure in MEASURES
        for name, sign in ((measure.low, 1), (measure.high, -1))
        if name and len(known_values(statistics, measure))
    ]
    same = WorstList(
        title="Same text",
        count=len(statistics.same_text),
        remark="By the same speaker. Letters and digits alone are compared.",
        entries=[
            Entry(number=a, value="same text", duplicate_of=b) for a, b in statistics.same_text[:max_entries].tolist()
        ],
    )
    near = [
        _pairs(title, pairs, remark, max_entries)
        for title, pairs, remark in (
            (
                "Nearly the same text",
                statistics.near_text,
                f"Among {statistics.compared:,} texts, by MinHash.",
            ),
            (
                "Nearly the same sound",
                statistics.near_sound,
                f"Among the {len(statistics.analysed):,} analysed, by energy contour.",
            ),
        )
    ]
    return [item for item in (*lists, same, *near) if item.entries]


def _extremes(statistics: CorpusStatistics, measure: Measure, name: str, sign: int, max_entries: int) -> WorstList:
    values = statistics.columns[measure.name]
    known = np.flatnonzero(np.isfinite(values))
    keys = sign * values[known]
    worst = np.argpartition(keys, min(max_entries, len(keys) - 1))[:max_entries]
    chosen = known[worst[np.argsort(keys[worst], kind="stable")]].tolist()
    formatted = [Entry(number=n, value=format_value(measure, float(values[n]))) for n in chosen]
    return WorstList(title=f"{measure.title}: {name}", count=len(known), remark=measure.description, entries=formatted)


def _pairs(title: str, pairs: tuple[np.ndarray, np.ndarray], remark: str, max_entries: int) -> WorstList:
    formatted = zip(pairs[0][:max_entries].tolist(), pairs[1][:max_entries].tolist(), strict=True)
    entries = [Entry(number=b, value=f"{similarity:.0%} similar", duplicate_of=a) for (a, b), similarity in formatted]
    return WorstList(title=title, count=len(pairs[0]), remark=remark, entries=entries)


def format_value(measure: Measure, value: float) -> str:
    """Format a value with its unit."""
    if value == measure.unknown:
        return "not measured"
    return f"{value * measure.scale:.3g} {measure.unit}".strip()
