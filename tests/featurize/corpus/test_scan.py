"""Every way a corpus can be laid out, and every way it can be broken."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.featurize.corpus import scanner
from headrace.store.errors import CorpusError, UsageError
from headrace.store.schema import Reject, Utterance
from tests.helpers.corpus_formats import (
    RATE,
    cut,
    make_cuts,
    make_kaldi,
    make_list,
    make_ljspeech,
    make_tree,
    record,
    write,
)


def scan(path: Path, **options: object) -> tuple[dict[str, Utterance], dict[str, str]]:
    """Utterances and reasons of rejects by id; no id twice."""
    found = list(scanner.scan(path, **options))  # type: ignore[arg-type]
    assert max(Counter(item.id for item in found).values()) == 1
    assert all(item.stage in ("scan", "align") for item in found if isinstance(item, Reject))
    utterances = {item.id: item for item in found if isinstance(item, Utterance)}
    return utterances, {item.id: item.reason for item in found if isinstance(item, Reject)}


def test_list(tmp_path: Path) -> None:
    file = make_list(tmp_path / "corpus")
    for path in (file, file.parent):
        utterances, rejects = scan(path)
        assert not rejects
        assert list(utterances) == ["a.wav", "sub/a.flac", "b.mp3"]
    first, second, third = utterances.values()
    assert first == Utterance(
        id="a.wav",
        audio="a.wav",
        start=0,
        stop=1600,
        sample_rate=RATE,
        size=(tmp_path / "corpus/a.wav").stat().st_size,
        speaker="anna",
        language="en",
        text="Hello there.",
    )
    assert (second.speaker, second.text) == ("corpus", "Again, hello.")
    assert (third.language, third.audio) == ("zh", "b.mp3")


def test_ljspeech(tmp_path: Path) -> None:
    utterances, rejects = scan(make_ljspeech(tmp_path / "LJ"))
    assert not rejects
    assert [(u.id, u.text, u.speaker) for u in utterances.values()] == [
        ("wavs/LJ-1.wav", "Doctor one", "LJ"),
        ("wavs/LJ-2.flac", "Just two", "LJ"),
        ("wavs/LJ-3.ogg", "Raw three", "LJ"),
    ]


def test_kaldi(tmp_path: Path) -> None:
    utterances, rejects = scan(make_kaldi(tmp_path / "data"))
    assert not rejects
    assert [(u.id, u.speaker, u.text) for u in utterances.values()] == [
        ("audio/r1.wav#0-24000", "anna", "first words"),
        ("audio/r1.wav#24000-80000", "ben", "second words"),
        ("r2.flac#4000-32000", "data", "third"),
    ]
    assert {(u.start, u.stop, u.audio) for u in utterances.values()} >= {(24_000, 80_000, "audio/r1.wav")}


def test_kaldi_without_segments(tmp_path: Path) -> None:
    root = make_kaldi(tmp_path)
    for name in ("segments", "utt2spk"):
        (root / name).unlink()
    write(root / "text", "r1 all of it\nr2 all of that\n")
    utterances, rejects = scan(root)
    assert not rejects
    assert {u.id: u.seconds for u in utterances.values()} == {"audio/r1.wav": 5.0, "r2.flac": 2.0}


def test_tree(tmp_path: Path) -> None:
    utterances, rejects = scan(make_tree(tmp_path / "tree"))
    assert not rejects
    assert [(u.id, u.speaker, u.text, u.language) for u in utterances.values()] == [
        ("loose.mp3", "tree", "Loose", "en"),
        ("anna/1.wav", "anna", "Hello there", "en"),
        ("anna/deep/1.FLAC", "anna", "Deep hello", "en"),
        ("ben/1.ogg", "ben", "Hello from ben", "en"),
    ]


def test_cuts(tmp_path: Path) -> None:
    file = make_cuts(tmp_path / "corpus")
    packed = file.with_name("packed.jsonl.gz")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    for path in (file, packed):
        utterances, rejects = scan(path)
        assert not rejects
        assert [(u.id, u.speaker, u.text, u.language) for u in utterances.values()] == [
            ("a.wav", "anna", "Hello there.", "en"),
            ("sub/b.flac", "anna", "Hello again.", "en"),
            ("a.wav#320-1120", "anna", "Hello", "en"),
        ]


@pytest.mark.parametrize(
    "line, reason",
    [
        ({"type": "MixedCut"}, "a MixedCut"),
        ({"recording": {"sources": [{"type": "command", "channels": [0], "source": "touch ran"}]}}, "is a command"),
        ({"recording": {"sources": [{"type": "url", "channels": [0], "source": "http://a"}]}}, "is a url"),
        (
            {"channel": 2, "recording": {"sources": [{"type": "file", "channels": [0, 1], "source": "a.wav"}]}},
            "it is of channel 2, and its recording has [0, 1]",
        ),
        ({"recording": {"sources": []}}, "not a cut of one recording"),
        ({"supervisions": [{"text": "a", "speaker": "x"}, {"text": "b", "speaker": "y"}]}, "2 speakers"),
        ({"supervisions": []}, "the text is empty"),
        ({"supervisions": None}, "not a cut of one recording"),
        ({"start": "soon"}, "not a cut of one recording"),
        ({"duration": 9.0, "start": 0.05}, "the segment runs from 0.05 to 9.05 s"),
    ],
)
def test_cuts_that_are_none(tmp_path: Path, line: dict[str, object], reason: str) -> None:
    good, bad = cut(record(tmp_path / "a.wav"), "Hello"), cut(record(tmp_path / "b.wav"), "Bye", **line)
    write(tmp_path / "cuts.jsonl", f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    utterances, rejects = scan(tmp_path / "cuts.jsonl")
    assert list(utterances) == ["a.wav"] and not (tmp_path / "ran").exists()
    assert reason in next(iter(rejects.values()))


def test_cuts_of_other_bytes(tmp_path: Path) -> None:
    write(tmp_path / "cuts.jsonl", "{]\n[1]\nnull\n")
    assert len(scan(tmp_path / "cuts.jsonl")[1]) == 3
    write(tmp_path / "cuts.jsonl.gz", b"\x1f\x8b hello")
    with pytest.raises(CorpusError, match="cannot be read"):
        scan(tmp_path / "cuts.jsonl.gz")


MAKERS: dict[str, Callable[[Path], Path]] = {
    "list": make_list,
    "ljspeech": make_ljspeech,
    "kaldi": make_kaldi,
    "tree": make_tree,
    "lhotse": make_cuts,
}


@pytest.mark.parametrize("format", MAKERS)
def test_formats_are_recognised(tmp_path: Path, format: str) -> None:
    path = MAKERS[format](tmp_path)
    assert scanner.detect_format(path) == format
    assert scan(path) == scan(path, format=format)


@pytest.mark.parametrize("format", MAKERS)
def test_one_corpus_one_order(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = MAKERS[format](tmp_path)
    assert list(scanner.scan(path)) == list(scanner.scan(path))
    monkeypatch.chdir(path.parent)
    assert list(scanner.scan(Path(path.name))) == list(scanner.scan(path))


@pytest.mark.parametrize("format", MAKERS)
def test_recordings_without_text_are_rejected(tmp_path: Path, format: str) -> None:
    path = MAKERS[format](tmp_path)
    before, _ = scan(path)
    record(tmp_path / "more" / "orphan.wav")
    utterances, rejects = scan(path)
    assert utterances == before
    assert list(rejects) == ["more/orphan.wav"] and "audio without text" in rejects["more/orphan.wav"]


TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"
xmin = 0
xmax = 0.1
tiers? <exists>
size = 1
item []:
item [1]:
class = "IntervalTier"
name = "words"
xmin = 0
xmax = 0.1
intervals: size = 3
intervals [1]:
xmin = 0
xmax = 0.04
text = "hello"
intervals [2]:
xmin = 0.04
xmax = 0.05
text = ""
intervals [3]:
xmin = 0.05
xmax = 0.1
text = "you"
"""


