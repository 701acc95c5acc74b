"""Texts of recognisers find their segments by their times, whatever wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.featurize.segmentation import segment_list
from headrace.featurize.segmentation.join_texts import DIVIDED, NO_TEXT, join_texts
from headrace.featurize.segmentation.segment_list import Row
from headrace.store.errors import CorpusError, UsageError
from tests.helpers.corpus_formats import RECOGNISED, word

SEGMENTS = (("talks/one.wav", 1.0, 3.0), ("talks/one.wav", 4.0, 6.0), ("talks/two.wav", 0.5, 2.0))


def make_list(folder: Path, *segments: tuple[str, float, float]) -> Path:
    rows = [Row(audio, start, end, "ada", "en") for audio, start, end in segments or SEGMENTS]
    segment_list.write(folder / "list.tsv", folder, rows)
    return folder / "list.tsv"


def texts(folder: Path, document: Any, name: str = "one.json", **report: Any) -> list[str]:
    """The texts of the segments, from a result; the values of the report must be these."""
    results = folder / "results"
    results.mkdir(exist_ok=True)
    (results / name).write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    found = join_texts(make_list(folder), results, folder / "out.tsv")
    assert {key: found[key] for key in report} == report
    return [row.text for row in segment_list.read(folder / "out.tsv")]


def write_line(path: Path, start: object, end: object) -> None:
    path.write_text("\t".join(segment_list.HEADER) + f"\na.wav\t{start}\t{end}\tada\ten\t\n")


@pytest.mark.parametrize("kind", RECOGNISED)
def test_results_of_recognisers(tmp_path: Path, kind: str) -> None:
    name = "one.jsonl" if isinstance(RECOGNISED[kind], str) else "one.json"
    found = texts(tmp_path, RECOGNISED[kind], name, with_text=2, without_text={NO_TEXT: 1}, words_outside_segments=0)
    assert found == ["Good evening.", "Come in!", ""]


def test_sensevoice_names_the_language_and_characters_have_no_spaces_between(tmp_path: Path) -> None:
    text = "<|zh|><|NEUTRAL|><|Speech|><|withitn|>今天,open source 好。"
    times = [[1000, 1200], [1200, 1400], [1500, 1900], [1900, 2500], [4500, 5000]]
    found = texts(tmp_path, {"key": "talks/one.wav", "text": text, "timestamp": times})
    assert found == ["今天,open source", "好。", ""]
    assert [row.language for row in segment_list.read(tmp_path / "out.tsv")] == ["zh", "zh", "en"]


def test_words_join_with_the_spaces_that_they_need(tmp_path: Path) -> None:
    for said, text in (
        ((" a", " b", "-c"), "a b-c"),
        (("a", "b"), "a b"),
        (("今", "天", "ok", "好"), "今天 ok好"),
        ((" a\n", "\tb "), "a b"),
    ):
        words = [word(one, 1 + n / 10, 1.1 + n / 10) for n, one in enumerate(said)]
        assert texts(tmp_path, {"words": words}) == [text, "", ""]


def test_a_sentence_over_two_segments_gives_neither_a_text(tmp_path: Path) -> None:
    sentence = {"segments": [{"start": 1.0, "end": 6.0, "text": "Good evening. Come in!"}]}
    assert texts(tmp_path, sentence, without_text={DIVIDED: 2, NO_TEXT: 1}) == ["", "", ""]
    just_reaching = {"segments": [{"start": 1.0, "end": 4.25, "text": "All."}]}
    assert texts(tmp_path, just_reaching, without_text={DIVIDED: 2, NO_TEXT: 1}) == ["", "", ""]
    assert texts(tmp_path, {"segments": [{"start": 1.0, "end": 4.2, "text": "All."}]}) == ["All.", "", ""]


@pytest.mark.parametrize(("end", "text"), [(3.5, "All."), (3.51, "")])
def test_a_sentence_of_which_a_segment_holds_four_fifths_is_in_it(tmp_path: Path, end: float, text: str) -> None:
    make_list(tmp_path, ("one.wav", 1.0, 3.0), ("one.wav", 3.1, 6.0))
    (tmp_path / "one.json").write_text(json.dumps({"segments": [{"start": 1.0, "end": end, "text": "All."}]}))
    join_texts(tmp_path / "list.tsv", tmp_path / "one.json", tmp_path / "out.tsv")
    assert [row.text for row in segment_list.read(tmp_path / "out.tsv")] == [text, ""]


def test_words_in_no_segment_are_counted(tmp_path: Path) -> None:
    words = [word("in", 1.5, 2), word("ghost", 3.2, 3.6), word("edge", 2.9, 3.1)]
    assert texts(tmp_path, {"words": words}, words_outside_segments=2) == ["in", "", ""]


def test_recordings_are_found_by_path_name_and_stem(tmp_path: Path) -> None:
    for key in ("talks/two.wav", "two.wav", "two", "/elsewhere/talks/two.wav", "D:\\talks\\two.wav", "two.mp3"):
        assert texts(tmp_path, {"key": key, "text": "Yes."}, "x.json", results=1) == ["", "", "Yes."]


def test_results_of_no_recording_or_of_several_are_told(tmp_path: Path) -> None:
    make_list(tmp_path, ("a/one.wav", 0, 1), ("b/one.wav", 0, 1))
    (tmp_path / "r.jsonl").write_text(
        '{"key": "a/one.wav", "text": "A."}\n{"key": "one", "text": "?"}\n{"key": "three", "text": "?"}\n'
        '{"key": "a/one.wav"}\n7\n{"key": "a/one.wav", "start": NaN, "end": 2, "text": "B."}\nnot json\n'
    )
    report = join_texts(tmp_path / "list.tsv", tmp_path / "r.jsonl", tmp_path / "list.tsv")
    assert [row.text for row in segment_list.read(tmp_path / "list.tsv")] == ["A.", ""]
    reasons = {reject["id"]: reject["reason"] for reject in report["rejects"]}
    assert [*reasons] == [f"r.jsonl:{n}" for n in range(2, 8)]
    assert "several recordings" in reasons["r.jsonl:2"]
    assert "'three'" in reasons["r.jsonl:3"]
    assert "no text" in reasons["r.jsonl:4"]
    assert "'nan' is not a time" in reasons["r.jsonl:6"]
    assert report["results"] == 1


@pytest.mark.parametrize("document", [{"text": "a\ud800"}, {"words": [word("\udfff", 1.0, 2.0)]}, {"key": "\ud83d"}])
def test_half_of_a_character_is_told(tmp_path: Path, document: dict[str, Any]) -> None:
    whole = json.dumps({"key": "two", "text": "Yes."})
    lines = f"{json.dumps({'text': 'x', 'key': 'one'} | document)}\n{whole}\n"
    assert texts(tmp_path, lines, "r.jsonl", results=1) == ["", "", "Yes."]


def test_a_text_without_times_is_that_of_a_recording_of_one_segment(tmp_path: Path) -> None:
    both = '{"key": "one", "text": "Which?"}\n{"key": "two", "text": "This."}\n'
    assert texts(tmp_path, both, "r.jsonl", results=1) == ["", "", "This."]


def test_texts_that_are_there_are_kept_where_there_is_no_other(tmp_path: Path) -> None:
    rows = [Row(audio, start, end, "ada", "en", f"Old {n}.") for n, (audio, start, end) in enumerate(SEGMENTS)]
    segment_list.write(tmp_path / "list.tsv", tmp_path, rows)
    (tmp_path / "two.json").write_text('{"text": "New."}')
    report = join_texts(tmp_path / "list.tsv", tmp_path / "two.json", tmp_path / "list.tsv")
    assert [row.text for row in segment_list.read(tmp_path / "list.tsv")] == ["Old 0.", "Old 1.", "New."]
    assert (report["with_text"], report["without_text"]) == (3, {})


def test_what_is_no_list_and_results_that_are_not_there_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.tsv"
    (tmp_path / "other.tsv").write_text("audio\ttext\na.wav\tA.\n")
    with pytest.raises(CorpusError, match="lacks start, end, speaker, language"):
        join_texts(tmp_path / "other.tsv", tmp_path, out)
    listed = make_list(tmp_path)
    with pytest.raises(UsageError, match="There is no result"):
        join_texts(listed, tmp_path / "nothing.json", out)
    (tmp_path / "r.json").write_text('{"key": "three", "text": "?"}')
    with pytest.raises(CorpusError, match="No result") as raised:
        join_texts(listed, tmp_path / "r.json", out)
    assert "'three'" in raised.value.details[0]
    with listed.open("a") as file:
        file.write("a.wav\tsoon\t2\tada\ten\t\n")
    with pytest.raises(CorpusError, match=r"list\.tsv:5: its start"):
        join_texts(listed, tmp_path / "r.json", out)
    for start, end in ((2, 1), (1, 1), ("nan", 1), (1, "inf"), (-1, 1)):
        write_line(listed, start, end)
        with pytest.raises(CorpusError, match="is no part of a recording"):
            join_texts(listed, tmp_path / "r.json", out)
    with pytest.raises(UsageError, match="folder"):
        join_texts(tmp_path, tmp_path / "r.json", out)
    assert not out.exists()
