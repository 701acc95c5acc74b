"""Reads a store: single utterances without a copy, batches with one copy for each feature.

`array_reader` reads the rows of one array. This module finds, for a whole batch at once, which rows they are: no
Python runs for a frame, and no more than a slice for an utterance.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headrace.store import added_arrays, index, joined_ids, layout, multi_store
from headrace.store.advice import BUILD_AGAIN, command, run_verify
from headrace.store.arrays.array_reader import ArrayReader, MappedArray, OpenArrays, open_array
from headrace.store.arrays.shard import CACHE_BYTES, ChunkCache
from headrace.store.errors import DamagedStore, StoreError
from headrace.store.multi_store import Location, Member
from headrace.store.root_attributes import read_attributes
from headrace.store.schema import Axis, digest
from headrace.store.storage import StoragePath, parse_path, storage_of
from headrace.store.storage.s3 import S3Path


class Spans(NamedTuple):
    """The rows of the utterances of a batch along one axis: (B,) int64 each."""

    numbers: np.ndarray
    """Numbers of the utterances."""
    part: np.ndarray
    """Index of the part, in `Store.parts`."""
    start: np.ndarray
    """First row, in that part's array."""
    stop: np.ndarray
    """One past the last row."""
    lengths: np.ndarray
    """Number of rows."""

    def runs(self) -> list[tuple[int, int]]:
        """Return (start, stop) in the batch of each run of utterances that belong to one part."""
        cuts = (np.flatnonzero(self.part[1:] != self.part[:-1]) + 1).tolist()
        return [(first, last) for first, last in pairwise((0, *cuts, len(self.part))) if first < last]


