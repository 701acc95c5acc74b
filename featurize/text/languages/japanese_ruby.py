"""Leave out the reading in kana that a Japanese text gives in brackets behind a word, so that it is not said twice."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import SequenceMatcher

_RUBY = re.compile(
    r"([^\s、。！？,.!?()（）《》「」『』]{1,24})[」』]?\s?(?:[(（]([ぁ-ゖァ-ヺー・ ]+)[)）]|《([ぁ-ゖァ-ヺー・ ]+)》)"
)
_START = re.compile("[|｜]([^|｜《》]+)《([ぁ-ゖァ-ヺー・ ]+)》")
"""Ruby of plain text as Aozora Bunko writes it: the bar marks where the word begins."""
_KANJI = re.compile("[々〆〇㐀-鿿豈-\ufaff\U00020000-\U000323af]")
_LAST_WORD = re.compile("[々〆〇㐀-鿿豈-\ufaff\U00020000-\U000323af]+$")
_VOWELS = dict(zip("アイウエオ", (
    "アカサタナハマヤラワガザダバパァャヮ", "イキシチニヒミリギジヂビピィ", "ウクスツヌフムユルグズヅブプゥュヴ",
    "エケセテネヘメレゲゼデベペェ", "オコソトノホモヨロヲゴゾドボポォョ"), strict=True))  # fmt: skip
_VOWEL = {kana: vowel for vowel, row in _VOWELS.items() for kana in row}
_SAME = str.maketrans("ヂヅヲ", "ジズオ")
_ALIKE = 0.5
"""A reading that OpenJTalk does not have, such as にっぽん of 日本, shares so much with the one that it has."""


def drop_ruby(text: str, pronounce: Callable[[str], list[tuple[str, str, bool]]]) -> str:
    """Return a text without the readings in brackets. Where OpenJTalk reads the word otherwise, they replace it.

    Args:
        text: to change. Brackets that hold anything but the reading of the word before them stay.
        pronounce: returns the words of a text, each with its pronunciation in katakana and whether it is a name.
    """
    text = _START.sub(lambda found: found[1] if _is_read(pronounce(found[1]), found[2]) else found[2], text)

    def without(found: re.Match[str]) -> str:
        before, kana = found[1], found[2] or found[3]
        if not _KANJI.search(before):
            return found[0]
        words = pronounce(before)
        if any(_is_read(words[start:], kana) for start in range(len(words))):
            return before
        word = _LAST_WORD.search(before)
        if word is None or not (found[3] or _is_likely(pronounce(word[0]), kana)):
            return found[0]
        return before[: word.start()] + kana

    return _RUBY.sub(without, text)


def _is_read(words: list[tuple[str, str, bool]], kana: str) -> bool:
    """Return whether words that hold a kanji are pronounced as some kana."""
    said = "".join(sound for _, sound, _ in words)
    return any(_KANJI.search(word) for word, _, _ in words) and _sound(said) == _sound(kana)


def _is_likely(words: list[tuple[str, str, bool]], kana: str) -> bool:
    """Return whether kana can be another reading of words: one alike, or that of a person's name, which may be any."""
    said = _sound("".join(sound for _, sound, _ in words))
    return (
        all(is_name for _, _, is_name in words)
        or SequenceMatcher(None, said, _sound(kana), autojunk=False).ratio() >= _ALIKE
    )


def _sound(kana: str) -> str:
    """Return the sound of kana as katakana in which long vowels are spelled alike: えい, エイ and エー are エエ."""
    katakana = "".join(chr(ord(char) + 96) if "ぁ" <= char <= "ゖ" else char for char in kana).translate(_SAME)
    spelled = ""
    for char in re.sub("[’'・ ]", "", katakana):
        vowel = _VOWEL.get(spelled[-1:], "")
        is_long = char == "ー" or (vowel == "エ" and char == "イ") or (vowel == "オ" and char == "ウ")
        spelled += vowel if is_long else char
    return spelled
