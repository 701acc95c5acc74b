"""What a report says of a store's utterances: measures, the conditions that they suggest, and the worst of each.

A condition is counted by what `train run --where` counts with.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headrace.featurize.quality.corpus_statistics import Appraisal
from headrace.store.conditions import MAX_CHARACTERS
from headrace.store.errors import UsageError
from headrace.store.reader import Store
from headrace.store.selection import Selection, columns_of, select

FAR_OUT = 2.0
"""Interquartile ranges beyond the quartiles (as Tukey 1977 has fences) from which a value is far out of its corpus."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of every utterance."""

    name: str
    """Of its column in an `Appraisal`."""
    title: str
    unit: str
    says: str
    """What it is, for a person."""
    where: str
    """How a condition names it."""
    low: str = ""
    """What those are called that have little of it; empty where that is no fault."""
    high: str = ""
    limits: tuple[float | None, float | None] = (None, None)
    """What is usual: a value below the first or above the second is to be looked at. None: what lies far out."""
    by_ratio: bool = False
    """Whether twice as much is as far from what is usual as half as much."""
    scale: float = 1.0
    """From the column to what is shown, in `unit`."""


MEASURES = (
    Measure(
        name="duration",
        title="Length",
        unit="s",
        says="Seconds of audio. Very short utterances teach little, very long ones do not fit into a batch.",
        where="duration",
        low="shortest",
        high="longest",
        limits=(0.6, 54.0),
    ),
    Measure(
        name="rate",
        title="Phones per second",
        unit="/s",
        says="A text that is longer or shorter than what is said shows here first.",
        where="phones / duration",
        low="slowest",
        high="fastest",
        by_ratio=True,
    ),
    Measure(
        name="confidence",
        title="Alignment confidence",
        unit="nats",
        says="How well the sound fits the phones of its text, 0 at best. A wrong text is far below the others.",
        where="confidence",
        low="least like their text",
    ),
    Measure(
        name="level",
        title="Level",
        unit="dB",
        says="Mean power of the whole utterance, in dB of full scale.",
        where="level",
        low="quietest",
        limits=(-40.0, None),
    ),
    Measure(
        name="snr",
        title="Signal to noise",
        unit="dB",
        says="Between the loud frames (95 % quantile) and the quiet ones (10 %): too low where nobody pauses.",
        where="snr",
        low="noisiest",
        limits=(15.0, None),
    ),
    Measure(
        name="silence",
        title="Silence",
        unit="%",
        says="Share of frames 30 dB or more below the loud ones.",
        where="silence",
        high="with most silence",
        limits=(None, 0.5),
        scale=100.0,
    ),
    Measure(
        name="clipped",
        title="Clipping",
        unit="%",
        says="Share of samples on flattened peaks: three or more in a row within 1 % of the utterance's largest.",
        where="clipped",
        high="most clipped",
        limits=(None, 0.001),
        scale=100.0,
    ),
    Measure(
        name="mos",
        title="DNSMOS",
        unit="",
        says="Opinion on the first nine seconds that a network foretells, from 1, bad, to 5, excellent.",
        where="mos",
        low="worst to the ear",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A condition, and what it does."""

    title: str
    where: str
    selection: Selection | None = None
    """None where the condition cannot be used yet, or nothing meets it."""
    remark: str = ""
    """Why, and what to do."""
    commands: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An utterance in a list of the worst."""

    number: int
    value: str
    twin: int | None = None
    """The one that it is like."""


@dataclass(frozen=True, kw_only=True)
class Worst:
    title: str
    count: int
    """Of all that there are."""
    remark: str
    listed: Sequence[Listed] = field(repr=False)


def limits_of(measure: Measure, values: np.ndarray) -> tuple[float | None, float | None]:
    """Below which, and above which, a value is to be looked at."""
    first, third = np.quantile(np.log(np.maximum(values, 1e-3)) if measure.by_ratio else values, [0.25, 0.75])
    far = np.array([first - FAR_OUT * (third - first), third + FAR_OUT * (third - first)])
    low, high = (np.exp(far) if measure.by_ratio else far).tolist()
    usual_low, usual_high = measure.limits
    return (
        (_rounded(low, math.floor) if usual_low is None else usual_low) if measure.low else None,
        (_rounded(high, math.ceil) if usual_high is None else usual_high) if measure.high else None,
    )


def _rounded(value: float, to: Callable[[float], int]) -> float:
    """Outward, to three digits for people to read: what is no further out than the limit stays in."""
    unit = 10.0 ** (math.floor(math.log10(abs(value) or 1)) - 2)
    return float(f"{to(value / unit) * unit:.3g}")


def conditions(store: Store, found: Appraisal) -> list[Filter]:
    """One for each measure and limit, for these together, and for what comes twice."""
    made = list(_of_measures(store, found))
    usable = [one.where for one in made if one.selection and one.selection.excluded.utterances]
    together = [counted(store, "All these", " and ".join(usable))] if len(usable) > 1 else []
    return [*made, *together, *_of_pairs(store, found)]


def _of_measures(store: Store, found: Appraisal) -> Iterable[Filter]:
    for measure in MEASURES:
        values = known(found, measure)
        if not len(values):
            continue
        low, high = limits_of(measure, values)
        if low is not None:
            yield _of_limit(store, measure, f">= {low:g}", values < low)
        if high is not None:
            yield _of_limit(store, measure, f"<= {high:g}", values > high)


def _of_limit(store: Store, measure: Measure, limit: str, fails: np.ndarray) -> Filter:
    where = f"{measure.where} {limit}"
    if measure.where == measure.name and measure.name not in columns_of(store):
        measured = f"{fails.sum():,} of the {len(fails):,} measured"
        return _later(store, measure.title, where, measure.name, measured)
    return counted(store, measure.title, where)


def _later(store: Store, title: str, where: str, column: str, fails: str) -> Filter:
    without = [str(member.path) for member in store.members if column not in member.features]
    commands = [f"featurize add {shlex.quote(path)} {column}" for path in without]
    remark = f"{fails} do not meet it. The store has no such column yet; this makes it:"
    return Filter(title=title, where=where, remark=remark, commands=commands)


def _of_pairs(store: Store, found: Appraisal) -> Iterable[Filter]:
    title, where, again = "Same text", "repeated == 0", len(found.same_text)
    if "repeated" in store.features:
        yield counted(store, title, where)
    elif again:
        yield _later(store, title, where, "repeated", f"{again:,} utterances")
    for title, pairs in (("Nearly the same text", found.near_text), ("Nearly the same sound", found.near_sound)):
        later = np.unique(pairs[0][:, 1])
        if len(later):
            yield _named(store, title, later)


def _named(store: Store, title: str, numbers: np.ndarray) -> Filter:
    """All but some utterances, by their names, as far as a condition may be that long."""
    short = len(numbers) < MAX_CHARACTERS
    where = f"id not in [{', '.join(repr(str(name)) for name in store.ids[numbers])}]" if short else ""
    if short and len(where) <= MAX_CHARACTERS:
        return counted(store, title, where)
    remark = f"{len(numbers):,} utterances; a condition that names them would be longer than one may be."
    return Filter(title=title, where="", remark=remark)


def counted(store: Store, title: str, where: str) -> Filter:
    """The condition, with what it lets in and what not."""
    one = Filter(title=title, where=where)
    try:
        return replace(one, selection=select(store, where))
    except UsageError as error:
        return replace(one, remark=error.message)


def known(found: Appraisal, measure: Measure) -> np.ndarray:
    """Values of the utterances of which it is known."""
    values = found.columns.get(measure.name, np.empty(0))
    return values[np.isfinite(values)]


def worst_lists(found: Appraisal, most: int) -> list[Worst]:
    """Of every measure the ends that are a fault, and pairs that are alike; each at most so long."""
    lists = [
        _extremes(found, measure, name, sign, most)
        for measure in MEASURES
        for name, sign in ((measure.low, 1), (measure.high, -1))
        if name and len(known(found, measure))
    ]
    same = Worst(
        title="Same text",
        count=len(found.same_text),
        remark="Letters and digits alone are compared. It is no fault where several voices read one text.",
        listed=[Listed(number=a, value="same text", twin=b) for a, b in found.same_text[:most].tolist()],
    )
    near = [
        _pairs(title, pairs, remark, most)
        for title, pairs, remark in (
            (
                "Nearly the same text",
                found.near_text,
                f"Among {found.compared:,} texts, by MinHash.",
            ),
            ("Nearly the same sound", found.near_sound, f"Among the {len(found.heard):,} heard, by outline of energy."),
        )
    ]
    return [one for one in (*lists, same, *near) if one.listed]


def _extremes(found: Appraisal, measure: Measure, name: str, sign: int, most: int) -> Worst:
    values = found.columns[measure.name]
    there = np.flatnonzero(np.isfinite(values))
    keys = sign * values[there]
    few = np.argpartition(keys, min(most, len(keys) - 1))[:most]
    chosen = there[few[np.argsort(keys[few], kind="stable")]].tolist()
    shown = [Listed(number=n, value=shown_value(measure, float(values[n]))) for n in chosen]
    return Worst(title=f"{measure.title}: {name}", count=len(there), remark=measure.says, listed=shown)


def _pairs(title: str, pairs: tuple[np.ndarray, np.ndarray], remark: str, most: int) -> Worst:
    shown = zip(pairs[0][:most].tolist(), pairs[1][:most].tolist(), strict=True)
    listed = [Listed(number=b, value=f"{likeness:.0%} alike", twin=a) for (a, b), likeness in shown]
    return Worst(title=title, count=len(pairs[0]), remark=remark, listed=listed)


def shown_value(measure: Measure, value: float) -> str:
    return f"{value * measure.scale:.3g} {measure.unit}".strip()
