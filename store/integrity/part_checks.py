"""Checks one part: is every block what was sealed, and are the arrays consistent with one another?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from headrace.store import added_arrays, index, layout
from headrace.store.arrays.array_metadata import read_metadata
from headrace.store.arrays.array_reader import load_array
from headrace.store.errors import DamagedStore
from headrace.store.integrity.checksummed_metadata import crc32c, split_checksums
from headrace.store.integrity.foreign import unnamed_arrays
from headrace.store.integrity.stored_blocks import StoredArray
from headrace.store.schema import FeatureSpec
from headrace.store.storage import StoragePath, read_file

Drop = Literal["", "part", "array", "index", "root", "group", "scan", "rejects"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something in a store that is wrong."""

    what: str
    part: int | None = None
    array: str = ""
    """Name of an array of that part; of all parts if `part` is None."""
    utterances: tuple[str, ...] = ()
    """Identities of the utterances that it affects, as far as that is known."""
    drop: Drop = ""
    """What has to be deleted before it can be made again; empty if making it again would not help."""

    @property
    def where(self) -> str:
        """Return part, array and utterances, for a person."""
        scope = "store" if self.part is None else f"part {self.part:05d}"
        names = self.utterances
        few = (names[0], "to", names[-1]) if len(names) > 1 else names
        return "index" if self.drop == "index" else " ".join(filter(None, (scope, self.array, *few)))


def check_part(
    root: StoragePath, number: int, *, named: Mapping[str, FeatureSpec], quick: bool = False
) -> list[Problem]:
    """Check the checksums of every block of a part, then, if they hold, whether its arrays are consistent.

    Args:
        named: the features that the root names; none if the root cannot be read.
        quick: compare only the sizes of features' data files, without reading them.
    """
    try:
        seal = index.read_seal(root, number)
    except DamagedStore:
        return [Problem(part=number, what="its seal is not there, or not what was written", drop="part")]
    part = _PartCheck(root, number, seal, named, quick)
    damaged = list(part.damage())
    return damaged if any(problem.drop for problem in damaged) else [*damaged, *part.inconsistencies()]


