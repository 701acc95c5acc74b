"""What calls itself an S3 server may answer anything: one line, in bounded time and memory, and nothing is harmed."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.cli.featurize import main as featurize
from headrace.cli.store import main as store_command
from headrace.featurize.files.source import local_file
from headrace.store.errors import Rejected, StorageError
from headrace.store.storage import s3_client, storage_of
from headrace.store.storage.s3 import S3Path
from tests.helpers.commands import build, call
from tests.helpers.corpora import make_tree
from tests.helpers.s3_server import KEYS, Answer, Impostor, listing, response

TOKEN = "a-session-token-that-nobody-may-see"
SECRET = "a-key-that-nobody-may-see"
PREFIX = S3Path("bucket", "corpus/a")
SOMETHING_ELSE = r"http://127\.0\.0\.1:\d+ sends something other than a list of objects, when asked for s3://bucket/"
OPERATIONS: dict[str, Callable[[], object]] = {
    "check_access": PREFIX.check_access,
    "exists": PREFIX.exists,
    "size": PREFIX.size,
    "read_bytes": PREFIX.read_bytes,
    "read_tail": lambda: PREFIX.read_tail(20),
    "read_ranges": lambda: PREFIX.read_ranges([(0, 10), (20, 30)]),
    "objects": PREFIX.objects,
    "list_names": PREFIX.list_names,
    "write": lambda: PREFIX.write([b"x"]),
    "delete": lambda: PREFIX.delete(["zarr.json"]),
}


@pytest.fixture
def impostor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Impostor]]:
    """Make a server that this process asks, and that soon tires it."""
    for name, value in (KEYS | {"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}).items():
        monkeypatch.setenv(name, value)
    retries = {"max_retries": 1, "backoff": {"init_backoff": timedelta(milliseconds=1)}}
    for name, value in (("TIMEOUTS", {"timeout": "500ms"}), ("FIRST_TIMEOUTS", {"timeout": "500ms"})):
        monkeypatch.setattr(s3_client, name, value)
    monkeypatch.setattr(s3_client, "RETRIES", retries)
    monkeypatch.setattr(s3_client, "FIRST_RETRIES", retries)
    monkeypatch.setattr(s3_client, "MAX_TRUNCATED_RETRIES", 1)
    servers: list[Impostor] = []

    def make(answer: Answer) -> Impostor:
        servers.append(Impostor(answer))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers[-1].port}")
        s3_client.connect.cache_clear()
        return servers[-1]

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()
    s3_client.connect.cache_clear()


def constant(answer: bytes) -> Answer:
    return lambda method, path, headers: [answer]


def partial(body: bytes, said: str, **headers: object) -> Answer:
    """Ranges are answered so, whatever was asked."""

    def answer(method: str, path: str, asked: Mapping[str, str]) -> Iterable[bytes]:
        return [response(body, 206, Content_Range=f"bytes {said}", **headers)]

    return answer


def drip(method: str, path: str, headers: Mapping[str, str]) -> Iterator[bytes]:
    yield response(Content_Length=1000)
    for _ in range(20):
        time.sleep(0.1)
        yield b"x"


ANSWERS: dict[str, Answer] = {
    "garbage": constant(b"\x00\xff\r\n\r\n" * 100),
    "nothing": constant(b""),
    "HTML": constant(response(b"<html><body>Welcome. Please sign in.</body></html>", Content_Type="text/html")),
    "a page of errors": constant(response(b"\x1b[31m" + b"A" * 5000, 400)),
    "an error with control characters": constant(response(b"<Error><Message>\x1b[2J\r</Message></Error>", 400)),
    "no rights": constant(response(status=403)),
    "no sense": constant(response(status=500)),
    "too little": constant(response(b"0123456789", Content_Length=1000)),
    "too much": constant(response(b"0123456789" * 10, Content_Length=10)),
    "a chunked body": constant(response(b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n", Transfer_Encoding="chunked")),
    "the wrong range": partial(b"0123456789", "100-109/1000"),
    "too short a range": partial(b"0123456789", "0-9/10"),
    "a short body of a range": partial(b"0123456789", "0-29/100"),
    "a long body of a range": partial(b"0123456789" * 10, "0-29/100"),
    "no range": partial(b"0123456789", "none"),
    "entities": constant(response(b'<!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><ListBucketResult>&b;')),
    "deep XML": constant(response(b"<ListBucketResult>" + b"<a>" * 100_000)),
    "a negative size": constant(response(listing("corpus/a/b").replace(b"<Size>5", b"<Size>-5"))),
    "drops": drip,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_any_answer_is_data_or_one_line(name: str, impostor: Callable[[Answer], Impostor]) -> None:
    server, started = impostor(ANSWERS[name]), time.monotonic()
    for operation in OPERATIONS if name != "drops" else ("check_access", "read_bytes"):
        try:
            OPERATIONS[operation]()
        except FileNotFoundError:
            continue
        except StorageError as error:
            assert "\n" not in error.message and error.message.isprintable(), error.message
            assert (len(error.message) < 500 and f"127.0.0.1:{server.port}" in error.message) or "ends before" in str(
                error
            )
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("answer", ["too short a range", "a short body of a range", "a long body of a range"])
def test_ranges_are_as_long_as_asked(answer: str, impostor: Callable[[Answer], Impostor]) -> None:
    impostor(ANSWERS[answer])
    with pytest.raises(StorageError):
        PREFIX.read_ranges([(0, 10), (20, 30)])


def endless(length: int) -> Answer:
    """A body that never ends, of which the header says another length."""

    def answer(method: str, path: str, headers: Mapping[str, str]) -> Iterator[bytes]:
        if length:
            yield response(Content_Length=length, Content_Range=f"bytes 0-{length - 1}/{length}")
        else:
            yield response(Content_Length=100, Transfer_Encoding="chunked")
        yield from itertools.repeat(b"x" * (1 << 16) if length else b"10000\r\n" + b"x" * (1 << 16) + b"\r\n")

    return answer


@pytest.mark.parametrize("length", [0, 10**13])
def test_no_body_is_larger_than_the_memory(
    length: int, impostor: Callable[[Answer], Impostor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a body that announces ten terabytes nothing is read: Rust would end the process when it asks for them."""
    impostor(endless(length))
    started = time.monotonic()
    for read in (PREFIX.read_bytes, OPERATIONS["read_tail"], OPERATIONS["read_ranges"]):
        with pytest.raises(StorageError):
            read()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 40))
    with pytest.raises(StorageError, match="TMPDIR" if length else "more of the 100"), local_file(PREFIX, "b.wav"):
        pass
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "keys, line",
    [
        (["corpus/a/b.wav", "other/zarr.json"], "a list with 'other/zarr.json' in it, which is not below"),
        (["corpus/abc"], "a list with 'corpus/abc' in it"),
        (["/etc/passwd"], "a list with 'etc/passwd' in it"),
        (["corpus/a/../../etc/passwd"], "'corpus/a/../../etc/passwd' is in it, and is no path"),
        (["corpus/a//b"], "'corpus/a//b' is in it, and is no path"),
        (["corpus/a/\x1b[2J"], r"'corpus/a/\x1b[2J' is in it, and is no path"),
    ],
)
def test_nothing_outside_the_prefix_is_listed_or_deleted(
    keys: list[str], line: str, impostor: Callable[[Answer], Impostor]
) -> None:
    server = impostor(constant(response(listing(*keys))))
    for call_ in (
        PREFIX.objects,
        PREFIX.list_names,
        lambda: storage_of(PREFIX).delete_folder(PREFIX.parent, "a"),
        lambda: storage_of(PREFIX).list_foreign(PREFIX),
    ):
        with pytest.raises(StorageError) as caught:
            call_()
        assert line in caught.value.message
    assert {method for method, _, _ in server.requests} == {"GET"}