@pytest.mark.parametrize("format", MAKERS)
def test_textgrids_beside_recordings_are_alignments(tmp_path: Path, format: str) -> None:
    path = MAKERS[format](tmp_path)
    if format == "kaldi":
        (path / "segments").unlink()
        write(path / "text", "r1 hello\nr2 hello\n")
    first = next(iter(scanner.scan(path)))
    assert isinstance(first, Utterance)
    textgrid = Path(first.audio).with_suffix(".TextGrid")
    write(tmp_path / textgrid, TEXTGRID)
    utterances, rejects = scan(path)
    assert not rejects
    assert [u.alignment for u in utterances.values()] == [textgrid.as_posix()] + [""] * (len(utterances) - 1)
    assert utterances[first.id].text == first.text


def test_segments_are_not_aligned_by_the_recordings_textgrid(tmp_path: Path) -> None:
    root = make_kaldi(tmp_path)
    write(root / "audio" / "r1.TextGrid", TEXTGRID)
    assert {u.alignment for u in scan(root)[0].values()} == {""}


def test_a_textgrid_is_the_text_where_nothing_else_is(tmp_path: Path) -> None:
    record(tmp_path / "a" / "1.wav")
    record(tmp_path / "a" / "2.wav")
    write(tmp_path / "a" / "1.textgrid", TEXTGRID)
    write(tmp_path / "a" / "2.TextGrid", TEXTGRID.replace("words", "notes"))
    utterances, rejects = scan(tmp_path)
    assert utterances["a/1.wav"].text == "hello you"
    assert utterances["a/1.wav"].alignment == "a/1.textgrid"
    assert "no tier of words" in rejects["a/2.wav"]


