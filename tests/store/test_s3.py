"""Corpora and stores in buckets, against a real S3 server: the same bytes as on disk, whatever happens on the way."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile
import zarr
from click.testing import Result
from zarr.storage import ObjectStore

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.cli.store import main as store_command
from headrace.featurize.audio.decode import Decoded
from headrace.featurize.audio.decode_pool import decode_utterances
from headrace.featurize.audio.recording import Limits
from headrace.featurize.corpus import scanner as corpora
from headrace.store import index, layout
from headrace.store.errors import DamagedStore, NotAStore, StorageError
from headrace.store.integrity import scan_record
from headrace.store.integrity.foreign import find_foreign
from headrace.store.integrity.repair import repair
from headrace.store.integrity.verify import verify
from headrace.store.storage import StoragePath, parse_path, s3_client, storage_of
from headrace.store.storage.s3 import S3Path
from headrace.store.writer import write_part
from headrace.train.data.stream import Stream, StreamConfig
from tests.helpers import corpus_formats, training_store
from tests.helpers.commands import add, build, call
from tests.helpers.corpora import buzz, make_tree
from tests.helpers.parts import make_part, make_store

pytest.importorskip("moto", reason="moto is not installed: nothing serves S3")
from tests.helpers.s3_server import BUCKET, Proxy, contents, environment, server, upload

NAMES = itertools.count()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of an S3 server that this process and its children ask."""
    with server() as number, asking(number):
        yield number


@pytest.fixture
def bucket(port: int) -> S3Path:
    """A prefix of one's own."""
    return S3Path(BUCKET, f"tests/{next(NAMES)} ü")


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    """What this process and its children ask instead."""
    between = Proxy(port)
    with asking(between.port):
        yield between
    between.shutdown()
    between.server_close()