class _PartCheck:
    """The checks of a part whose seal is intact."""

    def __init__(
        self, root: StoragePath, number: int, seal: Mapping[str, Any], named: Mapping[str, FeatureSpec], quick: bool
    ) -> None:
        self._root, self._number, self._seal, self._named, self._quick = root, number, seal, named, quick
        self._folder = layout.part_path(root, number)
        self._small: dict[str, np.ndarray] = {}
        """Per-utterance columns and names, once they are known to be intact."""

    def damage(self) -> Iterator[Problem]:
        """Yield damage of the arrays that the part was sealed with, then of the added ones."""
        checksums, small = self._seal["crc32c"], [*self._seal["columns"], *index.STRINGS]
        found = [problem for name in small for problem in self._check_sealed(name, checksums[name])]
        yield from found
        if not found:
            self._small = {name: load_array(self._folder / name) for name in small}
        for name in checksums:
            if name not in small:
                yield from self._check_sealed(name, checksums[name])
        named = [name for name in self._named if name not in checksums]
        for name in [*named, *unnamed_arrays(self._root, self._number, {*checksums, *named})]:
            yield from self._check_added(name)

    def inconsistencies(self) -> Iterator[Problem]:
        """Yield contradictions between the arrays of a part without damage."""
        small = self._small
        uneven = [name for name in small if len(small[name]) != len(small["id"])]
        if uneven:
            yield self._problem(uneven[0], f"does not have {len(small['id'])} entries")
            return
        counts = {"utterances": len(small["id"]), "frames": int(small["frames"].sum(dtype=np.int64))}
        for key, count in counts.items():
            if self._seal[key] != count:
                yield self._problem("", f"has {count} {key}, its seal says {self._seal[key]}")
        negative = [name for name in layout.LENGTH_COLUMNS.values() if name in small and (small[name] < 0).any()]
        if negative:
            yield self._problem(negative[0], "has lengths below zero")
            return
        if len(set(small["id"])) != len(small["id"]):
            yield self._problem("id", "one identity twice")
        if (np.diff(small["frames"]) < 0).any():
            yield self._problem("frames", "utterances are not in order of length")
        for spec in self._named.values():
            yield from self._check_shape(spec)
        if "phone_frames" in self._seal["features"] and not self._quick:
            yield from self._check_durations()
        if "align" in self._named and not self._quick:
            yield from self._check_times()

    def _problem(self, array: str, what: str, drop: Drop = "", rows: np.ndarray | None = None) -> Problem:
        """Return a problem of an array of this part.

        Args:
            rows: (R,) affected rows of the array, if known: the utterances are found from them.
        """
        spec, utterances = self._named.get(array), ()
        if rows is not None and spec is not None and self._small:
            owners = np.searchsorted(layout.offsets(self._lengths(spec)), rows, side="right") - 1
            ids = self._small["id"]
            utterances = tuple(ids[np.unique(owners[owners < len(ids)])])  # the array may have more rows than it should
        return Problem(part=self._number, array=array, what=what, utterances=utterances, drop=drop)

    def _lengths(self, spec: FeatureSpec) -> np.ndarray:
        """Return the number of rows of each utterance along the axis of a feature: (N,)."""
        if spec.axis == "utterance":
            return np.ones(len(self._small["id"]), np.int64)
        name = layout.LENGTH_COLUMNS[spec.axis]
        return self._small[name] if name in self._small else load_array(self._folder / name)  # that one was added later

    def _check_sealed(self, name: str, checksums: str) -> Iterator[Problem]:
        """Check an array that the part was sealed with."""
        metadata, *expected = split_checksums(checksums)
        try:
            intact = crc32c(read_file(self._folder / name / "zarr.json")) == metadata
        except OSError as error:
            yield self._problem(name, f"cannot be read: {error}", "part")
            return
        if intact:
            yield from self._check_blocks(name, expected, "part")
        else:
            yield self._problem(name, "zarr.json is not what was sealed", "part")

    def _check_added(self, name: str) -> Iterator[Problem]:
        """Check an array that was added later, by its own seal."""
        try:
            seal = added_arrays.verified_seal(self._root, name, self._number)
            digests = added_arrays.input_digests(self._root, self._number, seal["inputs"])
        except DamagedStore as error:
            yield self._problem(name, error.message, "array")
            return
        if seal["inputs"] != digests:
            yield self._problem(name, f"was not made from the {', '.join(seal['inputs'])} that is there", "array")
        if name in self._named:
            yield from self._check_recipe(self._named[name], seal["fingerprint"], "array")
        yield from self._check_blocks(name, split_checksums(seal["crc32c"])[1:], "array")

    def _check_recipe(self, spec: FeatureSpec, found: str, drop: Drop) -> Iterator[Problem]:
        if found != spec.fingerprint:
            yield self._problem(spec.name, f"is {found[:6]}, the store says {spec.fingerprint[:6]}", drop)

    def _check_blocks(self, name: str, expected: Sequence[str], drop: Drop) -> Iterator[Problem]:
        """Check the blocks of an array, and that its numbers are finite."""
        nonfinite = [np.empty(0, np.int64)]
        try:
            stored = StoredArray(self._folder / name, len(expected))
            if self._quick and stored.sharded:
                return
            for number, block in enumerate(stored.blocks()):
                if crc32c(block) != expected[number]:
                    what = f"block {number} is not what was sealed"
                    yield self._problem(name, what, drop, stored.rows_of(number))
                else:
                    nonfinite.append(stored.nonfinite_rows(number, block))
        except (OSError, DamagedStore) as error:
            yield self._problem(name, f"cannot be read: {error}", drop)
            return
        rows = np.concatenate(nonfinite)
        if len(rows):
            yield self._problem(name, f"{len(rows)} rows are not finite", rows=rows)

    def _check_shape(self, spec: FeatureSpec) -> Iterator[Problem]:
        array = read_metadata(self._folder / spec.name)
        expected = (int(self._lengths(spec).sum()), *spec.row_shape)
        if array.shape != expected or array.dtype != spec.dtype:
            found = f"{array.dtype}{array.shape}"
            yield self._problem(spec.name, f"is {found}; lengths and spec say {spec.dtype}{expected}")

    def _check_durations(self) -> Iterator[Problem]:
        """Check that the durations of the phones of an aligned utterance sum to its frames."""
        durations, small = load_array(self._folder / "phone_frames"), self._small
        ends = np.cumsum(small["phones_n"], dtype=np.int64)
        totals = np.diff(np.append(0, durations.cumsum(dtype=np.int64))[np.append(0, ends)])
        expected = np.where(small["aligned"] == 1, small["frames"], 0)
        for wrong in np.flatnonzero(totals != expected):
            what = f"phones cover {totals[wrong]} frames of {expected[wrong]}"
            yield Problem(part=self._number, array="phone_frames", what=what, utterances=(str(small["id"][wrong]),))

    def _check_times(self) -> Iterator[Problem]:
        """Check that the phones in `align` follow one another within their utterance, or are all unknown."""
        (starts, ends), small = load_array(self._folder / "align").T, self._small
        owner = np.repeat(np.arange(len(small["id"])), small["phones_n"])
        first = np.searchsorted(owner, owner)  # first phone of the same utterance
        after = np.where(first == np.arange(len(owner)), -1, np.append(-1, ends)[:-1])
        within = ends <= small["frames"][owner].astype(np.int64) * (self._named["wave"].channels or 1)
        good = (after <= starts) & (starts <= ends) & within & ((starts < 0) == (starts[first] < 0))
        for wrong in np.unique(owner[~good]):
            what = "phones do not follow one another within the utterance"
            yield Problem(part=self._number, array="align", what=what, utterances=(str(small["id"][wrong]),))