def test_bad_lists(tmp_path: Path) -> None:
    file = make_list(tmp_path)
    lines = [
        b"\xef\xbb\xbfa.wav|anna|EN|With a BOM",
        b"three|fields|only",
        b"six|fields|EN|of|some|text",
        b"a.wav|anna|EN|Twice",
        b"gone.wav|anna|EN|No such file",
        b"sub/a.flac|anna|KLINGON|Qapla",
        b"b.mp3|anna|EN|   ",
        b"b.mp3|anna|EN|not utf-8: \xff",
        b"|anna|EN|no path",
        b"sub|anna|EN|a folder",
        b"nul\0.wav|anna|EN|null byte",
        b"../outside.wav|anna|EN|outside",
        b"/etc/hostname|anna|EN|outside too",
    ]
    file.write_bytes(b"\r\n".join(lines))
    record(tmp_path.parent / "outside.wav")
    utterances, rejects = scan(file)
    assert list(utterances) == ["a.wav"] and utterances["a.wav"].text == "With a BOM"
    expected = {
        "train.list:2": "3 fields",
        "train.list:3": "6 fields",
        "train.list:4": "a.wav for the second time, after train.list:1",
        "gone.wav": "no such file",
        "sub/a.flac": "nothing here reads language 'KLINGON'",
        "b.mp3": "text is empty",
        "train.list:8": "not UTF-8 from byte 26",
        "train.list:9": "no path",
        "nul\0.wav": "null byte",
        "sub": "not a regular file",
        (tmp_path.parent / "outside.wav").as_posix(): "outside",
        "/etc/hostname": "outside",
    }
    for id, reason in expected.items():
        assert reason in rejects.pop(id), id
    assert not rejects


def test_windows_paths(tmp_path: Path) -> None:
    record(tmp_path / "sub" / "a.wav")
    write(tmp_path / "w.list", '"sub\\a.wav"|anna|EN|Hello\n\u202asub/a.wav|anna|EN|Again\n')
    utterances, rejects = scan(tmp_path)
    assert list(utterances) == ["sub/a.wav"] and "second time" in rejects["w.list:2"]


def test_bad_ljspeech(tmp_path: Path) -> None:
    root = make_ljspeech(tmp_path)
    write(root / "metadata.csv", b"LJ-1|one\nLJ-2\nLJ-3|a|b|c\nLJ-4|not there\nLJ-1|one again\nLJ-2||\n")
    utterances, rejects = scan(root)
    assert list(utterances) == ["wavs/LJ-1.wav"]
    expected = {
        "metadata.csv:2": "1 fields",
        "metadata.csv:3": "4 fields",
        "wavs/LJ-4.wav": "no such file",
        "metadata.csv:5": "second time",
        "wavs/LJ-2.flac": "text is empty",
        "wavs/LJ-3.ogg": "audio without text",
    }
    assert {id: reason for id, reason in expected.items() if reason in rejects.pop(id)} == expected
    assert not rejects


