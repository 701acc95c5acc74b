"""Published corpora are read as they are, by recognition and by name."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from headrace import store
from headrace.featurize.corpus import scanner
from headrace.featurize.corpus.formats.known_formats import FORMATS
from headrace.featurize.corpus.formats.table_files import parse_columns
from headrace.store.errors import CorpusError, UsageError
from headrace.store.schema import Reject, Utterance
from tests.featurize.corpus.archives import build
from tests.featurize.corpus.layouts import LAYOUTS, Layout
from tests.helpers.corpus_formats import cut, make_cuts, record, write


def scan(path: Path, **options: object) -> tuple[dict[str, Utterance], dict[str, str]]:
    found = list(scanner.scan(path, **options))  # type: ignore[arg-type]
    utterances = {item.id: item for item in found if isinstance(item, Utterance)}
    rejects = {item.id: item.reason for item in found if isinstance(item, Reject)}
    assert len(found) == len(utterances) + len(rejects)
    return utterances, rejects


def options_of(layout: Layout, folder: Path) -> dict[str, object]:
    options = dict(layout.options)
    if "audio" in options:
        options["audio"] = folder / layout.root / str(options["audio"])
    if "columns" in options:
        options["columns"] = parse_columns(str(options["columns"]))
    return options


def name_of(audio: str, layout: Layout, folder: Path) -> str:
    """The name of a recording from the folder of the layout, whatever folder the given file is in."""
    base = (folder / layout.root / layout.given).parent if layout.given else folder / layout.root
    return (base / audio).resolve().relative_to((folder / layout.root).resolve()).as_posix()


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_corpora_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    path, options = layout.make(tmp_path), options_of(layout, tmp_path)
    assert scanner.detect_format(path) == layout.format or "columns" in options
    utterances, rejects = scan(path, **options)
    assert not rejects
    found = {name_of(u.audio, layout, tmp_path): (u.speaker, u.language, u.text) for u in utterances.values()}
    assert found == layout.utterances
    assert scan(path, format=layout.format, **options) == (utterances, rejects)


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_corpora_are_built_as_they_are(tmp_path: Path, name: str) -> None:
    """With no option and by name: a store of all utterances, with their speakers, languages and texts."""
    layout = LAYOUTS[name]
    path, options = layout.make(tmp_path), options_of(layout, tmp_path)
    done = build(path, tmp_path / "STORE", ("wave",), **options)
    assert (done["utterances"], done["rejects"]) == (len(layout.utterances), 0)
    opened = store.open(tmp_path / "STORE")
    rows = zip(opened.ids, opened.speakers, opened.languages, opened.texts, strict=True)
    assert {name_of(str(id).partition("#")[0], layout, tmp_path): row for id, *row in rows} == {
        id: [*said] for id, said in layout.utterances.items()
    }
    again = build(path, tmp_path / "STORE", ("wave",), format=layout.format, **options)
    assert again["parts_built"] == 0  # by name it has the same inputs


def test_every_format_has_a_miniature() -> None:
    others = {"kaldi", "lhotse", "tree", "webdataset", "datasets", "shar"}  # which test_scan and test_archives have
    assert {layout.format for layout in LAYOUTS.values()} | others == {*FORMATS}


@pytest.mark.parametrize("name", ["LibriTTS", "Common Voice", "KSS", "Emilia", "THCHS-30", "M-AILABS"])
def test_what_is_missing_in_a_published_corpus_is_named(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    path = layout.make(tmp_path)
    first, *others = layout.utterances
    (path / first).unlink()
    record(path / Path(others[0] if others else first).parent / "zzz_orphan.wav")
    utterances, rejects = scan(path)
    assert {u.audio for u in utterances.values()} == {*others}
    if name != "Common Voice":
        assert any("orphan" in id and "audio without text" in reason for id, reason in rejects.items())
    if name in ("Common Voice", "KSS", "M-AILABS"):
        assert rejects[first].startswith("there is no such file")


def test_a_transcript_of_thchs30_that_names_another(tmp_path: Path) -> None:
    """A split is left out beside `data/`, and told where `data/` is not there."""
    path = LAYOUTS["THCHS-30"].make(tmp_path)
    record(path / "train/A11_0.wav")
    write(path / "train/A11_0.wav.trn", "../data/A11_0.wav.trn\n")
    utterances, rejects = scan(path)
    assert [*utterances] == ["data/A11_0.wav"] and not rejects
    (path / "data").rename(tmp_path / "elsewhere")
    assert "only names another" in scan(path)[1]["train/A11_0.wav"]


def test_a_language_of_emilia_that_is_none(tmp_path: Path) -> None:
    path = LAYOUTS["Emilia"].make(tmp_path)
    file = next(path.rglob("EN*.json"))
    write(file, file.read_text().replace('"en"', '"elvish!"'))
    assert len(scan(path)[0]) == 1 and "'elvish!'" in "".join(scan(path)[1].values())


def test_texts_of_vctk_without_any_recording(tmp_path: Path) -> None:
    path = LAYOUTS["VCTK 0.92"].make(tmp_path)
    for name in ("mic1", "mic2"):
        (path / f"wav48_silence_trimmed/p225/p225_001_{name}.flac").unlink()
    assert "text without audio" in scan(path)[1]["txt/p225/p225_001.txt"]


def test_the_second_microphone_is_read_where_there_is_no_first(tmp_path: Path) -> None:
    path = LAYOUTS["VCTK 0.92"].make(tmp_path)
    (path / "wav48_silence_trimmed/p225/p225_001_mic1.flac").unlink()
    record(path / "wav48_silence_trimmed/p315/p315_001_mic1.flac")  # whose texts were lost
    utterances, rejects = scan(path)
    assert "wav48_silence_trimmed/p225/p225_001_mic2.flac" in utterances
    assert "audio without text" in rejects["wav48_silence_trimmed/p315/p315_001_mic1.flac"]


def test_names_in_another_unicode_form(tmp_path: Path) -> None:
    names = ["Müller.wav", "ガラス.wav", "Ängste/È.wav"]
    for name in names:
        record(tmp_path / unicodedata.normalize("NFD", name))
    write(tmp_path / "a.list", "".join(f"{name}|s|de|Hallo\n" for name in names))
    utterances, rejects = scan(tmp_path)
    assert not rejects and [*utterances] == [unicodedata.normalize("NFD", name) for name in names]


def test_two_files_that_differ_in_letter_case_only_are_not_confused(tmp_path: Path) -> None:
    for name in ("clip.wav", "Clip.wav"):
        record(tmp_path / name)
    write(tmp_path / "a.list", "CLIP.WAV|s|en|Which?\nclip.wav|s|en|This.\nClip.wav|s|en|That.\n")
    utterances, rejects = scan(tmp_path)
    assert [*utterances] == ["clip.wav", "Clip.wav"] and [*rejects] == ["CLIP.WAV"]


def test_paths_of_another_machine(tmp_path: Path) -> None:
    corpus, audio = tmp_path / "lists", tmp_path / "audio"
    record(audio / "speaker/1.wav")
    record(audio / "1.wav")
    record(tmp_path / "outside.wav")
    lines = [
        "D:/x/speaker/1.wav|s|en|The one in its folder",
        "/home/u/1.wav|s|en|By its name",
        "../outside.wav|s|en|No",
    ]
    write(corpus / "a.list", "\n".join(lines))
    _, rejects = scan(corpus)
    assert "--audio FOLDER" in rejects[(corpus / "D:/x/speaker/1.wav").relative_to(corpus).as_posix()]
    utterances, rejects = scan(corpus, audio=audio)
    assert {u.audio: u.text for u in utterances.values()} == {
        f"{audio}/speaker/1.wav": "The one in its folder",
        f"{audio}/1.wav": "By its name",
    }
    assert "outside" in rejects[f"{tmp_path}/outside.wav"]
    with pytest.raises(UsageError, match=r"--audio .*nowhere"):
        scanner.scan(corpus, audio=tmp_path / "nowhere")


def test_a_link_out_of_the_folder_of_recordings_is_not_followed(tmp_path: Path) -> None:
    record(tmp_path / "secret.wav")
    record(tmp_path / "audio/a.wav")
    (tmp_path / "audio/link.wav").symlink_to(tmp_path / "secret.wav")
    write(tmp_path / "lists/a.list", "a.wav|s|en|Inside\nlink.wav|s|en|Outside\n")
    utterances, rejects = scan(tmp_path / "lists", audio=tmp_path / "audio")
    assert len(utterances) == 1 and "lies outside" in "".join(rejects.values())


def test_a_bar_in_a_text_is_told_as_one(tmp_path: Path) -> None:
    record(tmp_path / "1.wav")
    write(tmp_path / "a.list", "1.wav|s|ZH|他说|她也说。\n")
    (reason,) = (reason for id, reason in scan(tmp_path)[1].items() if id == "a.list:1")
    assert "the text has a bar" in reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("audio", "is not WHAT=COLUMN"),
        ("audio=a,audio=b", "is not WHAT=COLUMN"),
        ("sound=a", "once each of audio, text"),
        ("audio=1,text=b", "numbers columns"),
        ("audio=1,speaker=2", "numbers columns"),
        ("audio=0,text=1", "numbers columns"),
    ],
)
def test_columns_that_are_none(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_columns(text)


def test_rows_that_are_none(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav", "c.wav", "d.wav"):
        record(tmp_path / name, 16_000)
    rows = ["path,text,language,start,end", "a.wav,Whole,en,,", "b.wav,Part,en,0.25,0.5", "c.wav,Odd,en,x,", ",No,en,,"]
    rows += ["d.wav,Tag,elvish!,,", "b.wav,lonely", 'a.wav,"never closed,en,,']
    write(tmp_path / "t.csv", "\n".join(rows))
    utterances, rejects = scan(tmp_path / "t.csv")
    assert {u.id: u.text for u in utterances.values()} == {"a.wav": "Whole", "b.wav#4000-8000": "Part"}
    expected = {
        "t.csv:4": "its start is 'x'",
        "t.csv:5": "names no recording",
        "d.wav": "nothing here reads language 'elvish!'",
        "t.csv:7": "2 columns",
        "t.csv:8": "never closed",
        "c.wav": "audio without text",
    }
    assert {id: said for id, said in expected.items() if said in rejects.pop(id)} == expected and not rejects


def test_a_quoted_field_may_go_over_lines(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    write(tmp_path / "t.csv", 'path,text\na.wav,"one\ntwo"\n')
    assert scan(tmp_path / "t.csv")[0]["a.wav"].text.split() == ["one", "two"]


def test_tables_without_known_columns(tmp_path: Path) -> None:
    write(tmp_path / "t.tsv", "ort\tgesagt\na.wav\tHallo\n")
    with pytest.raises(CorpusError, match=r"audio and none of text .*'ort', 'gesagt'.*--columns"):
        list(scanner.scan(tmp_path / "t.tsv"))
    with pytest.raises(CorpusError, match="no column 'wo'"):
        list(scanner.scan(tmp_path / "t.tsv", columns=parse_columns("audio=wo,text=gesagt")))
    with pytest.raises(UsageError, match="name the file"):
        scanner.scan(tmp_path, columns=parse_columns("audio=ort,text=gesagt"))


def test_json_lines_that_are_none(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    lines = [json.dumps({"audio_filepath": "a.wav", "text": "Hello"}), "[]", "{", json.dumps({"text": "no file"})]
    write(tmp_path / "m.jsonl", "\n".join(lines))
    utterances, rejects = scan(tmp_path / "m.jsonl")
    assert [*utterances] == ["a.wav"] and [*rejects] == ["m.jsonl:2", "m.jsonl:3", "m.jsonl:4"]
    assert "names no recording" in rejects["m.jsonl:4"]


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("flac -c -d -s a.flac |", "a.flac"),
        ("/usr/bin/flac -dcs 'a.flac' |", "a.flac"),
        ("sph2pipe -f wav -p a.flac |", "a.flac"),
        ("sox a.flac -t wav - |", "a.flac"),
        ("ffmpeg -nostdin -i a.flac -f wav - |", "a.flac"),
        ("cat a.flac |", "a.flac"),
        ("sox a.flac -r 8000 -t wav - |", ""),
        ("sox -v 0.5 a.flac -t wav - |", ""),
        ("flac -c -d a.flac b.flac |", ""),
        ("cat a.flac; touch ran |", ""),
        ("cat $(touch ran) |", ""),
        ("cat a.flac | sox -t wav - -t wav - speed 2 |", ""),
        ("cat a* |", ""),
        ("flac -d --skip=100 -c a.flac |", ""),
    ],
)
def test_a_plain_decoder_of_one_file_is_that_file(tmp_path: Path, command: str, file: str) -> None:
    record(tmp_path / "a.flac")
    write(tmp_path / "wav.scp", f"u1 {command}\n")
    write(tmp_path / "text", "u1 hello\n")
    utterances, rejects = scan(tmp_path)
    assert [*utterances] == ([file] if file else [])
    assert not (tmp_path / "ran").exists()
    assert file or "commands of a corpus are not run" in rejects["text:1"]


def test_whole_and_part_of_one_recording_in_any_order(tmp_path: Path) -> None:
    record(tmp_path / "r.wav")
    cuts = [cut(tmp_path / "r.wav", "A part", start=0.02, duration=0.05), cut(tmp_path / "r.wav", "All of it")]
    for order in (cuts, cuts[::-1]):
        write(tmp_path / "c.jsonl", "".join(json.dumps(one) + "\n" for one in order))
        utterances, rejects = scan(tmp_path / "c.jsonl")
        assert not rejects and {u.text for u in utterances.values()} == {"A part", "All of it"}


def changed_cut(path: Path, **changes: object) -> dict[str, object]:
    """A cut in which fields of the recording, or of the supervision (`said_...`), are others."""
    one = cut(path, "Hello")
    for name, value in changes.items():
        target = one["supervisions"][0] if name.startswith("said_") else one["recording"]
        target[name.removeprefix("said_")] = value
    return one


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}, "is transformed (Speed)"),
        (
            {"transforms": [{"name": "Resample", "kwargs": {}}, {"name": "Volume", "kwargs": {}}]},
            "transformed (Volume)",
        ),
        ({"gain": 2.0}, "'gain', which is not known"),
        ({"said_start": -1.0, "said_duration": 1.1}, "its text is of -1 to 0.1 s, and the cut of 0 to 0.1 s"),
        ({"said_duration": 0.2}, "its text is of 0 to 0.2 s"),
        ({"sampling_rate": 0}, "a field is of another type"),
        ({"sources": [{"type": "file", "channels": [0], "source": "a.wav", "offset": 3}]}, "'offset'"),
    ],
)
def test_cuts_that_sound_otherwise_than_their_file(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    write(tmp_path / "c.jsonl", json.dumps(changed_cut(record(tmp_path / "a.wav"), **changes)) + "\n")
    rejects = scan(tmp_path / "c.jsonl")[1]
    assert said in rejects["c.jsonl:1"]


def test_a_resampled_cut_is_taken(tmp_path: Path) -> None:
    transforms = [{"name": "Resample", "kwargs": {"source_sampling_rate": 8000, "target_sampling_rate": 16000}}]
    write(tmp_path / "c.jsonl", json.dumps(changed_cut(record(tmp_path / "a.wav"), transforms=transforms)) + "\n")
    assert [*scan(tmp_path / "c.jsonl")[0]] == ["a.wav"]


def test_no_python_error_is_a_reason(tmp_path: Path) -> None:
    file = make_cuts(tmp_path)
    good = json.loads(file.read_text().splitlines()[0])
    broken = [{key: value for key, value in good.items() if key != lost} for lost in good]
    broken += [{**good, "recording": {}}, {**good, "supervisions": 3}, {**good, "recording": []}, {**good, "start": {}}]
    write(file, "".join(json.dumps(one) + "\n" for one in broken))
    reasons = " ".join(scan(file)[1].values())
    assert "Error" not in reasons and "it has no 'type'" in reasons and "it has no 'recording'" in reasons


def test_a_corpus_of_two_formats_is_named_as_both(tmp_path: Path) -> None:
    layout = LAYOUTS["KSS"]
    path = replace(layout, files={**layout.files, "transcript.txt": "a.wav|a|a|1\n"}).make(tmp_path)
    with pytest.raises(CorpusError, match="css10 and as kss"):
        scanner.detect_format(path)
