"""Read words in pinyin with tone digits by the dictionaries of pypinyin, as it does, and in less time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from typing import NamedTuple

from headrace.featurize.text.languages.frontend import optional_dependencies

WORDS_KEPT = 1 << 16
"""Words whose readings a process remembers: those of a text are among the most frequent."""


@lru_cache(WORDS_KEPT)
def syllables(word: str) -> tuple[str, ...]:
    """Return a syllable for each character, with 5 for the neutral tone: `hao3`. What has no reading stands for itself.

    The longest phrases of the dictionary that follow one another are read as phrases, all other characters one by one.
    """
    dictionary = _dictionary()
    found: list[str] = []
    for piece in _pieces(word):
        phrase = dictionary.phrases.get(piece)
        if phrase is not None:
            found += [_with_digit(readings[0]) for readings in phrase]
        else:
            found += [_read_character(char) for char in piece]
    return tuple(found)


@lru_cache(WORDS_KEPT)
def undecided(word: str) -> tuple[int, ...]:
    """Return the indices of the characters of a word that are read one by one, as no phrase holds them."""
    dictionary = _dictionary()
    found: list[int] = []
    start = 0
    for piece in _pieces(word):
        if piece not in dictionary.phrases:
            found += range(start, start + len(piece))
        start += len(piece)
    return tuple(found)


def character_readings(char: str) -> list[str]:
    """Return the syllables that the dictionary of characters has for one."""
    return [_with_digit(syllable) for syllable in filter(None, _dictionary().characters.get(ord(char), "").split(","))]


def _pieces(word: str) -> Iterable[str]:
    """Return the phrases of the dictionary that a word consists of, and what is between them.

    No phrase is a single character, so that a word of two is a phrase or none.
    """
    dictionary = _dictionary()
    return (word,) if len(word) < 3 or word in dictionary.phrases else dictionary.cut(word)


@lru_cache(1 << 14)
def _read_character(char: str) -> str:
    readings = _dictionary().characters.get(ord(char))
    return _with_digit(readings.partition(",")[0]) if readings else char


@lru_cache(1 << 12)
def _with_digit(syllable: str) -> str:
    """Write a tone as a digit where it is an accent."""
    from pypinyin.contrib.tone_convert import to_tone3

    return str(to_tone3(syllable, neutral_tone_with_five=True))


class _Dictionary(NamedTuple):
    phrases: Mapping[str, list[list[str]]]
    characters: Mapping[int, str]
    """Readings of a code point, separated by commas."""
    cut: Callable[[str], Iterable[str]]


@cache
def _dictionary() -> _Dictionary:
    with optional_dependencies("zh"):
        from pypinyin.constants import PHRASES_DICT, PINYIN_DICT
        from pypinyin.seg.mmseg import seg
    return _Dictionary(PHRASES_DICT, PINYIN_DICT, seg.cut)
