"""S3-compatible object storage: its objects as paths, and the operations that a store needs."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from headrace.store.errors import StorageError, UsageError
from headrace.store.names import is_own_file
from headrace.store.storage.s3_client import S3Client
from headrace.store.storage.s3_settings import SCHEME, object_url

S = TypeVar("S")
T = TypeVar("T")

CONCURRENT_REQUESTS = 32
"""Requests to a bucket at once. Each waits some 30 ms for its answer."""
JOINED_BYTES = 1 << 20
"""Ranges that are closer than this are read by one request."""
CONCURRENT_RANGES = 8


@dataclass(frozen=True, slots=True)
class S3Path:
    """An object, or all objects under a prefix. Methods are named as those of `pathlib.Path` where it has them.

    Every method that sends a request raises StorageError if the storage refuses it, or does not answer despite retries.
    """

    bucket: str
    key: str
    """Without slashes at its ends; empty for the whole bucket."""

    @classmethod
    def parse(cls, url: str) -> S3Path:
        """Return the path of `s3://BUCKET/PREFIX`. Raises UsageError if the URL is not of that form."""
        bucket, _, key = url.removeprefix(SCHEME).partition("/")
        names = [name for name in key.split("/") if name]
        if problem := _problem(url, bucket, names):
            raise UsageError(f"{url!r} is not a valid S3 URL: {problem}; give it as {SCHEME}BUCKET/PREFIX.")
        return cls(bucket, "/".join(names))

    def __str__(self) -> str:
        return object_url(self.bucket, self.key)

    def __truediv__(self, name: str) -> S3Path:
        return S3Path(self.bucket, f"{self.key}/{name}" if self.key else name)

    def resolve(self) -> S3Path:
        """Return the path itself: it is always absolute."""
        return self

    @property
    def name(self) -> str:
        """Return the last component of the key; the name of the bucket if the key is empty."""
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> S3Path:
        """Return the path without its last component."""
        return S3Path(self.bucket, self.key.rpartition("/")[0])

    def check_access(self) -> None:
        """Raise StorageError, within seconds, if the bucket cannot be used at all."""
        self._client.check_access(self.key)

    def exists(self) -> bool:
        """Return whether there is an object with exactly this key."""
        try:
            self.size()
        except FileNotFoundError:
            return False
        return True

    def size(self) -> int:
        """Return the size of the object in bytes. Raises FileNotFoundError if there is none."""
        return self._client.size(self.key)

    def read_bytes(self) -> bytes:
        """Return the content of the object. Raises FileNotFoundError if there is none."""
        return self._client.read(self.key)

    def read_tail(self, count: int) -> bytes:
        """Return the last `count` bytes of the object, or all of them if it is shorter."""
        return self._client.read(self.key, {"suffix": count})

    def read_ranges(self, bounds: Sequence[tuple[int, int]]) -> list[Any]:
        """Return the bytes from start to stop of each of `bounds`, as buffers. Neighbouring ranges share a request."""
        spans = _joined([(start, stop) for start, stop in bounds if start < stop])  # an empty range is an error to S3
        if len(spans) > 1:
            with ThreadPoolExecutor(min(len(spans), CONCURRENT_RANGES)) as pool:
                read = list(pool.map(self._read_span, spans))
        else:
            read = [self._read_span(span) for span in spans]
        found = []
        for start, stop in bounds:
            at = bisect_right(spans, start, key=lambda span: span[0]) - 1
            found.append(read[at][start - spans[at][0] : stop - spans[at][0]] if start < stop else b"")
        return found

    def _read_span(self, span: tuple[int, int]) -> memoryview:
        data = self._client.read(self.key, span)
        if len(data) != span[1] - span[0]:
            raise StorageError(
                f"{self} ends before its byte {span[1]}: it was replaced while it was read, or the server answers "
                "wrongly. Run the same command again."
            )
        return memoryview(data)

    def download(self, file: Path) -> None:
        """Copy the object to a file of this machine. Raises FileNotFoundError if there is none."""
        self._client.download(self.key, file)

    def write(self, chunks: Iterable[bytes]) -> None:
        """Create or replace the object: readers see the old content or the new one.

        Args:
            chunks: iterated again if the upload has to be repeated.
        """
        self._client.write(self.key, chunks)

    def objects(self) -> list[tuple[str, int]]:
        """Return (key relative to this path, size in bytes) of every object under this prefix, in no order."""
        return [(name, size) for name, size, _ in self.tagged_objects()]

    def tagged_objects(self) -> list[tuple[str, int, str]]:
        """Return `objects` with the entity tag of each, which is another one once its content is another one."""
        return self._client.objects(self.key)

    def list_names(self) -> list[str]:
        """Return the names of the objects and prefixes directly under this prefix."""
        return self._client.list_names(self.key)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects under this prefix, its own `zarr.json` first."""
        self._client.delete([f"{self.key}/zarr.json"])
        self._client.delete([f"{self.key}/{name}" for name in names])

    def unlink(self) -> None:
        """Delete this object, if it is there."""
        self._client.delete([self.key])

    @property
    def _client(self) -> S3Client:
        return S3Client(self.bucket)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges in order, those in one that are closer than JOINED_BYTES."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and start - joined[-1][1] <= JOINED_BYTES:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


