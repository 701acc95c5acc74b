"""A corpus of several languages, built: every text by its own frontend, and the store says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import store
from cli.featurize import main as featurize
from featurize import corpus as corpora
from featurize import text
from featurize.symbols import TABLES
from store.verify import verify
from tests.commands import build, call
from tests.corpora import buzz

LINES = {
    "a.wav|anna|ZH|我有2个苹果。": "w o2 y ou3 l iang3 g e5 p ing2 g uo3 .",
    "b.wav|anna|JP|今日は。": "ky o ] o w a .",
    "c.wav|anna|EN|Hello.": "HH AH0 L OW1 .",
    "d.wav|anna|KO|국민": "ㄱ ㅜ ㅇ ㅁ ㅣ ㄴ .",
    "e.wav|anna|yue|好靚": "Yh You2 Yl Yeng3",
    "f.wav|anna|de|Ja.": "/j/ /ˈɑː/ .",
    "g.wav|anna|EN|{SP2} {AA EE}": "SP2 AA EE",
}


def write(folder: Path, lines: list[str]) -> Path:
    for number, line in enumerate(lines):
        soundfile.write(folder / line.split("|")[0], buzz(0.5 + number / 10, 32_000, number), 32_000)
    (folder / "all.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("corpus"), list(LINES))


@pytest.fixture(scope="module")
def built(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> store.Store:
    out = tmp_path_factory.mktemp("built") / "STORE"
    assert build(corpus, out, "--features", "phones", "--symbols", "headrace-ipa").exit_code == 0
    assert not list(verify(out))
    return store.open(out)


def test_each_text_is_read_by_the_frontend_of_its_language(built: store.Store) -> None:
    phones = {
        built.ids[n]: " ".join(TABLES["headrace-ipa"][number] for number in built.read("phones", n).tolist())
        for n in range(len(built))
    }
    assert phones == {line.split("|")[0]: said for line, said in LINES.items()}


def test_phones_know_their_character_or_word(built: store.Store) -> None:
    assert built.read("phone_word", built.find("a.wav")).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert built.read("phone_word", built.find("c.wav")).tolist() == [0, 0, 0, 0, 5]
    for n in range(len(built)):
        reading = text.phonemise(built.texts[n], built.languages[n])
        assert np.array_equal(built.read("phone_word", n), reading.phone_word)


def test_the_store_says_who_read_it(built: store.Store) -> None:
    recipe = built.features["phones"].recipe
    assert recipe == {"symbols": "headrace-ipa", **text.versions(("de", "en", "ja", "ko", "yue", "zh"))}


def test_a_language_beyond_the_table_is_rejected_with_the_way_out(corpus: Path, tmp_path: Path) -> None:
    assert build(corpus, tmp_path / "S", "--features", "phones").exit_code == 0
    rejects = (tmp_path / "S" / "rejects.jsonl").read_text(encoding="utf-8")
    assert len(rejects.splitlines()) == 1 and "--symbols headrace-ipa" in rejects and "f.wav" in rejects


def test_another_language_is_another_recipe(corpus: Path, built: store.Store, tmp_path: Path) -> None:
    """A store goes on with the frontends that it was begun with."""
    write(tmp_path, ["a.wav|anna|EN|Hello."])
    words = ("--features", "phones", "--symbols", "headrace-ipa")
    result = call(featurize, "build", tmp_path, "--out", built.path, *words)
    assert result.exit_code == 2 or "begun with another features" in result.stderr


def test_a_corpus_that_does_not_say_is_told_its_language(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", buzz(0.5, 32_000, 0), 32_000)
    (tmp_path / "a.txt").write_text("你好", encoding="utf-8")
    assert [u.language for u in corpora.scan(tmp_path, language="zh")] == ["zh"]  # type: ignore[union-attr]
    assert build(tmp_path, tmp_path / "S", "--features", "phones", "--language", "zh").exit_code == 0
    assert store.open(tmp_path / "S").languages.tolist() == ["zh"]


def test_kaldi_says_languages_in_utt2lang(tmp_path: Path) -> None:
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", buzz(0.5, 32_000, 0), 32_000)
    (tmp_path / "wav.scp").write_text("a a.wav\nb b.wav\n")
    (tmp_path / "text").write_text("a hello\nb ja\n")
    (tmp_path / "utt2lang").write_text("b DE\n")
    assert [u.language for u in corpora.scan(tmp_path)] == ["en", "de"]  # type: ignore[union-attr]
