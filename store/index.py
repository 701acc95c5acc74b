"""Columns over all parts: lengths, names and where each utterance lies. Derived from the parts and rebuilt at will.

A build takes the index away before it touches a part and writes it again at its end, so an index that is there agrees
with the parts. Without one, a reader derives the same columns in memory.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr

from store import layout
from store.errors import DamagedStore
from store.schema import digest
from store.writer import write_array, write_strings

T = TypeVar("T")

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


def read_seal(root: Path, number: int) -> dict[str, Any]:
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


def read(root: Path) -> Index:
    """The stored index, or one derived from the parts where there is none."""
    if not (root / "index" / "zarr.json").exists():
        return derive(root)
    folder = root / "index"
    try:
        attributes = json.loads((folder / "zarr.json").read_bytes())["attributes"]
        columns, fingerprint = list(attributes["columns"]), str(attributes["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedStore(f"{folder} cannot be read ({error!r}): remove that folder, it is derived.") from error
    return Index(
        parts=read_column(folder / "parts"),
        bounds=read_column(folder / "bounds"),
        columns={name: read_column(folder / name) for name in columns},
        names={name: read_column(folder / name) for name in NAMES},
        fingerprint=fingerprint,
    )


def derive(root: Path) -> Index:
    """The index by reading every part's seal and per-utterance columns."""
    numbers = layout.sealed_parts(root)
    seals = [read_seal(root, number) for number in numbers]
    folders = [layout.part_path(root, number) for number in numbers]
    columns = seals[0]["columns"] if seals else ["frames"]
    return Index(
        parts=np.asarray(numbers, np.int32),
        bounds=layout.offsets(np.asarray([seal["utterances"] for seal in seals], np.int64)),
        columns={name: _joined([read_column(f / name) for f in folders], np.int32) for name in columns},
        names={name: _joined([read_column(f / name) for f in folders], object) for name in NAMES},
        fingerprint=digest(list(zip(numbers, seals, strict=True))),
    )


def read_column(path: Path) -> np.ndarray:
    """A whole per-utterance array: integers as stored, strings as an object array of str.

    Raises:
        DamagedStore: it is not there or cannot be decoded.
    """
    values = load(path, lambda array: np.asarray(array[:]))
    return values if values.dtype.kind in "iu" else values.astype(object)


def load(path: Path, read: Callable[[zarr.Array], T]) -> T:
    """Open the Zarr array at `path` and take from it what `read` takes.

    Raises:
        DamagedStore: it is not there, or what is there cannot be understood.
    """
    try:
        return read(zarr.open_array(path, mode="r"))
    except Exception as error:  # a flipped bit in metadata surfaces in zarr as any type of error
        raise DamagedStore(f"{path} cannot be read ({error}): run store verify.") from error


def write(root: Path, index: Index) -> None:
    """Store the index, atomically."""
    draft = root / "tmp" / f"index-{uuid.uuid4().hex}"
    write_array(draft / "parts", index.parts, "none")
    write_array(draft / "bounds", index.bounds, "none")
    for name, column in index.columns.items():
        write_array(draft / name, column, "none")
    for name, values in index.names.items():
        write_strings(draft / name, values)
    zarr.create_group(draft, attributes={"fingerprint": index.fingerprint, "columns": list(index.columns)})
    drop(root)
    draft.rename(root / "index")


def drop(root: Path) -> None:
    """Take the index away: parts are about to change."""
    shutil.rmtree(root / "index", ignore_errors=True)


def _joined(columns: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(columns) if columns else np.empty(0, dtype)
