"""Text to symbols: every word is read, what cannot be read is refused with a reason."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.featurize.text import espeak, g2p, ipa, symbols
from headrace.featurize.text.languages.english import lexicon
from headrace.featurize.text.languages.frontend import PUNCTUATION
from headrace.store.errors import HeadraceError, Rejected


def say(words: str) -> str:
    return " ".join(g2p.phonemise(words, "en").phones)


def test_symbols_are_upstreams(golden: Path) -> None:
    theirs = json.loads((golden / "data_mini.json").read_text(encoding="utf-8"))["symbols"]["v2"]
    assert theirs == list(symbols.SYMBOLS)


def test_an_id_is_a_place_in_the_table() -> None:
    ids = symbols.ids(["HH", "AH0", "…", "!"])
    assert ids.dtype == np.int16
    assert [symbols.SYMBOLS[number] for number in ids] == ["HH", "AH0", "…", "!"]
    assert len(symbols.SYMBOLS) == len(set(symbols.SYMBOLS)) == 732


def test_no_id_for_what_the_table_lacks() -> None:
    with pytest.raises(Rejected, match="'HELLO'") as caught:
        symbols.ids(["HH", "HELLO"])
    assert caught.value.stage == "text"


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Hello, world!", "HH AH0 L OW1 , W ER1 L D !"),
        ("“Hello” (world)…", "HH AH0 L OW1 W ER1 L D …"),
        ("Hello; world: 'hello'", "HH AH0 L OW1 , W ER1 L D , HH AH0 L OW1"),
        ("Wait...what?!", "W EY1 T . W AH1 T ?"),
        ("Hello — world", "HH AH0 L OW1 - W ER1 L D"),
        ("one,two", "W AH1 N , T UW1"),
        ("naïve café", "N AY2 IY1 V K AH0 F EY1"),
        ("Dr. Smith vs. St. John", "D AA1 K T ER0 S M IH1 TH V ER1 S AH0 S S EY1 N T JH AA1 N"),
        ("at 10 a.m. today", "AE1 T T EH1 N EY2 EH1 M T AH0 D EY1"),
        ("'cause it's", "K AH0 Z IH1 T S"),
        ("non-zero", "N AA0 N Z IY1 R OW0"),
        ("hello ™", "HH AH0 L OW1"),
    ],
)
def test_reading(written: str, spoken: str) -> None:
    assert say(written) == spoken


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ("$5", "5 dollars"),
        ("$1", "1 dollar"),
        ("$5.20", "five dollars 20 cents"),
        ("$1.01", "1 dollar 1 cent"),
        ("£3.50", "3 pounds 50 pence"),
        ("$2 million", "2 million dollars"),
        ("10:30", "10 30"),
        ("10:05", "10 oh 5"),
        ("9:00", "9 o'clock"),
        ("in 1984", "in nineteen eighty four"),
        ("since 1905", "since nineteen oh five"),
        ("2024-05-01", "May first, twenty twenty four"),
        ("5 km/h", "5 kilometers per hour"),
        ("-5 degrees", "minus 5 degrees"),
        ("555-1234", "five five five, one two three four"),
    ],
)
def test_figures_read_as_words(figures: str, words: str) -> None:
    assert [p.rstrip("012") for p in g2p.phonemise(figures, "en").phones] == [
        p.rstrip("012") for p in g2p.phonemise(words, "en").phones
    ]


@pytest.mark.parametrize("word", ["Llanfyn", "Ngozi's", "PBX", "umute", "Quillmere"])
def test_what_no_dictionary_holds_is_read_by_espeak(word: str) -> None:
    assert word.lower() not in lexicon.pronunciations()
    phones = g2p.phonemise(word, "en").phones
    assert ipa.ARPABET.issuperset(set(phones) - {","})
    assert any(phone[-1] == "1" for phone in phones), "a word has a stressed vowel"


def test_few_symbols_get_a_comma_in_front() -> None:
    assert say("No.") == ", N OW1 ."
    assert say("Nos.")[0] != ","
    assert len(g2p.phonemise("No!", "en").phones) == g2p.MIN_ENGLISH_PHONES


@pytest.mark.parametrize(
    ("written", "language", "reason"),
    [
        ("Привет", "en", "Cyrillic.*given as en"),
        ("", "en", "nothing to speak"),
        ("... ?", "en", "nothing to speak"),
        ("🎉", "en", "character 1 is a picture"),
        ("A.B." * 500, "en", "2000 characters"),
    ],
)
def test_refused(written: str, language: str, reason: str) -> None:
    with pytest.raises(Rejected, match=reason) as caught:
        g2p.phonemise(written, language)
    assert caught.value.stage == "text"
    assert len(caught.value.reason) < 200


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_is_read_or_refused(written: str) -> None:
    try:
        phones = g2p.phonemise(written, "en").phones
        ids = symbols.ids(phones)
    except Rejected:
        return
    assert len(ids) == len(phones)
    assert len(phones) >= g2p.MIN_ENGLISH_PHONES or phones[0] == ","
    assert not any(a in PUNCTUATION and b in PUNCTUATION for a, b in pairwise(phones[1:]))


def test_the_whole_dictionary_is_in_the_table() -> None:
    phones = {phone for pronunciation in lexicon.pronunciations().values() for phone in pronunciation.split()}
    assert phones == ipa.ARPABET & phones
    assert set(symbols.SYMBOLS) >= ipa.ARPABET


def test_the_dictionary_and_espeak_agree_on_most_vowels() -> None:
    """The IPA table held against CMUdict: a wrong row of it would show in every word with that phone."""
    words = [word for word in lexicon.pronunciations() if word.isalpha()][::400]
    agreed = [
        [p[:2] for p in ipa.to_arpabet(espeak.to_ipa(word)) if p[-1] == "1"][:1]
        == [p[:2] for p in lexicon.pronunciations()[word].split() if p[-1] == "1"][:1]
        for word in words
    ]
    assert np.mean(agreed) > 0.7


@pytest.mark.parametrize(
    ("spelled", "phones"),
    [
        ("ˈɑːɹ", "AA1 R"),
        ("ˌaɪɚ", "AY2 ER0"),
        ("n̩", "AH0 N"),
        ("ˈstɹɪŋ", "S T R IH1 NG"),
        ("h_ə_l_ˈoʊ", "HH AH0 L OW1"),
        ("tʃ t ʃ", "CH T SH"),
        ("pʰ kʷ ˈɑː:", "P K AA1"),
        ("", ""),
    ],
)
def test_ipa(spelled: str, phones: str) -> None:
    assert " ".join(ipa.to_arpabet(spelled)) == phones


def test_ipa_names_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="'ʘ'"):
        ipa.to_arpabet("ˈɑʘ")


def test_espeak_refuses_an_unknown_voice() -> None:
    with pytest.raises(HeadraceError, match="xx-nowhere"):
        espeak.to_ipa("hello", "xx-nowhere")


def test_espeak_in_threads_says_what_it_says_alone() -> None:
    words = [f"number {n} Wroclaw" for n in range(200)]
    alone = [espeak.to_ipa(word) for word in words]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(espeak.to_ipa, words)) == alone


def test_espeak_in_a_spawned_process() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(espeak.to_ipa, "Kowalczyk").result() == espeak.to_ipa("Kowalczyk")


def test_espeak_finds_its_data_in_a_deep_folder(tmp_path: Path) -> None:
    """Its own buffer for the path ends after 160 bytes."""
    import espeakng_loader

    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    (deep / "data").symlink_to(espeakng_loader.get_data_path())
    code = (
        f"import espeakng_loader; espeakng_loader.get_data_path = lambda: {str(deep / 'data')!r}\n"
        "from headrace.featurize.text import espeak; print(espeak._to_ipa('hello', 'en-us', '_'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == espeak.to_ipa("hello")


def test_speech_is_silent_in_its_pauses_and_nowhere_else() -> None:
    """The times of phones, held against the sound: exact on both sides of every pause."""
    speech = espeak.speak("Stop. Peter takes big cakes, and tea. Ask Sam.", "en-us+m3")
    stops = [mark.start for mark in speech.phones[1:]] + [len(speech.samples)]
    pauses = [(mark.start, stop) for mark, stop in zip(speech.phones, stops, strict=True) if not mark.name]
    assert sum(stop > start for start, stop in pauses) >= 3
    for start, stop in pauses:
        assert not speech.samples[start:stop].any()
    for mark, stop in zip(speech.phones, stops, strict=True):
        if mark.name:
            heard = np.abs(speech.samples[mark.start : stop].astype(int))
            assert heard[:220].max() > 100, f"{mark} begins with 10 ms of silence"


def test_words_of_speech_are_the_texts() -> None:
    written = "In 1984 Dr. Kowalczyk paid $5, and got out of the box: done."
    speech = espeak.speak(written)
    assert " ".join(mark.name for mark in speech.words) == written
    assert [mark.start for mark in speech.words] == sorted({mark.start for mark in speech.words})
    assert speech.words[0].start == 0 and speech.words[-1].start < len(speech.samples)


def test_no_library_warns_users_of_what_its_authors_must_change() -> None:
    program = "from headrace.featurize.text import g2p; g2p.phonemise('你好', 'zh')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stderr
