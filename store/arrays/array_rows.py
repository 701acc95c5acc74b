"""The rows of one array, by the fastest way that there is to them.

An uncompressed array on this machine is mapped into memory: its data file begins with its bytes. What is compressed, or
lies in a bucket, is read by whole chunks (`headrace.store.arrays.shard`).
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

from headrace.store.arrays.array_metadata import Array, describe
from headrace.store.arrays.shard import ChunkCache, Shard, address_of
from headrace.store.errors import DamagedStore
from headrace.store.integrity.checksummed_metadata import checksum, split
from headrace.store.storage import StoragePath

OPEN_SHARE = 0.25
"""Of the files that this process may have open: what a store keeps open at most."""
MAPPINGS = 65530
"""That Linux lets a process have, as it is set everywhere."""
GAP = 32 << 10
"""Bytes between two pieces that are rather read too than asked about twice."""


class Mapped:
    """An array in a file of this machine, mapped. It holds the file open."""

    def __init__(self, file: Path, array: Array, sealed: Sequence[str] = ()) -> None:
        """
        Args:
            array: uncompressed, of at least one row.
            sealed: checksums of its chunks, each to be compared before any of its rows is first read; none for no
                checking.
        Raises:
            DamagedStore: there is no such file, or it has another size than it was written with.
        """
        self._file, self._array = file, array
        self._sealed = dict(enumerate(sealed))
        """Of the chunks that were not checked yet."""
        try:
            with file.open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                if size != array.chunks * (array.chunk_rows * array.row_bytes + 16) + 4:
                    raise DamagedStore(f"{file} has {size} bytes and does not end with its index: run store verify.")
                self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise DamagedStore(f"{file} is not there: run store verify.") from None
        count = array.shape[0] * array.row_bytes // array.dtype.itemsize
        self.all = np.frombuffer(self._map, array.dtype, count).reshape(array.shape)
        """A read-only view of the file."""
        self._address, self._row_bytes = address_of(self.all), array.row_bytes

    def __len__(self) -> int:
        return len(self.all)

    def read(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The rows from start to stop of each of `spans`, as views of the file."""
        if self._sealed:
            self._check(spans)
        return [self.all[start:stop] for start, stop in spans]

    def find(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, object]:
        """Where rows lie in memory.

        Args:
            start, stop: (B,) int64, of each piece.
        Returns:
            (B,) int64 addresses, and what has to live as long as they are used.
        """
        if self._sealed:
            self._check(list(zip(start.tolist(), stop.tolist(), strict=True)))
        return self._address + start * self._row_bytes, self

    def will_need(self, start: np.ndarray, stop: np.ndarray) -> None:
        """Have the kernel read rows now, while something else is done.

        Args:
            start, stop: (B,) int64, of each piece; ascending.
        """
        if not hasattr(mmap, "MADV_WILLNEED"):  # Windows
            return
        from headrace.store.arrays import batch_copy, prefetch

        spans = batch_copy.joined(start * self._row_bytes, stop * self._row_bytes, GAP)
        spans[:, 0] -= spans[:, 0] % mmap.PAGESIZE
        prefetch.prefetch(self._address, spans, mmap.MADV_WILLNEED)

    def _check(self, spans: Sequence[tuple[int, int]]) -> None:
        count, size = self._array.chunk_rows, self._array.chunk_rows * self._row_bytes
        touched = {chunk for start, stop in spans for chunk in range(start // count, -(-stop // count))}
        for chunk in touched & self._sealed.keys():
            if checksum(memoryview(self._map)[chunk * size : (chunk + 1) * size]) != self._sealed[chunk]:
                raise DamagedStore(f"{self._file}: block {chunk} is not what was sealed: run store verify.")
            self._sealed.pop(chunk, None)  # another thread may have been as fast


class Empty:
    """An array of no rows, which has no data file."""

    def __init__(self, array: Array) -> None:
        self.all = np.empty(array.shape, array.dtype)

    def __len__(self) -> int:
        return 0

    def read(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        return [self.all[start:stop] for start, stop in spans]

    def find(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, object]:
        return np.full(len(start), address_of(self.all)), self


Rows = Mapped | Shard | Empty


class Opened:
    """The arrays used last. A mapped one is an open file, and a process may not have many: a large store has a hundred
    thousand arrays."""

    def __init__(self) -> None:
        self._most = int(OPEN_SHARE * _allowed_files())
        self._arrays: OrderedDict[Hashable, Rows] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, open_it: Callable[[], Rows]) -> Rows:
        """The array of this key; opened where it is not among them. Two threads may open one at once: no harm."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        rows = open_it()
        with self._lock:
            self._arrays[key] = rows
            if len(self._arrays) > self._most:
                self._arrays.popitem(last=False)
        return rows


def _allowed_files() -> int:
    """Return how many files this process may map at once."""
    with suppress(ImportError):  # Windows has no such limit
        import resource

        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return min(allowed, MAPPINGS) if allowed > 0 else MAPPINGS
    return MAPPINGS


def open_rows(path: StoragePath, cache: ChunkCache | None = None, sealed: Sequence[str] = ()) -> Rows:
    """The rows of the array in a folder.

    Args:
        cache: of decoded chunks, to share with other arrays.
        sealed: checksums of its chunks, to be compared as they are read.
    Raises:
        DamagedStore: it is not there, or not as it was written.
    """
    array = describe(path)
    file = path / array.data_file
    if not array.shape[0]:
        return Empty(array)
    if array.compressed or not isinstance(file, Path):
        return Shard(file, array, cache or ChunkCache(), sealed)
    return Mapped(file, array, sealed)


def load(path: StoragePath, sealed: Sequence[str] = ()) -> np.ndarray:
    """A whole array, in memory: numbers as stored, strings as an object array of str. For small ones: a bucket is asked
    once, and no file stays open.

    Args:
        sealed: checksums of its blocks, to be compared.
    Raises:
        DamagedStore: it is not there, or not as it was written.
    """
    array = describe(path)
    if not array.shape[0]:
        return np.empty(array.shape, array.dtype)
    if array.compressed:
        return open_rows(path, sealed=sealed).read([(0, array.shape[0])])[0]
    try:
        data = (path / array.data_file).read_bytes()
        size = array.chunk_rows * array.row_bytes if array.sharded else len(data)
        for number, expected in enumerate(sealed):
            if checksum(data[number * size : (number + 1) * size]) != expected:
                raise DamagedStore(f"{path}: block {number} is not what was sealed: run store verify.")
        if not array.sharded:
            strings: np.ndarray = numcodecs.VLenUTF8().decode(data)
            return strings.reshape(array.shape)
        values = np.frombuffer(data, array.dtype, array.shape[0] * array.row_bytes // array.dtype.itemsize)
        return values.reshape(array.shape)
    except (OSError, ValueError, RuntimeError) as error:
        raise DamagedStore(f"{path} cannot be read ({error}): run store verify.") from error


def intact_blocks(path: StoragePath, checksums: str) -> list[str]:
    """Checksums of an array's blocks, from those that were sealed; none where nothing was.

    Raises:
        DamagedStore: its metadata are not what was sealed.
    """
    metadata, *blocks = split(checksums) or [""]
    if metadata and checksum((path / "zarr.json").read_bytes()) != metadata:
        raise DamagedStore(f"{path / 'zarr.json'} is not what was sealed: run store verify.")
    return blocks
