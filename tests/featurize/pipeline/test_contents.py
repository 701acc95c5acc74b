"""Checksums of the files that an utterance is made of."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import google_crc32c
import pytest

from headrace.featurize.pipeline import contents
from headrace.featurize.pipeline.contents import TAG, UNKNOWN, Checksums, checksum, is_replaced, owners
from headrace.store.schema import Utterance


def utterance(id: str, audio: str = "", modified: tuple[int, ...] = ()) -> Utterance:
    return Utterance(
        id=id, audio=audio or id, start=0, stop=1, sample_rate=1, size=1, modified=modified, speaker="", language="",
        text="",
    )  # fmt: skip


ONE = utterance("a")


@pytest.mark.parametrize(
    ("before", "now", "replaced"),
    [
        ("00000001", "00000001", False),
        ("00000001", "00000002", True),
        ("00000001", UNKNOWN, False),
        (UNKNOWN, "00000001", False),
        (f"{TAG}0000001", f"{TAG}0000002", True),
        (f"{TAG}0000001", f"{TAG}0000001", False),
        (f"{TAG}0000001", "00000001", False),
        ("00000001", f"{TAG}0000001", False),
    ],
)
def test_only_checksums_of_one_kind_are_compared(before: str, now: str, replaced: bool) -> None:
    assert is_replaced(before, now) is replaced


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 17])
def test_the_checksum_is_that_of_all_bytes_of_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(contents, "_BLOCK", 8)
    first, second = bytes(range(1, size + 1)), b"more"
    (tmp_path / "a").write_bytes(first)
    (tmp_path / "b").write_bytes(second)
    assert checksum(tmp_path, ONE, ["a"]) == f"{google_crc32c.value(first):08x}"
    assert checksum(tmp_path, ONE, ["a", "b"]) == f"{google_crc32c.value(first + second):08x}"
    (tmp_path / "b").unlink()
    assert checksum(tmp_path, ONE, ["a", "b"]) == UNKNOWN and checksum(tmp_path, ONE, ["a\0"]) == UNKNOWN


def test_no_more_is_read_than_a_file_had_when_it_was_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    status = (tmp_path / "a").stat()
    (tmp_path / "a").write_bytes(b"12345")
    with mock.patch.object(os, "fstat", lambda _: status):
        assert checksum(tmp_path, ONE, ["a"]) == f"{google_crc32c.value(b'123'):08x}"
        (tmp_path / "a").write_bytes(b"1")
        assert checksum(tmp_path, ONE, ["a"]) == f"{google_crc32c.value(b'1'):08x}", "it was shortened meanwhile"


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no device that has no end")
def test_a_device_has_no_bytes(tmp_path: Path) -> None:
    assert checksum(tmp_path, ONE, ["/dev/zero"]) == "00000000"


def test_in_a_bucket_entity_tags_stand_for_contents() -> None:
    bucket = mock.Mock()
    first = checksum(bucket, utterance("a", modified=(1, 2)), ["a", "b"])
    assert len(first) == len(UNKNOWN) and first.startswith(TAG) and set(first[1:]) <= set("0123456789abcdef")
    assert first == checksum(bucket, utterance("a", modified=(1, 2, 3)), ["a", "b"]), "others are not read"
    assert is_replaced(first, checksum(bucket, utterance("a", modified=(1, 3)), ["a", "b"]))
    for modified in ((), (1,), (1, 0), (0, 1)):
        assert checksum(bucket, utterance("a", modified=modified), ["a", "b"]) == UNKNOWN
    assert not bucket.mock_calls


def test_the_first_segment_stands_for_its_recording(tmp_path: Path) -> None:
    segments = [utterance("a#0-1", "a"), utterance("a#1-2", "a"), utterance("b", "b")]
    assert owners(segments) == {"a#0-1", "b"}
    for name in "ab":
        (tmp_path / name).write_text(name)
    taker = Checksums(tmp_path, frozenset(["a#0-1"]), lambda one: [one.audio])
    each = taker.taken(segments)
    assert next(each) is segments[0]
    (tmp_path / "b").unlink()
    assert list(each) == segments[1:]
    assert taker.joined() == f"{google_crc32c.value(b'a'):08x}" + 2 * UNKNOWN
    nothing = Checksums(tmp_path, frozenset(), lambda one: [one.audio])
    assert list(nothing.taken(segments)) == segments and nothing.joined() == ""
