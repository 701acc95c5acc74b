"""Reads an array's data file by whole chunks: for arrays that are compressed, or lie in a bucket."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future

import google_crc32c
import numcodecs
import numpy as np

from headrace.store.advice import run_verify
from headrace.store.arrays.array_metadata import ArrayMetadata
from headrace.store.errors import DamagedStore
from headrace.store.integrity.checksummed_metadata import crc32c
from headrace.store.storage import StoragePath, storage_of

MAX_OVERHEAD = 1 << 16
"""Bytes by which a compressed chunk may exceed twice its content. No chunk that was written comes near that."""
CACHE_BYTES = 256 << 20
"""Size of the decoded chunks that a store keeps: about a hundred batches of mel and MFCC."""


class ChunkCache:
    """A cache of the decoded chunks that were used last. Threads that need one chunk at once fetch it once."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        """Create an empty cache.

        Args:
            max_bytes: size of the chunks to keep; chunks that are being fetched come on top.
        """
        self._max_bytes, self._bytes, self._lock = max_bytes, 0, threading.Lock()
        self._chunks: OrderedDict[Hashable, Future[np.ndarray]] = OrderedDict()

    def get(
        self, file: Hashable, chunks: Sequence[int], fetch: Callable[[list[int]], list[np.ndarray]]
    ) -> list[np.ndarray]:
        """Return the rows of some chunks of a file.

        Args:
            fetch: returns the rows of those chunks that are neither cached nor being fetched; called at most once.
        """
        missing = []
        with self._lock:
            for chunk in chunks:
                if (file, chunk) not in self._chunks:
                    self._chunks[file, chunk] = Future()
                    missing.append(chunk)
                self._chunks.move_to_end((file, chunk))
            found = [self._chunks[file, chunk] for chunk in chunks]
        if missing:
            self._fetch(file, missing, fetch)
        return [future.result() for future in found]

    def _fetch(self, file: Hashable, missing: list[int], fetch: Callable[[list[int]], list[np.ndarray]]) -> None:
        try:
            fetched = fetch(missing)
        except BaseException as error:  # any error has to reach the threads that wait for these chunks
            with self._lock:
                for chunk in missing:
                    self._chunks.pop((file, chunk)).set_exception(error)
            raise
        with self._lock:
            for chunk, rows in zip(missing, fetched, strict=True):
                self._chunks[file, chunk].set_result(rows)
                self._bytes += rows.nbytes
            while self._bytes > self._max_bytes and next(iter(self._chunks.values())).done():
                self._bytes -= self._chunks.popitem(last=False)[1].result().nbytes


class ShardedArray:
    """An array of a part, read by whole chunks."""

    def __init__(
        self, file: StoragePath, array: ArrayMetadata, cache: ChunkCache, checksums: Sequence[str] = ()
    ) -> None:
        """Read the shard's index.

        Args:
            file: the shard.
            array: of at least one row.
            checksums: of the chunks as stored, compared whenever one is fetched; none to check nothing.
        Raises:
            DamagedStore: there is no such file, or it does not end with its index.
        """
        self.compressed = array.compressed
        self._file, self._array, self._cache, self._checksums = file, array, cache, checksums
        self.dtype, self.row_shape = array.dtype, array.shape[1:]
        self._bounds = read_index(file, array.chunks)
        self._chunk_bytes = array.chunk_rows * array.row_bytes
        sizes = self._bounds[:, 1] - self._bounds[:, 0]
        if (self._bounds < 0).any() or (sizes < 0).any() or (sizes > 2 * self._chunk_bytes + MAX_OVERHEAD).any():
            raise DamagedStore(f"{file} has an index of blocks that cannot be: {run_verify(file)}.")
        in_order = np.arange(array.chunks)[:, None] * self._chunk_bytes + [0, self._chunk_bytes]
        if not self.compressed and not (self._bounds == in_order).all():
            raise DamagedStore(f"{file} has another index than it was written with: {run_verify(file)}.")

    def __len__(self) -> int:
        return self._array.shape[0]

    def read(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return the rows from start to stop of each of `spans`, read-only. Missing chunks come in one request.

        Raises:
            DamagedStore: a chunk cannot be decoded, or is not what was sealed.
            IndexError: the array has no such rows.
        """
        self._array.check_spans(spans)
        count = self._array.chunk_rows
        wanted = sorted({chunk for start, stop in spans for chunk in range(start // count, -(-stop // count))})
        rows = dict(zip(wanted, self._cache.get(self._file, wanted, self._fetch), strict=True))

        def span(start: int, stop: int) -> np.ndarray:
            first = start // count
            chunks = [rows[chunk] for chunk in range(first, -(-stop // count))] or [self._to_rows(b"")]  # no rows
            all_rows = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
            return all_rows[start - first * count : stop - first * count]

        return [span(start, stop) for start, stop in spans]

    def addresses(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, object]:
        """Return the addresses of spans of rows, and the arrays that hold them, as `MappedArray.addresses`."""
        arrays = self.read(list(zip(start.tolist(), stop.tolist(), strict=True)))
        return np.array([address_of(array) for array in arrays]), arrays

    def _fetch(self, chunks: list[int]) -> list[np.ndarray]:
        bounds = [(start, stop) for start, stop in self._bounds[chunks].tolist()]
        stored = storage_of(self._file).read_ranges(self._file, bounds)
        for chunk, data in zip(chunks, stored, strict=True):
            if self._checksums and crc32c(data) != self._checksums[chunk]:
                raise DamagedStore(f"{self._file}: block {chunk} is not what was sealed: {run_verify(self._file)}.")
        return [self._to_rows(self._decode(data)) for data in stored]

    def _decode(self, data: bytes) -> bytes:
        try:
            decoded = decompress(data, self._chunk_bytes) if self.compressed else data
        except (RuntimeError, ValueError) as error:
            raise DamagedStore(f"{self._file} cannot be decoded ({error}): {run_verify(self._file)}.") from error
        if len(decoded) != self._chunk_bytes:
            raise DamagedStore(f"{self._file} has a block of {len(decoded)} bytes decoded: {run_verify(self._file)}.")
        return decoded

    def _to_rows(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, self._array.dtype).reshape(-1, *self._array.shape[1:])


def decompress(data: bytes, size: int) -> bytes:
    """Decompress a chunk: one Zstandard frame (RFC 8878) that says how many bytes it holds.

    Args:
        size: what it has to hold. It is compared first, since the decoder makes room for whatever the frame says.
    Raises:
        RuntimeError: the frame is damaged.
        ValueError: it says that it holds another number of bytes.
    """
    data = bytes(data)
    flags = data[4] if len(data) > 4 else 0
    start = 5 + (not flags & 0x20) + (0, 1, 2, 4)[flags & 3]  # after the window and the number of a dictionary
    width = (flags >> 5 & 1, 2, 4, 8)[flags >> 6]
    said = int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)
    if said != size:
        raise ValueError(f"it says that it holds {said} bytes instead of {size}")
    decoded: bytes = numcodecs.Zstd().decode(data)
    return decoded


def address_of(array: np.ndarray) -> int:
    """Return the address of an array's first byte in memory."""
    address: int = array.__array_interface__["data"][0]
    return address


def read_index(file: StoragePath, count: int) -> np.ndarray:
    """Return where the `count` inner chunks of a shard lie: (count, 2) int64, first byte and one past the last.

    Raises:
        DamagedStore: there is no such file, or it does not end with an index.
    """
    try:
        tail = storage_of(file).read_tail(file, 16 * count + 4)
    except FileNotFoundError:
        raise DamagedStore(f"{file} is not there: {run_verify(file)}.") from None
    except OSError as error:
        raise DamagedStore(f"{file} cannot be read ({error}): {run_verify(file)}.") from error
    table = tail[:-4]
    if len(table) != 16 * count or google_crc32c.value(table).to_bytes(4, "little") != tail[-4:]:
        raise DamagedStore(f"{file} does not end with its index: {run_verify(file)}.")
    return np.cumsum(np.frombuffer(table, "<u8").reshape(-1, 2), axis=1).astype(np.int64)
