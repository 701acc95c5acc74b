"""Bring the characters of a text into one form, and refuse those that are not text.

What only looks different becomes the same character: radicals, presentation forms, full and half width, ligatures,
squared units, digits of every script. What a language says in words of its own is kept for its frontend: superscripts,
fractions, signs such as ± and ℃, the minus sign and dashes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from headrace.featurize.text.languages.rewriting import ROMAN_LETTERS
from headrace.store.errors import Rejected

_FOLDED = frozenset(
    "<wide> <narrow> <small> <vertical> <square> <font> <noBreak> <sub> <circle> <initial> <medial> <final> "
    "<isolated>".split()
)
"""Kinds of compatibility decomposition (UAX #44, 5.7.3) that change how a character looks, not how it is said. Not
among them: superscripts and fractions, which are."""
_FOLDED_LIGATURES = re.compile(
    "[\u0132\u0133\u0149\u017f\u01c4-\u01cc\u01f1-\u01f3\u203c\u2047-\u2049\u2100-\u2102\u2104-\u2108\u210a-\u2115\u2117-\u2121\u213b"
    "\u2474-\u24b5\u2e80-\u2fdf\u3200-\u3243\u32c0-\u32cb\u3358-\u3370\u33e0-\u33fe\ufb00-\ufb17]"
)
"""Of the decompositions of no stated kind those that are such: ligatures, radicals, numbers in brackets. Not vowels of
Thai and Lao, letters of Hangul by themselves, or accents by themselves, which mean something else when decomposed."""
_IN_BRACKETS = re.compile("[\u249c-\u24b5\u3200-\u3243]")
"""Letters in brackets, as ㈱: without them, since what a text has in brackets may be a gloss that is not said twice."""
_ALIKE = {
    **dict.fromkeys("\u2010\u2011\u02d7", "-"),
    **dict.fromkeys("\u2e3a\u2e3b", "—"),
    **dict.fromkeys("\u2044\u2215", "/"),
    **dict.fromkeys("‥⋯", "…"),
    "\u2236": ":", "\u2217": "*", "\u223c": "~", "≧": "≥", "⩾": "≥", "≦": "≤", "⩽": "≤", "\u02da": "°",
    "٪": "%", "٫": ".", "٬": ",", "ٱ": "ا",
}  # fmt: skip
"""Characters that stand for others without a decomposition."""
_RADICALS = dict(
    zip(
        "⺁⺄⺌⺍⺎⺒⺓⺝⺞⺟⺠⺩⺬⺮⺯⺳⺶⺷⺸⺻⺼⺾⺿⻁⻃⻄⻅⻆⻉⻋⻑⻓⻔⻖⻗⻘⻙⻚⻛⻜⻝⻟⻠⻢⻣⻤⻥⻦⻧⻨⻩⻪⻫⻬⻭⻮⻯⻰⻱⻲⻳",
        "厂乙小小兀巳幺月歺母民王示竹糸网羊羊羊聿肉艹艹虎西西见角贝车長长门阜雨青韦页风飞食飠饣马骨鬼鱼鸟卤麦黄黾斉齐歯齿竜龙龜亀龟",
        strict=True,
    )
)
"""Radicals without a decomposition that are written for the character (Unicode's EquivalentUnifiedIdeograph)."""
_EMOJI = re.compile("[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]")
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_WITHOUT_WIDTH = re.compile(
    "[\u00ad\u034f\u0640\u180b-\u180f\u200b-\u200d\u2060-\u2064\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]"
)
"""Joiners, soft hyphens, selectors of variants, and what stretches an Arabic word."""
_PROBLEMS = {
    "Cc": "a control character",
    "Cf": "a formatting character",
    "Cn": "no character",
    "Co": "of private use",
    "Cs": "half a character",
}
_ROMAN = re.compile("[\u2160-\u2183]+")
_LATIN_WORD = re.compile("[A-Za-zÀ-ɏ] $")
_ENCLOSED_NUMBERS = re.compile("(?P<before>(?<=[0-9]))?(?P<numbers>[①-⒛⓪㉈-㉏㉑-㉟㊱-㊿]+)(?P<after>(?=[0-9]))?")


class _Folds(dict[int, str]):
    """What each character becomes, for `str.translate`: worked out when it is first met.

    Raises:
        Rejected: the character is not text; without its place.
    """

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if problem := character_problem(char):
            raise Rejected("text", problem)
        self[code] = folded = _WITHOUT_WIDTH.sub("", _fold(char))
        return folded


def _fold(char: str) -> str:
    """Return the character, or the characters, that one stands for."""
    if _ROMAN.match(char) or _ENCLOSED_NUMBERS.match(char):
        return char  # by what is around it
    if (same := _ALIKE.get(char) or _RADICALS.get(char)) is not None:
        return same
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.digit(char))
    kind, *codes = unicodedata.decomposition(char).split() or [""]
    if kind in _FOLDED or (kind == "<compat>" and _FOLDED_LIGATURES.match(char)):
        folded = "".join(_fold(chr(int(code, 16))) for code in codes)
        return folded.strip("()") if _IN_BRACKETS.match(char) else folded
    return char


_FOLDS = _Folds()


def clean(text: str, given_index: Callable[[int], int] = int) -> str:
    """Return a text in normal form (NFC, and see above), without characters of zero width and with single spaces.

    Args:
        text: to clean.
        given_index: returns the index in a text as it was given of a character of `text`.
    Raises:
        Rejected: stage "text"; it holds a character that is not text. The reason names the place.
    """
    try:
        folded = text.translate(_FOLDS)
    except Rejected:
        for index, char in enumerate(text):
            if problem := character_problem(char):
                place = given_index(index) + 1
                raise Rejected("text", f"character {place} is {problem} ({name(char)}): take it out") from None
        raise
    if not folded.isascii():
        folded = unicodedata.normalize("NFC", folded)
        folded = _ENCLOSED_NUMBERS.sub(_enclosed_numbers, _ROMAN.sub(_roman_number, folded))
    return " ".join(folded.split())


def character_problem(char: str) -> str:
    """Return why a character is not text, or an empty string if it is."""
    if char in _BIDI_CONTROLS:
        return "a mark of the writing direction"
    if _EMOJI.match(char):
        return "a picture"
    if char == "\ufffd":
        return "what a decoder left of a damaged one"
    if char.isspace() or _WITHOUT_WIDTH.match(char):
        return ""
    return _PROBLEMS.get(unicodedata.category(char), "")


def name(char: str) -> str:
    """Return the name of a character in Unicode, or its number if it has none."""
    return unicodedata.name(char, f"U+{ord(char):04X}")


def place(char: str, given: str, start: int = 0) -> int:
    """Return the index in a text as given, from `start` on, of what became a character of the cleaned text.

    It is -1 if nothing did.
    """
    for index, written in enumerate(given[start:], start):
        if char == written or char in unicodedata.normalize("NFC", _FOLDS[ord(written)]):
            return index
    return -1


def _roman_number(match: re.Match[str]) -> str:
    """Write a number of Roman numerals (Ⅱ) in letters after a word in Latin letters and a space, else in digits."""
    letters = unicodedata.normalize("NFKC", match[0])
    if not letters.isascii() or _LATIN_WORD.search(match.string, 0, match.start()):
        return letters
    values = [ROMAN_LETTERS[letter] for letter in letters.upper()]
    return str(sum(-one if one < following else one for one, following in zip(values, [*values[1:], 0], strict=True)))


def _enclosed_numbers(match: re.Match[str]) -> str:
    """Write numbers in circles, brackets or with a full stop in digits, apart from digits beside them."""
    digits = " ".join(f"{unicodedata.numeric(char):.0f}" for char in match["numbers"])
    before, after = (" " if match[side] is not None else "" for side in ("before", "after"))
    return before + digits + after
