"""Characters: what only looks different is the same, what is said is kept, and nothing is lost without a word."""

from __future__ import annotations

import contextlib
import functools
import random
import unicodedata

import pytest

from headrace.featurize.text import characters, g2p, symbols
from headrace.featurize.text.languages import scripts
from headrace.featurize.text.languages.unsaid import is_sign
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
        ("الرحمـــن ٱلله", "الرحمن الله"),
        ("يومﹱ", "يوم\u064b"),
        ("H₂O", "H2O"),
        ("①苹果②③ 第⑩章 4⑤ ⒈好 ⑴", "1苹果2 3 第10章 4 5 1好 1"),
        ("第Ⅱ章 FFⅩⅢ ⅳ", "第2章 FF13 4"),
        ("㈱日立 ㈜삼성 ⒜ ㈠", "株日立 주삼성 a 一"),
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


CARRIERS = {
    "zh": "今天 天气", "en": "good day", "ja": "今日 天気", "ko": "오늘 날씨", "yue": "今日 天氣", "de": "gut Tag",
    "fr": "bon jour", "es": "buen dia", "it": "buon giorno", "ru": "добрый день", "ar": "يوم جيد", "hi": "अच्छा दिन",
    "vi": "ngày tốt", "th": "วัน ดี", "tr": "iyi gün",
}  # fmt: skip
"""Two words of each language, which a character is put between."""


def assigned() -> list[str]:
    """Return every character of the planes that corpora hold: the basic one, letters and pictures of the next."""
    blocks = (range(0x20, 0x10000), range(0x1D400, 0x1D800), range(0x1F000, 0x1FB00), range(0x20000, 0x20100))
    return [chr(n) for block in blocks for n in block if unicodedata.category(chr(n)) not in ("Cn", "Cs", "Co")]


@functools.cache
def without(language: str) -> set[tuple[str, ...]]:
    """Return the phones of the two words of a language, with a space between them and without."""
    return {g2p.phonemise(space.join(CARRIERS[language].split()), language).phones for space in ("", " ")}


def lost(char: str, language: str) -> list[str]:
    """Return the texts of a language in which a character is neither read, nor a mark that is not said, nor refused."""
    one, two = CARRIERS[language].split()
    clean = characters.clean(char) if not characters.character_problem(char) else char
    if not any(each.isalpha() or is_sign(each, one + each + two, frozenset()) for each in clean):
        return []
    missing = []
    for text in (f"{one}{char}{two}", f"{one} {char} {two}"):
        try:
            phones = g2p.phonemise(text, language).phones
        except Rejected:
            continue
        if phones in without(language):
            missing.append(text)
    return missing


def is_silent_letter(char: str) -> bool:
    """Return whether a character is an h or a hard or soft sign, which languages write and do not say."""
    return not characters.character_problem(char) and characters.clean(char).lower() in ("h", "ъ", "ь")


def may_be_silent(char: str) -> bool:
    """Return whether a character is an accent, also in a form for display, or a letter that languages do not say."""
    clean = char if characters.character_problem(char) else characters.clean(char)
    return all(unicodedata.category(each)[0] == "M" for each in clean) or is_silent_letter(char)


def check_nothing_is_lost(sample: list[str], languages: list[str]) -> None:
    missing = {(language, char): lost(char, language) for char in sample for language in languages}
    found = {key: texts for key, texts in missing.items() if texts and not may_be_silent(key[1])}
    assert not found, found


def test_a_letter_that_no_voice_reads_is_not_lost_within_a_word() -> None:
    """espeak-ng's Russian reads a word with a letter of Kurdish as two, and the letter not at all."""
    for char, name in (("Ԝ", "WE"), ("Ѡ", "OMEGA"), ("Ғ", "GHE WITH STROKE"), ("Њ", "NJE")):
        with pytest.raises(Rejected, match=rf"'{char}' \(CYRILLIC CAPITAL LETTER {name}\), character 7 of"):
            g2p.phonemise(f"добрый{char}день", "ru")
    assert g2p.phonemise("Їжак і Єва", "uk").phones and g2p.phonemise("Ғалым", "kk").phones


def test_letters_in_brackets_are_no_gloss() -> None:
    """In Korean and Japanese what a text itself has in brackets behind a word may be its other spelling."""
    assert "株" in g2p.phonemise("오늘㈱날씨", "ko").text and "株" not in g2p.phonemise("오늘(株)날씨", "ko").text
    assert "月" in g2p.phonemise("今日㈪天気", "ja").text


