"""Japanese: figures, signs and units in context, readings in brackets, and that nothing is dropped in silence."""

from __future__ import annotations

import pytest

from headrace.featurize.text import g2p
from headrace.featurize.text.languages import japanese, japanese_ruby
from headrace.store.errors import Rejected
from tests.featurize.text.spoken_texts import misread


def phones(written: str) -> tuple[str, ...]:
    return g2p.phonemise(written, "ja").phones


def test_figures_and_signs_are_said_as_the_table_has_it() -> None:
    assert misread("ja") == []


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("気温は−3度です。", "気温はマイナス三度です。"),
        ("開始は14:30です。", "開始は十四時三十分です。"),
        ("電話は03-1234-5678です。", "電話は〇三の一二三四の五六七八です。"),
        ("憂鬱（ゆううつ）な日。", "憂鬱な日。"),
        ("1–3日かかる。", "一から三日かかる。"),
        ("2/3の人です。", "三分の二の人です。"),
    ],
)
def test_a_text_in_figures_has_the_phones_of_its_words(written: str, spoken: str) -> None:
    assert phones(written) == phones(spoken)


@pytest.mark.parametrize("char", "♭∂ß⊕▤\u3099\u0301")
def test_a_character_that_is_not_read_is_named_with_its_place(char: str) -> None:
    with pytest.raises(Rejected, match=r"character 3 of .* is not read in Japanese") as caught:
        japanese.FRONTEND.read(f"です{char}。")
    assert repr(char) in str(caught.value)


@pytest.mark.parametrize("mark", "「」『』（）〈〉《》【】“”‘’\"'*※_|")
def test_quotes_and_brackets_are_not_said(mark: str) -> None:
    assert phones(f"猫{mark}です") == phones("猫です")


def test_kana_spell_a_sound_in_more_than_one_way() -> None:
    spellings = ["とうきょう", "トウキョウ", "トーキョー", "とーきょー", "とおきょお"]
    assert len({japanese_ruby._sound(kana) for kana in spellings}) == 1
    assert japanese_ruby._sound("せんせい") == japanese_ruby._sound("センセー")
    assert japanese_ruby._sound("うつ") != japanese_ruby._sound("うち")


def test_only_the_reading_of_the_word_before_it_is_left_out() -> None:
    """What OpenJTalk reads decides, not the spelling: a remark in kana is said."""
    read = {"雨": "アメ", "彼": "カレ"}

    def pronounce(text: str) -> list[tuple[str, str, bool]]:
        return [(char, read.get(char, char), False) for char in text]

    assert japanese_ruby.drop_ruby("雨（あめ）雨（すごい）ｶﾚ(あめ)", pronounce) == "雨雨（すごい）ｶﾚ(あめ)"
    assert japanese_ruby.drop_ruby("彼（あれ）", pronounce) == "あれ", "like what OpenJTalk has, and so another reading"


def test_words_in_latin_letters_that_openjtalk_would_spell_are_english() -> None:
    assert g2p.phonemise("今日はhelloです。", "ja").phones[6:10] == g2p.phonemise("hello there", "en").phones[:4]
    for known in ("Google", "and", "NHK", "AKB"):
        assert not {"AH0", "UW1", "EY1", "EH1"} & set(g2p.phonemise(f"それは{known}です。", "ja").phones), known


@pytest.mark.parametrize(
    ("hyphenated", "said"),
    [
        ("Wi-Fiです", "ワイファイです"),
        ("T-シャツ", "Tシャツ"),
        ("CD-ROMです", "CD ROMです"),
        ("東京-大阪", "東京、大阪"),
    ],
)
def test_nobody_pauses_at_a_hyphen_between_latin_letters(hyphenated: str, said: str) -> None:
    phones = [phone for phone in g2p.phonemise(hyphenated, "ja").phones if phone != ","]
    assert [phone for phone in phones if phone != "-"] == [p for p in g2p.phonemise(said, "ja").phones if p != ","]
    assert ("-" in phones) == ("、" in said)
