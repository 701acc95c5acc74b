"""Options of a build that concern texts: a dictionary, which it keeps, and markup that is dropped and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.featurize.alignment.words import spoken_words
from headrace.featurize.corpus import scanner
from headrace.featurize.text import dictionary, reading_options
from headrace.featurize.text.symbols import SYMBOLS
from headrace.store.schema import Utterance
from tests.helpers.commands import build, call
from tests.helpers.corpora import buzz

LINES = ["a.wav|a|en|Ask Kowalski.", "b.wav|a|en|Hi <unk> you [laughter] Tom &amp; Bob.", "c.wav|a|zh-CN|你#1好#4。"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, line in enumerate(LINES):
        soundfile.write(folder / line.split("|")[0], buzz(0.5 + number / 10, 32_000, number), 32_000)
    (folder / "all.list").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return folder


def phones(root: Path, name: str) -> str:
    opened = store.open(root)
    return " ".join(SYMBOLS[number] for number in opened.read("phones", opened.find(name)).tolist())


def test_a_store_keeps_its_dictionary(corpus: Path, tmp_path: Path) -> None:
    names, other, root = tmp_path / "names.tsv", tmp_path / "other.tsv", tmp_path / "STORE"
    names.write_text("Kowalski\tK AA1 V\ten\n", encoding="utf-8")
    other.write_text("Kowalski\tK AA1 W\ten\n", encoding="utf-8")
    words = ("--features", "phones", "--strip-markup")
    assert build(corpus, root, *words, "--dictionary", names).exit_code == 0
    assert phones(root, "a.wav") == "AE1 S K K AA1 V ."
    opened = store.open(root)
    assert reading_options.of_specs(opened.features).dictionary == dictionary.read(names)
    assert [word.label for word in spoken_words(opened, opened.find("a.wav"))] == ["Ask", "Kowalski"]
    assert build(corpus, root, *words).exit_code == 0, "it goes on with what it has"
    refused = build(corpus, root, *words, "--dictionary", other)
    assert refused.exit_code == 1 and "read with 1 words of another dictionary" in refused.stderr
    plain = tmp_path / "PLAIN"
    assert build(corpus, plain, *words).exit_code == 0
    assert store.open(plain).features["phones"].fingerprint != opened.features["phones"].fingerprint
    refused = build(corpus, plain, *words, "--dictionary", names)
    assert refused.exit_code == 1 and "read with no dictionary" in refused.stderr


def test_a_fault_of_the_dictionary_ends_the_command_before_the_scan(corpus: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.tsv"
    names.write_text("Kowalski\tK AA9\ten\n", encoding="utf-8")
    for command in (("scan", corpus), ("build", corpus, "--out", tmp_path / "STORE")):
        refused = call(featurize, *command, "--dictionary", names)
        assert refused.exit_code == 2 and "names.tsv, line 1: 'K AA9'" in refused.stderr
    assert not (tmp_path / "STORE").exists()


def test_markup_costs_its_utterance_or_is_dropped_and_counted(corpus: Path, tmp_path: Path) -> None:
    words = ("--features", "phones", "--max-rejects", "100")
    assert build(corpus, tmp_path / "KEPT", *words).exit_code == 0
    rejects = (tmp_path / "KEPT" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = {one["id"]: one["reason"] for one in map(json.loads, rejects)}
    assert "'<unk>', character 4, is markup" in reasons["b.wav"] and "--strip-markup" in reasons["b.wav"]
    assert "'#1', character 2, is markup" in reasons["c.wav"]
    built = build(corpus, tmp_path / "STRIPPED", *words, "--strip-markup")
    assert built.exit_code == 0 and "4 dropped" in built.output
    account = json.loads((tmp_path / "STRIPPED" / "build.json").read_text(encoding="utf-8"))
    assert account["markup"] == {"<unk>": 1, "[laughter]": 1, "#1": 1, "#4": 1} and account["rejects"] == 0
    scanned = call(featurize, "scan", corpus, "--strip-markup", "--json", "--features", "phones")
    assert json.loads(scanned.stdout)["markup"] == account["markup"]
    texts = {one.id: one.text for one in scanner.scan(corpus, strip_markup=True) if isinstance(one, Utterance)}
    assert texts["b.wav"] == "Hi you Tom & Bob." and texts["c.wav"] == "你好。"


def test_a_text_of_nothing_but_markup_is_a_reject(corpus: Path) -> None:
    (corpus / "all.list").write_text("a.wav|a|en|<SIL> [noise]\n", encoding="utf-8")
    reasons = [getattr(one, "reason", "") for one in scanner.scan(corpus, strip_markup=True)]
    assert "the text is nothing but <SIL>, [noise]" in reasons
