"""A real S3 server for tests: moto's, as a process of its own, and a proxy in front of it that misbehaves. And one that
is no S3 server at all, but sends whatever a test makes up."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from headrace.store.storage.s3 import S3Path

BUCKET = "headrace"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
ANSWERS = {"503": "SlowDown", "403": "AccessDenied"}


def environment(port: int) -> dict[str, str]:
    """What tells an S3 client to ask this machine."""
    return KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


@contextmanager
def server() -> Iterator[int]:
    """The port of an S3 server with one bucket, gone with all it holds afterwards."""
    import boto3

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = int(one.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None, "moto's server has ended"
            time.sleep(0.05)
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name=KEYS["AWS_REGION"],
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )
        client.create_bucket(Bucket=BUCKET)
        yield port
    finally:
        process.kill()
        process.wait()


Fault = Callable[[str, str, int], str]
"""Method, path and number of a request to what shall become of it: "" (it is answered), one of ANSWERS instead, "reset"
(the connection breaks before the answer) or "cut" (within it)."""


class Proxy(ThreadingHTTPServer):
    """In front of the server: notes every request, and does to it what `fault` says."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.requests: list[tuple[str, str]] = []
        """Method and path of each."""
        self.fault: Fault = lambda method, path, number: ""
        self.port = int(self.server_address[1])
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: object, address: object) -> None:
        """A client that was killed breaks its connections: nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's delayed acknowledgement
    server: Proxy

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path))
        fault = self.server.fault(self.command, self.path, len(self.server.requests))
        if fault == "reset":
            self.close_connection = True
            return
        status, headers, data = self.refusal(fault) if fault in ANSWERS else self.answer(body)
        self.send_response(status)
        if self.command == "HEAD":
            data = b""
        else:
            headers["Content-Length"] = str(len(data))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        self.close_connection = fault == "cut"

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    def refusal(self, status: str) -> tuple[int, dict[str, str], bytes]:
        return int(status), {}, f"<Error><Code>{ANSWERS[status]}</Code></Error>".encode()

    def answer(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        data = response.read()
        connection.close()
        hops = {"transfer-encoding", "connection"}
        return response.status, {n.title(): v for n, v in response.getheaders() if n.lower() not in hops}, data

    def log_message(self, *_: object) -> None:
        pass


Answer = Callable[[str, str, Mapping[str, str]], Iterable[bytes]]
"""Method, path and headers of a request to the bytes that are sent, status line and headers among them."""


class Impostor(ThreadingHTTPServer):
    """Sends what `answer` returns, byte for byte, and closes the connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Reciter)
        self.answer = answer
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and headers of each, the names of headers in lower case."""
        self.port = int(self.server_address[1])
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request: object, address: object) -> None:
        """A client that has enough breaks its connection: nothing to report."""


class _Reciter(BaseHTTPRequestHandler):
    server: Impostor

    def recite(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers))
        self.close_connection = True
        for block in self.server.answer(self.command, self.path, headers):
            self.wfile.write(block)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = recite

    def log_message(self, *_: object) -> None:
        pass


def response(body: bytes = b"", status: int = 200, **headers: object) -> bytes:
    """An answer of HTTP, its length as it is unless a header says otherwise; `_` in names of headers is `-`."""
    usual = {"Content-Length": len(body), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "ETag": '"x"'}
    named = usual | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def listing(*keys: str, more: str = "") -> bytes:
    """A page of the objects of a bucket, as S3 lists them.

    Args:
        more: token of the next page.
    """
    item = "<Contents><Key>{}</Key><Size>5</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
    last = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    return f"<ListBucketResult>{last}{''.join(map(item.format, keys))}</ListBucketResult>".encode()


def contents(prefix: S3Path) -> dict[str, bytes]:
    """Every object under a prefix."""
    return {key: (prefix / key).read_bytes() for key, _ in prefix.objects()}


def upload(folder: Path, prefix: S3Path) -> S3Path:
    """Every file of a folder as an object."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            (prefix / path.relative_to(folder).as_posix()).write([path.read_bytes()])
    return prefix
