"""Corpora in archives give the stores of their folders, and what is damaged or hostile in one costs only itself."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.archives import pack_arrow, pack_parquet, pack_shar, pack_tars, pack_zip, tar_of
from headrace.featurize.audio import recording
from headrace.featurize.corpus import scanner
from headrace.featurize.corpus.formats.table_files import parse_columns
from headrace.featurize.files.archives import members, reading
from headrace.featurize.files.source import local_file
from headrace.featurize.pipeline import part_plan
from headrace.store.errors import CorpusError, Rejected, StoreError
from headrace.store.integrity.verify import verify
from headrace.store.schema import Member, Reject, Utterance
from tests.featurize.corpus.archives import build, contents, make_recordings
from tests.helpers.corpus_formats import make_tree, record, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recordings(tmp_path_factory.mktemp("corpus") / "speech")


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, ...]]:
    out = tmp_path_factory.mktemp("built") / "STORE"
    build(folder, out)
    return contents(out)


def wave() -> bytes:
    packed = io.BytesIO()
    soundfile.write(packed, (3000 * np.sin(np.arange(4800) / 7)).astype(np.int16), 16_000, format="WAV")
    return packed.getvalue()


WAVE = wave()
TEXT = json.dumps({"text": "Hello there."}).encode()


def scan(path: Path, **options: object) -> tuple[dict[str, Utterance], dict[str, str]]:
    found = list(scanner.scan(path, **options))  # type: ignore[arg-type]
    return (
        {item.id: item for item in found if isinstance(item, Utterance)},
        {item.id: item.reason for item in found if isinstance(item, Reject)},
    )


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_are_read_as_they_are(folder: Path, expected: dict[str, object], tmp_path: Path, format: int) -> None:
    shards = pack_tars(folder, tmp_path / "shards", format=format)
    assert scanner.detect_format(shards) == "webdataset"
    build(shards, tmp_path / "STORE")
    assert contents(tmp_path / "STORE") == expected and not list(verify(tmp_path / "STORE"))
    utterances, rejects = scan(shards, format="webdataset")
    assert not rejects and "shard-000001.tar/u0007.ogg" in utterances


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_the_folder_that_it_holds(
    folder: Path, expected: dict[str, object], tmp_path: Path, method: int
) -> None:
    archive = pack_zip(folder, tmp_path / "speech.zip", method)
    assert scanner.detect_format(archive) == scanner.detect_format(folder) == "emilia"
    build(archive, tmp_path / "STORE")
    assert contents(tmp_path / "STORE") == expected
    found, same = scan(archive)[0], scan(folder)[0]
    assert [*found] == [*same] and {u.speaker for u in found.values()} == {"s0", "s1", "s2"}


def test_alignments_and_segments_in_an_archive(tmp_path: Path) -> None:
    tree = tmp_path / "anna"
    record(tree / "1.wav", 16_000)
    write(tree / "1.lab", "0 5000000 HH\n5000000 10000000 AY1\n")
    write(tree / "1.txt", "hi")
    archive = pack_zip(tree, tmp_path / "a.zip", below="")
    (from_zip,), (from_folder,) = scan(archive)[0].values(), scan(tree)[0].values()
    assert from_folder.alignment == "1.lab" and json.loads(from_zip.alignment)["where"] == "1.lab"
    build(tree, tmp_path / "A", ("phones",))
    build(archive, tmp_path / "B", ("phones",))
    names = ("phones", "phone_end", "phone_frames")
    assert contents(tmp_path / "A", names)["1"][3:] == contents(tmp_path / "B", names)["1"][3:]
    kaldi = tmp_path / "kaldi"
    record(kaldi / "r.wav", 32_000)
    write(kaldi / "wav.scp", "r r.wav\n")
    write(kaldi / "segments", "a r 0.25 0.75\nb r 1.0 1.5\n")
    write(kaldi / "text", "a hello\nb goodbye\n")
    build(kaldi, tmp_path / "C")
    build(pack_zip(kaldi, tmp_path / "k.zip", below=""), tmp_path / "D")
    assert [c[3:] for c in contents(tmp_path / "C").values()] == [d[3:] for d in contents(tmp_path / "D").values()]


def test_a_build_is_resumed_and_grows_by_a_shard(folder: Path, expected: dict[str, object], tmp_path: Path) -> None:
    shards = pack_tars(folder, tmp_path / "shards")
    last = shards / "shard-000002.tar"
    hidden = last.rename(tmp_path / "last")
    first = build(shards, tmp_path / "STORE", part_hours=0.0004)
    assert first["parts"] > 2
    assert build(shards, tmp_path / "STORE", part_hours=0.0004)["parts_built"] == 0
    hidden.rename(last)
    build(shards, tmp_path / "STORE", part_hours=0.0004)
    assert contents(tmp_path / "STORE") == expected and not list(verify(tmp_path / "STORE"))


def test_recordings_that_are_replaced_in_a_shard_are_noticed(folder: Path, tmp_path: Path) -> None:
    shards = pack_tars(folder, tmp_path / "shards")
    build(shards, tmp_path / "STORE")
    first = shards / "shard-000000.tar"
    os.utime(first, (1, 1))
    build(shards, tmp_path / "STORE")  # only touched
    data = bytearray(first.read_bytes())
    place = scan(shards)[0]["shard-000000.tar/u0001.wav"].member.place[0]  # type: ignore[union-attr]
    data[place + 100] ^= 1
    first.write_bytes(data)
    with pytest.raises(StoreError, match="1 recordings were replaced"):
        build(shards, tmp_path / "STORE")


def test_parts_follow_the_archives() -> None:
    def utterance(archive: str, number: int) -> Utterance:
        member = Member(archive=archive, kind="tar", place=(number, 1))
        name = f"{archive}/{number}"
        return Utterance(
            id=name,
            audio=name,
            start=0,
            stop=10,
            sample_rate=1,
            size=1,
            speaker="s",
            language="en",
            text="t",
            member=member,
        )

    found = [
        utterance(archive, n)
        for archive, count in (("a", 3), ("b", 2), ("c", 18), ("d", 4), ("e", 3), ("f", 3))
        for n in range(count)
    ]
    parts = list(part_plan.divide(found[::-1], 60.0))
    assert [u for part in parts for u in part] == found
    assert [len(part) for part in parts] == [5, 6, 6, 6, 7, 3]
    assert [{u.id[0] for u in part} for part in parts] == [{"a", "b"}, {"c"}, {"c"}, {"c"}, {"d", "e"}, {"f"}]


def shard(tmp_path: Path, content: bytes) -> Path:
    write(tmp_path / "shards/good.tar", tar_of(("g.wav", WAVE), ("g.json", TEXT)))
    write(tmp_path / "shards/z.tar", content)
    return tmp_path / "shards"


def link(name: str, target: str, type: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, target
    return info


PAIR = (("a.wav", WAVE), ("a.json", TEXT))


@pytest.mark.parametrize(
    ("content", "rejects", "read"),
    [
        (tar_of(*PAIR, ("../../evil.wav", WAVE)), {"z.tar/../../evil.wav": "no path below it"}, ["a"]),
        (tar_of(*PAIR, ("/etc/evil.wav", WAVE)), {"z.tar//etc/evil.wav": "no path below it"}, ["a"]),
        (tar_of(*PAIR, link("b.wav", "/etc/passwd")), {"z.tar/b.wav": "it is a link"}, ["a"]),
        (tar_of(*PAIR, link("b.wav", "a.wav", tarfile.LNKTYPE)), {"z.tar/b.wav": "it is a link"}, ["a"]),
        (tar_of(*PAIR, link("b.wav", "", tarfile.FIFOTYPE)), {"z.tar/b.wav": "a device"}, ["a"]),
        (tar_of(*PAIR, ("a.wav", WAVE[:-2])), {"z.tar/a.wav": "for the second time"}, ["a"]),
        (
            tar_of(*PAIR, ("b.wav", WAVE), ("b.pkl", b"cos\nsystem\n(S'touch ran'\ntR.")),
            {"z.tar/b.wav": "without text"},
            ["a"],
        ),
        (tar_of(*PAIR, ("b.wav", WAVE), ("b.json", b"[")), {"z.tar/b.wav": "is not JSON"}, ["a"]),
        (tar_of(*PAIR, ("b.wav", b""), ("b.txt", b"Hi")), {"z.tar/b.wav": "the file is empty"}, ["a"]),
        (tar_of(("n" * 300 + ".wav", WAVE), ("n" * 300 + ".txt", b"Hi")), {}, ["n" * 300]),
        (tar_of(("./x/b.c.wav", WAVE), ("./x/b.json", TEXT), ("./x/._b.c.wav", b"x")), {}, ["x/b.c"]),
        (tar_of(("ä.wav", WAVE), ("ä.txt", "Grüße".encode()), format=tarfile.PAX_FORMAT), {}, ["ä"]),
        (b"\x1f\x8b" + bytes(100), {"z.tar": "uncompress it"}, []),
        (b"garbage" * 400, {"z.tar#0-2800": "are no member"}, []),
        (b"", {}, []),
        (tar_of(*PAIR)[: -len(TEXT) - 10240], {}, []),
    ],
)
def test_what_a_shard_may_hold(tmp_path: Path, content: bytes, rejects: dict[str, str], read: list[str]) -> None:
    path = shard(tmp_path, content)
    if len(content) == len(tar_of(*PAIR)) - len(TEXT) - 10240:
        content = tar_of(*PAIR)
        cut = content[: content.index(b"a.json") + 512]  # its last member has no content any more
        write(path / "z.tar", cut)
        rejects = {"z.tar/a.json": "the archive is cut short", "z.tar/a.wav": "without text"}
    utterances, found = scan(path)
    assert utterances.pop("good.tar/g.wav").text == "Hello there."
    assert [*utterances] == [f"z.tar/{name}.wav" for name in read]
    assert {id: said for id, said in rejects.items() if said in found.pop(id)} == rejects and not found
    assert not (tmp_path / "ran").exists()


def test_damage_in_a_shard_costs_what_lies_in_it(tmp_path: Path) -> None:
    content = bytearray(tar_of(*(pair for n in range(4) for pair in ((f"{n}.wav", WAVE), (f"{n}.txt", b"Hello")))))
    at = content.index(b"1.wav")
    content[at : at + 600] = os.urandom(600)
    utterances, rejects = scan(shard(tmp_path, bytes(content)))
    assert [*utterances] == ["good.tar/g.wav", "z.tar/0.wav", "z.tar/2.wav", "z.tar/3.wav"]
    assert [*rejects] == [f"z.tar#{at}-{content.index(b'1.txt')}"]


@pytest.mark.parametrize("end", ["a member", "a header"])
def test_a_shard_that_is_cut_short(folder: Path, tmp_path: Path, end: str) -> None:
    shards = pack_tars(folder, tmp_path / "shards")
    file = shards / "shard-000001.tar"
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"u0008") + (2000 if end == "a member" else 100)])
    done = build(shards, tmp_path / "STORE", max_rejects=1.0)
    assert done["utterances"] == 10 and done["rejects"] == 1
    assert not list(verify(tmp_path / "STORE"))


def test_a_shard_that_is_replaced_after_the_scan_costs_its_own(folder: Path, tmp_path: Path) -> None:
    shards = pack_tars(folder, tmp_path / "shards")
    utterance = scan(shards)[0]["shard-000000.tar/u0001.wav"]
    content = (shards / "shard-000000.tar").read_bytes()
    (shards / "shard-000000.tar").write_bytes(tar_of(("other", b"x" * 1000)) + content)
    with (
        pytest.raises(Rejected, match="was replaced since it was scanned"),
        local_file(shards, utterance.audio, utterance.member, utterance.size),
    ):
        pass


def zipped(*names: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED, **changes: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in names:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, content)
            for key, value in changes.items():
                setattr(info, key, value)
    return packed.getvalue()


GOOD = (("g.wav", WAVE), ("g.txt", b"Hello there."))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (zipped(*GOOD, ("../b.wav", WAVE)), "no path below it"),
        (zipped(*GOOD, external_attr=0o120777 << 16), "it is a link"),
        (zipped(*GOOD, flag_bits=1), "it is encrypted"),
        (zipped(*GOOD, method=zipfile.ZIP_BZIP2), "compressed by method 12"),
        (zipped(*GOOD, file_size=1 << 40, extra=b""), "nothing in an archive has more"),
        (zipped(*GOOD, file_size=100), "unpacks to more than the 100 bytes"),
        (zipped(*GOOD, file_size=1 << 30), "bytes: the archive is damaged"),
        (zipped(*GOOD, header_offset=1), "does not begin where the archive says"),
        (zipped(*GOOD)[:-30], "list of members cannot be read"),
        (b"PK", "list of members cannot be read"),
    ],
)
def test_what_a_zip_may_hold(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "corpus").mkdir()
    write(tmp_path / "corpus/bad.zip", content)
    write(tmp_path / "corpus/good.zip", zipped(*GOOD))
    utterances, rejects = scan(tmp_path / "corpus")
    assert "good.zip/g.wav" in utterances and any(said in reason for reason in rejects.values()), rejects


def test_a_zip_bomb_is_unpacked_no_further_than_it_says(tmp_path: Path) -> None:
    bomb = zipped(("b.wav", WAVE[:44] + bytes(1 << 26)), file_size=len(WAVE))
    write(tmp_path / "b.zip", bomb)
    (listed,) = [item for item in scan_members(tmp_path / "b.zip") if isinstance(item, members.Listed)]
    read = 0
    with pytest.raises(Rejected, match="unpacks to more"):
        for piece in reading.read_member(tmp_path, listed.member, listed.size):
            read += len(piece)
    assert read <= len(WAVE)


def scan_members(path: Path) -> list[object]:
    from headrace.featurize.files.archives import zip_members

    with path.open("rb") as file:
        return list(zip_members.list_members(file, path.name, path.stat().st_size))


def test_a_content_that_is_not_what_the_zip_says(tmp_path: Path) -> None:
    content = bytearray(zipped(*GOOD, method=zipfile.ZIP_STORED))
    content[content.index(b"RIFF") + 1000] ^= 1
    write(tmp_path / "a.zip", bytes(content))
    (listed, _) = scan_members(tmp_path / "a.zip")
    with pytest.raises(Rejected, match="CRC-32"):
        list(reading.read_member(tmp_path, listed.member, listed.size))  # type: ignore[attr-defined]


def test_an_archive_beside_a_corpus_is_none_of_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    before = scan(tree)
    pack_zip(make_recordings(tmp_path / "other", 2), tree / "backup.zip")
    assert scan(tree) == before


def test_headers_of_members_are_those_of_their_files(folder: Path, tmp_path: Path) -> None:
    archive = pack_zip(folder, tmp_path / "a.zip", zipfile.ZIP_DEFLATED, below="")
    for utterance in scan(archive)[0].values():
        same = recording.read_header(folder, utterance.audio, utterance.size)
        assert recording.read_header(tmp_path, utterance.audio, utterance.size, member=utterance.member) == same


def by_text(found: dict[str, tuple[object, ...]]) -> dict[object, tuple[object, ...]]:
    return {values[0]: values for values in found.values()}


@pytest.mark.parametrize("pack", [pack_parquet, pack_arrow])
def test_data_sets_of_hugging_face_are_read_as_they_are(
    folder: Path, expected: dict[str, tuple[object, ...]], tmp_path: Path, pack: Callable[[Path, Path], Path]
) -> None:
    corpus = pack(folder, tmp_path / "corpus")
    assert scanner.detect_format(corpus) == "datasets"
    build(corpus, tmp_path / "STORE", part_hours=0.0004)
    assert by_text(contents(tmp_path / "STORE")) == by_text(expected) and not list(verify(tmp_path / "STORE"))
    assert build(corpus, tmp_path / "STORE", part_hours=0.0004)["parts_built"] == 0
    utterances, rejects = scan(corpus, format="datasets")
    file = sorted(path.name for path in corpus.iterdir() if "00001-of" in path.name)[0]
    assert not rejects and utterances[f"{file}/2"].member.place[1] == 0  # type: ignore[union-attr]
    assert [*scan(corpus / file)[0]] == [f"{file}/{n}" for n in range(5)]


def test_rows_that_name_files_and_columns_that_are_named(folder: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    record(tmp_path / "corpus/clips/a.wav")
    audio = [
        {"bytes": None, "path": "clips/a.wav"},
        {"bytes": None, "path": "b.wav"},
        None,
        {"bytes": b"x", "path": ""},
    ]
    table = pa.table({"sound": audio, "said": ["One", "Two", "Three", "Four"], "wer": [1, 2, 3, 4]})
    pyarrow.parquet.write_table(table, tmp_path / "corpus/t.parquet")
    with pytest.raises(CorpusError, match=r"no column of text is known.*'sound', 'said', 'wer'.*--columns"):
        scan(tmp_path / "corpus")
    utterances, rejects = scan(tmp_path / "corpus", columns=parse_columns("audio=sound,text=said,speaker=wer"))
    assert {u.id: (u.text, u.speaker) for u in utterances.values()} == {"clips/a.wav": ("One", "1")}
    said = {"b.wav": "no such file", "t.parquet/2": "neither a recording", "t.parquet/3": "header cannot be read"}
    assert {id: reason for id, reason in said.items() if reason in rejects.pop(id)} == said and not rejects
    with pytest.raises(CorpusError, match="no column 'laut'"):
        scan(tmp_path / "corpus", columns=parse_columns("audio=laut,text=said"))


def test_damage_in_a_table_costs_its_rows(folder: Path, tmp_path: Path) -> None:
    corpus = pack_parquet(folder, tmp_path / "corpus", rows=6)
    file = corpus / "train-00000-of-00002.parquet"
    content = bytearray(file.read_bytes())
    at = content.index(b"fLaC", content.index(b"fLaC") + 4)
    content[at : at + 4000] = os.urandom(4000)  # a page of the first or the second row group
    file.write_bytes(content)
    (corpus / "train-00001-of-00002.parquet").write_bytes(b"PAR1" + bytes(100))
    write(corpus / "zzz.arrow", b"no table")
    utterances, rejects = scan(corpus)
    assert len(utterances) + len(rejects) == 8 and len(utterances) in (4, 5)
    assert {"train-00001-of-00002.parquet", "zzz.arrow"} < {*rejects}


def test_a_table_that_is_replaced_after_the_scan(folder: Path, tmp_path: Path) -> None:
    corpus = pack_parquet(folder, tmp_path / "corpus")
    utterance = scan(corpus)[0]["train-00000-of-00003.parquet/1"]
    (corpus / "train-00000-of-00003.parquet").write_bytes((corpus / "train-00001-of-00003.parquet").read_bytes())
    assert utterance.member
    with pytest.raises(Rejected, match="was replaced since it was scanned"):
        list(reading.read_member(corpus, utterance.member, utterance.size))
    now = scan(corpus)[0]["train-00000-of-00003.parquet/1"]
    assert now.member
    same_size = replace(now.member, check=utterance.member.check)
    with pytest.raises(Rejected, match="was replaced since it was scanned"):
        list(reading.read_member(corpus, same_size, now.size))


def test_rows_are_read_in_any_order(folder: Path, tmp_path: Path) -> None:
    corpus = pack_parquet(folder, tmp_path / "corpus", rows=12, group=7)
    utterances = [*scan(corpus)[0].values()]
    for utterance in utterances[::-1] + utterances[::2]:
        assert utterance.member
        assert len(b"".join(reading.read_member(corpus, utterance.member, utterance.size))) == utterance.size


def test_a_table_beside_a_corpus_is_none_of_it(folder: Path, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    before = scan(tree)
    pack_parquet(folder, tree)
    assert scan(tree) == before


def test_shards_of_lhotse_are_read_as_they_are(folder: Path, expected: dict[str, object], tmp_path: Path) -> None:
    corpus = pack_shar(folder, tmp_path / "corpus")
    assert scanner.detect_format(corpus) == "shar"
    build(corpus, tmp_path / "STORE")
    assert contents(tmp_path / "STORE") == expected and not list(verify(tmp_path / "STORE"))
    assert scan(corpus, format="shar") == scan(corpus)
    write(corpus / "recording.000000.tar", tar_of(("u0000.nodata", b""), ("other.wav", WAVE)))
    write(corpus / "cuts.000001.jsonl.gz", b"\x1f\x8b" + bytes(20))
    utterances, rejects = scan(corpus)
    assert {id.rpartition("/")[0] for id in utterances} == {"recording.000002.tar"}
    assert "no recording of it" in rejects["cuts.000000.jsonl.gz:1"]
    assert "no line of the corpus" in rejects["recording.000000.tar/other.wav"]
    assert "cannot be read" in rejects["cuts.000001.jsonl.gz"]


def test_what_lhotse_writes_is_read(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    from lhotse.shar import SharWriter

    record(tmp_path / "r.wav", 16_000)
    whole = lhotse.Recording.from_file(tmp_path / "r.wav")
    said = lhotse.SupervisionSegment("s", whole.id, 0, 0.5, text="Hello", speaker="anna", language="English")
    (tmp_path / "corpus").mkdir()
    with SharWriter(tmp_path / "corpus", fields={"recording": "flac"}, shard_size=2) as writer:
        for n in range(3):
            writer.write(lhotse.MonoCut(f"c.{n}", n / 4, 0.5, 0, recording=whole, supervisions=[said]))
    utterances, rejects = scan(tmp_path / "corpus")
    assert not rejects and [*utterances] == [f"recording.00000{n // 2}.tar/c.{n}.flac" for n in range(3)]
    assert {(u.text, u.speaker, u.stop) for u in utterances.values()} == {("Hello", "anna", 8000)}


def test_names_and_statistics_that_are_none(folder: Path, tmp_path: Path) -> None:
    """An empty name raised IndexError, and a column that is not UTF-8 UnicodeDecodeError, of Python itself."""
    empty = zipped(*GOOD)
    (tmp_path / "corpus").mkdir()
    write(tmp_path / "corpus/a.zip", empty.replace(b"g.txt", b"\0.txt"))
    assert any("without text" in reason for reason in scan(tmp_path / "corpus")[1].values())
    arrow = pack_arrow(folder, tmp_path / "arrow", rows=12) / "data-00000-of-00001.arrow"
    write(arrow, arrow.read_bytes().replace(b"language", b"lang\xffage"))
    (reason,) = scan(arrow.parent)[1].values()
    assert "cannot be read" in reason


def test_a_name_in_a_recording_of_a_table_that_is_not_utf8_costs_the_recording(folder: Path, tmp_path: Path) -> None:
    corpus = pack_arrow(folder, tmp_path / "corpus")
    before, _ = scan(corpus)
    for file in corpus.glob("*.arrow"):
        file.write_bytes(file.read_bytes().replace(b"path", b"\xffath"))
    utterances, rejects = scan(corpus)
    assert not utterances and rejects.keys() == before.keys()
    assert all("UnicodeDecodeError" in reason for reason in rejects.values())
