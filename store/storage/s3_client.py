"""The client of an S3 bucket: limits, retries, and what goes wrong in one line. Only this file knows obstore.

The environment configures it, as it does any S3 client: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (otherwise the role
of the machine), AWS_REGION, AWS_ENDPOINT_URL for servers other than Amazon's, AWS_SKIP_SIGNATURE=true for public
buckets.
"""

from __future__ import annotations

import errno
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.request import HTTPRedirectHandler, build_opener

from headrace.store.errors import StorageError
from headrace.store.names import shown
from headrace.store.storage.s3_settings import (
    check_settings,
    endpoint,
    is_signing,
    keys_missing,
    object_url,
    refused_setting,
)

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ClientConfig, RetryConfig, S3Store

T = TypeVar("T")

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

STREAM_BYTES = 1 << 20
MAX_WHOLE_BYTES = 1 << 32
"""Most bytes that are read into memory at once: four times an index of ten million utterances."""
ANSWER_SECONDS = 300.0
"""Time limit of an answer without its body, of a page of a list, and of each STREAM_BYTES that a body announces. All
retries are included."""
FIRST_SECONDS = 20.0
"""Time limit of the first request."""
PAGE = 1000
"""Most objects of one answer."""
MAX_LISTED = 1 << 25
"""Most objects of a list."""
LIST_HEAD_BYTES = 4096
"""In which the root element of a list begins."""
MAX_SAID = 200
"""Most characters of what a server says that are repeated."""

INVALID_KEY = "object with invalid path"
ROLE_REQUEST = "/latest/api/token"
"""Path of the machine's own metadata service, which is queried if the environment holds no credentials."""