@contextmanager
def asking(port: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(port).items():
            patch.setenv(name, value)
        s3_client.connect.cache_clear()
        yield
    s3_client.connect.cache_clear()


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> StoragePath:
    """Of a store, not there yet. What a test does with it holds for either."""
    return tmp_path / "STORE" if request.param == "disk" else request.getfixturevalue("bucket")


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# Stores


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_store_in_a_bucket_is_the_one_on_disk(bucket: S3Path, tmp_path: Path, compression: str) -> None:
    make_store(tmp_path, compression)
    make_store(bucket, compression)
    assert contents(bucket) == files(tmp_path)
    here, there = store.open(tmp_path), store.open(str(bucket))
    assert there.fingerprint == here.fingerprint and there.complete and not list(verify(bucket))
    assert there.ids.tolist() == here.ids.tolist() and there.texts.tolist() == here.texts.tolist()
    for name in here.features:
        for number in range(len(here)):
            assert np.array_equal(there.read(name, number), here.read(name, number))
    numbers = np.array([11, 0, 4, 7, 8])
    for name in ("wave", "mel"):
        ours, theirs = (np.full((5, 3000, *here.features[name].row_shape), 7, here.features[name].dtype) for _ in "ab")
        here.read_into(name, here.locate("frames", numbers), ours)
        there.read_into(name, there.locate("frames", numbers), theirs)
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_zarr_alone_reads_it(bucket: S3Path, compression: str) -> None:
    from obstore.store import S3Store

    parts = make_store(bucket, compression)
    client = S3Store(bucket.bucket, prefix=bucket.key, client_options={"allow_http": True})
    group = zarr.open_group(ObjectStore(client, read_only=True), path="parts/00001", mode="r")
    for name, values in parts[1].arrays.items():
        assert np.array_equal(group[name][:], values)
    assert group["id"][2] == "s1/ünï 2.wav"


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_batch_of_neighbours_is_one_request_a_feature(bucket: S3Path, proxy: Proxy, compression: str) -> None:
    make_store(bucket, compression)
    opened = store.open(bucket)
    for name in ("wave", "mel"):
        opened.read(name, 6)  # also reads the index of the shard
        proxy.requests.clear()
        spec = opened.features[name]
        opened.read_into(
            name, opened.locate("frames", np.arange(6, 10)), np.empty((4, 3000, *spec.row_shape), spec.dtype)
        )
        assert [method for method, _ in proxy.requests] == ["GET"]


def test_training_reads_the_same_batches(bucket: S3Path, tmp_path: Path) -> None:
    make_store(tmp_path)
    make_store(bucket)
    streams = [
        Stream(store.open(root), ["mel", "phones"], np.arange(12), StreamConfig(batch_frames=4000))
        for root in (tmp_path, bucket)
    ]
    for ours, theirs in itertools.islice(zip(*streams, strict=True), 6):
        assert np.array_equal(ours.numbers, theirs.numbers)
        assert all((ours[name] == theirs[name]).all() for name in ("mel", "phones"))
    for stream in streams:
        stream.close()


def test_two_writers_of_one_part_leave_one_copy(root: StoragePath) -> None:
    make_store(root)
    before = store.open(root).fingerprint
    write_part(root, make_part(1, [900, 901, 1000, 1200, 1500, 1800, 3000]))
    index.delete(root)
    assert store.open(root).fingerprint == before and not list(verify_parts(root))


def verify_parts(root: StoragePath) -> Iterator[object]:
    return (problem for problem in verify(root) if problem.where != "index")


def test_the_index_is_derived_where_it_is_missing(root: StoragePath) -> None:
    make_store(root)
    stored = store.open(root)
    index.delete(root)
    assert "index" not in storage_of(root).list_names(root)
    derived = store.open(root)
    assert derived.fingerprint == stored.fingerprint and derived.ids.tolist() == stored.ids.tolist()


def test_damage_is_found_and_named(root: StoragePath) -> None:
    make_store(root)
    mel = layout.part_path(root, 1) / "mel" / layout.shard_name(2)
    good = mel.read_bytes()
    storage_of(mel).write(mel, [good[:3000], b"\xff\x00", good[3002:]])
    (problem,) = verify(root)
    assert (problem.part, problem.array) == (1, "mel") and "block 0" in problem.what
    for bad in ([good[:-9]], [good, b"more"]):
        storage_of(mel).write(mel, bad)
        with pytest.raises(DamagedStore, match="does not end with its index"):
            store.open(root).read("mel", 11)
    delete(mel)
    with pytest.raises(DamagedStore, match="is not there"):
        store.open(root).read("mel", 11)
    assert "cannot be read" in next(iter(verify(root))).what


def test_damaged_parts_are_deleted_and_can_be_rebuilt(root: StoragePath, tmp_path: Path) -> None:
    parts, there = make_store(root), parse_path(root)
    mel = layout.part_path(root, 1) / "mel" / layout.shard_name(2)
    storage_of(mel).write(mel, [mel.read_bytes()[:-9]])
    (problem,) = verify(root, quick=True)
    assert (problem.part, problem.array, problem.drop) == (1, "mel", "part")
    assert repair(there).parts == (1,) and layout.sealed_parts(root) == [0]
    assert len(store.open(root)) == 5 and not store.open(root).complete
    write_part(root, parts[1])
    assert repair(root).index and not list(verify(root)) and len(store.open(root)) == 12


def test_foreign_keys_are_named_and_left(bucket: S3Path) -> None:
    make_store(bucket)
    foreign = ["index/readme", "notes.txt", "parts/00001/mel/notes", "parts/00001/mine/zarr.json", "parts/mine/a"]
    for key in foreign:
        (bucket / key).write([b"mine"])
    named = [name.rstrip("/") for name in find_foreign(bucket, store.open(bucket).features)]
    assert all(any(key.startswith(name) for name in named) for key in foreign), named
    mel = layout.part_path(bucket, 1) / "mel" / layout.shard_name(2)
    storage_of(mel).write(mel, [mel.read_bytes()[:-9]])
    repair(bucket)
    kept = contents(bucket)
    assert [kept.get(key) for key in foreign] == [b"mine"] * len(foreign)


def test_damaged_compressed_rows_are_refused(root: StoragePath) -> None:
    make_store(root, "zstd")
    mel = layout.part_path(root, 1) / "mel" / layout.shard_name(2)
    storage_of(mel).write(mel, [bytes(8), mel.read_bytes()[8:]])
    with pytest.raises(DamagedStore, match="cannot be decoded"):
        store.open(root).read("mel", 5)


def delete(file: StoragePath) -> None:
    if isinstance(file, S3Path):
        s3_client.connect(BUCKET).delete([file.key])
    else:
        file.unlink()


def test_a_part_without_its_seal_is_ignored(bucket: S3Path) -> None:
    make_store(bucket)
    index.delete(bucket)
    delete(bucket / "parts/00001/zarr.json")
    opened = store.open(bucket)
    assert opened.parts.tolist() == [0] and not opened.complete


def test_a_missing_store_is_a_one_line_error(root: StoragePath) -> None:
    with pytest.raises(NotAStore, match="is not a Headrace store: make one with featurize build"):
        store.open(root)


def test_store_commands_answer(bucket: S3Path, tmp_path: Path) -> None:
    make_store(bucket)
    info = json.loads(call(store_command, "info", bucket, "--json").stdout)
    assert info["utterances"] == 12 and info["complete"]
    assert str(bucket) in call(store_command, "info", bucket).stdout.replace("\n", "")
    assert "no problems" in call(store_command, "verify", bucket).stdout
    assert call(store_command, "show", bucket, "3", "--out", tmp_path / "a.png").exit_code == 0


# Builds


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("corpus") / "corpus", 8)


