"""Labels are phones, words or neither by what they are, not by the suffix of a file or the name of a tier."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headrace import store
from headrace.featurize.alignment import label_files
from headrace.featurize.alignment.intervals import Alignment, symbols_and_ends
from headrace.featurize.alignment.label_files import Interval
from headrace.featurize.alignment.phone_labels import check_given_phones
from headrace.featurize.corpus.alignment_files import read_alignment
from headrace.store.errors import Rejected
from headrace.store.schema import Utterance
from tests.helpers.commands import build
from tests.helpers.textgrids import write_textgrid

RATE = 16_000


def utterance(alignment: str, text: str, language: str = "en", seconds: float = 2.0) -> Utterance:
    samples = int(seconds * RATE)
    return Utterance(
        id="a.wav",
        audio="a.wav",
        start=0,
        stop=samples,
        sample_rate=RATE,
        size=1,
        speaker="anna",
        language=language,
        text=text,
        alignment=alignment,
    )


def evenly(labels: str, seconds: float = 2.0) -> list[Interval]:
    names = labels.split()
    cuts = np.linspace(0, seconds, len(names) + 1).tolist()
    return [Interval(*span, name) for span, name in zip(pairwise(cuts), names, strict=True)]


def settled(labels: str, text: str, language: str = "en", words: str = "", seconds: float = 2.0) -> Alignment:
    """Read these labels as an alignment that says they are phones."""
    encoded = label_files.to_json("a", evenly(labels, seconds), evenly(words, seconds))
    return read_alignment(Path(), utterance(encoded, text, language, seconds))


def refused(labels: str, text: str, language: str = "en", words: str = "", seconds: float = 2.0) -> str:
    with pytest.raises(Rejected) as caught:
        settled(labels, text, language, words, seconds)
    assert caught.value.stage == "align"
    return caught.value.reason


@pytest.mark.parametrize(
    ("labels", "text", "language"),
    [
        ("HH AH0 L OW1", "hello", "en"),
        ("hh ah l ow", "hello", "en"),
        ("SIL HH AH0 L OW1 SP", "hello", "en"),
        ("h ə l ˈoʊ", "hello", "en"),
        ("pʰ ɪ tʃ t̪ əl", "pitch till", "en"),
        ("AP ay br", "I", "en"),
        ("o l a k e t a l", "Hola, ¿qué tal?", "es"),
        ("ˈo l a SP t͡s aj t̪s̪ aɪ", "no words of it", "de"),
        ("a", "a", "es"),
        ("n i3 h ao3", "你好", "zh"),
        ("k o N n i ch i w a", "こんにちは", "ja"),
        ("ah", "Ah!", "en"),
        ("s s", "Go on to it.", "en"),
    ],
)
def test_phones_are_phones(labels: str, text: str, language: str) -> None:
    found = settled(labels, text, language, seconds=0.9)
    assert found.phones.labels == tuple(labels.split()) and not found.words.labels


@pytest.mark.parametrize(
    ("labels", "text", "language"),
    [
        ("hi bye", "Hi, bye!", "en"),
        ("sil so sp do we", "So do we.", "en"),
        ("la casa es de mi amigo", "La casa es de mi amigo.", "es"),
        ("it was nineteen ninety", "It was 1990.", "en"),
        ("good bye", "Goodbye!", "en"),
        ("a b c", "a, b, c", "en"),
        ("你好 世界", "你好,世界", "zh"),
        ("This is speech", "This is speech", "en"),
    ],
)
def test_words_are_words(labels: str, text: str, language: str) -> None:
    found = settled(labels, text, language)
    assert not found.phones.labels and found.words.labels == tuple(labels.split())
    beside = settled(labels, text, language, words=labels)  # a tier of words that is called phones, and a tier of words
    assert not beside.phones.labels and beside.words.labels == tuple(labels.split())


@pytest.mark.parametrize(
    ("labels", "text", "language", "kind"),
    [
        ("speech", "Hello there.", "en", "voice activity ('speech')"),
        ("silence speech noise speech", "This is speech.", "en", "voice activity ('speech')"),
        ("speech", "Hola.", "es", "voice activity"),
        ("s s", "Good morning to all of you.", "en", "fewer than half as many phones as the text has words"),
        ("v", "Buenos días a todos.", "es", "half of its phones last 2 s"),
        (
            "v v v",
            "Buenos días a todos, ¿y cómo está usted?",
            "es",
            "fewer than half as many phones as the text has words",
        ),
        ("1 0 1", "Hello there.", "en", "numbers ('1', '0')"),
        ("1 2 1", "Hola a todos.", "es", "numbers"),
        ("anna bert anna", "Hello there, how are you?", "en", "words ('anna', 'bert')"),
        ("h @ l @U", "hello", "en", "SAMPA"),
        ("t 2: k 6", "tök er", "de", "SAMPA"),
        ("n i h ao", "你好", "zh", "pinyin without tones"),
        ("foo bar", "你好", "zh", "words ('foo', 'bar')"),
        ("h ə l oʊ", "你好", "zh", "IPA"),
        ("HH AH0 L OW1", "hola", "es", "ARPAbet"),
        ("w1 w2 w3", "one two three four", "en", "nothing known"),
    ],
)
def test_what_is_neither_says_what_it_looks_like(labels: str, text: str, language: str, kind: str) -> None:
    reason = refused(labels, text, language)
    assert kind in reason and reason.isprintable() and len(reason) < 250
    assert "remove" in reason


def test_phones_without_time_are_none() -> None:
    encoded = label_files.to_json("a", [Interval(0.235, 0.235, "HH"), Interval(0.235, 0.235, "AY1")], [])
    with pytest.raises(Rejected, match=r"2 of its 2 phones are shorter than 0\.01 s"):
        read_alignment(Path(), utterance(encoded, "hi"))
    rows = [*evenly("HH AY1 HH AY1 HH AY1 HH AY1 HH", 1.9), Interval(1.9, 1.909, "AY1")]
    assert read_alignment(Path(), utterance(label_files.to_json("a", rows, []), "hi")).phones.labels
    rows[-2:] = [Interval(1.8, 1.809, "HH"), Interval(1.9, 1.909, "AY1")]
    with pytest.raises(Rejected, match=r"2 of its 10 phones are shorter than 0\.01 s"):
        read_alignment(Path(), utterance(label_files.to_json("a", rows, []), "hi"))


def test_phones_as_long_as_sentences_are_none() -> None:
    assert "last 1.5 s" in refused("s", "Yes.", seconds=1.5)
    assert settled("s", "Yes.", seconds=1.0).phones.labels


def test_one_label_among_phones_that_is_none_is_named() -> None:
    """Nine of ten are phones, so these are phones, and one of them is wrong."""
    found = settled("HH AY1 B AY1 HH AY1 B AY1 HH speech", "hi bye hi bye")
    with pytest.raises(Rejected, match="a phone 'speech'"):
        symbols_and_ends(found)
    assert "1 of 9 look like voice activity ('speech')" in refused("HH AY1 B AY1 HH AY1 B AY1 speech", "hi bye hi bye")


@pytest.mark.parametrize(("label", "word"), [("zyx", "the word 'zyx'"), ("<unk>", "a word that it calls '<unk>'")])
def test_a_word_without_phones_is_named(label: str, word: str) -> None:
    """`spn` under a word is what an aligner writes for a word that its dictionary lacks, and no pause."""
    words = [Interval(0.2, 0.7, label), Interval(0.7, 1.3, "home")]
    phones = [Interval(0.2, 0.7, "spn"), Interval(0.7, 0.8, "HH"), Interval(0.8, 1.1, "OW1"), Interval(1.1, 1.3, "M")]
    with pytest.raises(Rejected) as caught:
        read_alignment(Path(), utterance(label_files.to_json("a", phones, words), "Zyx home."))
    assert f"no phones for {word} (spn)" in caught.value.reason and "dictionary" in caught.value.reason
    across = [Interval(0.6, 0.8, "spn"), *phones[2:]]
    with pytest.raises(Rejected, match="no phones for the word 'home'"):  # in which its middle lies, 0.7 s
        read_alignment(Path(), utterance(label_files.to_json("a", across, words), "Zyx home."))
    between = [Interval(0.0, 0.2, "spn"), *phones[1:]]
    assert read_alignment(Path(), utterance(label_files.to_json("a", between, words), "Zyx home.")).phones.labels


@pytest.mark.parametrize(
    ("lab", "unit"),
    [
        ("0 235 HH\n235 2000 AY1\n", "milliseconds"),
        ("0 235000 HH\n235000 2000000 AY1\n", "microseconds"),
        ("0 3760 HH\n3760 32000 AY1\n", "samples"),
    ],
)
def test_times_in_other_units_are_named(tmp_path: Path, lab: str, unit: str) -> None:
    assert label_files.has_times(lab)
    (tmp_path / "a.lab").write_text(lab)
    with pytest.raises(Rejected, match=rf"a\.lab .* {unit}") as caught:
        read_alignment(tmp_path, utterance("a.lab", "hi"))
    assert "100 ns" in caught.value.reason and "seconds" in caught.value.reason


@pytest.mark.parametrize(
    ("lab", "timed"),
    [
        ("0.235 0.235 speech\n", True),
        ("0 15000000 speech\n", True),
        ("0 1 sil\n1 2 speech\n", True),
        ("0.5 2.5 litres of milk\n", False),
        ("1 2 buckle\n3 4 knock\n", False),
        ("1 2 buckle\n", False),
        ("2 1 ignition\n", False),
        ("10.5 2.5 litres\n", False),
        ("7 8 lay them straight\n8 9 a big fat hen\n", False),
    ],
)
def test_lines_that_follow_one_another_are_times(lab: str, timed: bool) -> None:
    assert label_files.has_times(lab) is timed


@pytest.mark.parametrize(
    ("phones", "language", "fits"),
    [
        ("HH AH0 L OW1 ,", "en", True),
        ("HH AY1 n i3 h ao3 AY1 B AY1", "en", True),  # a name among English words
        ("o l a", "es", False),  # of Japanese
        ("/o/ /l/ /a/ .", "es", True),
        ("h a i", "en", False),
        ("n i3 h ao3", "zh", True),
        ("SP , .", "es", True),
    ],
)
def test_given_phones_are_of_their_language(phones: str, language: str, fits: bool) -> None:
    """The symbol table holds the symbols of all languages: that a symbol is in it does not make it one of this one."""
    if fits:
        check_given_phones(phones.split(), language)
        return
    with pytest.raises(Rejected, match=f"of another language than {language}: give"):
        check_given_phones(phones.split(), language)


def test_a_corpus_of_labs(tmp_path: Path) -> None:
    """Through a build: phones have times, words are read from the text, and the rest is in the rejects."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    labs = {
        "phones": "0.0 0.4 HH\n0.4 1.0 AY1\n1.0 1.4 B\n1.4 2.0 AY1\n",
        "words": "0.0 0.9 hi\n0.9 2.0 bye\n",
        "speech": "0.235 0.235 speech\n0.4 1.2 speech\n",
        "untexted": "0.0 0.9 hi\n0.9 2.0 bye\n",
    }
    for name, lab in labs.items():
        soundfile.write(corpus / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, 2 * RATE), RATE)
        (corpus / f"{name}.lab").write_text(lab)
        if name != "untexted":
            (corpus / f"{name}.txt").write_text("hi, bye")
    soundfile.write(corpus / "grid.wav", np.random.default_rng(0).normal(0, 0.1, 2 * RATE), RATE)
    write_textgrid(corpus / "grid.TextGrid", {"words": [(0.0, 1.0, "HH"), (1.0, 2.0, "AY1")]}, 2.0)
    assert build(corpus, tmp_path / "S", "--features", "wave,phones").exit_code == 0
    built = store.open(tmp_path / "S")
    aligned = dict(zip(built.ids.tolist(), built.column("aligned").tolist(), strict=True))
    assert aligned == {"phones.wav": 1, "words.wav": 0}
    assert len(built.read("phones", built.find("words.wav"))) == 5  # with the comma
    lines = (tmp_path / "S" / "rejects.jsonl").read_text().splitlines()
    rejects = {reject["id"]: reject["reason"] for reject in map(json.loads, lines)}
    assert set(rejects) == {"speech.wav", "untexted.wav", "grid.wav"}
    assert "voice activity" in rejects["speech.wav"]
    assert "times of words, not a text" in rejects["untexted.wav"]
    assert "phones, not words" in rejects["grid.wav"]
