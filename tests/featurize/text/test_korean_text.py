"""Korean: numerals by their counters, signs and units in context, letters by name, and nothing dropped in silence."""

from __future__ import annotations

import pytest

from headrace.featurize.text import g2p
from headrace.featurize.text.languages import korean
from headrace.featurize.text.languages.korean_numbers import read_number, verbalise
from headrace.store.errors import Rejected
from tests.featurize.text.spoken_texts import misread


def test_figures_and_signs_are_said_as_the_table_has_it() -> None:
    assert misread("ko") == []


@pytest.mark.parametrize("letters", ["ㅋㅋㅋ", "ㅠㅠ", "ㅎㅎ", "ㅇㅇ"])
def test_laughter_and_tears_are_refused_with_their_place(letters: str) -> None:
    with pytest.raises(Rejected, match=f"'{letters}', character 4 of"):
        g2p.phonemise(f"네, {letters}", "ko")


def test_a_letter_that_is_no_longer_in_use_is_named() -> None:
    with pytest.raises(Rejected, match=r"'ㆍ' .HANGUL LETTER ARAEA., character 1 of .* is not read in Korean"):
        korean.normalise("ㆍ를 쓴다")


@pytest.mark.parametrize(("written", "spoken"), [("디귿을", "디그슬"), ("키읔이", "키으기"), ("티읕과", "티읃꽈")])
def test_names_of_letters_are_linked_by_their_own_rule(written: str, spoken: str) -> None:
    """Article 16: 디귿을 is said as if it were written 디긋을; before a consonant nothing is special."""
    assert g2p.phonemise(written, "ko").phones == g2p.phonemise(spoken, "ko").phones


@pytest.mark.parametrize("char", "©♭∂漢é")
def test_a_character_that_is_not_read_is_named_with_its_place(char: str) -> None:
    with pytest.raises(Rejected, match=r"character 2 of .* is not read in Korean") as caught:
        korean.FRONTEND.read(f"네{char}.")
    assert repr(char) in str(caught.value)


@pytest.mark.parametrize("mark", "「」『』()〈〉《》[]“”‘’\"'*※_|")
def test_quotes_and_brackets_are_not_said(mark: str) -> None:
    assert g2p.phonemise(f"네{mark}이", "ko").phones == g2p.phonemise("네이", "ko").phones


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("1~2명", "한명에서 두명"),
        ("13시 5분", "십삼시 오분"),
        ("12시", "열두시"),
        ("25:00", "이십오 대 영"),
        ("10/10", "시월 십일"),
        ("31/12", "삼십일, 십이"),
        ("1544-1588", "일오사사 일오팔팔"),
        ("1000-2000명", "천에서 이천명"),
    ],
)
def test_neighbouring_kinds_are_told_apart(written: str, spoken: str) -> None:
    assert verbalise(written) == spoken


def test_numbers_of_any_length_are_read() -> None:
    assert read_number("10000") == "만" and read_number("1.05") == "일점영오" and read_number("1.2.3") == "일점이점삼"
    assert len(read_number("1" * 5000)) == 5000
    assert verbalise("9" * 4990 + ":30").count("구") == 4990