@dataclass(frozen=True, slots=True)
class S3Client:
    """Ask for objects of a bucket by their keys; a prefix is a key too, and empty for the whole bucket.

    Every method raises StorageError if the server refuses it, does not answer despite retries, or answers what no S3
    server does; and UsageError if the environment does not say where to ask, or as whom.
    """

    bucket: str

    def check_access(self, prefix: str) -> None:
        """Raise StorageError, within seconds, if the bucket cannot be used at all."""
        client = connect(self.bucket, first=True)

        def first_page() -> None:
            if not next(iter(client.list(prefix or None)), None):
                self._check_end(prefix, client)

        self._request("listed", prefix, lambda: _within(FIRST_SECONDS, first_page))

    def size(self, key: str) -> int:
        """Return the size of an object in bytes. Raises FileNotFoundError if there is none."""
        head = self._request("looked up", key, lambda: _within(ANSWER_SECONDS, lambda: self._client.head(key)))
        return int(head["size"])

    def read(self, key: str, part: object = None) -> bytes:
        """Return the content of an object. Raises FileNotFoundError if there is none.

        Args:
            part: of it that is read: the first byte and the one after the last; or {"suffix": number of bytes}.
        """

        def get() -> bytes:
            answer = self._get(key, part)
            start, stop = answer.range
            if stop - start > MAX_WHOLE_BYTES:
                raise StorageError(
                    f"{self._url(key)} has {stop - start:,} bytes to be read at once: no file of a store is that large."
                )
            return b"".join(self._body(key, answer, stop - start))

        return self._request("read", key, get)

    def download(self, key: str, file: Path) -> None:
        """Copy an object to a file of this machine.

        Raises:
            FileNotFoundError: there is no object.
            StorageError: it is larger than the room on the disk; or the server sends other bytes than it announces.
        """

        def copy() -> None:
            answer = self._get(key)
            size, room = answer.meta["size"], shutil.disk_usage(file.parent).free
            if size > room:
                raise StorageError(
                    f"{self._url(key)} has {size:,} bytes, and {file.parent} has room for {room:,}: set TMPDIR."
                )
            with file.open("wb") as opened:
                opened.writelines(self._body(key, answer, size))

        self._request("read", key, copy)

    def write(self, key: str, chunks: Iterable[bytes]) -> None:
        """Create or replace an object: readers see the old content or the new one.

        A large object is uploaded in parts. Those of an interrupted upload are invisible, but stored and paid for
        until the bucket's lifecycle rule AbortIncompleteMultipartUpload deletes them.

        Args:
            chunks: iterated again if the upload has to be repeated.
        """

        def put() -> None:
            rest = iter(chunks)
            first = _take_bytes(rest, UPLOAD_PART_BYTES)
            if len(first) < UPLOAD_PART_BYTES:
                self._client.put(key, first, use_multipart=False)
            else:
                all_chunks = chain([first], rest)
                self._client.put(key, all_chunks, chunk_size=UPLOAD_PART_BYTES, max_concurrency=CONCURRENT_UPLOADS)

        self._request("written", key, put)

    def objects(self, prefix: str) -> list[tuple[str, int, str]]:
        """Return (key below the prefix, size in bytes, entity tag) of every object under a prefix, in no order."""
        return self._request("listed", prefix, lambda: self._listed(prefix))

    def list_names(self, prefix: str) -> list[str]:
        """Return the names of the objects and prefixes directly under a prefix."""

        def listed() -> list[str]:
            found = _within(ANSWER_SECONDS, lambda: self._client.list_with_delimiter(prefix or None))
            paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
            if len(paths) % PAGE == 0:
                _within(ANSWER_SECONDS, lambda: self._check_end(prefix, self._client))
            return [name for path in paths if (name := self._below(prefix, path.rstrip("/")))]

        return self._request("listed", prefix, listed)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, those of them that are there."""
        seconds = ANSWER_SECONDS * (1 + len(keys) // PAGE)
        where = keys[0] if keys else ""
        self._request("removed", where, lambda: _within(seconds, lambda: self._client.delete(keys)))

    @property
    def _client(self) -> S3Store:
        return connect(self.bucket)

    def _url(self, key: str) -> str:
        return object_url(self.bucket, key)

    def _get(self, key: str, part: object = None) -> GetResult:
        """Return the answer to a request for an object; its body has yet to come."""
        options: Any = None if part is None else {"range": part}
        return _within(ANSWER_SECONDS, lambda: self._client.get(key, options=options))

    def _body(self, key: str, answer: GetResult, size: int) -> Iterator[bytes]:
        """Yield the blocks of a body, which has as many bytes as were announced.

        Raises:
            StorageError: it has other ones.
            TimeoutError: they do not come in time.
        """
        end = time.monotonic() + ANSWER_SECONDS * (1 + size // STREAM_BYTES)
        blocks, received = iter(answer.stream(STREAM_BYTES)), 0
        while received <= size and (block := _within(end - time.monotonic(), lambda: next(blocks, None))) is not None:
            received += len(block)
            yield bytes(block)
        if received != size:
            raise self._wrong_answer(key, f"{received} bytes or more of the {size} that it announces")

    def _listed(self, prefix: str) -> list[tuple[str, int, str]]:
        """
        Raises:
            StorageError: the server lists what was not asked for, does not come to an end, or sends no list.
        """
        found: list[tuple[str, int, str]] = []
        pages, firsts = self._client.list(prefix or None, chunk_size=PAGE), set[str]()
        while page := _within(ANSWER_SECONDS, lambda: next(pages, None)):
            first = page[0]["path"]
            if first in firsts or len(found) > MAX_LISTED:
                raise self._wrong_answer(prefix, f"a list without an end (object {len(found):,} is {shown(first)})")
            firsts.add(first)
            found += [(self._below(prefix, item["path"]), item["size"], item["e_tag"] or "") for item in page]
        if len(found) % PAGE == 0:
            _within(ANSWER_SECONDS, lambda: self._check_end(prefix, self._client))
        return found

    def _below(self, prefix: str, key: str) -> str:
        """Return a key that was listed, relative to the prefix; empty for the object that marks a folder."""
        if prefix and key != prefix and not key.startswith(f"{prefix}/"):
            raise self._wrong_answer(prefix, f"a list with {shown(key)} in it, which is not below {self._url(prefix)}")
        return key[len(prefix) :].lstrip("/")

    def _check_end(self, prefix: str, client: S3Store) -> None:
        """Raise StorageError if the last page of a list, which was full or empty, may have been no list at all.

        obstore takes any answer without objects for a list that ends, the login page of a network too. So the bucket
        is asked once more, and the answer read here. Only one that is a success, and no list, is evidence: keys that
        may list just a part of the bucket are refused.
        """
        if endpoint() and _is_other_answer(client, self.bucket):
            raise self._wrong_answer(prefix, "something other than a list of objects")

    def _request(self, done: str, key: str, request: Callable[[], T]) -> T:
        """Return what a repeatable request returns, and translate obstore's errors.

        Args:
            done: what was to be done to the object, as a participle, for the message.
        """
        from obstore.exceptions import BaseError

        for attempt in range(MAX_TRUNCATED_RETRIES + 1):
            try:
                return request()
            except TimeoutError:
                raise self._wrong_answer(key, "no end of an answer") from None
            except (BaseError, ValueError, FileNotFoundError) as error:
                report = str(error)
                truncated = any(sign in report for sign in TRUNCATED)
                if truncated and attempt < MAX_TRUNCATED_RETRIES:
                    continue
                if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in report and not truncated:
                    raise FileNotFoundError(errno.ENOENT, "There is no such object", self._url(key)) from None
                raise self._storage_error(done, key, report) from None
        raise AssertionError("unreachable")

    def _wrong_answer(self, key: str, what: str) -> StorageError:
        """Return the error for an answer that no S3 server gives."""
        return StorageError(
            f"{_server()} sends {what}, when asked for {self._url(key)}: check that it is an S3 server."
        )

    def _storage_error(self, done: str, key: str, report: str) -> StorageError:
        """Return the error whose one line says what obstore reports in many."""
        url, server = self._url(key), f"at {_server()}"
        if "NoSuchBucket" in report:
            return StorageError(f"There is no bucket {self.bucket!r} {server}: make it first, or correct the URL.")
        if ROLE_REQUEST in report:
            return StorageError(f"{url} cannot be {done}: there are no credentials. {keys_missing()}")
        if INVALID_KEY in report:
            odd = shown(report.partition('"')[2].partition('"')[0])
            return StorageError(f"{url} cannot be {done} {server}: {odd} is in it, and is no path. Rename that object.")
        cause = report.partition("\n")[0].rpartition(" - ")[2].partition(": <")[0].rpartition("status code: ")[2]
        answer = re.search(r"<Message>(.+?)</Message>", report) or re.search(r"<Code>(.+?)</Code>", report)
        said = f"{cause} ({answer[1].rstrip('.')})" if answer else cause.rstrip(":. ")
        said = said.encode("unicode_escape").decode()
        said = f"{said[:MAX_SAID]}..." if len(said) > MAX_SAID else said
        if cause.startswith(("401", "403")):
            return StorageError(f"{url} cannot be {done} {server}: {said}. Check AWS_ACCESS_KEY_ID and its rights.")
        return StorageError(
            f"{url} cannot be {done} {server}: {said}. Once that is fixed, run the same command again to continue."
        )


@cache
def connect(bucket: str, first: bool = False) -> S3Store:
    """Return the client library's own client of a bucket.

    Args:
        first: it gives up within seconds.
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


