"""The index of a store: columns over all parts with lengths, names and the part of each utterance.

It is derived from the parts. A build deletes it before it writes a part and writes it again at the end, so an index
that exists agrees with the parts. Without one, a reader derives the same columns in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from headrace.store import layout
from headrace.store.advice import command, run_repair, run_verify
from headrace.store.arrays.array_metadata import read_metadata
from headrace.store.arrays.array_reader import load_array, verified_block_checksums
from headrace.store.errors import DamagedStore
from headrace.store.integrity import checksummed_metadata
from headrace.store.names import check_names
from headrace.store.schema import Reject, digest
from headrace.store.storage import StoragePath, storage_of
from headrace.store.writer import UTTERANCES, write_array, write_group, write_strings

NAMES = ("id", "speaker", "language")
COLUMNS = ("frames", "phones_n", "aligned")
"""Columns of integers that every part has."""
_DIMENSIONS = {"parts": ("part",), "bounds": ("bound",)}


STRINGS = (*NAMES, "text")
"""Arrays of a part that hold a string for each utterance."""


class LazyColumns(Mapping[str, np.ndarray]):
    """Columns of integers over all utterances: (N,) int32 each, read on first access and kept."""

    def __init__(self, names: Iterable[str], read: Callable[[str], np.ndarray]) -> None:
        self._names, self._read = tuple(names), read
        self._found: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._found:
            self._found[name] = self._read(name)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class NameColumns(Mapping[str, np.ndarray]):
    """`id`, `speaker` and `language`: (N,) object arrays of str, each read on access.

    For ten million utterances they take gigabytes, and reading batches needs none of them.
    """

    def __init__(self, read: Callable[[str], np.ndarray]) -> None:
        self._read = read

    def __getitem__(self, name: str) -> np.ndarray:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One row for each utterance, by part, and within a part by length."""

    parts: np.ndarray
    """(P,) int32, numbers of the sealed parts, ascending."""
    bounds: np.ndarray
    """(P + 1,) int64: parts[p] holds the utterances bounds[p]:bounds[p + 1]."""
    columns: Mapping[str, np.ndarray]
    """Lengths and other integers of the utterances, (N,) int32 each."""
    names: NameColumns
    fingerprint: str
    """Digest of all seals: stores with the same fingerprint hold the same data."""


def read_seal(root: StoragePath, number: int) -> dict[str, Any]:
    """Read the seal of a part: its counts, rejects, and the checksums of its arrays.

    Raises:
        DamagedStore: the part's metadata are missing, or not what was written.
    """
    file = layout.part_path(root, number) / "zarr.json"
    try:
        seal: dict[str, Any] = checksummed_metadata.read(file)["attributes"]["seal"]
        _check_seal(seal)
        check_names([*seal["crc32c"], *seal["columns"], *seal["features"]], file)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedStore(f"{file} is not the seal of a part ({str(error)[:100]}): {run_repair(file)}.") from error
    return seal


def _check_seal(seal: Mapping[str, Any]) -> None:
    """Raise ValueError, or what a missing key or a wrong type raises, unless this is a seal."""
    counts, checksums, columns = (seal["utterances"], seal["frames"]), seal["crc32c"], seal["columns"]
    strings = [seal["inputs"], *checksums.values(), *columns, *seal["features"].values()]
    for reject in seal["rejects"]:
        Reject.from_json(reject)
    if not all(type(count) is int and 0 <= count < 1 << 48 for count in counts):
        raise ValueError("its counts are not whole numbers")
    for name in layout.RECORDING_COUNTS:
        found = seal.get(name, [])
        if not isinstance(found, list) or len(found) not in (0, seal["utterances"]):
            raise ValueError(f"its {name} are not those of its utterances")
        if not all(type(count) is int and 0 <= count < 1 << 31 for count in found):
            raise ValueError(f"its {name} are not whole numbers")
    if not all(isinstance(text, str) for text in strings):
        raise ValueError("it holds something else than text")
    if not {*COLUMNS} <= {*columns} or not checksums.keys() >= {*columns, *STRINGS, *seal["features"]}:
        raise ValueError("checksums are missing")


def recording_counts(root: StoragePath, numbers: Sequence[int], name: str) -> np.ndarray:
    """Return what was counted of each recording of some parts: (N,) int32, 0 where it was not.

    Args:
        name: one of `layout.RECORDING_COUNTS`.
    """
    counts = [
        np.asarray(seal.get(name) or np.zeros(seal["utterances"]), np.int32) for seal in read_seals(root, numbers)
    ]
    return np.concatenate([np.empty(0, np.int32), *counts])


