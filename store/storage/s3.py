"""Objects of S3-compatible storage as paths. The only file that knows obstore.

Where the storage is and who asks for it is said by the environment, as to any S3 client: AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY (else the role of the machine), AWS_REGION, AWS_ENDPOINT_URL for other servers than Amazon's,
AWS_SKIP_SIGNATURE=true for public buckets.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.store.errors import StorageError, UsageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Store

T = TypeVar("T")

SCHEME = "s3://"
PIECE_BYTES = 8 << 20
"""Of a large upload: what is sent again when a connection breaks, and has `read_timeout` to get through. With all that
a part has on their way at once, that takes 3.5 Mbit/s."""
PIECES_AT_ONCE = 2

TIMEOUTS: ClientConfig = {"connect_timeout": "5s", "read_timeout": "120s", "timeout": "1h"}
RETRIES: RetryConfig = {"max_retries": 10, "retry_timeout": timedelta(minutes=4)}
"""After throttling, server errors, broken connections and timeouts; waits grow from 0.1 to 15 s, about 40 s in all."""
FIRST_TIMEOUTS: ClientConfig = {"connect_timeout": "2s", "timeout": "10s"}
FIRST_RETRIES: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=10)}
"""Of the first contact: a wrong address or key is found out in seconds."""
CUT = ("response body error", "NoSuchUpload")
"""What obstore does not try again by itself: an answer that broke off, and an upload that is not there any more since
the answer to its end broke off."""
MOST_CUT = 3
"""Times that one request is sent again for that."""

ROLE_REQUEST = "/latest/api/token"
"""Asked of the machine's own metadata service when the environment holds no credentials."""


