"""Characters: what only looks different is the same, what is said is kept, and nothing is lost without a word."""

from __future__ import annotations

import pytest

from headrace.featurize.text import characters, g2p
from headrace.store.errors import Rejected


@pytest.mark.parametrize(
    ("written", "clean"),
    [
        ("他有٣个苹果", "他有3个苹果"),
        ("१२ ๓ ۴ ߅ ６ 𝟕 ០", "12 3 4 5 6 7 0"),
        ("⾼压⼯作⼈员", "高压工作人员"),
        ("⽇本は⾼い", "日本は高い"),
        ("⻓⻋⻅⻢⺟⻰", "长车见马母龙"),
        ("豈更\ufa0c\U0002f800", "豈更兀丽"),
        ("１０％ＯＦＦ！，：", "10%OFF!,:"),
        ("ｶﾞｷﾞｱﾟ｡｢ ﾡ", "ガギア゜。「 ㄱ".replace("゜", "\u309a")),
        ("ﬁne ﬂow eﬃcient ﬆ", "fine flow efficient st"),
        ("ﻼ ﷼ ﺍ", "لا ریال ا"),
        ("㎏ ㎡ ㎥ ㎧ ㎍ ㏂", "kg m² m³ m/s μg a.m."),
        ("㍿ ㍻ ㌔ ㋀ ㍘", "株式会社 平成 キロ 1月 0点"),
        ("𝐀𝑏ℝ ℓ", "AbR l"),
        ("气温是﹣5℃，－5", "气温是-5℃,-5"),
        ("non\u2011stop co\u2010op", "non-stop co-op"),
        ("3∶2 1⁄2 6∕7 ≧ ≦ 20˚", "3:2 1/2 6/7 ≥ ≤ 20°"),
        ("٣٫٥٪", "3.5%"),
        ("H₂O", "H2O"),
        ("①苹果②③ 第⑩章 4⑤ ⒈好 ⑴", "1苹果2 3 第10章 4 5 1好 1"),
        ("第Ⅱ章 FFⅩⅢ ⅳ", "第2章 FF13 4"),
        ("World War Ⅱ", "World War II"),
        ("e\u0301 A\u030a \u212b", "é Å Å"),
        ("wait‥ ⋯ ︙", "wait… … …"),
        ("a\u00a0b\u3000c\u2028d\u00ad\u200b葛\U000e0100", "a b c d葛"),
    ],
)
def test_what_only_looks_different_becomes_the_same(written: str, clean: str) -> None:
    assert characters.clean(written) == clean


@pytest.mark.parametrize(
    "kept",
    [
        "² ³ ¹ ⁰ ⁴ ⁻¹ ⁺ ⁿ ª º",
        "½ ¼ ⅓ ⅞ ⅟",
        "± × ÷ ≥ ≤ ≠ ≈ ° µ Ω ℃ ℉ № ‰ ™",
        "− – — ― ″ ′ …",
        "ㄱㄴㅋㅠ",
        "ทำ ຳ",
        "、。「」・〜～~々〇ー",
        "…「¿¡«»“”",
        "ñ ş đ ł ơ",
    ],
)
def test_what_languages_say_or_spell_is_kept(kept: str) -> None:
    assert characters.clean(kept) == kept.replace("～", "~")


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("今天🎉", "character 3 is a picture (PARTY POPPER)"),
        ("ａ\u202eb", "character 2 is a mark of the writing direction (RIGHT-TO-LEFT OVERRIDE)"),
        ("e\u0301\x07", "character 3 is a control character (U+0007)"),
        ("\u0600 1", "character 1 is a formatting character (ARABIC NUMBER SIGN)"),
        ("a\ufffdb", "character 2 is what a decoder left of a damaged one (REPLACEMENT CHARACTER)"),
        ("a\U000e0041", "character 2 is a formatting character (TAG LATIN CAPITAL LETTER A)"),
        ("㎏㎏\ue000", "character 3 is of private use (U+E000)"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place_as_given(written: str, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        g2p.phonemise(written, "en")
    assert caught.value.reason == f"{reason}: take it out"


def test_a_refused_letter_is_named_where_it_was_given() -> None:
    """Folding, numbers in words and spaces move it in what the frontend reads."""
    with pytest.raises(Rejected) as caught:
        g2p.phonemise("㎏  1234567 hello \u200b ש", "en")
    assert caught.value.reason.startswith("'ש' (HEBREW LETTER SHIN), character 20 of ")
    with pytest.raises(Rejected) as caught:
        g2p.phonemise("hello " * 30 + "ｱ ש" + " hello" * 100, "en")
    assert "'ש' (HEBREW LETTER SHIN), character 183 of '…" in caught.value.reason
    assert len(caught.value.reason) < 200


def test_what_was_met_before_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(Rejected, match="character 1 is a control character"):
            characters.clean("\x01")
