"""An archive is read once: the next command takes from the first pass what it found, and nothing that is damaged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any
from unittest import mock

import google_crc32c
import pytest

from benchmarks.archives import pack_arrow, pack_parquet, pack_tars, pack_zip
from headrace.featurize.audio import recording
from headrace.featurize.audio.recording import Limits
from headrace.featurize.corpus import scanner
from headrace.featurize.files.archives import first_pass, tar_members, zip_members
from headrace.featurize.files.archives.table_members import Table
from headrace.store.schema import Reject, Utterance
from tests.featurize.corpus.archives import make_recordings

PACKED: dict[str, Callable[[Path, Path], object]] = {
    "tars": pack_tars,
    "zip": lambda folder, path: pack_zip(folder, path / "speech.zip", 8),
    "parquet": pack_parquet,
    "arrow": pack_arrow,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first_pass._folder.cache_clear()
    yield tmp_path / "cache/headrace/archives"
    first_pass._folder.cache_clear()


@pytest.fixture(params=PACKED)
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "corpus"
    path.mkdir()
    PACKED[request.param](make_recordings(tmp_path / "speech"), path)
    return path


def scan(path: Path, **limits: float) -> list[Utterance | Reject]:
    return list(scanner.scan(path, limits=Limits(**limits)))


class FullDisk(FileIO):
    def write(self, _: object) -> int:
        raise OSError(28, "No space left on device")


class Reading:
    """Counts what is read of archives."""

    def __init__(self) -> None:
        self.headers = self.listings = self.recordings = 0
        read_header, rows = recording.read_header, Table.rows

        def counted_header(*args: object, **options: object) -> object:
            self.headers += 1
            return read_header(*args, **options)  # type: ignore[arg-type]

        def counted_rows(table: Table, place: int, columns: list[str]) -> object:
            self.recordings += "audio" in columns
            return rows(table, place, columns)

        def counted_listing(function: Callable[..., object]) -> Callable[..., object]:
            def listing(*args: object) -> object:
                self.listings += 1
                return function(*args)

            return listing

        self._patches: list[Any] = [
            mock.patch.object(recording, "read_header", counted_header),
            mock.patch.object(Table, "rows", counted_rows),
            *(
                mock.patch.object(module, "list_members", counted_listing(module.list_members))
                for module in (tar_members, zip_members)
            ),
        ]

    def __enter__(self) -> Reading:
        with ExitStack() as stack:
            for patch in self._patches:
                stack.enter_context(patch)
            self._active = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._active.close()

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.headers, self.listings, self.recordings


def test_the_second_command_reads_no_recording(corpus: Path) -> None:
    with Reading() as first:
        found = scan(corpus)
    assert len(found) == 12 and first.headers == 12 and first.listings + first.recordings > 0
    with Reading() as second:
        again = scan(corpus)
    assert again == found and second.counts == (0, 0, 0)
    assert [(u.member, u.modified) for u in again if isinstance(u, Utterance)] == [
        (u.member, u.modified) for u in found if isinstance(u, Utterance)
    ]


def test_an_archive_that_was_modified_is_read_anew(corpus: Path) -> None:
    archives = [item.member.archive for item in scan(corpus) if isinstance(item, Utterance) and item.member]
    os.utime(corpus / archives[0], (1, 1))
    with Reading() as second:
        scan(corpus)
    assert second.headers == archives.count(archives[0])


def test_what_a_killed_command_kept_is_used_and_what_is_damaged_is_not(corpus: Path, cache: Path) -> None:
    found = scan(corpus)
    for file in cache.iterdir():
        whole = file.read_bytes()
        for content in (
            whole[: len(whole) // 2],
            whole.replace(b"16000", b"16001"),
            whole.replace(b"16000", b"x"),
            b"\xff" + whole[1:] + b"\nnonsense",
            whole + whole,
            whole[: len(whole) // 3] + whole,
        ):
            file.write_bytes(content)
            assert scan(corpus) == found
            assert scan(corpus) == found


def checked(line: bytes) -> bytes:
    return b"%08x %s" % (google_crc32c.value(line), line)


def test_lines_of_another_shape_count_as_not_kept(tmp_path: Path, cache: Path) -> None:
    speech = make_recordings(tmp_path / "speech")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    pack_tars(speech, corpus)
    found = scan(corpus)
    for file in cache.iterdir():
        for line in (b"[]", b"1", b'{"member": 3}', b'{"member": ["a.wav", 1, "exe", 1, 2, 3]}', b"[" * 9999,
                     b'{"recording": [1]}', b'{"recording": [512, 1, -1, 2, 3, 4, 5]}', b'{"whole": 1}'):  # fmt: skip
            file.write_bytes(checked(line))
            assert scan(corpus) == found
        for member in (b'["../a.wav", 9, "tar", 512, 9, 1]', b'["a.wav", 99999999999, "tar", 512, 9, 1]'):
            lines = (b'{"begin": true}', b'{"member": %s}' % member, b'{"whole": 1}')
            file.write_bytes(b"\n".join(map(checked, lines)))
            assert scan(corpus) == found


def test_a_longer_recording_than_is_permitted_is_told_as_at_first(corpus: Path) -> None:
    scan(corpus)
    told = scan(corpus, max_duration_s=0.4)
    assert any(isinstance(item, Reject) for item in told) and told == scan(corpus, max_duration_s=0.4)


def test_nothing_is_kept_on_a_full_disk_and_little_for_long(
    corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scan(corpus)
    files = sorted(cache.iterdir())
    os.utime(files[0], (1, 1))
    monkeypatch.setattr(first_pass, "MAX_BYTES", sum(file.stat().st_size for file in files) - 1)
    first_pass._folder.cache_clear()
    assert first_pass._folder() == cache and sorted(cache.iterdir()) == files[1:]
    with mock.patch.object(first_pass, "FileIO", FullDisk):
        assert scan(corpus) == found
    with mock.patch.object(first_pass, "FileIO", side_effect=PermissionError(13, "Permission denied")):
        assert scan(corpus) == found
    assert [file for file in sorted(cache.iterdir()) if file.stat().st_size] == files[1:]