@dataclass(frozen=True, slots=True)
class S3Path:
    """One object, or all objects under a prefix. Answers to the names of `pathlib.Path` where it can.

    Every method that asks the storage raises StorageError where it refuses, or does not answer in spite of retries.
    """

    bucket: str
    key: str
    """Without slashes at its ends; empty for the whole bucket."""

    @classmethod
    def parse(cls, url: str) -> S3Path:
        """`s3://bucket/prefix`. Raises UsageError where it is none."""
        bucket, _, key = url.removeprefix(SCHEME).partition("/")
        names = [name for name in key.split("/") if name]
        if not re.fullmatch(r"[A-Za-z0-9._-]{3,63}", bucket) or {".", ".."} & set(names) or not url.isprintable():
            raise UsageError(f"{url!r} is no place in a bucket: give it as {SCHEME}BUCKET/PREFIX.")
        return cls(bucket, "/".join(names))

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> S3Path:
        return S3Path(self.bucket, f"{self.key}/{name}" if self.key else name)

    def resolve(self) -> S3Path:
        return self

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> S3Path:
        return S3Path(self.bucket, self.key.rpartition("/")[0])

    def check(self) -> None:
        """Find out quickly whether the bucket can be used at all."""
        self._ask("listed", lambda: next(iter(_client(self.bucket, first=True).list(self.key or None)), None))

    def exists(self) -> bool:
        """Whether there is an object of this very key."""
        try:
            self._ask("looked up", lambda: self._client.head(self.key))
        except FileNotFoundError:
            return False
        return True

    def size(self) -> int:
        """In bytes. Raises FileNotFoundError where there is no such object."""
        return int(self._ask("looked up", lambda: self._client.head(self.key))["size"])

    def read_bytes(self) -> bytes:
        """The whole object. Raises FileNotFoundError where there is none."""
        return self._ask("read", lambda: self._client.get(self.key).bytes().to_bytes())

    def read_tail(self, count: int) -> bytes:
        """Its last `count` bytes, or all where it has fewer."""
        options: Any = {"range": {"suffix": count}}
        return self._ask("read", lambda: self._client.get(self.key, options=options).bytes().to_bytes())

    def read_ranges(self, bounds: Sequence[tuple[int, int]]) -> list[Any]:
        """The bytes from start to stop of each of `bounds`, as buffers. Neighbours come in one request."""
        asked = [(start, stop) for start, stop in bounds if start < stop]  # an empty range is an error to S3
        starts, stops = [start for start, _ in asked], [stop for _, stop in asked]
        found = iter(self._ask("read", lambda: self._client.get_ranges(self.key, starts=starts, ends=stops)))
        return [next(found) if start < stop else b"" for start, stop in bounds]

    def download(self, file: Path) -> None:
        """Copy the object into a file. Raises FileNotFoundError where there is none."""

        def copy() -> None:
            with file.open("wb") as opened:
                opened.writelines(self._client.get(self.key).stream(PIECE_BYTES))

        self._ask("read", copy)

    def write(self, chunks: Iterable[bytes]) -> None:
        """Make or replace the object: afterwards it is there whole, or as it was before.

        A large one goes up in pieces. Those of an upload that was killed are seen by nobody, but kept and paid for
        until the bucket's lifecycle rule AbortIncompleteMultipartUpload takes them away.

        Args:
            chunks: gone through anew when the upload has to be.
        """

        def put() -> None:
            rest = iter(chunks)
            first = _joined(rest, PIECE_BYTES)
            if len(first) < PIECE_BYTES:
                self._client.put(self.key, first, use_multipart=False)
            else:
                pieces = chain([first], rest)
                self._client.put(self.key, pieces, chunk_size=PIECE_BYTES, max_concurrency=PIECES_AT_ONCE)

        self._ask("written", put)

    def objects(self) -> list[tuple[str, int]]:
        """Key, from here on, and size in bytes of every object under this prefix, in no certain order."""
        start = len(self.key) + 1 if self.key else 0

        def listed() -> list[tuple[str, int]]:
            pages = self._client.list(self.key or None, chunk_size=1000)
            return [(item["path"][start:], item["size"]) for page in pages for item in page]

        return self._ask("listed", listed)

    def names(self) -> list[str]:
        """What lies directly under this prefix."""
        found = self._ask("listed", lambda: self._client.list_with_delimiter(self.key or None))
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        return [name for path in paths if (name := path[len(self.key) :].strip("/"))]

    def remove(self) -> None:
        """All objects under this prefix, a `zarr.json` directly there first: what is half gone reads as nothing."""
        keys = [f"{self.key}/{name}" for name, _ in self.objects()]
        self._ask("removed", lambda: self._client.delete([f"{self.key}/zarr.json"]))
        self._ask("removed", lambda: self._client.delete(keys))

    @property
    def _client(self) -> S3Store:
        return _client(self.bucket)

    def _ask(self, done: str, request: Callable[[], T]) -> T:
        """What a request that may be sent again returns; obstore's errors become ours."""
        from obstore.exceptions import BaseError

        for attempt in range(MOST_CUT + 1):
            try:
                return request()
            except (BaseError, ValueError, FileNotFoundError) as error:
                report = str(error)
                cut = any(sign in report for sign in CUT)
                if not cut or attempt == MOST_CUT:
                    lacking = isinstance(error, FileNotFoundError) and "NoSuchBucket" not in report and not cut
                    raise self._lacking() if lacking else self._trouble(done, report) from None
        raise AssertionError("unreachable")

    def _lacking(self) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, "There is no such object", str(self))

    def _trouble(self, done: str, report: str) -> StorageError:
        """The one line for what obstore reports in many."""
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
            f"{self} cannot be {done} {server}: {said}. When that is mended, run the same command again to go on."
        )


def endpoint() -> str:
    """Address of the server; empty for Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _joined(chunks: Iterator[bytes], size: int) -> bytes:
    """Chunks taken from the front of an iterator until they are `size` bytes or more."""
    taken = bytearray()
    while len(taken) < size and (chunk := next(chunks, b"")):
        taken += chunk
    return bytes(taken)


@cache
def _client(bucket: str, first: bool = False) -> S3Store:
    from obstore.store import S3Store

    if endpoint() and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", endpoint()):
        raise UsageError(f"AWS_ENDPOINT_URL is {endpoint()!r}: give it as https://HOST or http://HOST:PORT.")
    timeouts, retries = (FIRST_TIMEOUTS, FIRST_RETRIES) if first else (TIMEOUTS, RETRIES)
    # Without TLS only where AWS_ENDPOINT_URL says so.
    return S3Store(bucket, client_options={**timeouts, "allow_http": True}, retry_config=retries)