def test_a_letter_at_a_figure_is_no_sign_of_it() -> None:
    """Other words may say a sign that stands at a figure. A letter that is not read there is lost."""
    with pytest.raises(Rejected, match=r"'ꞽ' \(LATIN SMALL LETTER GLOTTAL I\), character 6 of"):
        g2p.phonemise("$5günⅣꞽ罸䨸"[1:], "zh")


@pytest.mark.parametrize("text", ["ࣈ ดี", "ࣈࣈ ดี", "ดี ࣈࣈ"])
def test_letters_of_the_commonest_script_are_not_lost_either(text: str) -> None:
    with pytest.raises(Rejected, match=r"'ࣈ' \(ARABIC LETTER GRAF\), character \d of"):
        g2p.phonemise(text, "vi")


def test_an_arabic_letter_that_the_voice_does_not_know_is_not_lost_within_a_word() -> None:
    for char, name in (("ࡰ", "ALEF WITH ATTACHED FATHA"), ("ࣆ", "JEEM WITH THREE DOTS BELOW")):
        with pytest.raises(Rejected, match=rf"'{char}' \(ARABIC LETTER {name}\), character 4 of"):
            g2p.phonemise(f"يوم{char}جيد", "ar")
    assert g2p.phonemise("پاکستان", "ur").phones


def test_a_letter_of_a_cluster_that_a_language_does_not_have_is_not_lost() -> None:
    with pytest.raises(Rejected, match=r"'đ' \(LATIN SMALL LETTER D WITH STROKE\), character 5 of"):
        g2p.phonemise("ngàyđtốt", "vi")
    assert g2p.phonemise("đi đâu đó", "vi").phones and g2p.phonemise("góðan daginn, aðra", "is").phones


def test_a_foreign_letter_is_no_silent_h() -> None:
    with pytest.raises(Rejected, match=r"'ṡ' \(LATIN SMALL LETTER S WITH DOT ABOVE\), character 8 of"):
        g2p.phonemise("Tagbuonṡдобрый", "ru")
    with pytest.raises(Rejected, match=r"'ħ' \(LATIN SMALL LETTER H WITH STROKE\), character 4 of"):
        g2p.phonemise("bonħjour", "fr")
    assert g2p.phonemise("Ħaġa", "mt").phones


def test_no_character_is_lost_in_silence() -> None:
    """Each language has characters of its own from a sample; the whole planes are in the soak."""
    sample = random.Random(17).sample(assigned(), 90)
    for number, language in enumerate(CARRIERS):
        check_nothing_is_lost(sample[number :: len(CARRIERS)], [language])


@pytest.mark.soak
@pytest.mark.parametrize("language", CARRIERS)
def test_no_character_of_the_planes_is_lost_in_silence(language: str) -> None:
    check_nothing_is_lost(assigned(), [language])


def mixture(rng: random.Random, pool: list[str]) -> tuple[str, set[str]]:
    """Return words, digits, signs, markup and any characters, in a random order, and which characters were drawn."""
    figures = "12 3.5 2024-05-01 10:30 $5 % ± ² <b> [x] #1 &amp; { } - ٣ Ⅳ ①"
    words = " ".join((*CARRIERS.values(), figures)).split()
    drawn = [rng.choice(pool if rng.random() < 0.3 else words) for _ in range(rng.randrange(1, 12))]
    return rng.choice(("", " ")).join(drawn), {each for each in drawn if len(each) == 1 and each not in words}


def is_always_heard(char: str, language: str) -> bool:
    """Return whether a character is a syllable, or a letter of another script than the language's, which no rule of
    spelling makes silent: 𝙝 is an h, also in a word of Latin letters in an Arabic text."""
    script = scripts.script(char if characters.character_problem(char) else characters.clean(char)[:1] or char)
    has_spelling = script in ("", "Latin", *scripts.scripts(CARRIERS[language])) or is_silent_letter(char)
    return script in ("Han", "Hangul") or not has_spelling


def fuzz(count: int, seed: int) -> None:
    rng, pool, languages = random.Random(seed), assigned(), ["auto", *CARRIERS]
    for _ in range(count):
        (text, drawn), language = mixture(rng, pool), rng.choice(languages)
        with contextlib.suppress(Rejected):
            phones = g2p.phonemise(text, language).phones
            assert len(symbols.ids(phones, "headrace-ipa")), (text, language)
            for char in sorted(drawn):
                if language != "auto" and is_always_heard(char, language):
                    assert g2p.phonemise(text.replace(char, " "), language).phones != phones, (text, language, char)


def test_mixtures_raise_nothing_but_rejected() -> None:
    fuzz(50, 17)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_many_mixtures_raise_nothing_but_rejected(seed: int) -> None:
    fuzz(10_000, seed)