def test_a_list_without_an_end_ends(impostor: Callable[[Answer], Impostor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(s3_client, "FIRST_SECONDS", 0.2)
    monkeypatch.setattr(s3_client, "MAX_LISTED", 2500)

    def empty(method: str, path: str, headers: Mapping[str, str]) -> Iterator[bytes]:
        time.sleep(0.02)
        yield response(listing(more="again"))

    impostor(empty)  # the client never comes back
    for ask in (PREFIX.check_access, PREFIX.objects, PREFIX.list_names):
        with pytest.raises(StorageError, match="no end of an answer"):
            ask()
    monkeypatch.setattr(s3_client, "ANSWER_SECONDS", 20.0)
    impostor(constant(response(listing(*(f"corpus/a/{n:03}" for n in range(1000)), more="again"))))
    with pytest.raises(StorageError, match="a list without an end"):
        PREFIX.objects()
    numbers = itertools.count()
    impostor(lambda *_: [response(listing(*(f"corpus/a/{next(numbers)}" for _ in range(1000)), more="again"))])
    with pytest.raises(StorageError, match="a list without an end"):
        PREFIX.objects()


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body>Welcome. Please sign in.</body></html>",
        b'<!doctype html><html><body><a href="b">b</a></body></html>',
        b'<?xml version="1.0"?><feed><title>Welcome</title></feed>',
        b"",
    ],
)
@pytest.mark.parametrize("page", [0, 1000])
def test_a_page_of_something_else_is_no_end_of_a_list(
    body: bytes, page: int, impostor: Callable[[Answer], Impostor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client library takes it for a list without objects, and so for the last page."""
    whole = response(listing(*(f"corpus/a/{n}" for n in range(page)), more="next"))
    impostor(lambda _, path, __: [response(body) if "continuation" in path or "Amz" in path or not page else whole])
    for ask in (PREFIX.objects, PREFIX.list_names, PREFIX.check_access)[: 2 if page else 3]:
        with pytest.raises(StorageError, match=SOMETHING_ELSE if body else "127.0.0.1"):
            ask()


def test_a_public_bucket_is_asked_without_a_signature(
    impostor: Callable[[Answer], Impostor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without a search for keys."""
    server = impostor(ANSWERS["HTML"])
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "True")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=SOMETHING_ELSE):
        PREFIX.objects()
    assert [path.partition("?")[0] for _, path, _ in server.requests] == ["/bucket", "/bucket"]
    assert not any("ignature" in path or "authorization" in headers for _, path, headers in server.requests)