def read_seals(root: StoragePath, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Read the seals of several parts. Raises DamagedStore as `read_seal` does."""
    return storage_of(root).map(partial(read_seal, root), numbers)


def read(root: StoragePath, *, check: bool = False) -> Index:
    """Read the index, or derive it from the parts if there is none.

    Everything that is read of the index is compared with the checksums of the index: parts and bounds at once, columns
    and names when they are first used. So opening takes milliseconds, whatever the number of utterances.

    Args:
        check: if the index is derived, compare the checksums of what it is derived from.
    Raises:
        DamagedStore: the index is not what was written, or does not agree with itself or the seals of the parts.
    """
    before: dict[str, Any] | None = None
    while (root / "index" / "zarr.json").exists():
        attributes: dict[str, Any] | None = None
        try:
            attributes = checksummed_metadata.read(root / "index" / "zarr.json")["attributes"]
            return _read(root, attributes, check)
        except DamagedStore:
            gone = not (root / "index" / "zarr.json").exists()
            if not gone and attributes == before:
                raise
            before = attributes  # a build may have replaced the index meanwhile
    return derive(root, check=check)


def _remedy(root: StoragePath) -> str:
    return f"run {command('store repair', root)}, which derives the index again"


def _read(root: StoragePath, attributes: Mapping[str, Any], check: bool) -> Index:
    folder = root / "index"
    if "arrays" not in attributes:
        raise DamagedStore(
            f"{folder} was written by another version: delete that folder, it is derived from the parts."
        )
    try:
        columns, checksums = list(attributes["columns"]), attributes["arrays"]
        check_names([*columns, *checksums], folder / "zarr.json")
        names = {"parts", "bounds", *columns, *NAMES}
        if not names <= checksums.keys() or not all(isinstance(checksums[name], str) for name in names):
            raise ValueError("checksums are missing")
        fingerprint = str(attributes["fingerprint"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedStore(
            f"{folder / 'zarr.json'} is not that of an index ({error}): {_remedy(folder.parent)}."
        ) from error
    parts, bounds = storage_of(root).map(partial(_read_array, folder, checksums), ["parts", "bounds"])
    _check_bounds(folder, parts, bounds)
    shapes = storage_of(root).map(lambda name: read_metadata(folder / name), columns)
    for name, array in zip(columns, shapes, strict=True):
        if array.shape != (bounds[-1],) or array.dtype != np.int32:
            found = f"{array.dtype}{array.shape}"
            raise DamagedStore(
                f"{folder / name} is {found}, index/bounds says int32{(int(bounds[-1]),)}: {_remedy(folder.parent)}."
            )
    _check_ends(root, parts, bounds, columns)
    read_later = partial(_read_later, root, attributes, parts.tolist(), np.diff(bounds), check)
    return Index(
        parts=parts,
        bounds=bounds,
        columns=LazyColumns(columns, partial(read_later, np.int32)),
        names=NameColumns(partial(read_later, object)),
        fingerprint=fingerprint,
    )


def _check_bounds(folder: StoragePath, parts: np.ndarray, bounds: np.ndarray) -> None:
    """Raise DamagedStore unless parts ascend and bounds count their utterances from 0."""
    sound = (
        parts.dtype == np.int32
        and bounds.dtype == np.int64
        and parts.ndim == bounds.ndim == 1
        and len(bounds) == len(parts) + 1
        and bounds[0] == 0
        and bool((np.diff(bounds) >= 0).all())
        and bool((np.diff(parts, prepend=-1) > 0).all())
    )
    if not sound:
        raise DamagedStore(
            f"{folder / 'bounds'} does not say which utterances belong to {len(parts)} parts: {_remedy(folder.parent)}."
        )


def _check_ends(root: StoragePath, parts: np.ndarray, bounds: np.ndarray, columns: Sequence[str]) -> None:
    """Compare the seals of the first and the last part with the index: those of all parts would take seconds."""
    ends = sorted({0, len(parts) - 1}) if len(parts) else []
    for part, seal in zip(ends, read_seals(root, [int(parts[part]) for part in ends]), strict=True):
        count = int(bounds[part + 1] - bounds[part])
        if seal["utterances"] != count:
            what = (
                f"{root / 'index'} has {count} utterances of part {parts[part]:05d}, its seal has {seal['utterances']}"
            )
            raise DamagedStore(f"{what}: {_remedy(root)}.")
        if seal["columns"] != columns:
            raise DamagedStore(f"{root / 'index'} has other columns than part {parts[part]:05d}: {_remedy(root)}.")


def _read_later(
    root: StoragePath,
    attributes: Mapping[str, Any],
    numbers: Sequence[int],
    counts: np.ndarray,
    check: bool,
    dtype: type,
    name: str,
) -> np.ndarray:
    """Read a column from the index if that still has these attributes, otherwise from the parts.

    A build may have deleted the index since it was opened, or written another one for a store that grew.
    """
    folder = root / "index"

    def unchanged() -> bool:
        try:
            return bool(checksummed_metadata.read(folder / "zarr.json")["attributes"] == attributes)
        except DamagedStore:
            return False

    if unchanged():
        try:
            values = _read_array(folder, attributes["arrays"], name)
            if values.shape != (counts.sum(),) or values.dtype != dtype:
                raise DamagedStore(
                    f"{folder / name} has {len(values)} values, the parts {counts.sum()}: {_remedy(folder.parent)}."
                )
            return values
        except DamagedStore:
            if unchanged():
                raise
    blocks = partial(_block_checksums, root) if check else no_checksums
    return read_column(root, numbers, counts, name, dtype, blocks)


def _read_array(folder: StoragePath, checksums: Mapping[str, str], name: str) -> np.ndarray:
    """Read an array of the index, and compare its checksums."""
    return load_array(folder / name, verified_block_checksums(folder / name, checksums[name]))


def derive(root: StoragePath, *, check: bool = False) -> Index:
    """Make the index from the seals and the per-utterance columns of all parts.

    Args:
        check: compare the checksums of everything that is read.
    Raises:
        DamagedStore: something cannot be read, or a part's arrays do not agree with its seal.
    """
    numbers = layout.sealed_parts(root)
    seals = read_seals(root, numbers)
    blocks = partial(_block_checksums, root) if check else no_checksums
    columns = seals[0]["columns"] if seals else ["frames"]
    if any(seal["columns"] != columns for seal in seals):
        raise DamagedStore(f"the parts of {root} have different columns: run {command('store verify', root)}.")
    counts = np.asarray([seal["utterances"] for seal in seals], np.int64)
    bounds = layout.offsets(counts)
    found = {name: read_column(root, numbers, counts, name, np.int32, blocks) for name in columns}
    sums = np.diff(layout.offsets(found["frames"])[bounds])
    for number, seal, frames in zip(numbers, seals, sums.tolist(), strict=True):
        if seal["frames"] != frames:
            folder = layout.part_path(root, number)
            raise DamagedStore(
                f"{folder} has {frames} frames, its seal says {seal['frames']}: run {command('store verify', root)}."
            )
    return Index(
        parts=np.asarray(numbers, np.int32),
        bounds=bounds,
        columns=found,
        names=NameColumns(lambda name: read_column(root, numbers, counts, name, object, blocks)),
        fingerprint=fingerprint(numbers, seals),
    )


def _block_checksums(root: StoragePath, number: int, name: str) -> Sequence[str]:
    """Return the checksums of the blocks of an array that a part was sealed with."""
    return verified_block_checksums(layout.part_path(root, number) / name, read_seal(root, number)["crc32c"][name])


def fingerprint(numbers: Sequence[int], seals: Sequence[Mapping[str, Any]]) -> str:
    """Return the digest of the seals of some parts."""
    return digest(list(zip(numbers, seals, strict=True)))


def no_checksums(number: int, name: str) -> Sequence[str]:
    """Return no checksums, so that nothing is compared."""
    return ()


def read_column(
    root: StoragePath,
    numbers: Sequence[int],
    counts: np.ndarray,
    name: str,
    dtype: type,
    blocks: Callable[[int, str], Sequence[str]] = no_checksums,
) -> np.ndarray:
    """Read an array that has one value for each utterance from several parts, and concatenate it.

    Args:
        numbers: of the parts.
        counts: (P,) utterances of each part.
        blocks: returns, for a part and an array, the checksums of its blocks, which are compared.
    Raises:
        DamagedStore: a part does not have one value of this kind for each of its utterances.
    """

    def read_part(number: int, count: int) -> np.ndarray:
        folder = layout.part_path(root, number) / name
        values = load_array(folder, blocks(number, name))
        if values.shape != (count,):
            raise DamagedStore(f"{folder} has {len(values)} values for {count} utterances: {run_verify(folder)}.")
        if (values.dtype == object) != (name in STRINGS) or not np.can_cast(values.dtype, dtype, "same_kind"):
            raise DamagedStore(f"{folder} holds {values.dtype}, which {name} never is: {run_verify(folder)}.")
        return values

    pairs = list(zip(numbers, counts.tolist(), strict=True))
    read = storage_of(root).map(lambda pair: read_part(*pair), pairs)
    return np.concatenate([np.empty(0, dtype), *read], dtype=dtype)


def write(root: StoragePath, index: Index) -> None:
    """Write the index, replacing the one that is there."""
    delete(root)
    with storage_of(root).atomic_folder(root, "index") as draft:
        numbers = {"parts": index.parts, "bounds": index.bounds, **index.columns}
        checksums = {
            name: write_array(draft / name, column, "none", _DIMENSIONS.get(name, UTTERANCES))
            for name, column in numbers.items()
        }
        checksums |= {name: write_strings(draft / name, index.names[name]) for name in NAMES}
        attributes = {"fingerprint": index.fingerprint, "columns": list(index.columns), "arrays": checksums}
        write_group(draft, attributes)


def delete(root: StoragePath) -> None:
    """Delete the index, because parts are about to change."""
    storage_of(root).delete_folder(root, "index")