def test_bad_kaldi(tmp_path: Path) -> None:
    root = make_kaldi(tmp_path)
    marker = tmp_path / "executed"
    with (root / "wav.scp").open("a") as file:
        file.write(f"pipe touch {marker} |\nlone\nr1 again.wav\nunused audio/unused.wav\n")
    with (root / "segments").open("a") as file:
        file.write("p1 pipe 0 1\nlate r1 4.9 5.1\nback r1 2 1\nneg r1 -0.5 1\nnan r1 nan 1\nhuge r1 0 1e308\n")
        file.write(
            "odd r1 0\nwild r1 a b\nghost r9 0 1\nunread r1 0 1\ntwin r1 0 1.5\nround r1 4.5 5.01\nempty r1 1 2\n"
        )
    names = "p1 late back neg nan huge odd wild ghost nosegment twin round".split()
    with (root / "text").open("ab") as file:
        file.write("".join(f"{name} some words\n" for name in names).encode() + b"empty\n\xff words\n")
    utterances, rejects = scan(root)
    assert list(utterances)[3:] == ["audio/r1.wav#72000-80000"]
    assert not marker.exists()
    expected = {
        "wav.scp:4": "nothing after",
        "wav.scp:5": "r1 for the second time",
        "audio/unused.wav": "no line of `text`",
        "text:4": "command",
        "audio/r1.wav#4.9s-5.1s": "the recording has 5.000 s",
        "audio/r1.wav#2.0s-1.0s": "runs from 2.0 to 1.0 s",
        "audio/r1.wav#-0.5s-1.0s": "runs from -0.5",
        "audio/r1.wav#nans-1.0s": "nan",
        "audio/r1.wav#0.0s-1e+308s": "the recording has",
        "text:10": "'odd'",
        "text:11": "'wild'",
        "text:12": "no r9",
        "text:13": "segments has no nosegment",
        "text:14": "second time, after text:1",
        "audio/r1.wav#1.0s-2.0s": "text is empty",
        "text:17": "not UTF-8",
        "unread": "segment without text",
    }
    for id, reason in expected.items():
        assert reason in rejects.pop(id), id
    assert not rejects


def test_bad_trees(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    write(root / "bad/text-only.txt", "No recording")
    record(root / "bad/audio-only.wav")
    write(root / "bad/noise.wav", b"this is no WAV file")
    write(root / "bad/noise.txt", "x")
    write(root / "bad/nothing.flac", b"")
    write(root / "bad/nothing.txt", "x")
    record(root / "bad/zero.wav", 0)
    write(root / "bad/zero.txt", "x")
    record(root / "bad/blank.wav")
    write(root / "bad/blank.txt", " \n\t")
    record(root / "bad/latin.wav")
    write(root / "bad/latin.txt", "caf\xe9".encode("latin-1"))
    (root / "bad/dangling.wav").symlink_to("nowhere")
    write(root / "bad/dangling.txt", "x")
    os.mkfifo(root / "bad/fifo.wav")
    write(root / "bad/fifo.txt", "x")
    write(root / "bad/._anna.wav", b"a resource fork of macOS")
    good, _ = scan(make_tree(tmp_path / "clean"))
    utterances, rejects = scan(root)
    assert {id for id in utterances if not id.startswith("clean/")} == set(good)
    expected = {
        "bad/text-only.txt": "text without audio",
        "bad/audio-only.wav": "audio without text",
        "bad/noise.wav": "header cannot be read",
        "bad/nothing.flac": "header cannot be read",
        "bad/zero.wav": "no samples",
        "bad/blank.wav": "text is empty",
        "bad/latin.wav": "latin.txt is not UTF-8 from byte 4",
        "bad/dangling.wav": "no such file",
        "bad/fifo.wav": "not a regular file",
    }
    for id, reason in expected.items():
        assert reason in rejects.pop(id), id
    assert not rejects


def test_two_recordings_may_share_a_text(tmp_path: Path) -> None:
    for name in ("1.wav", "1.WAV", "1.flac"):
        record(tmp_path / name)
    write(tmp_path / "1.txt", "Said three times")
    assert set(scan(tmp_path)[0]) == {"1.wav", "1.WAV", "1.flac"}


def test_equal_names_in_two_folders_are_two_utterances(tmp_path: Path) -> None:
    for speaker in ("anna", "ben"):
        record(tmp_path / speaker / "001.wav")
        write(tmp_path / speaker / "001.txt", f"I am {speaker}")
    assert {id: u.text for id, u in scan(tmp_path)[0].items()} == {
        "anna/001.wav": "I am anna",
        "ben/001.wav": "I am ben",
    }


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    make_tree(tmp_path)
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"")
    _, rejects = scan(tmp_path)
    assert "not UTF-8" in rejects["caf\\xe9.wav"]
    assert rejects and all(reject.encode() for reject in rejects)


