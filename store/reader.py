"""Reads a store: lengths of all utterances at once, features of any utterance without a copy, batches by one copy.

`array_rows` knows how to get at the rows of one array. Which rows they are is looked up here for a whole batch at once:
no Python per frame, and per utterance no more than a slice.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headrace.store import added_arrays, index, layout, multi_store
from headrace.store.arrays.array_rows import Mapped, Opened, Rows, open_rows
from headrace.store.arrays.shard import CACHE_BYTES, ChunkCache
from headrace.store.errors import DamagedStore, NotAStore, StoreError
from headrace.store.integrity import checksummed_metadata
from headrace.store.multi_store import Member, Where
from headrace.store.schema import Axis, digest
from headrace.store.storage import StoragePath, parse_path, storage_of
from headrace.store.storage.s3 import S3Path


class Spans(NamedTuple):
    """Where the utterances of a batch lie along one axis: (B,) int64 each."""

    numbers: np.ndarray
    part: np.ndarray
    start: np.ndarray
    """First row, in that part's array."""
    stop: np.ndarray
    """One past the last."""
    lengths: np.ndarray
    """Rows."""

    def runs(self) -> list[tuple[int, int]]:
        """First place and one past the last of those that follow one another in one part."""
        cuts = (np.flatnonzero(self.part[1:] != self.part[:-1]) + 1).tolist()
        return [(first, last) for first, last in pairwise((0, *cuts, len(self.part))) if first < last]


