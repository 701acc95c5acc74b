"""Reads a store: names and lengths of all utterances at once, features of any utterance without a copy.

An uncompressed array on this machine is mapped into memory, because its shard file begins with its bytes. What is
compressed, or lies in a bucket, is read by byte ranges. Neither needs torch.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from store import index, layout, place
from store.errors import DamagedStore, NotAStore, StoreError
from store.place import Place
from store.schema import FeatureSpec, digest
from store.shard import Shard


class Store:
    """A store opened for reading. Utterances are numbered from 0, shortest first within each part.

    Parts that a build has not sealed yet are simply not there; `complete` tells.
    """

    def __init__(self, path: str | os.PathLike[str] | Place) -> None:
        self.path = place.at(path)
        place.check(self.path)
        self.attributes = read_attributes(self.path)
        self.sample_rate: int = self.attributes["sample_rate"]
        """Hz, of `wave`."""
        self.hop: int = self.attributes["hop"]
        """Samples per frame."""
        self.features = {spec["name"]: FeatureSpec.from_json(spec) for spec in self.attributes["features"]}
        self._index = index.read(self.path)
        self._rows: dict[tuple[int, str], np.ndarray | Shard] = {}
        self._offsets: dict[tuple[int, str], np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._index.bounds[-1])

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} utterances, {self.hours:.2f} h, {', '.join(self.features)})"

    @property
    def complete(self) -> bool:
        """Whether every part of the build's plan is sealed."""
        return len(self._index.parts) == self.attributes["plan"]["parts"]

    @property
    def fingerprint(self) -> str:
        """Digest of every seal: changes with any byte of the data."""
        return self.fingerprint_of(self.features)

    def fingerprint_of(self, features: Iterable[str]) -> str:
        """Digest of the seals of the parts, and of these features where they joined later: stays what it is when
        others join."""
        seals = {spec["name"]: spec["seals"] for spec in self.attributes["features"] if "seals" in spec}
        joined = {name: seals[name] for name in features if name in seals}
        return digest([self._index.fingerprint, joined]) if joined else self._index.fingerprint

    @property
    def parts(self) -> np.ndarray:
        """(P,) int32 numbers of the sealed parts."""
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

    @property
    def ids(self) -> np.ndarray:
        """(N,) str."""
        return self._index.names["id"]

    @property
    def speakers(self) -> np.ndarray:
        """(N,) str."""
        return self._index.names["speaker"]

    @property
    def languages(self) -> np.ndarray:
        """(N,) str."""
        return self._index.names["language"]

    @cached_property
    def texts(self) -> np.ndarray:
        """(N,) str. Read from the parts when first asked for."""
        return index.read_joined(self.path, self.parts.tolist(), "text", object)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Per-utterance columns: lengths, and what else the parts say (`aligned`, `samples_dropped`)."""
        return tuple(self._index.columns)

    def column(self, name: str) -> np.ndarray:
        """(N,) int32 values of one of `column_names`."""
        return self._index.columns[name]

    def lengths(self, axis: str) -> np.ndarray:
        """(N,) int32 rows of each utterance along `frames`, `phones` or `tokens`; ones along `utterance`."""
        if axis == "utterance":
            return np.ones(len(self), np.int32)
        return self._index.columns[layout.LENGTH_COLUMNS[axis]]

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
        part, start, stop = self._locate(feature, number)
        rows = self._array(part, feature)
        return rows.read([(start, stop)])[0] if isinstance(rows, Shard) else rows[start:stop]

    def gather(self, feature: str, numbers: np.ndarray, out: np.ndarray) -> None:
        """Fill a padded batch.

        Args:
            feature: a name in `features`.
            numbers: (B,) int utterance numbers; ascending ones read the files in order.
            out: (B, L, *row_shape), L no shorter than the longest; rows past an utterance's end become zero.
        """
        for row, values in zip(out, self._each(feature, numbers.tolist()), strict=True):
            row[: len(values)] = values
            row[len(values) :] = 0

    def _each(self, feature: str, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """The rows of one utterance after the other. Neighbours in a part that is not mapped come in one request."""
        located = (self._locate(feature, number) for number in numbers)
        for part, spans in groupby(located, key=itemgetter(0)):
            yield from read_spans(self._array(part, feature), [(start, stop) for _, start, stop in spans])

    def _locate(self, feature: str, number: int) -> tuple[int, int, int]:
        """(part, first row, one past the last row) of an utterance's rows in that part's array."""
        bounds = self._index.bounds
        part = int(np.searchsorted(bounds, number, side="right")) - 1
        axis = self.features[feature].axis
        if (part, axis) not in self._offsets:
            self._offsets[part, axis] = layout.offsets(self.lengths(axis)[bounds[part] : bounds[part + 1]])
        offsets, at = self._offsets[part, axis], number - int(bounds[part])
        return part, int(offsets[at]), int(offsets[at + 1])

    def _array(self, part: int, feature: str) -> np.ndarray | Shard:
        key = part, feature
        if key not in self._rows:
            self._rows[key] = open_rows(layout.part_path(self.path, int(self.parts[part])) / feature)
        return self._rows[key]


def read_attributes(path: Place) -> dict[str, Any]:
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


def open_rows(path: Place) -> np.ndarray | Shard:
    """One array of a part: mapped where its bytes lie in a file of this machine as they are, else read as asked for.

    Raises:
        DamagedStore: the array is not there, or its file does not end with the index that it was written with.
    """
    array = index.metadata(path)
    if not array.size:
        return np.empty(array.shape, array.dtype)
    file = path / layout.shard_name(array.ndim)
    shard = Shard(file, array)
    if shard.compressed or not isinstance(file, Path):
        return shard
    try:
        # As a plain array: every slice of a memmap costs a microsecond more.
        return np.asarray(np.memmap(file, dtype=array.dtype, mode="r", shape=array.shape))
    except ValueError as error:
        raise DamagedStore(f"{file} is cut short ({error}): run store verify.") from error


def read_spans(array: np.ndarray | Shard, spans: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """The rows from start to stop of each of `spans`, of what `open_rows` opened."""
    if isinstance(array, Shard):
        yield from array.read(spans)
    else:
        yield from (array[start:stop] for start, stop in spans)