@pytest.mark.parametrize("prefix", ["", "s3:"])
def test_an_empty_list_is_one(prefix: str, impostor: Callable[[Answer], Impostor]) -> None:
    """Also where whole buckets may not be listed. Each takes one request more, and a list of objects none."""
    xml = f'<?xml version="1.0"?>\n<{prefix}ListBucketResult xmlns{":" * bool(prefix)}{prefix[:-1]}="http://x/">'
    empty = response(xml.encode() + f"</{prefix}ListBucketResult>".encode())
    for check in (empty, response(status=403), response(b"x", 202), response(status=302, Location="/there"), b""):
        server = impostor(lambda _, path, __, check=check: [check if "Amz" in path else empty])
        assert PREFIX.objects() == [] == PREFIX.list_names()
        PREFIX.check_access()
        assert len(server.requests) == 6
    server = impostor(constant(response(listing("corpus/a/b"))))
    assert PREFIX.objects() == [("b", 5)] and PREFIX.list_names() == ["b"]
    PREFIX.check_access()
    assert len(server.requests) == 3


def test_a_body_that_drips_ends(
    impostor: Callable[[Answer], Impostor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its time limit grows with what it announces, and nothing of it is kept."""
    impostor(drip)
    monkeypatch.setattr(s3_client, "TIMEOUTS", {"timeout": "1h"})
    monkeypatch.setattr(s3_client, "ANSWER_SECONDS", 0.2)
    started = time.monotonic()
    for read in (PREFIX.read_bytes, lambda: PREFIX.download(tmp_path / "file")):
        with pytest.raises(StorageError, match="no end of an answer"):
            read()
    assert time.monotonic() - started < 1
    impostor(lambda *_: itertools.chain([response(Content_Length=10)], (time.sleep(0.05) or b"x" for _ in range(10))))
    monkeypatch.setattr(s3_client, "STREAM_BYTES", 4)  # three times as long for ten bytes
    assert PREFIX.read_bytes() == b"x" * 10


def test_a_body_that_goes_on_after_its_end_is_refused() -> None:
    answer: Any = SimpleNamespace(stream=lambda size: [b"0123456789", b"x"])
    with pytest.raises(StorageError, match="sends 11 bytes or more of the 10 that it announces"):
        list(s3_client.S3Client("bucket")._body("key", answer, 10))


def test_a_header_that_drips_ends(impostor: Callable[[Answer], Impostor], monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 Status\r\nX-"
        while True:
            time.sleep(0.02)
            yield b"x"

    impostor(endless)
    monkeypatch.setattr(s3_client, "TIMEOUTS", {"timeout": "2s"})
    monkeypatch.setattr(s3_client, "FIRST_TIMEOUTS", {"timeout": "2s"})
    monkeypatch.setattr(s3_client, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(s3_client, "FIRST_SECONDS", 0.05)
    started = time.monotonic()
    for name in OPERATIONS.keys() - {"write"}:  # its answer ends with the time limit of the client library
        with pytest.raises(StorageError, match="no end of an answer"):
            OPERATIONS[name]()
    assert time.monotonic() - started < 1.5


def test_each_thousand_keys_have_their_time_to_be_deleted(
    impostor: Callable[[Answer], Impostor], monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor(constant(response(b"<DeleteResult><Deleted><Key>x</Key></Deleted></DeleteResult>")))
    given: list[float] = []
    within = s3_client._within
    monkeypatch.setattr(s3_client, "_within", lambda seconds, call: (given.append(seconds), within(seconds, call))[1])
    PREFIX.delete([f"{n}" for n in range(1000)])
    assert given == [300, 600]


def test_a_redirect_gets_no_signature(impostor: Callable[[Answer], Impostor]) -> None:
    elsewhere = Impostor(constant(response(b"0123456789")))
    location = f"http://localhost:{elsewhere.port}/there"
    impostor(constant(response(status=307, Location=location)))
    for ask in OPERATIONS.values():
        try:
            ask()
        except (StorageError, FileNotFoundError):
            continue
    elsewhere.shutdown()
    elsewhere.server_close()
    assert elsewhere.requests and not [headers for _, _, headers in elsewhere.requests if "authorization" in headers]
    assert not [path for _, path, _ in elsewhere.requests if "ignature" in path]


def test_encryption_is_not_left_by_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore import store

    given: list[dict[str, object]] = []
    monkeypatch.setattr(store, "S3Store", lambda bucket, **options: given.append(options["client_options"]))
    for url in ("https://host", "http://host"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        s3_client.connect.__wrapped__("bucket")
    assert [options["allow_http"] for options in given] == [False, True]


@pytest.mark.parametrize("name", ["garbage", "HTML", "a page of errors", "too little", "too short a range"])
def test_commands_end_in_one_line(name: str, impostor: Callable[[Answer], Impostor], tmp_path: Path) -> None:
    """Whatever the command is, and nothing of the secrets is told."""
    impostor(ANSWERS[name])
    corpus = make_tree(tmp_path / "corpus", 1)
    for result in (
        call(featurize, "scan", PREFIX),
        build(PREFIX, tmp_path / "S"),
        build(corpus, PREFIX),
        call(store_command, "info", PREFIX),
        call(store_command, "verify", PREFIX),
        call(store_command, "repair", PREFIX),
        call(store_command, "export", PREFIX, "--out", tmp_path / "E"),
    ):
        (line,) = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
        assert result.exit_code in (1, 2) and result.exception.__class__ is SystemExit, result.output
        assert SECRET not in result.output and TOKEN not in result.output and len(line) < 600
    assert {path.name for path in tmp_path.iterdir()} <= {"corpus", "S"} and not list((tmp_path / "S").glob("*/*"))


def test_a_key_that_is_no_name_on_this_machine_is_its_utterances_reject(impostor: Callable[[Answer], Impostor]) -> None:
    impostor(constant(response(b"0123456789")))
    with pytest.raises(Rejected, match="name"), local_file(PREFIX, "n" * 300 + ".wav"):
        pass
