"""Archives in a bucket give the stores of their folders, and are read by few requests."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import soundfile

from benchmarks.archives import pack_arrow, pack_parquet, pack_shar, pack_tars, pack_zip
from headrace.featurize.corpus import scanner
from headrace.featurize.files.archives import reading
from headrace.store.errors import StorageError
from headrace.store.schema import Utterance
from headrace.store.storage import s3_client
from headrace.store.storage.s3 import S3Path
from tests.featurize.corpus.archives import build, contents, make_recordings

pytest.importorskip("moto", reason="moto is not installed: nothing serves S3")
from tests.helpers import s3_server

COUNTER = itertools.count()


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Path]:
    with s3_server.server() as port, mock.patch.dict("os.environ", s3_server.environment(port)):
        s3_client.connect.cache_clear()
        yield S3Path(s3_server.BUCKET, "archives")
    s3_client.connect.cache_clear()


def deflated(folder: Path, out: Path) -> Path:
    out.mkdir()
    return pack_zip(folder, out / "a.zip", zipfile.ZIP_DEFLATED).parent


@pytest.mark.parametrize(
    "packs",
    [(pack_shar, pack_parquet), pytest.param((pack_tars, deflated, pack_arrow), marks=pytest.mark.soak)],
)
def test_a_corpus_in_archives_of_a_bucket(
    bucket: S3Path, tmp_path: Path, packs: tuple[Callable[[Path, Path], Path], ...]
) -> None:
    folder = make_recordings(tmp_path / "speech", 4)
    build(folder, tmp_path / "FOLDER", ("wave",))
    expected = contents(tmp_path / "FOLDER", ("wave",))
    for pack in packs:
        out = tmp_path / f"S-{pack.__name__}"
        there = s3_server.upload(pack(folder, tmp_path / pack.__name__), bucket / f"c{next(COUNTER)}")
        build(there, out, ("wave",))
        assert sorted(contents(out, ("wave",)).values()) == sorted(expected.values()), pack.__name__
        assert build(there, out, ("wave",))["parts_built"] == 0


def test_a_member_is_read_by_one_request(bucket: S3Path, tmp_path: Path) -> None:
    there = s3_server.upload(pack_tars(make_recordings(tmp_path / "speech", 2), tmp_path / "tars"), bucket / "requests")
    first = next(iter(scanner.scan(there)))
    assert isinstance(first, Utterance) and first.member
    read_ranges, requests = S3Path.read_ranges, list[object]()

    def counted(self: S3Path, bounds: list[tuple[int, int]]) -> list[object]:
        requests.append(bounds)
        return read_ranges(self, bounds)

    with mock.patch.object(S3Path, "read_ranges", counted):
        assert len(b"".join(reading.read_member(there, first.member, first.size))) == first.size
    assert len(requests) == 1


def test_a_network_that_fails_while_a_library_reads_is_told(
    bucket: S3Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libsndfile reads through callbacks, which drop errors: the member looked as if it ended there."""
    there = s3_server.upload(pack_tars(make_recordings(tmp_path / "speech", 2), tmp_path / "tars"), bucket / "failing")
    first = next(iter(scanner.scan(there)))
    assert isinstance(first, Utterance) and first.member
    ranges, calls = S3Path.read_ranges, itertools.count()

    def fail_later(path: S3Path, wanted: list[tuple[int, int]]) -> list[bytes]:
        if next(calls) > 1:
            raise StorageError("The network is down.")
        return ranges(path, wanted)

    monkeypatch.setattr(reading, "_HEADERS", 512)
    monkeypatch.setattr(S3Path, "read_ranges", fail_later)
    with (
        pytest.raises(StorageError, match="The network is down"),
        reading.open_member(there, first.member, first.size) as file,
    ):
        soundfile.read(file)
