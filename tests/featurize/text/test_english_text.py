"""English texts: initialisms, homographs, and figures and signs in context."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from headrace.featurize.text import g2p

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