class S3Storage:
    """Implements `headrace.store.storage.base.Storage` for `S3Path`.

    A bucket cannot rename. So a folder is written where it belongs, and counts as missing until its `zarr.json`, which
    is written last, is there.
    """

    @property
    def threads(self) -> int:
        """Return the number of concurrent requests."""
        return CONCURRENT_REQUESTS

    def check_access(self, path: S3Path) -> None:
        """Raise StorageError, within seconds, if the bucket cannot be used at all."""
        path.check_access()

    @contextmanager
    def write_lock(self, root: S3Path) -> Iterator[None]:
        """Do nothing: a bucket has no lock that ends with its holder. Two builds at once write the same bytes."""
        yield

    def list_names(self, folder: S3Path) -> list[str]:
        """Return the names of the objects and prefixes directly under a prefix."""
        return folder.list_names()

    def list_groups(self, folder: S3Path) -> list[str]:
        """Return the names directly under a prefix that have a `zarr.json`."""
        found = (key.partition("/") for key, _ in folder.objects())
        return [name for name, _, rest in found if rest == "zarr.json"]

    @contextmanager
    def atomic_folder(self, root: S3Path, name: str) -> Iterator[S3Path]:
        """Yield the folder itself; it counts as missing until its `zarr.json` is written."""
        yield root / name

    def clear_temporary(self, root: S3Path) -> None:
        """Do nothing: what an interrupted writer left will be overwritten."""

    def write(self, file: S3Path, chunks: Iterable[bytes]) -> None:
        """Create or replace an object: readers see the old content or the new one."""
        file.write(chunks)

    def write_whole(self, file: S3Path, chunks: Iterable[bytes]) -> None:
        """Create or replace an object: readers see the old content or the new one."""
        file.write(chunks)

    def copy_to(self, file: S3Path, target: Path) -> None:
        """Copy an object to a file of this machine."""
        file.download(target)

    def write_atomic(self, root: S3Path, name: str, data: bytes) -> None:
        """Create or replace the object `name` under `root`: readers see the old content or the new one."""
        (root / name).write([data])

    def list_foreign(self, folder: S3Path) -> list[str]:
        """Return the keys under a prefix that are not of a form that Headrace writes."""
        return sorted(name for name, _ in folder.objects() if not is_own_file(name))

    def delete_folder(self, root: S3Path, name: str) -> None:
        """Delete the objects of a folder that are of a form that Headrace writes, its `zarr.json` first."""
        folder = root / name
        folder.delete([key for key, _ in folder.objects() if is_own_file(key)])

    def delete_file(self, root: S3Path, name: str) -> None:
        """Delete the object `name` of `root`, if it is there."""
        (root / name).unlink()

    def size(self, file: S3Path) -> int:
        """Return the size of an object in bytes. Raises FileNotFoundError if there is none."""
        return file.size()

    def read_tail(self, file: S3Path, count: int) -> bytes:
        """Return the last `count` bytes of an object, or all of them if it is shorter."""
        return file.read_tail(count)

    def read_ranges(self, file: S3Path, bounds: Sequence[tuple[int, int]]) -> list[Any]:
        """Return the bytes from start to stop of each of `bounds`, as buffers."""
        return file.read_ranges(bounds)

    def map(self, function: Callable[[S], T], items: Iterable[S]) -> list[T]:
        """Return `function(item)` for every item, in order, called by as many threads as there may be requests."""
        pool = ThreadPoolExecutor(CONCURRENT_REQUESTS)
        try:
            return list(pool.map(function, items))
        finally:
            pool.shutdown(cancel_futures=True)


def _problem(url: str, bucket: str, names: Sequence[str]) -> str:
    """Return why a URL of a bucket and names in it is not valid; empty if it is."""
    if not url.isprintable():
        return "it holds a character that cannot be printed"
    if not bucket:
        return "it names no bucket"
    if other := re.search(r"[^A-Za-z0-9._-]", bucket):
        return f"the name of a bucket has no {other[0]!r}, but letters, digits, dots and dashes"
    if not 3 <= len(bucket) <= 63:
        return f"the name of a bucket has 3 to 63 characters, and {bucket!r} has {len(bucket)}"
    return "a name in it is . or .., which mean no folder there" if {".", ".."} & set(names) else ""
