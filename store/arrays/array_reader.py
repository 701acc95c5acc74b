"""Reads the rows of one array by the fastest way there is.

An uncompressed array of this machine is mapped into memory: its data file begins with the array's own bytes. An array
that is compressed, or lies in a bucket, is read by whole chunks (`headrace.store.arrays.shard`).
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from pathlib import Path

import numcodecs
import numpy as np

from headrace.store.advice import run_verify
from headrace.store.arrays.array_metadata import ArrayMetadata, read_metadata
from headrace.store.arrays.shard import ChunkCache, ShardedArray, address_of
from headrace.store.errors import DamagedStore
from headrace.store.integrity.checksummed_metadata import crc32c, split_checksums
from headrace.store.storage import StoragePath, read_file
from headrace.store.storage.regular_files import open_regular

MAX_OPEN_SHARE = 0.25
"""Share of the files that this process may have open which one store keeps open at most."""
MAX_MAPPINGS = 65530
"""Default limit of Linux for the memory mappings of a process."""
MAX_GAP_BYTES = 32 << 10
"""Two spans no farther apart are prefetched as one: reading the gap costs less than a second request."""


class MappedArray:
    """An array in a file of this machine that is mapped into memory. It keeps the file open."""

    def __init__(self, file: Path, array: ArrayMetadata, checksums: Sequence[str] = ()) -> None:
        """Map the file.

        Args:
            array: uncompressed, of at least one row.
            checksums: of the array's chunks, each compared before any of its rows is first read; none to check nothing.
        Raises:
            DamagedStore: there is no such file, or it has another size than it was written with.
        """
        self._file, self._array = file, array
        self._unchecked = dict(enumerate(checksums))
        """Chunk to checksum, of the chunks that were not checked yet."""
        try:
            with open_regular(file) as opened:
                self._size = os.fstat(opened.fileno()).st_size
                if self._size != array.chunks * (array.chunk_rows * array.row_bytes + 16) + 4:
                    what = f"{file} has {self._size} bytes and does not end with its index"
                    raise DamagedStore(f"{what}: {run_verify(file)}.")
                self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise DamagedStore(f"{file} is not there: {run_verify(file)}.") from None
        except OSError as error:
            raise DamagedStore(f"{file} cannot be mapped ({error}): {run_verify(file)}.") from error
        count = array.shape[0] * array.row_bytes // array.dtype.itemsize
        self.values = np.frombuffer(self._map, array.dtype, count).reshape(array.shape)
        """A read-only view of the whole array."""
        self._address, self._row_bytes = address_of(self.values), array.row_bytes
        self.dtype, self.row_shape = array.dtype, array.shape[1:]

    def __len__(self) -> int:
        return len(self.values)

    def read(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return the rows from start to stop of each of `spans`, as views of the file.

        Raises:
            DamagedStore: something shortened the file, or a block is not what was sealed.
            IndexError: the array has no such rows.
        """
        self._array.check_spans(spans)
        self._check_size()
        if self._unchecked:
            self._check(spans)
        return [self.values[start:stop] for start, stop in spans]

    def addresses(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, object]:
        """Return the addresses of spans of rows in memory.

        Args:
            start, stop: (B,) int64, first row and one past the last of each span.
        Returns:
            (B,) int64 addresses, and an object to keep alive as long as they are used.
        Raises:
            DamagedStore: something shortened the file, or a block is not what was sealed.
            IndexError: the array has no such rows.
        """
        from headrace.store.arrays import batch_copy

        addresses = batch_copy.row_addresses(self._address, self._row_bytes, len(self.values), start, stop)
        self._check_size()
        if self._unchecked:
            self._check(list(zip(start.tolist(), stop.tolist(), strict=True)))
        return addresses, self

    def _check_size(self) -> None:
        """Raise DamagedStore if the file lost bytes since it was mapped: reading those would kill the process."""
        try:
            size = self._map.size()
        except OSError as error:  # a file of a network that another machine replaced
            raise DamagedStore(f"{self._file} cannot be read any more ({error}): {run_verify(self._file)}.") from error
        if size != self._size:
            raise DamagedStore(
                f"{self._file} had {self._size} bytes when it was opened and has {size} now: {run_verify(self._file)}."
            )

    def prefetch(self, start: np.ndarray, stop: np.ndarray) -> None:
        """Ask the kernel to read rows from the disk while this process does something else; not on Windows.

        Args:
            start, stop: (B,) int64, first row and one past the last of each span; ascending.
        """
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        from headrace.store.arrays import batch_copy, prefetch

        spans = batch_copy.merge_spans(start * self._row_bytes, stop * self._row_bytes, MAX_GAP_BYTES)
        spans[:, 0] -= spans[:, 0] % mmap.PAGESIZE
        prefetch.prefetch(self._address, spans, mmap.MADV_WILLNEED)

    def _check(self, spans: Sequence[tuple[int, int]]) -> None:
        count, size = self._array.chunk_rows, self._array.chunk_rows * self._row_bytes
        touched = {chunk for start, stop in spans for chunk in range(start // count, -(-stop // count))}
        for chunk in touched & self._unchecked.keys():
            if crc32c(memoryview(self._map)[chunk * size : (chunk + 1) * size]) != self._unchecked[chunk]:
                raise DamagedStore(f"{self._file}: block {chunk} is not what was sealed: {run_verify(self._file)}.")
            self._unchecked.pop(chunk, None)  # another thread may have checked it too


class EmptyArray:
    """An array without rows, which has no data file."""

    def __init__(self, array: ArrayMetadata) -> None:
        self._array, self.values = array, np.empty(array.shape, array.dtype)
        self.dtype, self.row_shape = array.dtype, array.shape[1:]

    def __len__(self) -> int:
        return 0

    def read(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return an array without rows for each of `spans`. Raises IndexError if one of them has rows."""
        self._array.check_spans(spans)
        return [self.values[start:stop] for start, stop in spans]

    def addresses(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, object]:
        """Return (B,) int64 addresses, at each of which there is nothing to read, and what keeps them alive."""
        self.read(list(zip(start.tolist(), stop.tolist(), strict=True)))
        return np.full(len(start), address_of(self.values)), self


ArrayReader = MappedArray | ShardedArray | EmptyArray


class OpenArrays:
    """A cache of the arrays that were used last.

    A mapped array is an open file, and a process may not have many; a large store has a hundred thousand arrays.
    """

    def __init__(self) -> None:
        self._max_count = int(MAX_OPEN_SHARE * _max_open_files())
        self._arrays: OrderedDict[Hashable, ArrayReader] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, open_it: Callable[[], ArrayReader]) -> ArrayReader:
        """Return the array of this key; call `open_it` if it is not in the cache. Two threads may both open one."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = open_it()
        with self._lock:
            self._arrays[key] = array
            if len(self._arrays) > self._max_count:
                self._arrays.popitem(last=False)
        return array


def _max_open_files() -> int:
    """Return how many files this process may map at once."""
    with suppress(ImportError):  # Windows has no such limit
        import resource

        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return min(allowed, MAX_MAPPINGS) if allowed > 0 else MAX_MAPPINGS
    return MAX_MAPPINGS


def open_array(path: StoragePath, cache: ChunkCache | None = None, checksums: Sequence[str] = ()) -> ArrayReader:
    """Open the array in a folder for reading rows.

    Args:
        cache: of decoded chunks, to share with other arrays.
        checksums: of the array's chunks, compared as they are read; none to check nothing.
    Raises:
        DamagedStore: the array is missing, or not as it was written.
    """
    array = read_metadata(path)
    file = path / array.data_file
    if not array.shape[0]:
        return EmptyArray(array)
    if array.compressed or not isinstance(file, Path):
        return ShardedArray(file, array, cache or ChunkCache(), checksums)
    return MappedArray(file, array, checksums)


def load_array(path: StoragePath, checksums: Sequence[str] = ()) -> np.ndarray:
    """Return a whole array in memory: numbers as stored, strings as an object array of str.

    Meant for small arrays: a bucket gets one request, and no file stays open.

    Args:
        checksums: of the array's blocks, compared with what is read; none to check nothing.
    Raises:
        DamagedStore: the array is missing, or not as it was written.
    """
    array = read_metadata(path)
    if not array.shape[0]:
        return np.empty(array.shape, array.dtype)
    if array.compressed:
        return open_array(path, checksums=checksums).read([(0, array.shape[0])])[0]
    try:
        data = read_file(path / array.data_file)
        size = array.chunk_rows * array.row_bytes if array.sharded else len(data)
        for number, expected in enumerate(checksums):
            if crc32c(data[number * size : (number + 1) * size]) != expected:
                raise DamagedStore(f"{path}: block {number} is not what was sealed: {run_verify(path)}.")
        return _decode(array, data)
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        raise DamagedStore(f"{path} cannot be read ({error}): {run_verify(path)}.") from error


def _decode(array: ArrayMetadata, data: bytes) -> np.ndarray:
    """Return the values in the data file of an uncompressed array."""
    if not array.sharded:
        count = int.from_bytes(data[:4], "little")  # numcodecs makes room for as many strings as the file says
        if count != array.shape[0] or len(data) < 4 + 4 * count:
            raise ValueError(f"it holds {count} strings of {array.shape[0]}")
        strings: np.ndarray = numcodecs.VLenUTF8().decode(data)
        return strings.reshape(array.shape)
    count = array.shape[0] * array.row_bytes // array.dtype.itemsize
    return np.frombuffer(data, array.dtype, count).reshape(array.shape)


def verified_block_checksums(path: StoragePath, checksums: str) -> list[str]:
    """Check an array's metadata, and return the checksums of its blocks.

    Args:
        checksums: joined, of the metadata and of each block, as sealed; empty to check nothing.
    Raises:
        DamagedStore: the metadata are not what was sealed.
    """
    metadata, *blocks = split_checksums(checksums) or [""]
    try:
        intact = not metadata or crc32c(read_file(path / "zarr.json")) == metadata
    except OSError as error:
        raise DamagedStore(f"{path / 'zarr.json'} cannot be read ({error}): {run_verify(path)}.") from error
    if not intact:
        raise DamagedStore(f"{path / 'zarr.json'} is not what was sealed: {run_verify(path)}.")
    return blocks
