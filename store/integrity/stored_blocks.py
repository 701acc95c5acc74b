"""Reads the blocks of an array as they are stored: the units that checksums cover."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from headrace.store.arrays.array_metadata import read_metadata
from headrace.store.arrays.shard import decompress, read_index
from headrace.store.errors import DamagedStore
from headrace.store.storage import StoragePath, read_file, storage_of

BLOCKS_AT_ONCE = 16
"""Blocks in memory at once, about 1 MiB each."""


class StoredArray:
    """An array of a part whose metadata are intact."""

    def __init__(self, folder: StoragePath, count: int) -> None:
        """Read the array's metadata and the index of its shard.

        Args:
            count: number of blocks that were sealed.
        Raises:
            FileNotFoundError: the array has no data file.
            DamagedStore: the file has another size than its own index says, or no index.
        """
        self._array = read_metadata(folder)
        self._file = folder / self._array.data_file
        self.sharded = self._array.sharded
        """Whether the array is a shard. If not, its only block is the whole file."""
        self._bounds = read_index(self._file, count) if self.sharded and count else np.empty((0, 2), np.int64)
        self._count = count
        if len(self._bounds):
            size, said = storage_of(self._file).size(self._file), int(self._bounds[-1, 1]) + 16 * count + 4
            if size != said:
                raise DamagedStore(f"{self._file} has {size} bytes, its index says {said}")

    def blocks(self) -> Iterator[bytes]:
        """Yield the blocks one after the other, reading a few at a time."""
        if self._count and not self.sharded:
            yield read_file(self._file)
        for start in range(0, len(self._bounds), BLOCKS_AT_ONCE):
            some = [(first, last) for first, last in self._bounds[start : start + BLOCKS_AT_ONCE].tolist()]
            yield from storage_of(self._file).read_ranges(self._file, some)

    def rows_of(self, number: int) -> np.ndarray:
        """Return the rows that a block holds: (R,) int64."""
        rows = self._array.chunk_rows
        return np.arange(number * rows, min((number + 1) * rows, self._array.shape[0]))

    def nonfinite_rows(self, number: int, block: bytes) -> np.ndarray:
        """Return the rows of an intact block that hold a NaN or an infinity: (R,) int64."""
        array = self._array
        if not np.issubdtype(array.dtype, np.floating):
            return np.empty(0, np.int64)
        data = decompress(block, array.chunk_rows * array.row_bytes) if array.compressed else block
        values = np.frombuffer(data, array.dtype).reshape(array.chunk_rows, -1)
        return number * array.chunk_rows + np.flatnonzero(~np.isfinite(values).all(axis=1))
