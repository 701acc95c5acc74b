"""One array's shard file, read by byte ranges: for arrays that are compressed, or lie in a bucket."""

from __future__ import annotations

from collections.abc import Sequence

import google_crc32c
import numcodecs
import numpy as np
import zarr

from store import place
from store.errors import DamagedStore
from store.place import Place


class Shard:
    """The rows of one array of a part."""

    def __init__(self, file: Place, array: zarr.Array) -> None:
        """
        Args:
            file: the shard.
            array: its metadata; uncompressed or zstd, of at least one row.
        Raises:
            DamagedStore: there is no such file, or it does not end with its index.
        """
        self.compressed = bool(array.compressors)
        self._file, self._dtype, self._row_shape = file, array.dtype, array.shape[1:]
        self._chunk_rows = array.chunks[0]
        chunk_bytes = int(np.prod(array.chunks)) * array.dtype.itemsize
        self._row_bytes = chunk_bytes // self._chunk_rows
        self._chunks = read_index(file, -(-array.shape[0] // self._chunk_rows))
        in_order = np.arange(len(self._chunks)) * chunk_bytes
        if not self.compressed and not (self._chunks == np.stack((in_order, in_order + chunk_bytes), axis=1)).all():
            raise DamagedStore(f"{file} has another index than it was written with: run store verify.")

    def read(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The rows from start to stop of each of `spans`, read-only. Spans that are neighbours come in one request."""
        return self._decoded(spans) if self.compressed else self._as_stored(spans)

    def _as_stored(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        size = self._row_bytes
        return [self._rows(b) for b in place.read_ranges(self._file, [(size * a, size * z) for a, z in spans])]

    def _decoded(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """By the chunks that hold them, each read and decoded once."""
        count = self._chunk_rows
        wanted = sorted({chunk for start, stop in spans for chunk in range(start // count, -(-stop // count))})
        stored = place.read_ranges(self._file, [tuple(self._chunks[chunk].tolist()) for chunk in wanted])
        rows = {chunk: self._rows(self._decompressed(data)) for chunk, data in zip(wanted, stored, strict=True)}

        def span(start: int, stop: int) -> np.ndarray:
            first, last = start // count, -(-stop // count)
            pieces = [rows[chunk] for chunk in range(first, last)] or [self._rows(b"")]
            joined = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            return joined[start - first * count : stop - first * count]

        return [span(start, stop) for start, stop in spans]

    def _decompressed(self, data: bytes) -> bytes:
        try:
            return numcodecs.Zstd().decode(data)
        except RuntimeError as error:
            raise DamagedStore(f"{self._file} cannot be decoded ({error}): run store verify.") from error

    def _rows(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, self._dtype).reshape(-1, *self._row_shape)


def read_index(file: Place, count: int) -> np.ndarray:
    """Where the `count` inner chunks of a shard lie: (count, 2) int64, first byte and one past the last.

    Raises:
        DamagedStore: there is no such file, or it does not end with an index.
    """
    try:
        tail = place.read_tail(file, 16 * count + 4)
    except FileNotFoundError:
        raise DamagedStore(f"{file} is not there: run store verify.") from None
    table = tail[:-4]
    if len(table) != 16 * count or google_crc32c.value(table).to_bytes(4, "little") != tail[-4:]:
        raise DamagedStore(f"{file} does not end with its index: run store verify.")
    return np.cumsum(np.frombuffer(table, "<u8").reshape(-1, 2), axis=1).astype(np.int64)