class Store:
    """A store opened for reading. Utterances are numbered from 0, the shortest first within each part.

    Parts that a build has not sealed yet are ignored; `complete` tells whether there are any.
    """

    def __init__(self, where: Location | Sequence[Location], *, check: bool = False) -> None:
        """Open a store or several, as `headrace.store.open` describes."""
        self.members = [_open_member(path, check) for path in multi_store.store_paths(where)]
        """The stores that are read as this one."""
        self.path = parse_path(where) if isinstance(where, str | os.PathLike | S3Path) else self.members[0].path
        """The store, or the text file with a list of stores; the first store of a sequence."""
        self.attributes = self.members[0].attributes
        """Attributes of the root; those of the first of several stores."""
        self.features = multi_store.shared_features(self.members)
        self.sample_rate: int = self.attributes["sample_rate"]
        """Of `wave`, in Hz."""
        self.hop: int = self.attributes["hop"]
        """Samples per frame."""
        self._check, self._index = check, multi_store.merge_indexes(self.members)
        self._first = layout.offsets(np.array([len(member.index.parts) for member in self.members]))
        """(M + 1,) int64: number of parts in all stores before."""
        self._offsets: dict[Axis, np.ndarray] = {}
        """Axis to (N + 1,) int64: number of rows of all utterances before."""
        self._arrays, self._cache = OpenArrays(), ChunkCache()

    def __len__(self) -> int:
        return int(self._index.bounds[-1])

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} utterances, {self.hours:.2f} h, {', '.join(self.features)})"

    @property
    def complete(self) -> bool:
        """Return whether every part of the build's plan is sealed."""
        return all(len(member.index.parts) == member.attributes["plan"]["parts"] for member in self.members)

    @property
    def progress(self) -> tuple[int, int]:
        """Return how many parts are sealed, and how many the plans of the builds have."""
        return sum(len(member.index.parts) for member in self.members), sum(
            member.attributes["plan"]["parts"] for member in self.members
        )

    def require_complete(self) -> None:
        """Raise StoreError unless every part of the build's plan is sealed."""
        if not self.complete:
            sealed, planned = self.progress
            raise StoreError(f"{self.path} is not complete: {BUILD_AGAIN}. It has {sealed} of {planned} parts.")

    @property
    def fingerprint(self) -> str:
        """Return the digest of all seals. It changes with any byte of the data."""
        return self.fingerprint_of(self.features)

    def fingerprint_of(self, features: Iterable[str]) -> str:
        """Return the digest of the parts' seals, and of the seals of those of these features that were added later.

        It stays the same when other features are added.
        """
        names = list(features)
        prints = [member.fingerprint_of(names) for member in self.members]
        return prints[0] if len(prints) == 1 else digest(prints)

    @property
    def parts(self) -> np.ndarray:
        """Return the numbers of the sealed parts, each within its store: (P,) int32."""
        return self._index.parts

    @property
    def frames(self) -> np.ndarray:
        """Return the number of frames of each utterance: (N,) int32."""
        return self._index.columns["frames"]

    @property
    def phones_n(self) -> np.ndarray:
        """Return the number of phones of each utterance: (N,) int32."""
        return self._index.columns["phones_n"]

    @property
    def hours(self) -> float:
        """Return the hours of audio."""
        return float(self.frames.sum(dtype=np.int64)) * self.hop / self.sample_rate / 3600

    @cached_property
    def ids(self) -> np.ndarray:
        """Return the identity of each utterance: (N,) str. Read on first use, as `speakers` and `languages` are.

        Of several stores that have the same id for different recordings, it begins with the name of the store.
        """
        return self._index.names["id"]

    @property
    def own_ids(self) -> np.ndarray:
        """Return the id of each utterance in its own store: (N,) str. Several stores may have the same ones."""
        return joined_ids.own_ids(self.members)

    @cached_property
    def speakers(self) -> np.ndarray:
        """Return the speaker of each utterance: (N,) str."""
        return self._index.names["speaker"]

    @cached_property
    def languages(self) -> np.ndarray:
        """Return the language of each utterance: (N,) str."""
        return self._index.names["language"]

    @cached_property
    def texts(self) -> np.ndarray:
        """Return the text of each utterance: (N,) str. Read from the parts on first use."""
        return self.per_utterance("text", object)

    def per_utterance(self, name: str, dtype: type) -> np.ndarray:
        """Read an array that has one value for each utterance from all parts: (N,) of `dtype`."""
        return np.concatenate([member.per_utterance(name, dtype, check=self._check) for member in self.members])

    @property
    def column_names(self) -> tuple[str, ...]:
        """Return the names of the per-utterance integers: lengths, and others such as `aligned`, `samples_dropped`."""
        return tuple(self._index.columns)

    def column(self, name: str) -> np.ndarray:
        """Return one of the columns in `column_names`: (N,) int32."""
        return self._index.columns[name]

    def recording_counts(self, name: str) -> np.ndarray:
        """Return what was counted of each recording when it was decoded: (N,) int32. Reads all seals.

        Args:
            name: one of `layout.RECORDING_COUNTS`.
        """
        return np.concatenate([index.recording_counts(m.path, m.index.parts.tolist(), name) for m in self.members])

    def lengths(self, axis: Axis) -> np.ndarray:
        """Return the number of rows of each utterance along an axis: (N,) int32; ones along `utterance`."""
        if axis == "utterance":
            return np.ones(len(self), np.int32)
        name = layout.LENGTH_COLUMNS[axis]
        if name not in self._index.columns and name in self.features:  # added later
            return self.per_utterance(name, np.int32)
        return self._index.columns[name]

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.ids)}

    def find(self, name: str) -> int:
        """Return the number of the utterance with this id.

        Raises:
            StoreError: there is none; the message names the most similar ones.
        """
        if name in self._number_of:
            return self._number_of[name]
        near = difflib.get_close_matches(name, self._number_of, n=3, cutoff=0.3)
        hint = f"the nearest are: {', '.join(near)}" if near else "`store info` lists what is there"
        raise StoreError(f"{self.path} holds no utterance {name!r}; {hint}.")

    def number_of(self, name: str) -> int:
        """Return the number of an utterance that is named by its number, in digits, or by its id.

        Raises:
            StoreError: as in `find`.
        """
        is_number = name.isascii() and name.isdigit() and len(name) < 20 and int(name) < len(self)
        return int(name) if is_number else self.find(name)

    def read(self, feature: str, number: int) -> np.ndarray:
        """Read a feature of one utterance.

        Args:
            feature: a name in `features`.
            number: of the utterance, 0 <= number < len(self).
        Returns:
            (rows, *row_shape) of the feature's dtype; a read-only view of the file if that is mapped.
        """
        offsets, bounds = self._offsets_along(self.features[feature].axis), self._index.bounds
        if not 0 <= number < len(self):
            raise IndexError(f"{self.path} has {len(self)} utterances: there is no number {number}")
        part = int(np.searchsorted(bounds, number, side="right")) - 1
        before = int(offsets[bounds[part]])
        return self._rows(part, feature).read([(int(offsets[number]) - before, int(offsets[number + 1]) - before)])[0]

    def locate(self, axis: Axis, numbers: np.ndarray) -> Spans:
        """Find the rows of utterances along an axis. They are the same for all features of that axis.

        Args:
            numbers: (B,) int, numbers of utterances. If they ascend, files are read in order.
        Raises:
            IndexError: there is no such utterance.
        """
        from headrace.store.arrays import batch_copy  # takes 0.8 s: only batches need it

        numbers = np.ascontiguousarray(numbers, np.int64)
        return Spans(numbers, *batch_copy.locate(numbers, self._index.bounds, self._offsets_along(axis)))

    def read_into(self, feature: str, spans: Spans, out: np.ndarray) -> None:
        """Read a feature of a batch into a buffer.

        Args:
            feature: a name in `features`.
            spans: of the feature's axis, from `locate`.
            out: contiguous, of the feature's dtype. Either (B, L, *row_shape), L no less than the longest length: rows
                past the end of an utterance become zero. Or (sum of lengths, *row_shape), utterance after utterance.
        Raises:
            ValueError: `out` has another shape, dtype or layout.
        """
        from headrace.store.arrays import batch_copy

        spec, padded = self.features[feature], out.ndim - 1 - (self.features[feature].channels is not None)
        row = out.shape[1 + padded :]
        if padded not in (0, 1) or row != spec.row_shape or out.dtype != spec.dtype or not out.flags.c_contiguous:
            raise ValueError(f"a batch of {feature} is contiguous, {spec.dtype}, in rows of {spec.row_shape}")
        sources, keep_alive, size = np.empty_like(spans.part), [], out.itemsize * math.prod(row)
        for first, last in spans.runs():
            rows = self._rows(int(spans.part[first]), feature)
            sources[first:last], memory = rows.addresses(spans.start[first:last], spans.stop[first:last])
            keep_alive.append(memory)
        stride = out.shape[1] * size if padded else -1
        batch_copy.gather(out.reshape(-1).view(np.uint8), sources, spans.lengths * size, stride)

    def view_batch(self, feature: str, spans: Spans) -> np.ndarray | None:
        """Return a batch without copying, if it consists of consecutive utterances of equal length in one mapped array.

        Args:
            feature: a name in `features`.
            spans: of the feature's axis, at least one utterance.
        Returns:
            (B, L, *row_shape), read-only; None if the batch has to be copied.
        """
        _, part, start, stop, lengths = spans
        count, length = len(part), int(lengths[0])
        if stop[-1] - start[0] != count * length or part[0] != part[-1]:  # nearly all other batches fail this test
            return None
        rows = self._rows(int(part[0]), feature)
        scattered = (start[1:] != stop[:-1]).any() or (lengths != length).any() or (part != part[0]).any()
        if scattered or not isinstance(rows, MappedArray):
            return None
        return rows.read([(int(start[0]), int(stop[-1]))])[0].reshape(count, length, *rows.values.shape[1:])

    def prefetch(self, features: Iterable[str], numbers: np.ndarray) -> None:
        """Ask the kernel to read features of utterances from the disk while this process does something else.

        Args:
            numbers: (B,) int, numbers of utterances that will be read soon.
        """
        for feature in features:
            _, part, start, stop, _ = spans = self.locate(self.features[feature].axis, numbers)
            for first, last in spans.runs():
                rows = self._rows(int(part[first]), feature)
                if isinstance(rows, MappedArray):
                    rows.prefetch(start[first:last], stop[first:last])

    @property
    def is_remote(self) -> bool:
        """Whether any of it lies in a bucket."""
        return any(not isinstance(member.path, Path) for member in self.members)

    @property
    def is_mapped(self) -> bool:
        """Whether all features are mapped into memory. If not, they are read by whole chunks."""
        compressed = any(member.attributes.get("compression", "none") != "none" for member in self.members)
        return not self.is_remote and not compressed

    @property
    def read_method(self) -> str:
        """Return how features are read here, and why, for a person."""
        why = "it lies in a bucket" if self.is_remote else "it is compressed"
        if self.is_mapped:
            return "mapped into memory, since it is not compressed and lies on this machine"
        return f"by whole chunks, of which {CACHE_BYTES >> 20} MiB are kept, since {why}"

    def _offsets_along(self, axis: Axis) -> np.ndarray:
        if axis not in self._offsets:
            lengths = self.lengths(axis)
            if len(lengths) and lengths.min() < 0:
                name = layout.LENGTH_COLUMNS[axis]
                raise DamagedStore(
                    f"{self.path} has lengths below zero in {name}: run {command('store verify', self.path)}."
                )
            self._offsets[axis] = layout.offsets(lengths)
        return self._offsets[axis]

    def _rows(self, part: int, feature: str) -> ArrayReader:
        return self._arrays.get((part, feature), lambda: self._open(part, feature))

    def _open(self, part: int, feature: str) -> ArrayReader:
        path = self._folder(part) / feature
        blocks = added_arrays.block_checksums(self._root(part), int(self.parts[part]), feature) if self._check else ()
        rows, spec = open_array(path, self._cache, blocks), self.features[feature]
        offsets, bounds = self._offsets_along(spec.axis), self._index.bounds
        expected = int(offsets[bounds[part + 1]] - offsets[bounds[part]])
        if len(rows) != expected:
            raise DamagedStore(f"{path} has {len(rows)} rows, the lengths say {expected}: {run_verify(path)}.")
        if rows.row_shape != spec.row_shape or rows.dtype != spec.dtype:
            found = f"{rows.dtype} in rows of {rows.row_shape}"
            raise DamagedStore(
                f"{path} is {found}, the root says {spec.dtype} in rows of {spec.row_shape}: {run_verify(path)}."
            )
        return rows

    def _folder(self, part: int) -> StoragePath:
        return layout.part_path(self._root(part), int(self.parts[part]))

    def _root(self, part: int) -> StoragePath:
        """Return the root of the store that a part belongs to."""
        return self.members[int(np.searchsorted(self._first, part, side="right")) - 1].path


def _open_member(path: StoragePath, check: bool) -> Member:
    storage_of(path).check_access(path)
    return Member(path, read_attributes(path), index.read(path, check=check))
