"""The index of a store: columns over all parts with lengths, names and the part of each utterance.

It is derived from the parts. A build deletes it before it writes a part and writes it again at the end, so an index
that exists agrees with the parts. Without one, a reader derives the same columns in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from headrace.store import layout
from headrace.store.arrays.array_reader import load_array, open_array, verified_block_checksums
from headrace.store.errors import DamagedStore
from headrace.store.integrity import checksummed_metadata
from headrace.store.schema import digest
from headrace.store.storage import StoragePath, storage_of
from headrace.store.writer import UTTERANCES, write_array, write_group, write_strings

NAMES = ("id", "speaker", "language")
_DIMENSIONS = {"parts": ("part",), "bounds": ("bound",)}


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
    seal: dict[str, Any] = checksummed_metadata.read(layout.part_path(root, number) / "zarr.json")["attributes"]["seal"]
    return seal


def read_seals(root: StoragePath, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Read the seals of several parts. Raises DamagedStore as `read_seal` does."""
    return storage_of(root).map(partial(read_seal, root), numbers)


def read(root: StoragePath, *, check: bool = False) -> Index:
    """Read the index, or derive it from the parts if there is none.

    On this machine its columns are mapped: opening takes no time, whatever their size, and all processes share the
    memory.

    Args:
        check: compare the checksums of everything that is read.
    Raises:
        DamagedStore: the index cannot be read, or is not what was written.
    """
    folder = root / "index"
    if not (folder / "zarr.json").exists():
        return derive(root, check=check)
    attributes = checksummed_metadata.read(folder / "zarr.json")["attributes"]
    if "arrays" not in attributes:
        raise DamagedStore(
            f"{folder} was written by another version: delete that folder, it is derived from the parts."
        )
    read_array = partial(_read_array, folder, attributes["arrays"] if check else {})
    columns = list(attributes["columns"])
    names = ["parts", "bounds", *columns]
    arrays = dict(zip(names, storage_of(root).map(read_array, names), strict=True))
    return Index(
        parts=arrays["parts"],
        bounds=arrays["bounds"],
        columns={name: arrays[name] for name in columns},
        names=NameColumns(partial(_read_names, root, attributes, arrays["parts"].tolist(), check)),
        fingerprint=str(attributes["fingerprint"]),
    )


def _read_names(
    root: StoragePath, attributes: Mapping[str, Any], numbers: Sequence[int], check: bool, name: str
) -> np.ndarray:
    """Read a column of names from the index if that still has these attributes, otherwise from the parts.

    A build may have deleted the index since it was opened, or written another one for a store that grew.
    """
    folder = root / "index"
    try:
        unchanged = checksummed_metadata.read(folder / "zarr.json")["attributes"] == attributes
    except DamagedStore:
        unchanged = False
    if unchanged:
        return _read_array(folder, attributes["arrays"] if check else {}, name)
    return read_column(root, numbers, name, object, partial(_block_checksums, root) if check else no_checksums)


def _read_array(folder: StoragePath, checksums: Mapping[str, str], name: str) -> np.ndarray:
    """Read an array of the index, and compare its checksums; no checksums at all check nothing."""
    blocks = verified_block_checksums(folder / name, checksums[name] if checksums else "")
    if name in NAMES:
        return load_array(folder / name, blocks)
    array = open_array(folder / name, checksums=blocks)
    return array.read([(0, len(array))])[0]


def derive(root: StoragePath, *, check: bool = False) -> Index:
    """Make the index from the seals and the per-utterance columns of all parts.

    Args:
        check: compare the checksums of everything that is read.
    """
    numbers = layout.sealed_parts(root)
    seals = read_seals(root, numbers)
    blocks = partial(_block_checksums, root) if check else no_checksums
    columns = seals[0]["columns"] if seals else ["frames"]
    return Index(
        parts=np.asarray(numbers, np.int32),
        bounds=layout.offsets(np.asarray([seal["utterances"] for seal in seals], np.int64)),
        columns={name: read_column(root, numbers, name, np.int32, blocks) for name in columns},
        names=NameColumns(lambda name: read_column(root, numbers, name, object, blocks)),
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
    name: str,
    dtype: type,
    blocks: Callable[[int, str], Sequence[str]] = no_checksums,
) -> np.ndarray:
    """Read an array that has one value for each utterance from several parts, and concatenate it.

    Args:
        blocks: returns, for a part and an array, the checksums of its blocks, which are compared.
    """

    def read_part(number: int) -> np.ndarray:
        return load_array(layout.part_path(root, number) / name, blocks(number, name))

    return np.concatenate([np.empty(0, dtype), *storage_of(root).map(read_part, numbers)], dtype=dtype)


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
    storage_of(root / "index").delete_group(root / "index")