@pytest.fixture(scope="module")
def built(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a build on disk holds, but for its account."""
    out = tmp_path_factory.mktemp("built") / "STORE"
    assert build(corpus, out, "--part-hours", 0.001).exit_code == 0
    return lasting(files(out))


def lasting(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if name not in ("build.json", ".lock")}


def without_contents(found: dict[str, bytes]) -> dict[str, object]:
    """Leave out the checksums of recordings, which are made of entity tags in a bucket."""
    seals: dict[str, object] = {}
    for name, data in found.items():
        if re.fullmatch("parts/[0-9]+/zarr.json", name):
            seals[name] = json.loads(data)["attributes"]["seal"]
            seals[name].pop("contents", None)
    derived = ("index/zarr.json", "modified.json")
    return {name: data for name, data in found.items() if name not in derived} | seals


def test_a_build_into_a_bucket_is_the_one_on_disk(corpus: Path, built: dict[str, bytes], bucket: S3Path) -> None:
    result = build(corpus, bucket, "--part-hours", 0.001)
    assert result.exit_code == 0 and str(bucket) in result.stdout.replace("\n", "")
    assert lasting(contents(bucket)) == built
    again = json.loads(build(corpus, bucket, "--part-hours", 0.001, "--json").stdout)
    assert again["parts_built"] == 0 and lasting(contents(bucket)) == built


def test_features_are_added_in_a_bucket_as_on_disk(bucket: S3Path, tmp_path: Path) -> None:
    """The array's metadata come last, at first without the seal: until they have it the array counts for nothing."""
    for root in (bucket, tmp_path / "S"):
        training_store.build(root, parts=3)
        assert add(root, "f0,energy").exit_code == 0 and not list(verify(root))
    there = contents(bucket)
    assert but_accounts(there) == but_accounts(files(tmp_path / "S"))
    name = "parts/00001/f0/zarr.json"
    (bucket / name).write([json.dumps(json.loads(there[name]) | {"attributes": {}}).encode()])
    assert [problem.where for problem in verify(bucket)] == ["part 00001 f0"]
    assert add(bucket, "f0").exit_code == 0 and but_accounts(contents(bucket)) == but_accounts(there)


def test_features_are_dropped_in_a_bucket_whatever_stops_it(bucket: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before each request that deletes, in turn. The same command deletes what is left, or adding does."""
    training_store.build(bucket, parts=1)
    before, whole = contents(bucket), s3_client.S3Client.delete
    assert add(bucket, "f0").exit_code == 0
    added = contents(bucket)
    for stop in itertools.count():
        left = stop

        def deleting(*words: object) -> None:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            whole(*words)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(s3_client.S3Client, "delete", deleting)
            code = call(featurize, "drop", bucket, "f0").exit_code
        assert "f0" not in store.open(bucket).features and not list(verify(bucket))
        if code == 0:
            break
        if stop:
            again = call(featurize, "drop", bucket, "f0")
            assert again.exit_code == (0 if stop == 1 else 2), "all is gone before what it learned would be deleted"
            assert but_accounts(contents(bucket)) == but_accounts(before), stop
        assert add(bucket, "f0").exit_code == 0 and but_accounts(contents(bucket)) == but_accounts(added)
    assert stop == 3 and but_accounts(contents(bucket)) == but_accounts(before)


def test_rejects_are_accounted_for_in_a_bucket_as_on_disk(bucket: S3Path, tmp_path: Path) -> None:
    """One of the scan and one of a part. The record of the scan is missed, and made again."""
    corpus = make_tree(tmp_path / "corpus", 3)
    broken, short = sorted(corpus.rglob("*.flac"))
    broken.write_bytes(b"no audio")
    short.write_bytes(short.read_bytes()[:-1000])
    words = ("--features", "wave,phones", "--part-hours", 0.001)
    for root in (tmp_path / "S", bucket):
        assert build(corpus, root, *words).exit_code == 0 and not list(verify(root))
    made = contents(bucket)
    assert lasting(made) == lasting(files(tmp_path / "S")) and len(made["rejects.jsonl"].splitlines()) == 2
    (bucket / scan_record.FILE).unlink()
    found = call(store_command, "verify", bucket)
    assert found.exit_code == 1 and "run featurize build again, which scans the corpus again" in found.output
    assert "featurize build CORPUS --out" in call(store_command, "repair", bucket).output
    assert build(corpus, bucket, *words).exit_code == 0 and lasting(contents(bucket)) == lasting(made)
    (bucket / "rejects.jsonl").unlink()
    assert call(store_command, "repair", bucket).exit_code == 0
    assert contents(bucket)["rejects.jsonl"] == made["rejects.jsonl"] and not list(verify(bucket))


def but_accounts(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if name not in ("add.json", ".lock")}


def test_a_corpus_in_a_bucket_makes_the_same_store(
    corpus: Path, built: dict[str, bytes], bucket: S3Path, tmp_path: Path
) -> None:
    upload(corpus, bucket / "corpus")
    assert build(bucket / "corpus", tmp_path / "S", "--part-hours", 0.001).exit_code == 0
    assert without_contents(lasting(files(tmp_path / "S"))) == without_contents(built)


def test_a_replaced_object_of_the_same_size_is_noticed(corpus: Path, bucket: S3Path, tmp_path: Path) -> None:
    there, out = upload(corpus, bucket / "corpus"), tmp_path / "S"
    assert build(there, out, "--part-hours", 0.001).exit_code == 0
    upload(corpus, there)
    again = build(there, out, "--part-hours", 0.001)
    assert again.exit_code == 0 and "comparing" not in again.stderr, "the same content has the same entity tag"
    name = next(key for key, _ in there.objects() if key.endswith(".flac"))
    good = (there / name).read_bytes()
    (there / name).write([good[:-9], bytes(9)])
    again = build(there, out, "--part-hours", 0.001)
    assert again.exit_code == 1 and "1 recordings were replaced since" in again.stderr and name in again.stderr
    (there / name).write([good])
    assert build(there, out, "--part-hours", 0.001).exit_code == 0
    assert build(corpus, out, "--part-hours", 0.001).exit_code == 0, "a copy on disk cannot be compared"


def test_throttling_and_broken_connections_are_survived(
    corpus: Path, built: dict[str, bytes], bucket: S3Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        s3_client, "RETRIES", {"max_retries": 10, "backoff": {"init_backoff": timedelta(milliseconds=5)}}
    )
    random = np.random.default_rng(0)
    faults = ["503", "reset", "cut"] + 9 * [""]
    proxy.fault = lambda method, path, number: faults[random.integers(len(faults))]
    upload(corpus, bucket / "corpus")
    assert build(bucket / "corpus", bucket / "S", "--part-hours", 0.001).exit_code == 0
    assert without_contents(lasting(contents(bucket / "S"))) == without_contents(built)
    assert not list(verify(bucket / "S"))


def test_multipart_uploads_survive_too(bucket: S3Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "UPLOAD_PART_BYTES", 5 << 20)
    data = [bytes([n]) * (1 << 20) for n in range(13)]
    faulty = {3: "503", 5: "reset", 7: "cut"}
    for shift in range(3):
        proxy.requests.clear()
        proxy.fault = lambda method, path, number, shift=shift: faulty.get(number + shift, "")
        (bucket / "large").write(data)
        assert (bucket / "large").read_bytes() == b"".join(data)
        assert any("partNumber=3" in path for _, path in proxy.requests)


def kill_at(proxy: Proxy, process: subprocess.Popen[bytes], uploads: int) -> None:
    """Kill a process when its `uploads`-th upload comes in; that one and all later ones are lost."""
    seen = itertools.count(1)

    def fault(method: str, path: str, number: int) -> str:
        if method != "PUT" or next(seen) < uploads:
            return ""
        process.kill()
        return "reset"

    proxy.fault = fault


def check_sealed(root: S3Path) -> None:
    """Whatever reads as sealed is whole."""
    if (root / "zarr.json").exists():
        assert not [p for p in verify(root) if p.where.startswith("part ")]
        assert all(len(store.open(root).read("mel", n)) for n in range(len(store.open(root))))


def test_killed_in_mid_upload_nothing_reads_as_sealed(bucket: S3Path, tmp_path: Path, proxy: Proxy) -> None:
    make_store(tmp_path)
    script = "import sys; from headrace.store.storage.s3 import S3Path; "
    script += "from tests.helpers.parts import make_store; make_store(S3Path.parse(sys.argv[1]))"
    for uploads in np.random.default_rng(1).integers(1, 70, 3):
        process = subprocess.Popen([sys.executable, "-c", script, str(bucket)])
        kill_at(proxy, process, int(uploads))
        assert process.wait(60) == -9
        proxy.fault = lambda *_: ""
        check_sealed(bucket)
    make_store(bucket)
    assert contents(bucket) == files(tmp_path)


def test_a_build_killed_in_mid_upload_is_finished_by_the_same_command(
    corpus: Path, built: dict[str, bytes], bucket: S3Path, proxy: Proxy
) -> None:
    script = "from headrace.cli.featurize import main; main()"
    words = ["build", str(corpus), "--out", str(bucket), "--part-hours", "0.001", "--workers", "1"]
    command = [sys.executable, "-c", f"if __name__ == '__main__':\n    {script}", *words]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    kill_at(proxy, process, 40)
    process.wait(120)
    proxy.fault = lambda *_: ""
    check_sealed(bucket)
    assert build(corpus, bucket, "--part-hours", 0.001).exit_code == 0
    assert lasting(contents(bucket)) == built


# Corpora


def scanned(path: StoragePath, **options: bool) -> list[object]:
    return list(corpora.scan(path, **options))


@pytest.mark.parametrize("make", [corpus_formats.make_ljspeech, corpus_formats.make_kaldi, corpus_formats.make_tree])
def test_every_format_scans_as_on_disk(bucket: S3Path, tmp_path: Path, make: Callable[[Path], Path]) -> None:
    here = make(tmp_path / "corpus")
    for table in here.glob("wav.scp"):
        table.write_text(table.read_text().replace(f"{here}/", ""))
    (here / ".hidden").mkdir()
    corpus_formats.record(here / ".hidden" / "a.wav")
    corpus_formats.record(here / "b" / "forgotten.wav")
    there = upload(here, bucket / "corpus")
    assert scanned(there) == scanned(here) and corpora.detect_format(there) == corpora.detect_format(here)


def test_a_listing_names_the_objects_of_the_bucket(bucket: S3Path, tmp_path: Path) -> None:
    for name in ("a.wav", "sub/b.flac"):
        corpus_formats.record(tmp_path / "corpus" / name)
    there = upload(tmp_path / "corpus", bucket / "corpus")
    lines = ["a.wav|anna|EN|One.", f"{there}/sub/b.flac|anna|EN|Two.", "/etc/passwd|x|EN|Three.", "../c.wav|x|EN|Four."]
    (there / "train.list").write(["\n".join([*lines, "s3://other/d.wav|x|EN|Five.", "e.wav|x|EN|Six."]).encode()])
    for path in (there, there / "train.list"):
        found = {item.id: getattr(item, "reason", "") for item in scanned(path)}
        assert found.pop("a.wav") == found.pop("sub/b.flac") == "" == ""
        assert found.pop("e.wav") == "there is no such file"
        assert len(found) == 3 and all("lies outside of s3://" in reason for reason in found.values())


def test_headers_are_read_by_ranges(bucket: S3Path, proxy: Proxy, tmp_path: Path) -> None:
    for suffix in ("wav", "flac"):
        corpus_formats.record(tmp_path / "c" / f"a.{suffix}", 1_000_000)
        (tmp_path / "c" / f"a.{suffix}").with_suffix(".txt").write_text("Words.")
    upload(tmp_path / "c", bucket)
    proxy.requests.clear()
    assert len(scanned(bucket)) == 2
    audio = [path for _, path in proxy.requests if path.endswith((".wav", ".flac"))]
    assert 2 <= len(audio) <= 6


def test_segments_of_a_long_recording_are_read_by_ranges(bucket: S3Path, proxy: Proxy, tmp_path: Path) -> None:
    here = tmp_path / "corpus"
    here.mkdir()
    wave = buzz(120, 16_000, 1)
    for suffix in ("flac", "wav"):
        soundfile.write(here / f"{suffix}.{suffix}", wave, 16_000)
    spans = [(name, start) for name in ("flac", "wav") for start in (0, 7, 55, 110)]
    for table, line in (("text", "{0}-{1} words"), ("segments", "{0}-{1} {0} {1} {1}.5")):
        (here / table).write_text("".join(f"{line}\n".format(*span) for span in spans))
    (here / "wav.scp").write_text("flac flac.flac\nwav wav.wav\n")
    there = upload(here, bucket / "corpus")
    utterances = scanned(there)
    assert utterances == scanned(here) and len(utterances) == 8
    how = {"isolated": False, "threads": 1, "limits": Limits()}
    proxy.requests.clear()
    ours, theirs = (
        [made.wave for _, made in decode_utterances(root, utterances, 32_000, "gpt-sovits", **how)]
        for root in (here, there)
    )
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert len(proxy.requests) < 5 * 8


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "RETRIES", {"max_retries": 1})


@pytest.mark.parametrize("isolated", [False, True])
def test_unreachable_storage_does_not_reject_recordings(
    bucket: S3Path, proxy: Proxy, corpus: Path, impatient: None, isolated: bool
) -> None:
    upload(corpus, bucket)
    utterances = scanned(bucket)
    proxy.fault = lambda method, path, number: "503" if path.endswith("003.flac") else ""
    waves = decode_utterances(bucket, utterances, 32_000, "gpt-sovits", isolated=isolated, threads=1, limits=Limits())
    with pytest.raises(StorageError, match=r"003\.flac cannot be read"):
        assert all(isinstance(made, Decoded) for _, made in waves)
    with pytest.raises(StorageError, match=r"003\.flac cannot be read"):
        scanned(bucket)


# Mistakes


@pytest.mark.parametrize(
    "words, code, line",
    [
        (("gs://bucket/corpus",), 2, "gs://bucket/corpus cannot be read or written"),
        (("s3://",), 2, "give it as s3://BUCKET/PREFIX"),
        (("s3://headrace/a/../b",), 2, "give it as s3://BUCKET/PREFIX"),
        (("s3://nobody-has-this/corpus",), 1, "There is no bucket 'nobody-has-this' at http://127.0.0.1"),
        (("s3://headrace/nothing/here",), 2, "There is no s3://headrace/nothing/here"),
        (("{corpus}", "s3://nobody-has-this/S"), 1, "There is no bucket 'nobody-has-this'"),
        (("{corpus}", "s3://headrace/taken"), 2, "holds other things"),
    ],
)
def test_mistakes_end_in_one_line_and_the_right_code(
    port: int, corpus: Path, tmp_path: Path, words: tuple[str, ...], code: int, line: str
) -> None:
    S3Path(BUCKET, "taken/letter.txt").write([b"dear"])
    where, *out = (word.format(corpus=corpus) for word in words)
    said(build(where, *(out or [tmp_path / "S"])), code, line)


def said(result: Result, code: int, line: str) -> None:
    (error,) = (text for text in result.stderr.splitlines() if text.startswith("Error: "))
    assert result.exit_code == code and line in error, result.stderr


def test_storage_errors_are_reported_at_once(bucket: S3Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    proxy.fault = lambda *_: "403"
    said(call(store_command, "info", bucket), 1, "403 Forbidden (AccessDenied). Check AWS_ACCESS_KEY_ID")
    for address, line in (("http://127.0.0.1:9", "at http://127.0.0.1:9"), ("nonsense", "give it as https://HOST")):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        s3_client.connect.cache_clear()
        said(call(store_command, "info", bucket), 1 if "http" in address else 2, line)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
        "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    s3_client.connect.cache_clear()
    said(call(featurize, "scan", bucket), 1, "there are no credentials. Set AWS_ACCESS_KEY_ID")
    assert time.monotonic() - started < 10


def test_unreachable_storage_is_a_one_line_error(bucket: S3Path, proxy: Proxy, corpus: Path, impatient: None) -> None:
    proxy.fault = lambda method, path, number: "503" if method == "PUT" and "/mel/" in path else ""
    result = build(corpus, bucket, "--part-hours", 0.001)
    said(result, 1, "503 Service Unavailable (SlowDown). Once that is fixed, run the same command again to continue.")
    assert layout.sealed_parts(bucket) == []
    with pytest.raises(StorageError, match="cannot be written"):
        (bucket / "mel" / "x").write([b"x"])
