"""Ids, speakers and features that would lead an export elsewhere, into one another, or out of a line of a list."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import store
from headrace.cli.store import main
from headrace.featurize.corpus.alignment_files import AlignmentFinder
from headrace.featurize.corpus.entry import Entry
from headrace.featurize.exchange import gpt_sovits_inventory
from headrace.featurize.files import source
from headrace.store.integrity import checksummed_metadata
from headrace.store.schema import Reject
from tests.helpers import training_store
from tests.helpers.commands import call, scheduler
from tests.helpers.fuzzing import FUZZ_COUNTS, fuzz

IDS = (
    "../x.wav", "/etc/x.wav", "..", ".", "a|b|c.wav", "a\tb\nc.wav", "a\r\nb.wav", "nul", "COM1.wav", "what?.wav",
    'say "hi".wav', "dot.", "space ", "it's'", "x" * 300 + ".wav", "folder/" + "\u4f60" * 200 + ".wav", "Case.wav",
    "case.wav", "\u00e9.wav", "e\u0301.wav", "a/1.wav", "a/1.flac", "a%2F1.wav", "b/c.wav", "b/c.TextGrid/d.wav",
    "z.wav#0-100", "\x1b[2J.wav", "a\u2028b.wav", "names.jsonl", "2-name2text.txt",
)  # fmt: skip
SPEAKER = " a|b\tc\u2028\n"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store") / "STORE"
    corpus = training_store.build(root, (20,) * len(IDS), ids=IDS, speaker=SPEAKER)
    assert corpus.ids.tolist() == list(IDS)
    meta = json.loads((root / "zarr.json").read_bytes())
    (semantic,) = (spec for spec in meta["attributes"]["features"] if spec["name"] == "semantic")
    assert semantic["recipe"]["codebook"] <= 1024
    return root


@pytest.fixture
def fenced(tmp_path: Path) -> Iterator[Path]:
    """A folder beside which nothing may appear."""
    (tmp_path / "in").mkdir()
    yield tmp_path / "in"
    assert os.listdir(tmp_path) == ["in"] and not Path("/etc/x.wav").exists()


def export(root: Path, form: str, out: Path) -> Path:
    done = call(main, "export", root, "--to", form, "--out", out)
    assert done.exit_code == 0, done.output
    for path in out.rglob("*"):
        name = path.name
        assert len(os.fsencode(name)) <= 255 and not set(name) & set('\\:*?"<>|') and name.splitlines() == [name]
        assert name[-1] not in ". " and name.partition(".")[0].lower() not in ("nul", "com1")
    return out


def test_gpt_sovits_gives_every_id_and_speaker_back(hostile: Path, fenced: Path) -> None:
    out = export(hostile, "gpt-sovits", fenced / "exp")
    assert len(list((out / "5-wav32k").iterdir())) == len({p.name.lower() for p in (out / "5-wav32k").iterdir()})
    assert len(os.listdir(out / "5-wav32k")) == len(IDS)
    lines = (out / "exp.list").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(IDS)
    for line in lines:
        path, speaker, language, _ = line.split("|")
        assert (out / path).is_file() and speaker == "a%7Cb%09c" and language == "EN"
    back = fenced / "back"
    done = call(main, "import", out, "--out", back, "--list", out / "exp.list", "--scheduler", scheduler())
    assert done.exit_code == 0, done.output
    corpus = store.open(back)
    assert sorted(corpus.ids.tolist()) == sorted(IDS) and set(corpus.speakers.tolist()) == {SPEAKER}


def test_a_bar_in_an_id_or_a_speaker_does_not_break_a_line_of_the_list(tmp_path: Path) -> None:
    training_store.build(tmp_path / "S", (20, 24), parts=1, ids=("a.wav", "b|c.wav"), speaker="d|e")
    lines = (export(tmp_path / "S", "gpt-sovits", tmp_path / "exp") / "exp.list").read_text().splitlines()
    fields = [line.split("|") for line in lines]
    assert [len(each) for each in fields] == [4, 4] and all((tmp_path / "exp" / each[0]).is_file() for each in fields)


def test_lhotse_has_a_file_for_every_id(hostile: Path, fenced: Path) -> None:
    out = export(hostile, "lhotse", fenced / "cuts")
    with gzip.open(out / "cuts.jsonl.gz", "rt", encoding="utf-8") as file:
        cuts = [json.loads(line) for line in file]
    assert [cut["id"] for cut in cuts] == list(IDS)
    assert len({cut["recording"]["sources"][0]["source"] for cut in cuts}) == len(IDS)
    assert all(Path(cut["recording"]["sources"][0]["source"]).is_relative_to(out) for cut in cuts)
    assert all(Path(cut["recording"]["sources"][0]["source"]).is_file() for cut in cuts)


def test_textgrids_are_found_again(hostile: Path, fenced: Path) -> None:
    out = export(hostile, "textgrid", fenced / "grids")
    assert len(list(out.rglob("*.TextGrid"))) > len(IDS)  # a folder has such a name too
    assert sum(path.is_file() for path in out.rglob("*")) == len(IDS)
    corpus = source.Folder(fenced)
    finder, found = AlignmentFinder(corpus, out), set()
    recordings = [id for id in IDS if id.endswith((".wav", ".flac"))]
    for id in recordings:
        found.add(finder.find(Entry(location="x", audio=id, speaker="s"), id, (0.0, 1.0)))
    assert "" not in found and len(found) == len(recordings)


@pytest.mark.parametrize("name", ["../../../evil", "../evil", "/", ".."])
def test_a_feature_that_leads_elsewhere_is_not_exported(fenced: Path, name: str) -> None:
    root = fenced / "S"
    training_store.build(root, (20, 24), parts=1)
    meta = json.loads((root / "zarr.json").read_bytes())
    (mfcc,) = (spec for spec in meta["attributes"]["features"] if spec["name"] == "mfcc")
    mfcc["name"] = name if name != "/" else str(fenced / "evil")
    part = root / "parts" / "00000"
    for evil in (fenced / "evil", root / "parts" / "evil"):
        shutil.copytree(part / "mfcc", evil)
    (root / "zarr.json").write_bytes(checksummed_metadata.with_checksum(meta))
    before = {path for path in fenced.rglob("*") if path != root / ".lock"}
    done = call(main, "export", root, "--to", "lhotse", "--out", fenced / "deep" / "cuts")
    assert done.exit_code == 1 and done.stderr.count("\n") == 1 and repr(mfcc["name"])[:60] in done.stderr
    assert {path for path in fenced.rglob("*") if path != root / ".lock"} - {fenced / "deep"} == before


def test_content_that_nobody_could_import_is_refused(tmp_path: Path) -> None:
    training_store.build(tmp_path / "S", (20, 24))
    meta = json.loads((tmp_path / "S" / "zarr.json").read_bytes())
    (mfcc,) = (spec for spec in meta["attributes"]["features"] if spec["name"] == "mfcc")
    mfcc["name"] = "content"
    for part in (tmp_path / "S" / "parts").iterdir():
        if part.is_dir():
            (part / "mfcc").rename(part / "content")
    (tmp_path / "S" / "zarr.json").write_bytes(checksummed_metadata.with_checksum(meta))
    done = call(main, "export", tmp_path / "S", "--to", "gpt-sovits", "--out", tmp_path / "exp")
    assert done.exit_code == 1 and re.search(r"content of \d+ .* --content-channels 768", done.stderr)
    assert done.stderr.count("\n") == 1 and not (tmp_path / "exp").exists()


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_names_of_an_export(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "exp"
    folder.mkdir()
    seed = "".join(json.dumps({"file": f"{id[:4]}.wav", "id": id, "speaker": "é"}) + "\n" for id in IDS).encode()

    def attempt(data: bytes) -> None:
        (folder / "names.jsonl").write_bytes(data)
        rejects: list[Reject] = []
        for name, (id, speaker) in gpt_sovits_inventory._read_names(folder, rejects).items():
            (name + id + speaker).encode()

    fuzz(attempt, [seed], folder=folder, count=count, tokens=[b'"id"', b"\\ud83d", b"[" * 2000])


def test_a_plot_is_named_after_any_id(hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (0, 1, 2, 5, 7, 14):
        done = call(main, "show", hostile, number)
        assert done.exit_code == 0, done.output
    assert len(os.listdir(tmp_path)) == 6 and all(name.endswith(".png") for name in os.listdir(tmp_path))
    done = call(main, "show", hostile, 0, "--out", "x.exe")
    assert done.exit_code == 2 and "is no image" in done.stderr
