"""Columns over all parts: lengths, names and where each utterance lies. Derived from the parts and rebuilt at will.

A build takes the index away before it touches a part and writes it again at its end, so an index that is there agrees
with the parts. Without one, a reader derives the same columns in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import zarr
from zarr.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from store import layout, place
from store.errors import DamagedStore, HeadraceError
from store.place import Place
from store.schema import digest
from store.writer import write_array, write_group, write_strings

NAMES = ("id", "speaker", "language")


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One row per utterance, parts in order, lengths in order within each."""

    parts: np.ndarray
    """(P,) int32: numbers of the sealed parts, ascending."""
    bounds: np.ndarray
    """(P + 1,) int64: utterances bounds[p]:bounds[p + 1] lie in parts[p]."""
    columns: Mapping[str, np.ndarray]
    """Length columns and other per-utterance integers, (N,) int32 each."""
    names: Mapping[str, np.ndarray]
    """`id`, `speaker`, `language`: (N,) arrays of str."""
    fingerprint: str
    """Digest of all seals: two stores with one fingerprint hold the same data."""


def read_seal(root: Place, number: int) -> dict[str, Any]:
    """The seal of one part.

    Raises:
        DamagedStore: the part's metadata is missing, is not JSON or holds no seal.
    """
    path = layout.part_path(root, number) / "zarr.json"
    try:
        return json.loads(path.read_bytes())["attributes"]["seal"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedStore(
            f"{path} is not the seal of a part ({error!r}): remove that part's folder and run featurize build again."
        ) from error


def read_seals(root: Place, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """The seals of many parts. Raises DamagedStore as `read_seal`."""
    return place.each(root, partial(read_seal, root), numbers)


def read(root: Place) -> Index:
    """The stored index, or one derived from the parts where there is none."""
    folder = root / "index"
    if not (folder / "zarr.json").exists():
        return derive(root)
    try:
        attributes = json.loads((folder / "zarr.json").read_bytes())["attributes"]
        columns, fingerprint = list(attributes["columns"]), str(attributes["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedStore(f"{folder} cannot be read ({error!r}): remove that folder, it is derived.") from error
    names = ["parts", "bounds", *columns, *NAMES]
    arrays = dict(zip(names, place.each(root, lambda name: read_column(folder / name), names), strict=True))
    return Index(
        parts=arrays["parts"],
        bounds=arrays["bounds"],
        columns={name: arrays[name] for name in columns},
        names={name: arrays[name] for name in NAMES},
        fingerprint=fingerprint,
    )


def derive(root: Place) -> Index:
    """The index by reading every part's seal and per-utterance columns."""
    numbers = layout.sealed_parts(root)
    seals = read_seals(root, numbers)
    columns = seals[0]["columns"] if seals else ["frames"]
    return Index(
        parts=np.asarray(numbers, np.int32),
        bounds=layout.offsets(np.asarray([seal["utterances"] for seal in seals], np.int64)),
        columns={name: read_joined(root, numbers, name, np.int32) for name in columns},
        names={name: read_joined(root, numbers, name, object) for name in NAMES},
        fingerprint=digest(list(zip(numbers, seals, strict=True))),
    )


def read_joined(root: Place, numbers: Sequence[int], name: str, dtype: type) -> np.ndarray:
    """A per-utterance array of many parts, one after the other."""
    arrays = place.each(root, lambda number: read_column(layout.part_path(root, number) / name), numbers)
    return np.concatenate([np.empty(0, dtype), *arrays])


def read_column(path: Place) -> np.ndarray:
    """A whole per-utterance array: integers as stored, strings as an object array of str.

    Raises:
        DamagedStore: it is not there or cannot be decoded.
    """
    values = load(path)
    return values if values.dtype.kind in "iu" else values.astype(object)


def load(path: Place) -> np.ndarray:
    """A whole array.

    Raises:
        DamagedStore: it is not there, or what is there cannot be understood.
    """
    with _understood(path):
        return np.asarray(_opened(read_files(path))[:])


def metadata(path: Place) -> zarr.Array:
    """An array without its data: shape, dtype, chunks, compressors. Raises DamagedStore as `load`."""
    with _understood(path):
        return _opened({"zarr.json": (path / "zarr.json").read_bytes()})


def read_files(path: Place) -> dict[str, bytes]:
    """The files of an array by name: its metadata, and its data file where it has any rows."""
    described = (path / "zarr.json").read_bytes()
    shape = json.loads(described)["shape"]
    data = layout.shard_name(len(shape))
    return {"zarr.json": described} | ({data: (path / data).read_bytes()} if shape[0] else {})


def _opened(files: Mapping[str, bytes]) -> zarr.Array:
    memory = MemoryStore({name: Buffer.from_bytes(data) for name, data in files.items()})
    return zarr.open_array(memory, mode="r", zarr_format=3)


@contextmanager
def _understood(path: Place) -> Iterator[None]:
    try:
        yield
    except HeadraceError:
        raise
    except Exception as error:  # a flipped bit in metadata surfaces in zarr as any type of error
        raise DamagedStore(f"{path} cannot be read ({error}): run store verify.") from error


def write(root: Place, index: Index) -> None:
    """Store the index, in the place of the one that is there."""
    drop(root)
    with place.drafted(root, "index") as draft:
        write_array(draft / "parts", index.parts, "none")
        write_array(draft / "bounds", index.bounds, "none")
        for name, column in index.columns.items():
            write_array(draft / name, column, "none")
        for name, values in index.names.items():
            write_strings(draft / name, values)
        write_group(draft, {"fingerprint": index.fingerprint, "columns": list(index.columns)})


def drop(root: Place) -> None:
    """Take the index away: parts are about to change."""
    place.remove(root / "index")
