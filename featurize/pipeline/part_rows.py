"""Collect the features of utterances into the arrays of a part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.featurize.alignment.label_files import source_of
from headrace.store import layout
from headrace.store.schema import FeatureSpec, Reject, Utterance
from headrace.store.writer import Part

COLUMNS = ("frames", "samples_dropped", "phones_n", "aligned")
"""Integer columns of every part; also `tokens_n` if a feature counts tokens."""
STRINGS = ("id", "speaker", "language", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceFeatures:
    """Features of one utterance, and its columns of the part."""

    utterance: Utterance
    arrays: dict[str, np.ndarray]
    columns: dict[str, int]
    recording_counts: Mapping[str, int] = field(default_factory=dict)
    """What was counted of its recording, by names of `layout.RECORDING_COUNTS`; 0 of others."""


class PartRows:
    """The growing arrays of a part.

    Rows that arrive in order of length are not copied again: an hour of waveform is 230 MB.
    """

    def __init__(self, specs: Sequence[FeatureSpec], frames: int) -> None:
        """Allocate the arrays.

        Args:
            frames: initial capacity in frames; the arrays grow beyond it.
        """
        self._specs = specs
        self._rows = {spec.name: _Rows(spec, frames if spec.axis == "frames" else 0) for spec in specs}
        self._utterances: list[Utterance] = []
        self._recording_counts: dict[str, list[int]] = {name: [] for name in layout.RECORDING_COUNTS}
        counted = [layout.LENGTH_COLUMNS[spec.axis] for spec in specs if spec.axis != "utterance"]
        self._columns: dict[str, list[int]] = {name: [] for name in dict.fromkeys((*COLUMNS, *counted))}

    def __len__(self) -> int:
        return len(self._utterances)

    @property
    def frames(self) -> int:
        """Return the number of frames of all utterances."""
        return sum(self._columns["frames"])

    def add(self, sample: UtteranceFeatures) -> None:
        """Append an utterance."""
        for name, rows in self._rows.items():
            rows.append(sample.arrays[name])
        for name, column in self._columns.items():
            column.append(sample.columns[name])
        self._utterances.append(sample.utterance)
        for name, counts in self._recording_counts.items():
            counts.append(sample.recording_counts.get(name, 0))

    def ids_counted(self, name: str) -> list[str]:
        """Return the ids, sorted, of the utterances in whose recordings there is any of what a count is named after."""
        return sorted(u.id for u, count in zip(self._utterances, self._recording_counts[name], strict=True) if count)

    def part(self, number: int, rejects: Sequence[Reject], inputs: str) -> Part:
        """Return the finished part, its utterances in order of length.

        They arrive in the order of the lengths in their headers, which may differ by rounding at other sample rates.
        """
        columns = {name: np.asarray(values, np.int32) for name, values in self._columns.items()}
        order = np.argsort(columns["frames"], kind="stable")
        utterances = [self._utterances[n] for n in order.tolist()]
        return Part(
            number=number,
            specs=self._specs,
            arrays={spec.name: self._rows[spec.name].in_order(order, _lengths(spec, columns)) for spec in self._specs},
            lengths={name: column[order] for name, column in columns.items()},
            strings={name: [getattr(utterance, name) for utterance in utterances] for name in STRINGS},
            rejects=rejects,
            inputs=inputs,
            recording_counts={
                name: [counts[n] for n in order.tolist()] for name, counts in self._recording_counts.items()
            },
            alignments=Counter(
                source_of(utterance.alignment)
                for utterance, aligned in zip(self._utterances, self._columns["aligned"], strict=True)
                if aligned and utterance.alignment
            ),
        )

    def release(self) -> None:
        """Release the memory for the next part of this process. The result of `part` must not be used afterwards."""
        for rows in self._rows.values():
            rows.release()


def _lengths(spec: FeatureSpec, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the number of rows of each utterance, (N,)."""
    return np.ones_like(columns["frames"]) if spec.axis == "utterance" else columns[layout.LENGTH_COLUMNS[spec.axis]]


_SPARE: dict[tuple[str, tuple[int, ...]], list[np.ndarray]] = {}
"""Arrays of parts that are written, by dtype and shape of a row. New memory has to be cleared by the kernel: half a
CPU-second per hour of audio where it finds no large pages."""


class _Rows:
    """An array to which rows are appended."""

    def __init__(self, spec: FeatureSpec, capacity: int) -> None:
        self._spare = _SPARE.setdefault((spec.dtype, spec.row_shape), [])
        self._used = 0
        try:
            self._array = self._spare.pop()
        except IndexError:
            self._array = np.empty((capacity, *spec.row_shape), spec.dtype)  # memory not written to costs nothing

    def release(self) -> None:
        self._spare.append(self._array)

    def append(self, rows: np.ndarray) -> None:
        stop = self._used + len(rows)
        if stop > len(self._array):
            grown = np.empty((2 * stop, *self._array.shape[1:]), self._array.dtype)
            grown[: self._used] = self._array[: self._used]
            self._array = grown
        self._array[self._used : stop] = rows
        self._used = stop

    def in_order(self, order: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return the rows of all utterances, with the utterances in this order."""
        array = self._array[: self._used]
        if (np.diff(order) == 1).all():
            return array
        bounds = layout.offsets(lengths).tolist()
        self._array = np.concatenate([array[bounds[n] : bounds[n + 1]] for n in order.tolist()])
        return self._array  # and the memory in the order of arrival is free: of archives, that is never by length
