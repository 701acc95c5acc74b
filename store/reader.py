"""Reads a store: names and lengths of all utterances at once, features of any utterance without a copy.

An uncompressed array is mapped into memory, because its shard file begins with its bytes; a compressed one is read
through zarr. Neither needs torch.
"""

from __future__ import annotations

import difflib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from store import index, layout
from store.errors import DamagedStore, NotAStore, StoreError
from store.schema import FeatureSpec


class Store:
    """A store opened for reading. Utterances are numbered from 0, shortest first within each part.

    Parts that a build has not sealed yet are simply not there; `complete` tells.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.attributes = read_attributes(self.path)
        self.sample_rate: int = self.attributes["sample_rate"]
        """Hz, of `wave`."""
        self.hop: int = self.attributes["hop"]
        """Samples per frame."""
        self.features = {spec["name"]: FeatureSpec.from_json(spec) for spec in self.attributes["features"]}
        self._index = index.read(self.path)
        self._rows: dict[tuple[int, str], np.ndarray | zarr.Array] = {}
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
        return self._index.fingerprint

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
        texts = [index.read_column(layout.part_path(self.path, int(number)) / "text") for number in self.parts]
        return np.concatenate([np.empty(0, object), *texts])

    def column(self, name: str) -> np.ndarray:
        """(N,) int32 per-utterance column: a length, or what else the parts say (`aligned`, `samples_dropped`)."""
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
            (rows, *row_shape) of the feature's dtype; a read-only view of the file where it is uncompressed.
        """
        part, start, stop = self._locate(feature, number)
        return np.asarray(self._array(part, feature)[start:stop])

    def gather(self, feature: str, numbers: np.ndarray, out: np.ndarray) -> None:
        """Fill a padded batch.

        Args:
            feature: a name in `features`.
            numbers: (B,) int utterance numbers; ascending ones read the files in order.
            out: (B, L, *row_shape), L no shorter than the longest; rows past an utterance's end become zero.
        """
        for row, number in zip(out, numbers, strict=True):
            part, start, stop = self._locate(feature, int(number))
            length = stop - start
            row[:length] = self._array(part, feature)[start:stop]
            row[length:] = 0

    def _locate(self, feature: str, number: int) -> tuple[int, int, int]:
        """(part, first row, one past the last row) of an utterance's rows in that part's array."""
        bounds = self._index.bounds
        part = int(np.searchsorted(bounds, number, side="right")) - 1
        axis = self.features[feature].axis
        if (part, axis) not in self._offsets:
            self._offsets[part, axis] = layout.offsets(self.lengths(axis)[bounds[part] : bounds[part + 1]])
        offsets, at = self._offsets[part, axis], number - int(bounds[part])
        return part, int(offsets[at]), int(offsets[at + 1])

    def _array(self, part: int, feature: str) -> np.ndarray | zarr.Array:
        key = part, feature
        if key not in self._rows:
            self._rows[key] = open_rows(layout.part_path(self.path, int(self.parts[part])) / feature)
        return self._rows[key]


def read_attributes(path: Path) -> dict[str, Any]:
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


def open_rows(path: Path) -> np.ndarray | zarr.Array:
    """One array of a part: mapped where its bytes lie in the file as they are, else as a zarr array.

    Raises:
        DamagedStore: the array is not there, or its file has not the size its metadata say.
    """
    array = index.load(path, lambda array: array)
    if array.compressors or not array.size:
        return array
    shard = path.joinpath("c", *("0" for _ in array.shape))
    chunks = -(-array.shape[0] // array.chunks[0])
    chunk_bytes = int(np.prod(array.chunks)) * array.dtype.itemsize
    _check_in_order(shard, chunks, chunk_bytes)
    return np.memmap(shard, dtype=array.dtype, mode="r", shape=array.shape)


def _check_in_order(shard: Path, chunks: int, chunk_bytes: int) -> None:
    """Mapping is right only where the inner chunks lie in the file one after the other, as the shard's index says."""
    expected = np.stack((np.arange(chunks) * chunk_bytes, np.full(chunks, chunk_bytes)), axis=1).astype("<u8")
    size = chunks * chunk_bytes + expected.nbytes + 4
    if not shard.exists() or shard.stat().st_size != size:
        raise DamagedStore(f"{shard} is missing or has not its {size} bytes. Run `store verify`.")
    if not np.array_equal(np.fromfile(shard, "<u8", 2 * chunks, offset=chunks * chunk_bytes), expected.ravel()):
        raise DamagedStore(f"{shard} has an index that is not the one it was written with. Run `store verify`.")
