"""`featurize split`: known phrases are found in long recordings, and the list is one that a build reads."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headrace.cli.featurize import main as featurize
from headrace.featurize.corpus import scanner
from headrace.featurize.segmentation.segments import TOO_LONG, Bounds
from headrace.featurize.segmentation.split import SplitConfig, split
from headrace.store.errors import CorpusError, StoreError, UsageError
from headrace.store.schema import Reject, Utterance
from tests.featurize.segmentation.talks import Talk, talk
from tests.helpers.commands import call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def times(path: Path, audio: str) -> np.ndarray:
    return np.array([[float(row["start"]), float(row["end"])] for row in rows(path) if row["audio"] == audio])


def check(found: np.ndarray, spoken: Talk) -> None:
    """Every phrase is in one segment, whole, and every segment begins and ends where a phrase does."""
    holders = [np.flatnonzero((found[:, 0] < end) & (found[:, 1] > start)) for start, end in spoken.phrases]
    assert all(len(holder) == 1 for holder in holders)
    for (start, end), (holder,) in zip(spoken.phrases, holders, strict=True):
        assert found[holder, 0] <= start + 0.01
        assert found[holder, 1] >= end - 0.01
    for ends, known in zip(found.T, spoken.phrases.T, strict=True):
        assert (np.abs(ends[:, None] - known).min(axis=1) <= 0.1).all()


@pytest.mark.parametrize(
    ("rate", "suffix", "noise_db"),
    [(16_000, "flac", -70), (22_050, "wav", -55), (48_000, "flac", -200), (8_000, "wav", -60)],
)
def test_every_phrase_is_in_one_segment_and_none_is_cut(
    tmp_path: Path, rate: int, suffix: str, noise_db: float
) -> None:
    spoken = talk(1, rate=rate, noise_db=noise_db, seed=rate)
    (tmp_path / "talks" / "ada").mkdir(parents=True)
    soundfile.write(tmp_path / "talks" / "ada" / f"one.{suffix}", spoken.wave, rate)
    report = split(SplitConfig(corpus=tmp_path / "talks", out=tmp_path / "talks.tsv", workers=1))
    audio = f"talks/ada/one.{suffix}"
    check(times(tmp_path / "talks.tsv", audio), spoken)
    written = rows(tmp_path / "talks.tsv")
    assert {(row["speaker"], row["language"], row["text"]) for row in written} == {("ada", "en", "")}
    assert (report["recordings"], report["segments"]) == (1, len(written))
    assert (report["dropped"], report["rejects"]) == ([], [])


@pytest.mark.soak
def test_forty_minutes(tmp_path: Path) -> None:
    spoken = talk(40, noise_db=-65)
    soundfile.write(tmp_path / "long.flac", spoken.wave, 16_000)
    split(SplitConfig(corpus=tmp_path / "long.flac", out=tmp_path / "long.tsv"))
    check(times(tmp_path / "long.tsv", "long.flac"), spoken)


def test_the_list_is_a_corpus_whose_texts_may_be_written_in_an_editor(tmp_path: Path) -> None:
    spoken = talk(0.3, seed=3)
    soundfile.write(tmp_path / "a b|c,ä.flac", spoken.wave, 16_000)
    out = tmp_path / "segments.tsv"
    split(SplitConfig(corpus=tmp_path, out=out, language="pt_BR", workers=1))
    written = out.read_text(encoding="utf-8")
    assert {item.reason for item in scanner.scan(out) if isinstance(item, Reject)} == {"the text is empty"}
    out.write_text(written.replace("\tpt-br\t\n", "\tpt-br\tEstá bem.\n"), encoding="utf-8")
    found = [item for item in scanner.scan(out) if isinstance(item, Utterance)]
    assert len(found) == len(times(out, "a b|c,ä.flac"))
    assert {(item.text, item.language, item.speaker) for item in found} == {("Está bem.", "pt-br", tmp_path.name)}
    assert np.allclose([[u.start, u.stop] for u in found], times(out, "a b|c,ä.flac") * 16_000, atol=1)


def test_paths_lead_from_the_list_to_the_recordings(tmp_path: Path) -> None:
    (tmp_path / "talks").mkdir()
    (tmp_path / "lists").mkdir()
    soundfile.write(tmp_path / "talks" / "one.wav", talk(0.1).wave, 16_000)
    for out, audio in (
        ("talks/list.tsv", "one.wav"),
        ("list.tsv", "talks/one.wav"),
        ("lists/list.tsv", (tmp_path / "talks/one.wav").as_posix()),
    ):
        split(SplitConfig(corpus=tmp_path / "talks", out=tmp_path / out, workers=1))
        assert {row["audio"] for row in rows(tmp_path / out)} == {audio}


def test_recordings_that_cannot_be_read_are_told_and_cost_no_other(tmp_path: Path) -> None:
    spoken = talk(0.2)
    soundfile.write(tmp_path / "good.wav", spoken.wave, 16_000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "cut.flac").write_bytes((tmp_path / "good.wav").read_bytes()[:1000])
    soundfile.write(tmp_path / "tab\there.wav", spoken.wave, 16_000)
    report = split(SplitConfig(corpus=tmp_path, out=tmp_path / "list.tsv", workers=2))
    assert {row["audio"] for row in rows(tmp_path / "list.tsv")} == {"good.wav"}
    assert [reject["id"] for reject in report["rejects"]] == ["cut.flac", "empty.wav", "nan.wav", "tab\there.wav"]
    assert (report["recordings"], report["recordings_without_speech"]) == (6, 1)
    assert "NaN" in report["rejects"][2]["reason"]
    assert report["reject_kinds"][0]["count"] == 1


def test_speech_that_is_in_no_segment_is_told(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 200 * np.arange(16_000 * 5) / 16_000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "a.wav", np.concatenate([talk(0.2).wave, tone, np.zeros(16_000, np.float32)]), 16_000)
    bounds = Bounds(longest=4.0)
    report = split(SplitConfig(corpus=tmp_path, out=tmp_path / "list.tsv", bounds=bounds, workers=1))
    assert [each["reason"] for each in report["dropped"]][-1] == TOO_LONG
    assert report["dropped_by_reason"][TOO_LONG]["seconds"] == pytest.approx(
        sum(each["end"] - each["start"] for each in report["dropped"] if each["reason"] == TOO_LONG)
    )
    lengths = np.diff(times(tmp_path / "list.tsv", "a.wav"))
    assert lengths.max() <= 4.0


def test_a_corpus_without_speech_or_recordings_and_a_list_that_cannot_be_are_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    with pytest.raises(CorpusError, match="holds no recording"):
        split(SplitConfig(corpus=corpus, out=tmp_path / "list.tsv"))
    soundfile.write(corpus / "silent.wav", np.zeros(16_000), 16_000)
    (corpus / "broken.wav").write_bytes(b"nothing")
    with pytest.raises(CorpusError, match="No speech was found") as raised:
        split(SplitConfig(corpus=corpus, out=tmp_path / "list.tsv", workers=1))
    assert "broken.wav" in " ".join(raised.value.details)
    assert not (tmp_path / "list.tsv").exists()
    with pytest.raises(UsageError, match=r"ends in \.tsv"):
        split(SplitConfig(corpus=corpus, out=tmp_path / "list.csv"))
    with pytest.raises(StoreError, match="No such file"):
        split(SplitConfig(corpus=corpus, out=tmp_path / "nowhere" / "list.tsv"))
    with pytest.raises(UsageError, match="language"):
        split(SplitConfig(corpus=corpus, out=tmp_path / "list.tsv", language="?"))
    with pytest.raises(UsageError, match="There is no"):
        split(SplitConfig(corpus=tmp_path / "nothing", out=tmp_path / "list.tsv"))


def test_the_commands(tmp_path: Path) -> None:
    spoken = talk(0.2)
    soundfile.write(tmp_path / "one.wav", spoken.wave, 16_000)
    listed, said = tmp_path / "one.tsv", tmp_path / "said.tsv"
    done = call(featurize, "split", tmp_path / "one.wav", "--out", listed, "--workers", 1)
    assert done.exit_code == 0, done.stderr
    segments = len(rows(listed))
    assert f"{segments}, " in done.stdout
    words = [{"word": f" w{n}", "start": start, "end": end} for n, (start, end) in enumerate(spoken.phrases.tolist())]
    results = {"language": "de", "segments": [{"words": words, "text": ""}]}
    (tmp_path / "one.json").write_text(json.dumps(results))
    done = call(featurize, "join-texts", listed, tmp_path / "one.json", "--out", said, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["with_text"] == segments
    assert " ".join(row["text"] for row in rows(said)).split() == [f"w{n}" for n in range(len(words))]
    done = call(featurize, "join-texts", listed, tmp_path / "one.json", "--out", said)
    assert f"{segments}, {segments} of them with a text" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="names of files are Unicode there")
def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    """It is the speaker of the recordings in it, and may be in their paths."""
    corpus = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        corpus.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    soundfile.write(tmp_path / "a.wav", talk(0.1).wave, 16_000)
    (tmp_path / "a.wav").rename(corpus / "a.wav")
    with pytest.raises(CorpusError, match="No speech was found") as raised:
        split(SplitConfig(corpus=corpus, out=tmp_path / "list.tsv", workers=1))
    assert "broken characters" in raised.value.details[0]
