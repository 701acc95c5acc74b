"""A corpus of several languages, built: every text by its own frontend, and the store says which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.featurize.corpus import scanner as corpora
from headrace.featurize.text import g2p
from headrace.featurize.text.symbols import SYMBOLS, TABLES
from headrace.store.errors import RecipeMismatch
from headrace.store.integrity.verify import verify
from headrace.store.schema import Utterance
from tests.helpers.commands import build, call, part_bytes
from tests.helpers.corpora import buzz

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
    folder.mkdir(exist_ok=True)
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


def test_phones_that_a_column_gives_are_taken_as_they_are(tmp_path: Path) -> None:
    words = ("--features", "phones")
    lines = ["a.wav|anna|EN|Read it.|R EH1 D SP IH1 T", "b.wav|anna|EN|Read it.", "c.wav|anna|EN|Read it.|R EH1 Q SP"]
    root = tmp_path / "STORE"
    assert build(write(tmp_path / "list", lines), root, *words).exit_code == 0 and not list(verify(root))
    opened = store.open(root)
    said = {opened.ids[n]: [SYMBOLS[i] for i in opened.read("phones", n).tolist()] for n in range(len(opened))}
    assert said == {"a.wav": "R EH1 D SP IH1 T".split(), "b.wav": "R IY1 D IH1 T .".split()}
    assert (opened.read("phone_word", opened.find("a.wav")) == -1).all()
    (reject,) = map(json.loads, (root / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    assert reject["id"] == "c.wav" and reject["stage"] == "text" and "'Q', phone 3" in reject["reason"]
    changed = [lines[0].replace("EH1", "IY1"), *lines[1:]]
    refused = build(write(tmp_path / "list", changed), root, *words)
    assert refused.exit_code == 1 and "changed since" in refused.stderr


def test_kaldi_and_cuts_give_phones_too(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", buzz(0.5, 32_000, 0), 32_000)
    for name, said in (("wav.scp", "a.wav"), ("text", "read it"), ("utt2phones", "R EH1 D")):
        (tmp_path / name).write_text(f"a {said}\n")
    origin = {"type": "file", "channels": [0], "source": "a.wav"}
    recording = {"sources": [origin], "sampling_rate": 32_000, "duration": 0.5}
    spoken = {"text": "read it", "custom": {"phones": "R EH1 D"}}
    cut = {"type": "MonoCut", "id": "a", "start": 0, "duration": 0.5, "recording": recording, "supervisions": [spoken]}
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut))
    for corpus in (tmp_path, tmp_path / "cuts.jsonl"):
        (found,) = corpora.scan(corpus)
        assert isinstance(found, Utterance) and found.phones == "R EH1 D" and found.text == "read it"


def test_a_text_that_cannot_be_read_costs_its_utterance_alone(tmp_path: Path) -> None:
    texts = {
        "wrong.wav|a|ZH|Good morning.": "is Latin, and its language is given as zh",
        f"long.wav|a|ZH|{'你' * 10_000}": "10000 characters",
        "emoji.wav|a|EN|Well \U0001f600 done": "character 6 is a picture (GRINNING FACE)",
        "control.wav|a|EN|Well \a done": "character 6 is a control character",
        "marks.wav|a|EN|Well \u202edone": "character 6 is a mark of the writing direction",
        "mute.wav|a|EN|...": "nothing to speak",
    }
    root = tmp_path / "STORE"
    result = build(write(tmp_path / "corpus", [*texts, "good.wav|a|EN|Well done."]), root, "--features", "phones")
    assert result.exit_code == 0 and store.open(root).ids.tolist() == ["good.wav"]
    rejects = map(json.loads, (root / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    reasons = {reject["id"]: reject["reason"] for reject in rejects if reject["stage"] == "text"}
    assert len(reasons) == len(texts)
    for line, reason in texts.items():
        assert reason in reasons[line.split("|")[0]]


def test_phones_know_their_character_or_word(built: store.Store) -> None:
    assert built.read("phone_word", built.find("a.wav")).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert built.read("phone_word", built.find("c.wav")).tolist() == [0, 0, 0, 0, 5]
    for n in range(len(built)):
        reading = g2p.phonemise(built.texts[n], built.languages[n])
        assert np.array_equal(built.read("phone_word", n), reading.phone_word)


def test_the_store_says_who_read_it(built: store.Store) -> None:
    assert built.features["phones"].recipe == {"symbols": "headrace-ipa"}
    assert built.attributes["frontends"] == g2p.versions(("de", "en", "ja", "ko", "yue", "zh"))


def test_a_language_beyond_the_table_is_rejected_with_the_way_out(corpus: Path, tmp_path: Path) -> None:
    assert build(corpus, tmp_path / "S", "--features", "phones", "--symbols", "gpt-sovits-v2").exit_code == 0
    rejects = (tmp_path / "S" / "rejects.jsonl").read_text(encoding="utf-8")
    assert len(rejects.splitlines()) == 1 and "--symbols headrace-ipa" in rejects and "f.wav" in rejects


def test_the_table_is_that_of_the_store_or_the_first_that_has_all_languages(tmp_path: Path) -> None:
    """Czech was rejected whole until --symbols was given, and a store in IPA did not grow without it."""
    reason = "symbols headrace-ipa: only it has the phones of cs; with --symbols gpt-sovits-v2 they are rejected"
    czech, english = "a.wav|anna|cs|Dobrý den.", "b.wav|anna|en|Good morning."
    corpus, words = write(tmp_path / "cs", [czech]), ("--features", "phones", "--part-hours", 0.0003)
    scanned = json.loads(call(featurize, "scan", corpus, "--json").stdout)
    assert scanned["texts"]["rejects"] == 0 and scanned["symbols"]["table"] == "headrace-ipa"
    assert "symbols" in (told := call(featurize, "scan", corpus).stdout) and "phones of cs" in " ".join(told.split())
    begun = build(corpus, tmp_path / "CS", *words)
    assert begun.exit_code == 0 and reason in begun.stderr
    write(tmp_path / "cs", [czech, english])
    grown = build(corpus, tmp_path / "CS", *words)
    assert grown.exit_code == 0 and "symbols" not in grown.stderr and len(store.open(tmp_path / "CS")) == 2
    corpus = write(tmp_path / "en", [english])
    assert "symbols" not in build(corpus, tmp_path / "EN", *words).stderr
    write(corpus, [english, czech.replace("a.wav", "c.wav"), "d.wav|anna|xx|Hm."])
    assert build(corpus, tmp_path / "EN", *words).exit_code == 0
    assert store.open(tmp_path / "EN").features["phones"].recipe == {"symbols": "gpt-sovits-v2"}
    assert "c.wav" in (rejected := (tmp_path / "EN" / "rejects.jsonl").read_text()) and "--symbols headrace" in rejected


def test_a_language_that_is_new_changes_nothing_for_the_others(tmp_path: Path) -> None:
    """But a store goes on with the frontends that it was begun with."""
    root, words = tmp_path / "STORE", ("--features", "wave,phones,align", "--part-hours", 0.0003)
    english = ["a.wav|anna|EN|Hello.", "b.wav|anna|EN|Good morning."]
    assert build(write(tmp_path / "corpus", english), root, *words).exit_code == 0
    before = part_bytes(root)
    grown = write(tmp_path / "corpus", [*english, "c.wav|li|ZH|你好。"])
    assert build(grown, root, *words).exit_code == 0 and not list(verify(root))
    after, opened = part_bytes(root), store.open(root)
    assert len(opened) == 3 and before.items() <= after.items()
    assert opened.attributes["frontends"] == g2p.versions(("en", "zh"))
    assert (opened.read("align", opened.find("c.wav")) == -1).all()
    told = json.loads((root / "build.json").read_bytes())["added"]["align"]["counts"]
    assert told == {"phones that align has not learned, as of a language that came later": 1}
    assert build(grown, root, *words).exit_code == 0 and part_bytes(root) == after


def test_a_language_that_is_read_otherwise_now_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, later = ("--features", "phones"), replace(g2p.FRONTENDS["en"], version=99)
    corpus = write(tmp_path / "corpus", ["a.wav|anna|EN|Hello."])
    other = write(tmp_path / "other", ["d.wav|anna|EN|Hello there."])
    assert build(corpus, tmp_path / "S", *words).exit_code == 0
    g2p._frontend.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(g2p.FRONTENDS, "en", later)
        result = build(corpus, tmp_path / "S", *words)
        assert build(other, tmp_path / "T", *words).exit_code == 0
    g2p._frontend.cache_clear()
    assert result.exit_code == 1 and "Texts in en of" in result.stderr and "headrace-99" in result.stderr
    with pytest.raises(RecipeMismatch, match="reads texts in en with another frontend"):
        store.open([tmp_path / "S", tmp_path / "T"])


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
