"""S3-compatible object storage: its objects as paths, and the operations that a store needs. Only this file knows
obstore.

The environment configures it, as it does any S3 client: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (otherwise the role
of the machine), AWS_REGION, AWS_ENDPOINT_URL for servers other than Amazon's, AWS_SKIP_SIGNATURE=true for public
buckets.
"""

from __future__ import annotations

import errno
import re
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar, cast

from headrace.store.errors import StorageError, UsageError
from headrace.store.names import is_own_file, shown
from headrace.store.storage.s3_settings import check_settings, endpoint, keys_missing, refused_setting

if TYPE_CHECKING:
    from obstore import GetResult
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

JOINED_BYTES = 1 << 20
"""Ranges that are closer than this are read by one request."""
CONCURRENT_RANGES = 8
STREAM_BYTES = 1 << 20
MAX_WHOLE_BYTES = 1 << 32
"""Most bytes that are read into memory at once: four times an index of ten million utterances."""
LIST_SECONDS = 300.0
FIRST_SECONDS = 20.0
"""Time limits of a page of a list, all retries included, and of the first request."""
MAX_LISTED = 1 << 25
"""Most objects of a list."""
MAX_SAID = 200
"""Most characters of what a server says that are repeated."""

INVALID_KEY = "object with invalid path"
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
        client = _client(self.bucket, first=True)
        self._request("listed", lambda: _within(FIRST_SECONDS, lambda: next(iter(client.list(self.key or None)), None)))

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
        return self._request("read", lambda: self._received(self._client.get(self.key)))

    def read_tail(self, count: int) -> bytes:
        """Return the last `count` bytes of the object, or all of them if it is shorter."""
        options: Any = {"range": {"suffix": count}}
        return self._request("read", lambda: self._received(self._client.get(self.key, options=options)))

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
        options: Any = {"range": span}
        data = self._request("read", lambda: self._received(self._client.get(self.key, options=options)))
        if len(data) != span[1] - span[0]:
            raise StorageError(
                f"{self} ends before its byte {span[1]}: it was replaced while it was read, or the server answers "
                "wrongly. Run the same command again."
            )
        return memoryview(data)

    def _received(self, answer: GetResult) -> bytes:
        """Return the body of an answer, which has as many bytes as the answer says, and not too many for the memory.

        Raises:
            StorageError: it has other ones.
        """
        start, stop = answer.range
        blocks, size = [], 0
        if stop - start > MAX_WHOLE_BYTES:
            raise StorageError(
                f"{self} has {stop - start:,} bytes to be read at once: no file of a store is that large."
            )
        for block in answer.stream(STREAM_BYTES):
            blocks.append(bytes(block))
            size += len(block)
            if size > stop - start:
                break
        if size != stop - start:
            raise self._wrong_answer(f"{size} bytes or more of the {stop - start} that it announces")
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def download(self, file: Path) -> None:
        """Copy the object to a file of this machine.

        Raises:
            FileNotFoundError: there is no object.
            StorageError: it is larger than the room on the disk; or the server sends other bytes than it announces.
        """

        def copy() -> None:
            answer = self._client.get(self.key)
            size, room = answer.meta["size"], shutil.disk_usage(file.parent).free
            if size > room:
                raise StorageError(f"{self} has {size:,} bytes, and {file.parent} has room for {room:,}: set TMPDIR.")
            left = size
            with file.open("wb") as opened:
                for block in answer.stream(STREAM_BYTES):
                    left -= opened.write(block)
                    if left < 0:
                        break
            if left:
                raise self._wrong_answer(f"{size - left} bytes or more of the {size} that it announces")

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
        return [(name, size) for name, size, _ in self.tagged_objects()]

    def tagged_objects(self) -> list[tuple[str, int, str]]:
        """Return `objects` with the entity tag of each, which is another one once its content is another one."""
        return self._request("listed", self._listed)

    def _listed(self) -> list[tuple[str, int, str]]:
        """
        Raises:
            StorageError: the server lists what was not asked for, or does not come to an end.
        """
        found: list[tuple[str, int, str]] = []
        pages, firsts = self._client.list(self.key or None, chunk_size=1000), set[str]()
        while page := _within(LIST_SECONDS, lambda: next(pages, None)):
            first = page[0]["path"]
            if first in firsts or len(found) > MAX_LISTED:
                raise self._wrong_answer(f"a list without an end (object {len(found):,} is {shown(first)})")
            firsts.add(first)
            found += [(self._relative(item["path"]), item["size"], item["e_tag"] or "") for item in page]
        return found

    def list_names(self) -> list[str]:
        """Return the names of the objects and prefixes directly under this prefix."""
        client, prefix = self._client, self.key or None
        found = self._request("listed", lambda: _within(LIST_SECONDS, lambda: client.list_with_delimiter(prefix)))
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        return [name for path in paths if (name := self._relative(path.rstrip("/")))]

    def _relative(self, key: str) -> str:
        """Return a key that was listed, relative to this path; empty for the object that marks a folder."""
        if self.key and key != self.key and not key.startswith(f"{self.key}/"):
            raise self._wrong_answer(f"a list with {shown(key)} in it, which is not below {self}")
        return key[len(self.key) :].lstrip("/")

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects under this prefix, its own `zarr.json` first."""
        keys = [f"{self.key}/{name}" for name in names]
        self._request("removed", lambda: self._client.delete([f"{self.key}/zarr.json"]))
        self._request("removed", lambda: self._client.delete(keys))

    def unlink(self) -> None:
        """Delete this object, if it is there."""
        self._request("removed", lambda: self._client.delete([self.key]))

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
            except TimeoutError:
                raise self._wrong_answer("no end of an answer") from None
            except (BaseError, ValueError, FileNotFoundError) as error:
                report = str(error)
                truncated = any(sign in report for sign in TRUNCATED)
                if truncated and attempt < MAX_TRUNCATED_RETRIES:
                    continue
                if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in report and not truncated:
                    raise FileNotFoundError(errno.ENOENT, "There is no such object", str(self)) from None
                raise self._storage_error(done, report) from None
        raise AssertionError("unreachable")

    def _wrong_answer(self, what: str) -> StorageError:
        """Return the error for an answer that no S3 server gives."""
        return StorageError(f"{_server()} sends {what}, when asked for {self}: check that it is an S3 server.")

    def _storage_error(self, done: str, report: str) -> StorageError:
        """Return the error whose one line says what obstore reports in many."""
        server = f"at {_server()}"
        if "NoSuchBucket" in report:
            return StorageError(f"There is no bucket {self.bucket!r} {server}: make it first, or correct the URL.")
        if ROLE_REQUEST in report:
            return StorageError(f"{self} cannot be {done}: there are no credentials. {keys_missing()}")
        if INVALID_KEY in report:
            key = shown(report.partition('"')[2].partition('"')[0])
            return StorageError(
                f"{self} cannot be {done} {server}: {key} is in it, and is no path. Rename that object."
            )
        cause = report.partition("\n")[0].rpartition(" - ")[2].partition(": <")[0].rpartition("status code: ")[2]
        answer = re.search(r"<Message>(.+?)</Message>", report) or re.search(r"<Code>(.+?)</Code>", report)
        said = f"{cause} ({answer[1].rstrip('.')})" if answer else cause.rstrip(":. ")
        said = said.encode("unicode_escape").decode()
        said = f"{said[:MAX_SAID]}..." if len(said) > MAX_SAID else said
        if cause.startswith(("401", "403")):
            return StorageError(f"{self} cannot be {done} {server}: {said}. Check AWS_ACCESS_KEY_ID and its rights.")
        return StorageError(
            f"{self} cannot be {done} {server}: {said}. Once that is fixed, run the same command again to continue."
        )


def _server() -> str:
    return endpoint() or "Amazon"


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call returns. Raises TimeoutError if it takes longer; the call then goes on, to nobody's use.

    A client that is led from page to page of a list does not come back by itself.
    """
    done: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def run() -> None:
        try:
            done.put((True, call()))
        except BaseException as error:  # noqa: BLE001 - it is raised by the thread that waits
            done.put((False, error))

    Thread(target=run, daemon=True).start()
    try:
        is_value, found = done.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    if not is_value:
        raise found
    return cast(T, found)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges in order, those in one that are closer than JOINED_BYTES."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and start - joined[-1][1] <= JOINED_BYTES:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


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


@cache
def _client(bucket: str, first: bool = False) -> S3Store:
    """
    Raises:
        UsageError: the environment does not say where to ask, or as whom.
    """
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    check_settings()
    timeouts, retries = (FIRST_TIMEOUTS, FIRST_RETRIES) if first else (TIMEOUTS, RETRIES)
    # Without TLS only where the variable says so: a redirect cannot lead there.
    options: ClientConfig = {**timeouts, "allow_http": endpoint().startswith("http://")}
    where: Any = {"endpoint": endpoint()} if endpoint() else {}
    try:
        return S3Store(bucket, client_options=options, retry_config=retries, **where)
    except (BaseError, ValueError) as error:
        raise refused_setting(str(error).partition("\n")[0].rpartition(" error: ")[2]) from None
