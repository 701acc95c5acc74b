"""English texts: initialisms, homographs, and figures and signs in context."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.featurize.text import g2p, ipa, symbols
from headrace.featurize.text.languages import english
from headrace.featurize.text.languages.english import homographs
from headrace.store.errors import Rejected

LISTS = Path(__file__).parent


def listed(name: str) -> list[dict[str, str]]:
    """Sentences of a list, each with a word between underscores and how that is read."""
    with (LISTS / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def phones_of(marked: str) -> str:
    """Read a sentence, and return the phones of its word between underscores."""
    before, word, after = marked.split("_")
    reading = g2p.phonemise(before + word + after, "en")
    places = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", reading.text)]
    at = places[len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", before))]
    start = sum(reading.word2ph[:at])
    return " ".join(reading.phones[start : start + reading.word2ph[at]])


def say(written: str) -> str:
    return " ".join(g2p.phonemise(written, "en").phones)


def without_stress(phones: str) -> str:
    return re.sub(r"\d", "", phones)


def test_initialisms_are_read_as_letters_and_acronyms_as_words() -> None:
    rows = listed("initialisms")
    wrong = [row for row in rows if without_stress(phones_of(row["sentence"])) != row["phones"]]
    assert len(rows) == 100
    assert len(wrong) <= 5, wrong


@pytest.mark.parametrize(
    ("written", "phones"),
    [
        ("AI reads EQ and UFC results.", "EY1 AY1 R IY1 D Z IY1 K Y UW1 AH0 N D Y UW1 EH1 F S IY1 R IH0 Z AH1 L T S ."),
        ("Plan A needs an OS.", "P L AE1 N EY1 N IY1 D Z AE1 N OW1 EH1 S ."),
        ("A plan, a man", "AH0 P L AE1 N , AH0 M AE1 N"),
        ("A, B and C", "EY1 , B IY1 AH0 N D S IY1"),
        ("The Story of A Man", "DH AH0 S T AO1 R IY0 AH1 V AH0 M AE1 N"),
        ("STOP IT, TOM", "S T AA1 P IH1 T , T AA1 M"),
        ("UPS, SAT", "Y UW1 P IY1 EH1 S , EH1 S EY1 T IY1"),
        ("J. K. Smith", "JH EY1 K EY1 S M IH1 TH"),
        ("Plan A. Then", "P L AE1 N EY1 . DH EH1 N"),
        ("ios, iPad", "AY1 OW1 EH1 S , AY1 P AE2 D"),
        ("the boss's, Ngozi's", "DH AH0 B AO1 S IH0 Z , AH0 NG G OW1 Z IY0 Z"),
        ("an A-level, USB-C", "AE1 N EY1 L EH1 V AH0 L , Y UW1 EH1 S B IY1 S IY1"),
    ],
)
def test_letters_and_words(written: str, phones: str) -> None:
    assert say(written) == phones


@pytest.mark.parametrize(
    ("written", "phones"),
    [
        ("A股和AB型血", "EY1 g u3 h e2 EY1 B IY1 x ing2 x ve4"),
        ("IT行业", "AY1 T IY1 h ang2 y E4"),
        ("维生素C和A。", "w ei2 sh eng1 s u4 S IY1 h e2 EY1 ."),
        ("US很大", "Y UW1 EH1 S h en3 d a4"),
    ],
)
def test_letters_in_a_chinese_text(written: str, phones: str) -> None:
    assert " ".join(g2p.phonemise(written, "zh").phones) == phones


def alike(phones: str) -> str:
    """Phones whose reduced vowels are one, as CMUdict itself writes now one and now the other of them."""
    return re.sub(r"(AH|IH|IY)0", "AH0", phones).replace("2", "1")


@pytest.mark.parametrize(("made", "count"), [("before", 100), ("after", 208)])
def test_homographs_are_read_by_their_context(made: str, count: int) -> None:
    rows = [row for row in listed("homographs") if row["made"] == made]
    wrong = [row for row in rows if alike(phones_of(row["sentence"])) != alike(row["phones"])]
    assert len(rows) == count
    assert len(wrong) <= count // 20, wrong


@pytest.mark.parametrize(
    ("written", "phones"),
    [
        ("I use it.", "AY1 Y UW1 Z IH1 T ."),
        ("They will read it. They live here.", "DH EY1 W IH1 L R IY1 D IH1 T . DH EY1 L IH1 V HH IY1 R ."),
        ("The wind blows.", "DH AH0 W IH1 N D B L OW1 Z ."),
        ("We lead. Close the door.", "W IY1 L IY1 D . K L OW1 Z DH AH0 D AO1 R ."),
        ("She read. Read!", "SH IY1 R EH1 D . R IY1 D !"),
        ("Ships transport it.", "SH IH1 P S T R AE0 N S P AO1 R T IH1 T ."),
        ("the record store", "DH AH0 R EH1 K ER0 D S T AO1 R"),
        ("in Nice, in Reading", "IH0 N N IY1 S , IH0 N R EH1 D IH0 NG"),
        ("I used to; used cars", "AY1 Y UW1 S T T UW1 , Y UW1 Z D K AA1 R Z"),
        ("It is used to cut; used to it", "IH1 T IH1 Z Y UW1 Z D T UW1 K AH1 T , Y UW1 S T T UW1 IH1 T"),
    ],
)
def test_homographs(written: str, phones: str) -> None:
    assert say(written) == phones


def test_homographs_have_two_readings_in_the_table() -> None:
    table = homographs._table()
    assert len(table) >= 379
    for word, readings in table.items():
        assert word.islower() and all(ipa.ARPABET.issuperset(reading) and reading for reading in readings), word


def test_a_name_without_neighbours_is_read() -> None:
    for word in homographs._known():
        for text in (word, word.capitalize(), f"the {word}", f"{word} it", f", {word},"):
            assert g2p.phonemise(text, "en").phones


def test_figures_and_signs_are_said_in_words() -> None:
    for written, spoken in (line.split("\t") for line in (LISTS / "figures_en.tsv").read_text().splitlines()):
        assert english.normalise(written) == spoken, written


@pytest.mark.parametrize(
    ("written", "char"),
    [("one ☂ two", "☂"), ("a ∀ b", "∀"), ("⌘", "⌘"), ("10 ⊕ 2", "⊕")],
)
def test_a_sign_that_nobody_reads_is_refused_by_name(written: str, char: str) -> None:
    with pytest.raises(Rejected) as caught:
        g2p.phonemise(f"word {written}", "en")
    assert (caught.value.stage == "text" and char in caught.value.reason) or "picture" in caught.value.reason


@settings(max_examples=400, deadline=None)
@given(st.text(st.sampled_from("0123456789 .,:/-–−+=%$€£#@'\"°²½xkmMKIVXSt.DrAabCcsth()&<>~"), max_size=30))
def test_any_mixture_of_figures_is_said_without_a_figure_left(written: str) -> None:
    try:
        reading = g2p.phonemise(f"word {written}", "en")
    except Rejected as error:
        assert error.stage == "text"
        return
    assert not re.search(r"\d", reading.text), reading.text
    assert symbols.ids(reading.phones).size
