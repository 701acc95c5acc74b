"""What the metadata of an array say, as far as this format uses it.

Read here and not through zarr, which takes 2 ms an array where this takes 0.03: a store of 50,000 parts has half a
million arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.store import layout
from headrace.store.errors import DamagedStore
from headrace.store.storage import StoragePath

BYTES, CRC = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """An array as it is stored: numbers in one shard of several chunks, or strings in one block."""

    shape: tuple[int, ...]
    dtype: np.dtype
    """Of strings, object."""
    chunk_rows: int
    """Rows of an inner chunk; the last one is filled up with zeros."""
    compressed: bool

    @property
    def sharded(self) -> bool:
        """Strings are not."""
        return self.dtype != object

    @property
    def chunks(self) -> int:
        return -(-self.shape[0] // self.chunk_rows)

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:]))

    @property
    def data_file(self) -> str:
        """In the array's folder; there is none where there are no rows."""
        return layout.shard_name(len(self.shape))


def describe(path: StoragePath) -> Array:
    """The metadata of the array in a folder.

    Raises:
        DamagedStore: they are not there, or not those of an array of this format.
    """
    try:
        return _parsed(json.loads((path / "zarr.json").read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedStore(f"{path} has no metadata that can be understood ({error!r}): run store verify.") from error


def _parsed(document: Mapping[str, Any]) -> Array:
    shape = tuple(int(size) for size in document["shape"])
    whole = document["chunk_grid"]["configuration"]["chunk_shape"]
    (codec,) = document["codecs"]
    if document["data_type"] == "string":
        _expect(codec["name"] == "vlen-utf8" and len(shape) == 1 and whole[0] >= shape[0], "strings in one block")
        return Array(shape=shape, dtype=np.dtype(object), chunk_rows=int(whole[0]), compressed=False)
    inner = codec["configuration"]
    rows, *row_shape = inner["chunk_shape"]
    first, *compressors = inner["codecs"]
    _expect(first == BYTES or first == {"name": "bytes"}, "little-endian numbers")
    _expect(not compressors or [each["name"] for each in compressors] == ["zstd"], "no compression, or zstd")
    _expect(inner["index_codecs"] == [BYTES, CRC] and inner["index_location"] == "end", "the index at the end")
    _expect(rows > 0 and whole[0] >= shape[0] and row_shape == list(shape[1:]) == whole[1:], "chunks of whole rows")
    dtype = np.dtype(document["data_type"]).newbyteorder("<")
    return Array(shape=shape, dtype=dtype, chunk_rows=rows, compressed=bool(compressors))


def _expect(found: bool, what: str) -> None:
    if not found:
        raise ValueError(f"expected {what}")
