"""Read Mandarin: jieba segments words, pypinyin reads phrases, and tone sandhi follows.

Each character has two phones: an initial, and a final with its tone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from headrace.featurize.text.languages import chinese_numbers, sandhi
from headrace.featurize.text.languages.frontend import (
    PUNCTUATION,
    Frontend,
    Reading,
    concatenate,
    excerpt,
    normalise_marks,
    optional_dependencies,
    token,
)
from headrace.featurize.text.languages.sandhi import Word
from headrace.store.errors import Rejected

_SAME_SOUND = str.maketrans("嗯呣〇", "恩母零")
_SYLLABLE = re.compile(r"(zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw]?)([a-zêü]+)([1-5])")
_WITHOUT_INITIAL = {"a": "AA", "e": "EE", "o": "OO"}
_PAUSES = {"^": "SP3", "¥": "SP2"}
"""Marks that are not punctuation, as upstream has them: other kinds of pause."""
_UNREAD = re.compile(r"[^\w,.!?…^¥]|[\dA-Za-z_]")  # a dash is not a pause here
_SENTENCES = re.compile(r"(?<=[,.!?…^¥])")


def normalise(text: str) -> str:
    """Convert to simplified characters and write numbers in them."""
    return chinese_numbers.verbalise(_simplified().convert(text))


def read(text: str) -> Reading:
    """Convert normalised Mandarin to phones."""
    kept = _UNREAD.sub("", normalise_marks(text).translate(_SAME_SOUND))
    return concatenate(
        reading for sentence in _SENTENCES.split(kept) if sentence for reading in _read_sentence(sentence)
    )


def _read_sentence(text: str) -> Iterator[Reading]:
    """Yield the reading of each character of a text that ends at a mark: sandhi does not cross marks."""
    words = [Word(pair.word, pair.flag) for pair in _jieba().posseg.lcut(text)]
    for word in sandhi.merge_words(words, _syllables):
        for char, syllable in zip(
            word.text, sandhi.apply_sandhi(word, _syllables(word.text), _first_half), strict=True
        ):
            yield token(char, _phones(char, syllable))


def _phones(char: str, syllable: str) -> tuple[str, ...]:
    """Return the phones of a character with this pinyin, or of a mark."""
    if char in PUNCTUATION or char in _PAUSES:
        return (_PAUSES.get(char, char),)
    match = _SYLLABLE.fullmatch(syllable)
    if match is None:
        raise Rejected("text", f"{excerpt(char)} has no reading in Mandarin")
    initial, final, tone = match.groups()
    return initial or _WITHOUT_INITIAL.get(final[0], "UNK"), _final(initial, final) + tone


def _final(initial: str, final: str) -> str:
    """Return the final as the symbol table writes it: pinyin spells some different finals alike."""
    if initial in ("j", "q", "x", "y") and final[0] == "u":
        return "v" + final[1:]  # ju is jü
    if initial == "y" and final in ("e", "an"):
        return {"e": "E", "an": "En"}[final]
    if final == "i" and initial in ("z", "c", "s"):
        return "i0"
    if final == "i" and initial in ("zh", "ch", "sh", "r"):
        return "ir"
    return final


def _syllables(text: str) -> list[str]:
    """Return pinyin with tone digits, one syllable per character; a mark stands for itself."""
    with optional_dependencies("zh"):
        import pypinyin
    style, unread = pypinyin.Style.TONE3, list[str]  # characters one by one, where its type says one string
    return list(pypinyin.lazy_pinyin(text, style=style, neutral_tone_with_five=True, errors=unread))  # type: ignore[arg-type]


def _first_half(word: str) -> int:
    """Return the length of the first of the two parts of a compound; its shortest part comes first or last."""
    shortest = min(_jieba().cut_for_search(word), key=len)
    return len(shortest) if word.startswith(shortest) else len(word) - len(shortest)


@cache
def _jieba() -> Any:
    """Load jieba with the dictionary of its package.

    By default it would look for a cache in the folder for temporary files, where anybody could have put one.
    """
    with optional_dependencies("zh"):
        import jieba
        import jieba.posseg
    jieba.dt.FREQ, jieba.dt.total = jieba.dt.gen_pfdict(jieba.dt.get_dict_file())
    jieba.dt.initialized = True
    return jieba


@cache
def _simplified() -> Any:
    with optional_dependencies("zh"):
        import opencc
    return opencc.OpenCC("t2s")


FRONTEND = Frontend(
    language="zh",
    scripts=frozenset({"Han"}),
    libraries=("cn2an", "jieba", "OpenCC", "pypinyin"),
    version=1,
    normalise=normalise,
    read=read,
)
