"""Select the utterances of a store that meet a condition, and count those that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from headrace.store import layout
from headrace.store.conditions import Column, evaluate
from headrace.store.errors import UsageError
from headrace.store.reader import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """A number of utterances and the hours of audio in them."""

    utterances: int
    hours: float

    def __str__(self) -> str:
        length = f"{self.hours:,.2f} h" if self.hours >= 1 else f"{self.hours * 60:.1f} min"
        return f"{self.utterances:,} utterances ({length})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The utterances that meet a condition. Every utterance meets an empty condition."""

    where: str
    mask: np.ndarray
    """(N,) bool: which utterances meet the condition."""
    included: Amount
    excluded: Amount
    reasons: tuple[tuple[str, Amount], ...]
    """Each clause that `and` joins, and the amount that does not meet it. An utterance may fail several clauses."""

    def lines(self) -> list[str]:
        """Return a report for a person: what is in, what is out, and why."""
        if not self.where:
            return []
        return [
            f"where {self.where}: {self.included} in, {self.excluded} out",
            *(f"  not {clause}: {amount}" for clause, amount in self.reasons),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        reasons = [{"clause": clause, **asdict(amount)} for clause, amount in self.reasons]
        return {"where": self.where, "in": asdict(self.included), "out": asdict(self.excluded), "reasons": reasons}


def select(store: Store, where: str) -> Selection:
    """Find the utterances of a store that meet a condition.

    Args:
        where: a condition, as in `headrace.store.conditions`, on the columns of `columns_of`; empty for all utterances.
    Raises:
        UsageError: the condition is not valid, or no utterance meets it.
    """
    found = evaluate(where, columns_of(store), len(store)) if where.strip() else []
    holds = np.logical_and.reduce([np.ones(len(store), bool), *(mask for _, mask in found)])
    reasons = tuple((clause, measure(store, ~mask)) for clause, mask in found)
    if not holds.any():
        raise UsageError(
            f"No utterance of {store.path} meets the condition {where!r}.",
            *(f"not {clause}: {missing}" for clause, missing in reasons),
        )
    return Selection(
        where=where, mask=holds, included=measure(store, holds), excluded=measure(store, ~holds), reasons=reasons
    )


def measure(store: Store, chosen: np.ndarray, times: np.ndarray | None = None) -> Amount:
    """Count utterances and their hours.

    Args:
        chosen: (N,) bool mask, or (M,) int numbers.
        times: (M,) how often each chosen utterance counts; None for once.
    """
    frames = store.frames[chosen].astype(np.float64)
    times = np.ones(len(frames)) if times is None else times
    hours = float(frames @ times) * store.hop / store.sample_rate / 3600
    return Amount(utterances=round(float(times.sum())), hours=round(hours, 6))


def columns_of(store: Store) -> Mapping[str, Column]:
    """Return the columns that a condition may name, each with the function that reads it.

    They are `id`, `speaker`, `language`, `text`, `duration` in seconds, `characters` of the text, `phones`,
    `dead_channels` and `clipped_samples` of the recording, the integers that every part has (`frames`, `aligned`, ...),
    and features with one number for each utterance.
    """
    features = [name for name, spec in store.features.items() if spec.axis == "utterance" and spec.channels is None]
    return {
        **{name: partial(store.recording_counts, name) for name in layout.RECORDING_COUNTS},
        **{name: partial(_read_feature, store, name) for name in features},
        **{name: partial(store.column, name) for name in store.column_names},
        "id": lambda: store.ids,
        "speaker": lambda: store.speakers,
        "language": lambda: store.languages,
        "text": lambda: store.texts,
        "characters": lambda: np.fromiter(map(len, store.texts), np.int64, len(store)),
        "duration": lambda: store.frames * (store.hop / store.sample_rate),
        "phones": lambda: store.phones_n,
    }


def _read_feature(store: Store, name: str) -> np.ndarray:
    return store.per_utterance(name, object).astype(np.float64)
