"""Reads a store: lengths of all utterances at once, features of any utterance without a copy, batches by one copy.

`store.rows` knows how to get at the rows of one array. Which rows they are is looked up here for a whole batch at once:
no Python per frame, and per utterance no more than a slice.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from store import index, joined, layout, place, sealed, several
from store.errors import DamagedStore, NotAStore, StoreError
from store.place import Place
from store.rows import Mapped, Opened, Rows, open_rows
from store.s3 import S3Path
from store.schema import Axis, digest
from store.several import Member, Where
from store.shard import CACHE_BYTES, ChunkCache


class Store:
    """A store opened for reading. Utterances are numbered from 0, shortest first within each part.

    Parts that a build has not sealed yet are simply not there; `complete` tells.
    """

    def __init__(self, where: Where | Sequence[Where], *, check: bool = False) -> None:
        """As `store.open`."""
        self.members = [_member(path, check) for path in several.places(where)]
        """The stores that are read as this one."""
        self.path = place.at(where) if isinstance(where, str | os.PathLike | S3Path) else self.members[0].path
        """What was opened: a store, or a list of stores; the first of several."""
        self.attributes = self.members[0].attributes
        """Of the root; the first one's of several."""
        self.features = several.shared_features(self.members)
        self.sample_rate: int = self.attributes["sample_rate"]
        """Hz, of `wave`."""
        self.hop: int = self.attributes["hop"]
        """Samples per frame."""
        self._check, self._index = check, several.joined_index(self.members)
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
        ((rows, spans),) = self._spans(feature, *self._locate(feature, np.array([number])))
        return rows.read(spans)[0]

    def gather(self, feature: str, numbers: np.ndarray, out: np.ndarray) -> None:
        """Fill a padded batch.

        Args:
            feature: a name in `features`.
            numbers: (B,) int utterance numbers; ascending ones read the files in order.
            out: (B, L, *row_shape), contiguous, L no shorter than the longest; rows past an utterance's end become
                zero.
        """
        if not out.flags.c_contiguous:
            raise ValueError("a batch to be filled has to be contiguous")
        self.concatenate(feature, numbers, out.reshape(-1, *out.shape[2:]), padded=out.shape[1])

    def concatenate(self, feature: str, numbers: np.ndarray, out: np.ndarray, *, padded: int = 0) -> None:
        """Fill a batch, one utterance after the other.

        By one call into NumPy. Compiled loops over the same pieces were no more than a fifth faster: what remains is
        the memory's latency at the beginning of each.

        Args:
            feature, numbers: as in `gather`.
            out: (sum of lengths, *row_shape).
            padded: fill each utterance up with zeros to so many rows; 0 for none.
        """
        part, start, stop = self._locate(feature, numbers)
        pieces = [piece for rows, spans in self._spans(feature, part, start, stop) for piece in rows.read(spans)]
        if padded:
            tails = (padded - (stop - start)).tolist()
            zeros = np.zeros((max(tails, default=0), *out.shape[1:]), out.dtype)
            both = zip(pieces, tails, strict=True)
            pieces = [some for piece, tail in both for some in ((piece, zeros[:tail]) if tail else (piece,))]
        if pieces:
            np.concatenate(pieces, out=out)

    def view(self, feature: str, numbers: np.ndarray) -> np.ndarray | None:
        """A batch without any copy, where that can be: of utterances of equal length that follow one another in a part
        that is mapped.

        Args:
            feature, numbers: as in `gather`; at least one number.
        Returns:
            (B, L, *row_shape), read-only; or None.
        """
        part, start, stop = self._locate(feature, numbers)
        rows = self._rows(int(part[0]), feature)
        apart = (part != part[0]).any() or (start[1:] != stop[:-1]).any() or np.diff(stop - start).any()
        if apart or not isinstance(rows, Mapped):
            return None
        return rows.read([(int(start[0]), int(stop[-1]))])[0].reshape(len(part), -1, *rows.all.shape[1:])

    def will_need(self, features: Iterable[str], numbers: np.ndarray) -> None:
        """Have the kernel read what these utterances need from the disk, while something else is done.

        Args:
            numbers: (B,) int, of utterances that are read soon.
        """
        for feature in features:
            for rows, spans in self._spans(feature, *self._locate(feature, numbers)):
                if isinstance(rows, Mapped):
                    rows.will_need(spans)

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

    def _locate(self, feature: str, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Part, first row and one past the last, in that part's array, of each utterance: (B,) int64 each."""
        offsets, bounds = self._offsets_along(self.features[feature].axis), self._index.bounds
        part = np.searchsorted(bounds, numbers, side="right") - 1
        before = offsets[bounds[part]]
        return part, offsets[numbers] - before, offsets[numbers + 1] - before

    def _offsets_along(self, axis: Axis) -> np.ndarray:
        if axis not in self._offsets:
            self._offsets[axis] = layout.offsets(self.lengths(axis))
        return self._offsets[axis]

    def _spans(
        self, feature: str, part: np.ndarray, start: np.ndarray, stop: np.ndarray
    ) -> Iterator[tuple[Rows, Sequence[tuple[int, int]]]]:
        """The spans that lie in one part, together with its array; in the order given."""
        spans, cuts = list(zip(start.tolist(), stop.tolist(), strict=True)), np.flatnonzero(part[1:] != part[:-1]) + 1
        for first, last in pairwise((0, *cuts.tolist(), len(part))):
            if first < last:
                yield self._rows(int(part[first]), feature), spans[first:last]

    def _rows(self, part: int, feature: str) -> Rows:
        return self._opened.get((part, feature), lambda: self._open(part, feature))

    def _open(self, part: int, feature: str) -> Rows:
        path = self._folder(part) / feature
        blocks = joined.sealed_blocks(self._root(part), int(self.parts[part]), feature) if self._check else ()
        rows = open_rows(path, self._cache, blocks)
        offsets, bounds = self._offsets_along(self.features[feature].axis), self._index.bounds
        expected = int(offsets[bounds[part + 1]] - offsets[bounds[part]])
        if len(rows) != expected:
            raise DamagedStore(f"{path} has {len(rows)} rows, the lengths say {expected}: run store verify.")
        return rows

    def _folder(self, part: int) -> Place:
        return layout.part_path(self._root(part), int(self.parts[part]))

    def _root(self, part: int) -> Place:
        """Of the store that has this part."""
        return self.members[int(np.searchsorted(self._first, part, side="right")) - 1].path


def _member(path: Place, check: bool) -> Member:
    place.check(path)
    if check:
        sealed.read(path / "zarr.json")
    return Member(path, read_attributes(path), index.read(path, check=check))


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
