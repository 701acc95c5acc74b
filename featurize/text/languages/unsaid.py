"""Tell the signs of a text that have to be said from letters, punctuation, and marks that are not said."""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache

from headrace.featurize.text.languages import scripts
from headrace.featurize.text.languages.frontend import PUNCTUATION, PUNCTUATION_MAP
from headrace.featurize.text.languages.unread import is_silent

UNSAID = frozenset("·/¿¡™®©〃〝〞〟゠・")
"""Marks that are not said in any language, beside those of `unread.is_silent` and punctuation."""
_KINDS_OF_H = frozenset("ĤĥĦħƕǶȞȟ")
"""Letters that a voice may take for an h that is silent in its language."""
_RUSSIAN = frozenset("АБВГДЕЁЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ")
"""Capitals that every voice of a Cyrillic alphabet reads within a word. At others it may cut one, and say nothing."""
_VIETNAMESE = frozenset(map(chr, range(0x1EA0, 0x1EFA)))
"""Letters above those of other alphabets, which a whole language is written in."""
_COMMON_LETTERS = {"Latin": 0x250, "Cyrillic": 0x500, "Arabic": 0x870}
"""Letters of a script below are those of alphabets; above are phonetic and historic ones, and those of few speakers."""

_DENTALS = frozenset("ðđÐĐ")
_DENTAL_IN_CLUSTER = re.compile(r"[ðđ](?=[bcdghklmnpqrstvx])", re.IGNORECASE)
"""What the voice of a language that has no such cluster may leave out."""


@cache
def _is_mark(char: str) -> bool:
    """Return whether a character is punctuation, or not said."""
    return (
        char.isspace()
        or char in PUNCTUATION
        or ord(char) in PUNCTUATION_MAP
        or char in UNSAID
        or is_silent(char)
        or unicodedata.category(char) == "Pd"
    )


def is_sign(char: str, text: str, usual: frozenset[str]) -> bool:
    """Return whether a character of a text is a sign that has to be said, or refused.

    Args:
        char: one of the characters of `text`.
        text: in which accents and vowel signs behind a letter of their script are part of it.
        usual: scripts of the letters that the frontends of the text read.
    """
    if char.isalpha():
        return _is_unusual(char, usual) or (char in _DENTALS and bool(_DENTAL_IN_CLUSTER.search(text)))
    if char.isdecimal() or _is_mark(char):
        return False
    if unicodedata.category(char).startswith("M"):
        return not all(_belongs(char, letter) for letter in _letters_before(char, text))
    return True


@lru_cache(1 << 14)
def _is_unusual(letter: str, usual: frozenset[str]) -> bool:
    """Return whether a letter is one that a frontend of these scripts may lose."""
    script = scripts.script(letter)
    rare = ord(letter) >= _COMMON_LETTERS.get(script, 1 << 21) and letter not in _VIETNAMESE
    within = script == "Cyrillic" and letter.isupper() and letter not in _RUSSIAN
    return script not in usual or rare or within or letter in _KINDS_OF_H


def _letters_before(char: str, text: str) -> list[str]:
    """Return the letters, or what else there is, that each occurrence of a combining mark stands behind."""
    found = []
    for index, other in enumerate(text):
        if other == char:
            at = index - 1
            while at >= 0 and unicodedata.category(text[at]).startswith("M"):
                at -= 1
            found.append(text[at] if at >= 0 else "")
    return found


def _belongs(mark: str, letter: str) -> bool:
    """Return whether a combining mark is one of the script of a letter; accents are of every alphabet."""
    if not letter or not letter.isalpha():
        return False
    if "\u0300" <= mark <= "\u036f":
        return scripts.script(letter) not in ("Han", "Kana", "Hangul")
    first = unicodedata.name(mark, "").split(" ")[0].capitalize()
    return first == scripts.script(letter)
