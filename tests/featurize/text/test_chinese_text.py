"""Chinese and Cantonese: figures and signs in context, characters of several readings, nothing dropped in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.featurize.text import g2p
from headrace.featurize.text.languages import chinese
from headrace.featurize.text.languages.sinitic import figures, numerals, pinyin, segmentation
from headrace.store.errors import Rejected
from tests.featurize.text.spoken_texts import misread

POLYPHONES = Path(__file__).parent / "sentences" / "polyphones_zh.tsv"
"""Texts with characters in brackets, and the pinyin of each; the first sixty are older than what reads them."""


def polyphones() -> list[tuple[str, str, str]]:
    """Return each text, and the syllables that are right and said; a third tone may become a second before another."""
    found = []
    for line in POLYPHONES.read_text(encoding="utf-8").splitlines():
        marked, syllables = line.split("\t")
        places = [match.start() - 2 * number for number, match in enumerate(re.finditer(r"\[.\]", marked))]
        written = re.sub(r"[\[\]]", "", marked)
        reading = g2p.phonemise(written, "zh")
        starts = [sum(reading.word2ph[:place]) for place in places]
        said = [" ".join(reading.phones[start : start + 2]) for start in starts]
        for place, syllable, heard in zip(places, syllables.split(), said, strict=True):
            tones = (syllable, syllable.replace("3", "2"))
            right = {" ".join(chinese._phones(written[place], tone)): tone for tone in tones}
            found.append((f"{written} {written[place]}", syllable, syllable if heard in right else heard))
    return found


@pytest.mark.parametrize("language", ["zh", "yue"])
def test_figures_and_signs_are_said_as_the_table_has_it(language: str) -> None:
    assert misread(language) == []


def test_characters_of_several_readings_are_read_by_their_context() -> None:
    found = polyphones()
    assert len(found) >= 250
    assert [(where, right, said) for where, right, said in found if right != said] == []


@pytest.mark.parametrize(
    ("written", "phones"),
    [
        ("数一数", "sh u3 y i5 sh u3"),
        ("当地的", "d ang1 d i4 d e5"),
        ("行长", "h ang2 zh ang3"),
        ("跑得快", "p ao3 d e5 k uai4"),
        ("还了钱", "h uan2 l e5 q ian2"),
        ("我得去", "w o2 d ei3 q v4"),
    ],
)
def test_sandhi_follows_what_the_context_tells(written: str, phones: str) -> None:
    assert " ".join(g2p.phonemise(written, "zh").phones) == phones


@pytest.mark.parametrize("language", ["zh", "yue"])
@pytest.mark.parametrize("mark", "「」『』()〈〉《》[]“”‘’\"'*※_|-—")
def test_quotes_brackets_and_dashes_are_not_said(language: str, mark: str) -> None:
    assert g2p.phonemise(f"你{mark}好", language).phones == g2p.phonemise("你好", language).phones


@pytest.mark.parametrize("language", ["zh", "yue"])
@pytest.mark.parametrize("char", "#→∂©")
def test_a_character_that_is_not_read_is_named_with_its_place(language: str, char: str) -> None:
    with pytest.raises(Rejected, match=rf"'{re.escape(char)}' .*, character 5 of .* is not read in"):
        g2p.phonemise(f"12的你{char}好", language)


def test_signs_by_themselves_are_words() -> None:
    said = {"+": "加", "=": "等于", "%": "百分号", "&": "和", "@": "艾特", "≥": "大于等于", "°": "度", "π": "派"}
    assert {sign: g2p.phonemise(f"用{sign}号", "zh").text for sign in said} == {
        sign: f"用{word}号" for sign, word in said.items()
    }


@pytest.mark.parametrize(
    ("figures_", "said"),
    [
        ("0", "零"), ("10", "十"), ("110", "一百一十"), ("1001", "一千零一"), ("10010", "一万零一十"),
        ("20000", "两万"), ("2000", "两千"), ("22222", "两万二千二百二十二"), ("200", "二百"), ("100000", "十万"),
        ("100000001", "一亿零一"), ("10000000000000000", "一零零零零零零零零零零零零零零零零"), ("1.05", "一点零五"),
        ("007", "零零七"), ("1000000000000", "一万亿"), ("101000", "十万一千"), ("10500", "一万零五百"),
    ],
)  # fmt: skip
def test_cardinal_numbers(figures_: str, said: str) -> None:
    assert numerals.read_number(figures_) == said


def test_one_in_a_telephone_number_is_yao_in_mandarin_alone() -> None:
    assert figures.verbalise("电话110") == "电话幺幺零" and figures.verbalise("電話110", one="一") == "電話一一零"


def test_words_are_those_of_jieba() -> None:
    import jieba
    import jieba.posseg

    scores, _ = segmentation._dictionary()
    jieba.dt.FREQ = {
        word: round(2.718281828459045 ** (score - scores[""])) if score else 0 for word, score in scores.items()
    }
    jieba.dt.total, jieba.dt.initialized = round(2.718281828459045 ** -scores[""]), True
    texts = [line.split("\t")[0] for line in (POLYPHONES.parent / "zh.tsv").read_text(encoding="utf-8").splitlines()]
    for text in [re.sub(r"[^一-龥]", "", text) for text in texts[:60]]:
        assert segmentation.segment(text) == [(word.word, word.flag) for word in jieba.posseg.lcut(text)]
        for word, _ in segmentation.segment(text):
            shortest = min(jieba.cut_for_search(word), key=len)
            half = len(shortest) if word.startswith(shortest) else len(word) - len(shortest)
            assert segmentation.first_half(word) == half


def test_pinyin_is_that_of_pypinyin() -> None:
    import pypinyin

    style = pypinyin.Style.TONE3
    for word in ("银行行长", "重新", "音乐会", "吕布", "嗯", "朝阳区", "不见得了", "子曰学而时习之", "龘", "的"):
        assert list(pinyin.syllables(word)) == pypinyin.lazy_pinyin(word, style=style, neutral_tone_with_five=True)