class Store:
    """A store opened for reading. Utterances are numbered from 0, shortest first within each part.

    Parts that a build has not sealed yet are simply not there; `complete` tells.
    """

    def __init__(self, where: Where | Sequence[Where], *, check: bool = False) -> None:
        """As `store.open`."""
        self.members = [_member(path, check) for path in multi_store.places(where)]
        """The stores that are read as this one."""
        self.path = parse_path(where) if isinstance(where, str | os.PathLike | S3Path) else self.members[0].path
        """What was opened: a store, or a list of stores; the first of several."""
        self.attributes = self.members[0].attributes
        """Of the root; the first one's of several."""
        self.features = multi_store.shared_features(self.members)
        self.sample_rate: int = self.attributes["sample_rate"]
        """Hz, of `wave`."""
        self.hop: int = self.attributes["hop"]
        """Samples per frame."""
        self._check, self._index = check, multi_store.joined_index(self.members)
        self._first = layout.offsets(np.array([len(member.index.parts) for member in self.members]))
        """(M + 1,) int64: parts of all stores before."""
        self._offsets: dict[Axis, np.ndarray] = {}
        """Axis to (N + 1,) int64: rows of all utterances before."""
        self._opened, self._cache = Opened(), ChunkCache()

    def __len__(self) -> int:
        return int(self._index.bounds[-1])

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} utterances, {self.hours:.2f} h, {', '.join(self.features)})"

    @property
    def complete(self) -> bool:
        """Whether every part of the build's plan is sealed."""
        return all(len(member.index.parts) == member.attributes["plan"]["parts"] for member in self.members)

    @property
    def fingerprint(self) -> str:
        """Digest of every seal: changes with any byte of the data."""
        return self.fingerprint_of(self.features)

    def fingerprint_of(self, features: Iterable[str]) -> str:
        """Digest of the seals of the parts, and of these features where they joined later: stays what it is when
        others join."""
        names = list(features)
        prints = [member.fingerprint_of(names) for member in self.members]
        return prints[0] if len(prints) == 1 else digest(prints)

    @property
    def parts(self) -> np.ndarray:
        """(P,) int32 numbers of the sealed parts, each in its store."""
        return self._index.parts

    @property
    def frames(self) -> np.ndarray:
        """(N,) int32 frames of each utterance."""
        return self._index.columns["frames"]

    @property
    def phones_n(self) -> np.ndarray:
        """(N,) int32 phones of each utterance."""
        return self._index.columns["phones_n"]

    @property
    def hours(self) -> float:
        """Of audio."""
        return float(self.frames.sum(dtype=np.int64)) * self.hop / self.sample_rate / 3600

    @cached_property
    def ids(self) -> np.ndarray:
        """(N,) str. Read when first asked for, as `speakers` and `languages` are."""
        return self._index.names["id"]

    @cached_property
    def speakers(self) -> np.ndarray:
        """(N,) str."""
        return self._index.names["speaker"]

    @cached_property
    def languages(self) -> np.ndarray:
        """(N,) str."""
        return self._index.names["language"]

    @cached_property
    def texts(self) -> np.ndarray:
        """(N,) str. Read from the parts when first asked for."""
        return self.per_utterance("text", object)

    def per_utterance(self, name: str, dtype: type) -> np.ndarray:
        """(N,) values of an array that has one for each utterance, read from the parts."""
        return np.concatenate([member.per_utterance(name, dtype, check=self._check) for member in self.members])

    @property
    def column_names(self) -> tuple[str, ...]:
        """Per-utterance columns: lengths, and what else the parts say (`aligned`, `samples_dropped`)."""
        return tuple(self._index.columns)

    def column(self, name: str) -> np.ndarray:
        """(N,) int32 values of one of `column_names`."""
        return self._index.columns[name]

    def lengths(self, axis: Axis) -> np.ndarray:
        """(N,) int32 rows of each utterance along `frames`, `phones` or `tokens`; ones along `utterance`."""
        if axis == "utterance":
            return np.ones(len(self), np.int32)
        name = layout.LENGTH_COLUMNS[axis]
        if name not in self._index.columns and name in self.features:  # it joined later
            return self.per_utterance(name, np.int32)
        return self._index.columns[name]

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.ids)}

    def find(self, name: str) -> int:
        """The number of the utterance with this id.

        Raises:
            StoreError: there is none; the message names the nearest ones.
        """
        if name in self._number_of:
            return self._number_of[name]
        near = difflib.get_close_matches(name, self._number_of, n=3, cutoff=0.3)
        hint = f"the nearest are: {', '.join(near)}" if near else "`store info` lists what is there"
        raise StoreError(f"{self.path} holds no utterance {name!r}; {hint}.")

    def read(self, feature: str, number: int) -> np.ndarray:
        """One utterance's rows of a feature.

        Args:
            feature: a name in `features`.
            number: of the utterance, 0 <= number < len(self).
        Returns:
            (rows, *row_shape) of the feature's dtype; a read-only view of the file where it can be mapped.
        """
        offsets, bounds = self._offsets_along(self.features[feature].axis), self._index.bounds
        if not 0 <= number < len(self):
            raise IndexError(f"{self.path} has {len(self)} utterances: there is no number {number}")
        part = int(np.searchsorted(bounds, number, side="right")) - 1
        before = int(offsets[bounds[part]])
        return self._rows(part, feature).read([(int(offsets[number]) - before, int(offsets[number + 1]) - before)])[0]

    def locate(self, axis: Axis, numbers: np.ndarray) -> Spans:
        """Where utterances lie along an axis, for all its features.

        Args:
            numbers: (B,) int utterance numbers; ascending ones read the files in order.
        Raises:
            IndexError: there is no such utterance.
        """
        from headrace.store.arrays import batch_copy  # takes 0.8 s: who reads single utterances must not pay for it

        numbers = np.ascontiguousarray(numbers, np.int64)
        return Spans(numbers, *batch_copy.locate(numbers, self._index.bounds, self._offsets_along(axis)))

    def fill(self, feature: str, spans: Spans, out: np.ndarray) -> None:
        """Copy a feature of a batch into a buffer.

        Args:
            feature: a name in `features`.
            spans: of its axis.
            out: of the feature's dtype, contiguous. (B, L, *row_shape), L no shorter than the longest: rows past an
                utterance's end become zero. Or (sum of lengths, *row_shape): one utterance after the other.
        Raises:
            ValueError: `out` is something else.
        """
        from headrace.store.arrays import batch_copy

        spec, padded = self.features[feature], out.ndim - 1 - (self.features[feature].channels is not None)
        row = out.shape[1 + padded :]
        if padded not in (0, 1) or row != spec.row_shape or out.dtype != spec.dtype or not out.flags.c_contiguous:
            raise ValueError(f"a batch of {feature} is contiguous, {spec.dtype}, in rows of {spec.row_shape}")
        sources, kept, size = np.empty_like(spans.part), [], out.itemsize * math.prod(row)
        for first, last in spans.runs():
            rows = self._rows(int(spans.part[first]), feature)
            sources[first:last], memory = rows.find(spans.start[first:last], spans.stop[first:last])
            kept.append(memory)
        stride = out.shape[1] * size if padded else -1
        batch_copy.fill(out.reshape(-1).view(np.uint8), sources, spans.lengths * size, stride)

    def view(self, feature: str, spans: Spans) -> np.ndarray | None:
        """A batch without any copy, where that can be: of utterances of equal length that follow one another in a part
        that is mapped.

        Args:
            feature: a name in `features`.
            spans: of its axis, at least one.
        Returns:
            (B, L, *row_shape), read-only; or None.
        """
        _, part, start, stop, lengths = spans
        count, length = len(part), int(lengths[0])
        if stop[-1] - start[0] != count * length or part[0] != part[-1]:  # what nearly all others fail
            return None
        rows = self._rows(int(part[0]), feature)
        apart = (start[1:] != stop[:-1]).any() or (lengths != length).any() or (part != part[0]).any()
        if apart or not isinstance(rows, Mapped):
            return None
        return rows.read([(int(start[0]), int(stop[-1]))])[0].reshape(count, length, *rows.all.shape[1:])

    def will_need(self, features: Iterable[str], numbers: np.ndarray) -> None:
        """Have the kernel read what these utterances need from the disk, while something else is done.

        Args:
            numbers: (B,) int, of utterances that are read soon.
        """
        for feature in features:
            _, part, start, stop, _ = spans = self.locate(self.features[feature].axis, numbers)
            for first, last in spans.runs():
                rows = self._rows(int(part[first]), feature)
                if isinstance(rows, Mapped):
                    rows.will_need(start[first:last], stop[first:last])

    @property
    def reading(self) -> str:
        """How features are read here, and why."""
        if any(not isinstance(member.path, Path) for member in self.members):
            why = "it lies in a bucket"
        elif any(member.attributes.get("compression", "none") != "none" for member in self.members):
            why = "it is compressed"
        else:
            return "mapped into memory, since it is not compressed and lies on this machine"
        return f"by whole chunks, of which {CACHE_BYTES >> 20} MiB are kept, since {why}"

    def _offsets_along(self, axis: Axis) -> np.ndarray:
        if axis not in self._offsets:
            self._offsets[axis] = layout.offsets(self.lengths(axis))
        return self._offsets[axis]

    def _rows(self, part: int, feature: str) -> Rows:
        return self._opened.get((part, feature), lambda: self._open(part, feature))

    def _open(self, part: int, feature: str) -> Rows:
        path = self._folder(part) / feature
        blocks = added_arrays.sealed_blocks(self._root(part), int(self.parts[part]), feature) if self._check else ()
        rows = open_rows(path, self._cache, blocks)
        offsets, bounds = self._offsets_along(self.features[feature].axis), self._index.bounds
        expected = int(offsets[bounds[part + 1]] - offsets[bounds[part]])
        if len(rows) != expected:
            raise DamagedStore(f"{path} has {len(rows)} rows, the lengths say {expected}: run store verify.")
        return rows

    def _folder(self, part: int) -> StoragePath:
        return layout.part_path(self._root(part), int(self.parts[part]))

    def _root(self, part: int) -> StoragePath:
        """Of the store that has this part."""
        return self.members[int(np.searchsorted(self._first, part, side="right")) - 1].path


def _member(path: StoragePath, check: bool) -> Member:
    storage_of(path).check_access(path)
    if check:
        checksummed_metadata.read(path / "zarr.json")
    return Member(path, read_attributes(path), index.read(path, check=check))


def read_attributes(path: StoragePath) -> dict[str, Any]:
    """The root attributes of a store.

    Raises:
        NotAStore: there is no store of this format.
    """
    try:
        attributes = json.loads((path / "zarr.json").read_bytes())["attributes"]
        found = attributes["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise NotAStore(f"{path} is not a Headrace store: make one with featurize build CORPUS --out {path}.") from None
    if found != layout.FORMAT:
        raise NotAStore(f"{path} has format {found!r}, this version reads {layout.FORMAT!r}: build it anew.")
    return attributes
