"""S3-compatible object storage: its objects as paths, and the operations that a store needs. Only this file knows
obstore.

The environment configures it, as it does any S3 client: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (otherwise the role
of the machine), AWS_REGION, AWS_ENDPOINT_URL for servers other than Amazon's, AWS_SKIP_SIGNATURE=true for public
buckets.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.store.errors import StorageError, UsageError
from headrace.store.names import is_own_file

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Store

S = TypeVar("S")
T = TypeVar("T")

SCHEME = "s3://"
CONCURRENT_REQUESTS = 32
"""Requests to a bucket at once. Each waits some 30 ms for its answer."""
UPLOAD_PART_BYTES = 8 << 20
"""Size of a part of a multipart upload. A part is sent again when the connection breaks, and has to arrive within
`read_timeout`; with all parts that are uploaded at once, that takes 3.5 Mbit/s."""
CONCURRENT_UPLOADS = 2

TIMEOUTS: ClientConfig = {"connect_timeout": "5s", "read_timeout": "120s", "timeout": "1h"}
RETRIES: RetryConfig = {"max_retries": 10, "retry_timeout": timedelta(minutes=4)}
"""After throttling, server errors, broken connections and timeouts. Waits grow from 0.1 to 15 s, about 40 s in all."""
FIRST_TIMEOUTS: ClientConfig = {"connect_timeout": "2s", "timeout": "10s"}
FIRST_RETRIES: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=10)}
"""Limits of the first request, so that a wrong address or key is reported within seconds."""
TRUNCATED = ("response body error", "NoSuchUpload")
"""Errors that obstore does not retry by itself: a response that broke off, and an upload that no longer exists because
the response to its completion broke off."""
MAX_TRUNCATED_RETRIES = 3
"""How often one request is repeated after such an error."""

ROLE_REQUEST = "/latest/api/token"
"""Path of the machine's own metadata service, which is queried if the environment holds no credentials."""


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
        if not re.fullmatch(r"[A-Za-z0-9._-]{3,63}", bucket) or {".", ".."} & set(names) or not url.isprintable():
            raise UsageError(f"{url!r} is not a valid S3 URL: give it as {SCHEME}BUCKET/PREFIX.")
        return cls(bucket, "/".join(names))

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

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
        self._request("listed", lambda: next(iter(_client(self.bucket, first=True).list(self.key or None)), None))

    def exists(self) -> bool:
        """Return whether there is an object with exactly this key."""
        try:
            self._request("looked up", lambda: self._client.head(self.key))
        except FileNotFoundError:
            return False
        return True

    def size(self) -> int:
        """Return the size of the object in bytes. Raises FileNotFoundError if there is none."""
        return int(self._request("looked up", lambda: self._client.head(self.key))["size"])

    def read_bytes(self) -> bytes:
        """Return the content of the object. Raises FileNotFoundError if there is none."""
        return self._request("read", lambda: self._client.get(self.key).bytes().to_bytes())

    def read_tail(self, count: int) -> bytes:
        """Return the last `count` bytes of the object, or all of them if it is shorter."""
        options: Any = {"range": {"suffix": count}}
        return self._request("read", lambda: self._client.get(self.key, options=options).bytes().to_bytes())

    def read_ranges(self, bounds: Sequence[tuple[int, int]]) -> list[Any]:
        """Return the bytes from start to stop of each of `bounds`, as buffers. Adjacent ranges share a request."""
        nonempty = [(start, stop) for start, stop in bounds if start < stop]  # an empty range is an error to S3
        starts, stops = [start for start, _ in nonempty], [stop for _, stop in nonempty]
        found = iter(self._request("read", lambda: self._client.get_ranges(self.key, starts=starts, ends=stops)))
        return [next(found) if start < stop else b"" for start, stop in bounds]

    def download(self, file: Path) -> None:
        """Copy the object to a file of this machine. Raises FileNotFoundError if there is no object."""

        def copy() -> None:
            with file.open("wb") as opened:
                opened.writelines(self._client.get(self.key).stream(UPLOAD_PART_BYTES))

        self._request("read", copy)

    def write(self, chunks: Iterable[bytes]) -> None:
        """Create or replace the object: readers see the old content or the new one.

        A large object is uploaded in parts. Those of an interrupted upload are invisible, but stored and paid for
        until the bucket's lifecycle rule AbortIncompleteMultipartUpload deletes them.

        Args:
            chunks: iterated again if the upload has to be repeated.
        """

        def put() -> None:
            rest = iter(chunks)
            first = _take_bytes(rest, UPLOAD_PART_BYTES)
            if len(first) < UPLOAD_PART_BYTES:
                self._client.put(self.key, first, use_multipart=False)
            else:
                all_chunks = chain([first], rest)
                self._client.put(self.key, all_chunks, chunk_size=UPLOAD_PART_BYTES, max_concurrency=CONCURRENT_UPLOADS)

        self._request("written", put)

    def objects(self) -> list[tuple[str, int]]:
        """Return (key relative to this path, size in bytes) of every object under this prefix, in no order."""
        start = len(self.key) + 1 if self.key else 0

        def listed() -> list[tuple[str, int]]:
            pages = self._client.list(self.key or None, chunk_size=1000)
            return [(item["path"][start:], item["size"]) for page in pages for item in page]

        return self._request("listed", listed)

    def list_names(self) -> list[str]:
        """Return the names of the objects and prefixes directly under this prefix."""
        found = self._request("listed", lambda: self._client.list_with_delimiter(self.key or None))
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        return [name for path in paths if (name := path[len(self.key) :].strip("/"))]

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects under this prefix, its own `zarr.json` first."""
        keys = [f"{self.key}/{name}" for name in names]
        self._request("removed", lambda: self._client.delete([f"{self.key}/zarr.json"]))
        self._request("removed", lambda: self._client.delete(keys))

    @property
    def _client(self) -> S3Store:
        return _client(self.bucket)

    def _request(self, done: str, request: Callable[[], T]) -> T:
        """Return what a repeatable request returns, and translate obstore's errors.

        Args:
            done: what was to be done to the object, as a participle, for the message.
        """
        from obstore.exceptions import BaseError

        for attempt in range(MAX_TRUNCATED_RETRIES + 1):
            try:
                return request()
            except (BaseError, ValueError, FileNotFoundError) as error:
                report = str(error)
                truncated = any(sign in report for sign in TRUNCATED)
                if truncated and attempt < MAX_TRUNCATED_RETRIES:
                    continue
                if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in report and not truncated:
                    raise FileNotFoundError(errno.ENOENT, "There is no such object", str(self)) from None
                raise self._storage_error(done, report) from None
        raise AssertionError("unreachable")

    def _storage_error(self, done: str, report: str) -> StorageError:
        """Return the error whose one line says what obstore reports in many."""
        server = f"at {endpoint()}" if endpoint() else "at Amazon"
        if "NoSuchBucket" in report:
            return StorageError(f"There is no bucket {self.bucket!r} {server}: make it first, or correct the URL.")
        if ROLE_REQUEST in report:
            return StorageError(
                f"{self} cannot be {done}: there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or AWS_SKIP_SIGNATURE=true for a public bucket."
            )
        cause = report.partition("\n")[0].rpartition(" - ")[2].partition(": <")[0].rpartition("status code: ")[2]
        answer = re.search(r"<Message>(.+?)</Message>", report) or re.search(r"<Code>(.+?)</Code>", report)
        said = f"{cause} ({answer[1].rstrip('.')})" if answer else cause
        if cause.startswith(("401", "403")):
            return StorageError(f"{self} cannot be {done} {server}: {said}. Check AWS_ACCESS_KEY_ID and its rights.")
        return StorageError(
            f"{self} cannot be {done} {server}: {said}. Once that is fixed, run the same command again to continue."
        )


def endpoint() -> str:
    """Return the URL of the server; empty for Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _take_bytes(chunks: Iterator[bytes], size: int) -> bytes:
    """Return chunks from the front of an iterator, joined, until they are `size` bytes or more."""
    joined = bytearray()
    while len(joined) < size and (chunk := next(chunks, b"")):
        joined += chunk
    return bytes(joined)


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


@cache
def _client(bucket: str, first: bool = False) -> S3Store:
    from obstore.store import S3Store

    if endpoint() and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", endpoint()):
        raise UsageError(f"AWS_ENDPOINT_URL is {endpoint()!r}: give it as https://HOST or http://HOST:PORT.")
    timeouts, retries = (FIRST_TIMEOUTS, FIRST_RETRIES) if first else (TIMEOUTS, RETRIES)
    # Without TLS only where AWS_ENDPOINT_URL says so.
    return S3Store(bucket, client_options={**timeouts, "allow_http": True}, retry_config=retries)