def _server() -> str:
    return endpoint() or "Amazon"


class _NoRedirects(HTTPRedirectHandler):
    """Follow no redirect: a signed URL is for the server that it names."""

    def redirect_request(self, *_: object) -> None:
        """Return no request to send next, so that the redirect is an error."""


def _is_other_answer(client: S3Store, bucket: str) -> bool:
    """Return whether the answer to a list of the bucket is a success, and no list."""
    from obstore import sign
    from obstore.exceptions import BaseError

    try:
        plain = f"{endpoint().rstrip('/')}/{bucket}"
        url = sign(client, "GET", "", timedelta(minutes=5)) if is_signing() else plain
        with build_opener(_NoRedirects).open(url, timeout=ANSWER_SECONDS) as answer:
            return answer.status == 200 and b"ListBucketResult" not in answer.read(LIST_HEAD_BYTES)
    except (BaseError, OSError, HTTPException, ValueError):
        return False


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call returns. Raises TimeoutError if it takes longer; the call then goes on, to nobody's use.

    A client that is led from page to page of a list, or to which an answer drips, does not come back by itself.
    """
    done: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def run() -> None:
        try:
            done.put((True, call()))
        except BaseException as error:  # noqa: BLE001 - it is raised by the thread that waits
            done.put((False, error))

    Thread(target=run, daemon=True).start()
    try:
        is_value, found = done.get(timeout=max(0.0, seconds))
    except Empty:
        raise TimeoutError from None
    if not is_value:
        raise found
    return cast(T, found)


def _take_bytes(chunks: Iterator[bytes], size: int) -> bytes:
    """Return chunks from the front of an iterator, joined, until they are `size` bytes or more."""
    joined = bytearray()
    while len(joined) < size and (chunk := next(chunks, b"")):
        joined += chunk
    return bytes(joined)
