"""Reads the Zarr v3 metadata of one array, as far as this format uses them.

zarr itself takes 2 ms an array where this takes 0.03 ms, and a store of 50,000 parts has half a million arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.store import json_text, layout
from headrace.store.advice import run_verify
from headrace.store.errors import DamagedStore
from headrace.store.schema import DTYPES
from headrace.store.storage import StoragePath, read_file

BYTES, CRC = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
MAX_CHUNK_BYTES = 1 << 28
"""Largest chunk that is read. Those that are written have about a megabyte."""
MAX_SIZE = 1 << 48
"""What each number of a shape is below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayMetadata:
    """The layout of a stored array: numbers in one shard of several chunks, or strings in one block."""

    shape: tuple[int, ...]
    dtype: np.dtype
    """Little-endian; `object` for strings."""
    chunk_rows: int
    """Rows of an inner chunk. The last chunk is padded with zeros."""
    compressed: bool

    @property
    def sharded(self) -> bool:
        """Return whether the array is one shard of several chunks; strings are not."""
        return self.dtype != object

    @property
    def chunks(self) -> int:
        """Return the number of inner chunks."""
        return -(-self.shape[0] // self.chunk_rows)

    @property
    def row_bytes(self) -> int:
        """Return the size of a row in bytes."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def check_spans(self, spans: Iterable[tuple[int, int]]) -> None:
        """Raise IndexError unless each (start, stop) of `spans` lies within the rows of the array."""
        rows = self.shape[0]
        for start, stop in spans:
            if not 0 <= start <= stop <= rows:
                raise IndexError(f"there are no rows {start} to {stop} in an array of {rows}")

    @property
    def data_file(self) -> str:
        """Return the name of the data file in the array's folder. An array without rows has no such file."""
        return layout.shard_name(len(self.shape))


def read_metadata(path: StoragePath) -> ArrayMetadata:
    """Return the metadata of the array in a folder.

    Raises:
        DamagedStore: they are missing, or not those of an array of this format.
    """
    try:
        return _parse(json_text.parse(read_file(path / "zarr.json")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DamagedStore(f"{path} has no valid array metadata ({str(error)[:200]!r}): {run_verify(path)}.") from error


def _parse(document: Mapping[str, Any]) -> ArrayMetadata:
    shape = _sizes(document["shape"], least=0)
    shard = _sizes(document["chunk_grid"]["configuration"]["chunk_shape"])
    (codec,) = document["codecs"]
    _expect(len(shape) > 0 and 0 not in shape[1:], "rows of at least one number")
    if document["data_type"] == "string":
        _expect(codec["name"] == "vlen-utf8" and len(shape) == 1 and shard[0] >= shape[0], "strings in one block")
        return ArrayMetadata(shape=shape, dtype=np.dtype(object), chunk_rows=shard[0], compressed=False)
    inner = codec["configuration"]
    rows, *row_shape = _sizes(inner["chunk_shape"])
    first, *compressors = inner["codecs"]
    _expect(first == BYTES or first == {"name": "bytes"}, "little-endian numbers")
    _expect(not compressors or [each["name"] for each in compressors] == ["zstd"], "no compression, or zstd")
    _expect(inner["index_codecs"] == [BYTES, CRC] and inner["index_location"] == "end", "the index at the end")
    _expect(shard[0] >= shape[0] and tuple(row_shape) == shape[1:] == shard[1:], "chunks of whole rows")
    _expect(document["data_type"] in DTYPES, f"one of {', '.join(DTYPES)}")
    dtype = np.dtype(document["data_type"]).newbyteorder("<")
    array = ArrayMetadata(shape=shape, dtype=dtype, chunk_rows=rows, compressed=bool(compressors))
    _expect(rows * array.row_bytes <= MAX_CHUNK_BYTES, f"chunks of at most {MAX_CHUNK_BYTES >> 20} MiB")
    return array


def _sizes(values: Any, least: int = 1) -> tuple[int, ...]:
    _expect(isinstance(values, list), "a list of sizes")
    _expect(all(type(size) is int and least <= size < MAX_SIZE for size in values), "whole numbers as sizes")
    return tuple(values)


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"expected {what}")