@pytest.mark.parametrize("format", ["list", "tree"])
def test_links_out_of_the_corpus(tmp_path: Path, format: str) -> None:
    """Neither a recording nor a text nor a folder comes in through a link, unless that is asked for."""
    outside, root = tmp_path / "outside", tmp_path / "corpus"
    record(outside / "o.wav")
    write(outside / "o.txt", "A secret")
    record(root / "in.wav")
    write(root / "in.txt", "Inside")
    record(root / "texts/t.wav")
    (root / "texts/t.txt").symlink_to(outside / "o.txt")
    (root / "file.wav").symlink_to(outside / "o.wav")
    write(root / "file.txt", "Linked file")
    (root / "folder").symlink_to(outside)
    (root / "ring").symlink_to(root)
    (root / "alias.wav").symlink_to("in.wav")
    write(root / "alias.txt", "Inside, by another name")
    if format == "list":
        names = ("in.wav", "file.wav", "folder/o.wav", "alias.wav", "texts/t.wav")
        write(root / "c.list", "".join(f"{name}|a|EN|words\n" for name in names))
    utterances, rejects = scan(root, format=format)
    leading_out = {"file.wav", "folder"} | ({"folder/o.wav"} if format == "list" else {"texts/t.wav"})
    assert set(rejects) == leading_out
    assert all("--follow-outside" in reason for reason in rejects.values())
    assert "A secret" not in {u.text for u in utterances.values()}
    utterances, rejects = scan(root, format=format, follow_outside=True)
    assert set(utterances) == {"in.wav", "file.wav", "folder/o.wav", "alias.wav", "texts/t.wav"}
    assert not rejects


def test_paths_outside_on_request(tmp_path: Path) -> None:
    record(tmp_path / "outside.wav")
    root = tmp_path / "corpus"
    write(root / "c.list", f"../outside.wav|a|EN|One\n{tmp_path}/./outside.wav|a|EN|The same\n")
    utterances, rejects = scan(root, follow_outside=True)
    path = (tmp_path / "outside.wav").as_posix()
    assert list(utterances) == [path] and utterances[path].audio == path
    assert "second time" in rejects["c.list:2"]


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path)
    listed = os.scandir

    def scandir(path: Path) -> os._ScandirIterator[str]:
        if Path(path).name == "ben":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    utterances, rejects = scan(tmp_path)
    assert len(utterances) == 3 and "Permission denied" in rejects["ben"]


@pytest.mark.parametrize("format", [None, "tree"])
def test_nothing_there(tmp_path: Path, format: str | None) -> None:
    with pytest.raises(UsageError, match="There is no"):
        scanner.scan(tmp_path / "missing", format)


def test_an_unknown_format_is_a_usage_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'elvish'.*list, ljspeech, kaldi, lhotse"):
        scanner.scan(tmp_path, "elvish")


def test_not_recognised(tmp_path: Path) -> None:
    write(tmp_path / "notes.md", "nothing to hear")
    with pytest.raises(CorpusError, match="--format") as caught:
        scanner.scan(tmp_path)
    assert all(any(format in line for line in caught.value.details) for format in scanner.FORMATS)
    with pytest.raises(CorpusError, match=r"a file and not a \.list"):
        scanner.scan(tmp_path / "notes.md")


