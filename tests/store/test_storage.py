"""Storage on this machine: paths and URLs, the lock, folders that appear at once, and platforms that lack calls."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headrace import store
from headrace.store.arrays import array_reader
from headrace.store.errors import StoreError, UsageError
from headrace.store.names import DRAFTS
from headrace.store.storage import drafts, parse_path, storage_of
from headrace.store.storage.local import atomic_file, clear_drafts
from headrace.store.storage.output_files import output_file, output_folder
from headrace.store.storage.s3 import S3Path, S3Storage
from tests.helpers.parts import make_store


def test_paths_and_urls_are_parsed(tmp_path: Path) -> None:
    assert parse_path(str(tmp_path)) == parse_path(tmp_path) == tmp_path
    assert parse_path("s3://bucket/a//b/") == S3Path("bucket", "a/b") == parse_path(S3Path("bucket", "a/b"))
    assert isinstance(storage_of(S3Path("bucket", "a")), S3Storage)
    for url in ("gs://bucket/a", "s3://b", "s3://bucket/../a"):
        with pytest.raises(UsageError):
            parse_path(url)


def test_one_writer_at_a_time_and_none_after_the_holder_is_killed(tmp_path: Path) -> None:
    storage, message = storage_of(tmp_path), f"Another command is writing {tmp_path}: wait until it is done."
    with storage.write_lock(tmp_path), pytest.raises(StoreError, match=message), storage.write_lock(tmp_path):
        pass
    script = (
        "import pathlib, sys, time; from headrace.store.storage import storage_of; root = pathlib.Path(sys.argv[1])\n"
    )
    script += "with storage_of(root).write_lock(root): print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(StoreError, match=message), storage.write_lock(tmp_path):
            pass
        holder.kill()
    with storage.write_lock(tmp_path):
        pass


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    storage = storage_of(tmp_path)
    (tmp_path / "parts").mkdir()
    with pytest.raises(ZeroDivisionError), storage.atomic_folder(tmp_path, "parts/0") as folder:
        storage.write(folder / "c" / "0", [b"data"])
        raise ZeroDivisionError
    assert not list((tmp_path / "parts").iterdir()) and not (tmp_path / DRAFTS).exists()
    for data in (b"first", b"second"):
        with storage.atomic_folder(tmp_path, "parts/0") as folder:
            storage.write(folder / "c" / "0", [data[:2], data[2:]])
            assert data == b"second" or not list((tmp_path / "parts").iterdir())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [(file.relative_to(tmp_path).as_posix(), file.read_bytes()) for file in files] == [("parts/0/c/0", b"first")]


def test_deleted_folders_and_drafts_are_gone(tmp_path: Path) -> None:
    storage = storage_of(tmp_path)
    storage.write(tmp_path / "a" / "sub" / "zarr.json", [b"{}"])
    storage.write(drafts.make_folder(tmp_path, "parts/00000") / "sub" / "zarr.json", [b"{}"])
    drafts.make_file(tmp_path, "zarr.json")
    storage.delete_folder(tmp_path, "a")
    storage.delete_folder(tmp_path, "a")
    storage.clear_temporary(tmp_path)
    assert not list(tmp_path.iterdir())


def test_tails_and_ranges_of_a_file(tmp_path: Path) -> None:
    storage, file = storage_of(tmp_path), tmp_path / "file"
    storage.write(file, [b"0123", b"456789"])
    assert storage.size(file) == 10 and storage.read_tail(file, 3) == b"789"
    assert storage.read_tail(file, 99) == b"0123456789" and storage.read_tail(file, 0) == b""
    assert storage.read_ranges(file, [(7, 9), (0, 4), (3, 3)]) == [b"78", b"0123", b""]
    with pytest.raises(FileNotFoundError):
        storage.size(tmp_path / "other")


def test_a_store_is_read_without_madvise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: no `madvise`, and no `resource`."""
    monkeypatch.delattr(mmap, "MADV_WILLNEED")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setitem(sys.modules, "headrace.store.arrays.prefetch", None)
    make_store(tmp_path)
    opened = store.open(tmp_path)
    opened.prefetch(opened.features, opened.parts * 0)
    assert len(opened.read("wave", 3)) == 40
    assert array_reader._max_open_files() == array_reader.MAX_MAPPINGS


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    with atomic_file(target) as first, atomic_file(target) as second:
        assert first.name != second.name and not target.exists()
        first.write(b"first")
        second.write(b"second")
    assert target.read_bytes() == b"first"  # it ended last
    with pytest.raises(RuntimeError), atomic_file(target) as file:
        file.write(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"first" and os.listdir(tmp_path) == ["x.json"]


def test_only_drafts_of_its_own_are_cleared(tmp_path: Path) -> None:
    draft = f".headrace-{'0' * 32}.tmp"
    foreign = ("x.tmp", ".headrace-1.tmp", f"a{draft}", f"{draft}.txt", f".headrace-{'1' * 32}.tmp", "linked")
    for name in (draft, *foreign[:4], "linked"):
        (tmp_path / name).touch()
    (tmp_path / foreign[4]).symlink_to(tmp_path / "linked")
    clear_drafts(tmp_path)
    clear_drafts(tmp_path / "absent")
    assert sorted(os.listdir(tmp_path)) == sorted(foreign)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_what_is_written_follows_the_umask_and_cannot_be_executed(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        make_store(tmp_path / "S")
        with output_file(tmp_path / "report.html") as draft:
            draft.write_text("page")
        with output_folder(tmp_path / "export") as folder:
            (folder / "list").write_text("line")
    finally:
        os.umask(before)
    for path in (tmp_path / "S", tmp_path / "report.html", tmp_path / "export"):
        for one in (path, *path.rglob("*")):
            assert one.stat().st_mode & 0o7777 == (0o777 if one.is_dir() else 0o666) & ~mask, one


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://", "it names no bucket"),
        ("s3:///corpus", "it names no bucket"),
        ("s3://ab/corpus", "a bucket has 3 to 63 characters, and 'ab' has 2"),
        ("s3://my bucket/corpus", "a bucket has no ' '"),
        ("s3://über/corpus", "a bucket has no 'ü'"),
        ("s3://bucket/../corpus", "a name in it is . or .."),
        ("s3://bucket/a\nb", "a character that cannot be printed"),
    ],
)
def test_a_bad_url_of_a_bucket_says_why(url: str, why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)) as refused:
        parse_path(url)
    assert "\n" not in str(refused.value) and "give it as s3://BUCKET/PREFIX" in str(refused.value)