def test_more_than_one_way_to_read_it(tmp_path: Path) -> None:
    make_ljspeech(tmp_path)
    make_list(tmp_path)
    with pytest.raises(CorpusError, match=r"list and as ljspeech.*--format"):
        scanner.scan(tmp_path)
    assert scan(tmp_path, format="ljspeech")[0].keys() != scan(tmp_path, format="list")[0].keys()


def test_more_than_one_list(tmp_path: Path) -> None:
    make_list(tmp_path)
    write(tmp_path / "other.list", "a.wav|anna|EN|Hello\n")
    with pytest.raises(CorpusError, match=r"2 \.list files"):
        scanner.scan(tmp_path)
    assert list(scan(tmp_path / "other.list")[0]) == ["a.wav"]


@pytest.mark.parametrize(("format", "lacks"), [("ljspeech", "metadata.csv and wavs"), ("kaldi", "wav.scp and text")])
def test_a_format_that_it_is_not(tmp_path: Path, format: str, lacks: str) -> None:
    make_tree(tmp_path)
    with pytest.raises(CorpusError, match=lacks):
        scanner.scan(tmp_path, format)
    with pytest.raises(CorpusError, match="a folder"):
        scanner.scan(tmp_path / "loose.txt", format)


def test_empty_corpora(tmp_path: Path) -> None:
    for format in ("tree", "list"):
        root = tmp_path / format
        root.mkdir()
        if format == "list":
            write(root / "c.list", "\n\n")
        with pytest.raises(CorpusError, match="is empty"):
            list(scanner.scan(root, format))


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "c.list").mkdir()
    with pytest.raises(CorpusError, match="cannot be read"):
        list(scanner.scan(tmp_path, "list"))


def test_scanning_is_lazy_and_stops_when_left(tmp_path: Path) -> None:
    """The first result comes long before the last line is read."""
    record(tmp_path / "a.wav")
    write(tmp_path / "c.list", "".join(f"missing-{n}.wav|a|EN|x\n" for n in range(20_000)))
    results = scanner.scan(tmp_path)
    assert next(results).id == "missing-0.wav"
    results.close()  # type: ignore[attr-defined]


def test_strings_are_shared(tmp_path: Path) -> None:
    make_tree(tmp_path)
    record(tmp_path / "anna/2.wav")
    write(tmp_path / "anna/2.txt", "Two")
    speakers = [u.speaker for u in scan(tmp_path)[0].values() if u.speaker == "anna"]
    assert len({id(speaker) for speaker in speakers}) == 1 < len(speakers)


def test_headers_of_all_formats(tmp_path: Path) -> None:
    for suffix in ("wav", "flac", "ogg", "mp3"):
        record(tmp_path / f"x.{suffix}", 44_100, 44_100)
    write(tmp_path / "x.txt", "x")
    for utterance in scan(tmp_path)[0].values():
        assert utterance.sample_rate == 44_100 and utterance.seconds == pytest.approx(1.0, abs=0.06)
        assert utterance.size == (tmp_path / utterance.audio).stat().st_size


def test_a_flac_from_a_pipe_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    content = bytearray(record(tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0  # STREAMINFO: the 36 bits of the number of samples, 0 for unknown
    content[22:26] = bytes(4)
    write(tmp_path / "a.flac", bytes(content))
    write(tmp_path / "a.txt", "x")
    assert "does not say how long" in scan(tmp_path)[1]["a.flac"]


def test_raw_has_no_header(tmp_path: Path) -> None:
    write(tmp_path / "a.raw", bytes(3200))
    write(tmp_path / "c.list", "a.raw|a|EN|x\n")
    assert "no header" in scan(tmp_path)[1]["a.raw"]


def test_scanning_imports_neither_praat_nor_torch() -> None:
    """parselmouth takes 0.2 s, torch 2; headers and lines need neither."""
    code = "import sys, headrace.featurize.corpus.scanner; "
    code += "print(sorted({'parselmouth', 'torch', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"[]"
