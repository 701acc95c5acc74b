"""Determine the script of each letter and the frontend that reads it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import groupby

from headrace.featurize.text.languages.frontend import Frontend, UnreadCharacter, excerpt
from headrace.store.errors import Rejected

_SCRIPTS = {
    "LATIN": "Latin", "CJK": "Han", "IDEOGRAPHIC": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana", "HANGUL": "Hangul",
    "KATAKANA-HIRAGANA": "Kana", "FEMININE": "Latin", "MASCULINE": "Latin",
}  # fmt: skip


@cache
def script(char: str) -> str:
    """Return Latin, Han, Kana, Hangul or the first word of the letter's name; empty if it is not a letter."""
    if not char.isalpha() and char != "〇":
        return ""
    first = unicodedata.name(char, "UNKNOWN").split()[0]
    return _SCRIPTS.get(first, first.capitalize())


def scripts(text: str) -> set[str]:
    """Return the scripts of the letters of a text."""
    return {*map(script, set(text))} - {""}


def split_by_script(text: str, own: Frontend, others: dict[str, Frontend]) -> Iterator[tuple[Frontend, str]]:
    """Split a text where the frontend changes, and yield each piece with its frontend.

    Characters that are not letters belong to the piece before them, at the beginning to the one after.

    Args:
        text: to split.
        own: frontend of the text's language, which reads its own scripts.
        others: frontends of all other scripts.
    Raises:
        Rejected: stage "text"; no frontend reads a letter.
    """
    by_script = {name: reader(name, own, others) for name in scripts(text)}
    if len(set(by_script.values())) < 2 and None not in by_script.values():
        if text:
            yield next(iter(by_script.values()), own) or own, text
        return
    readers: list[Frontend | None] = []
    for char in text:
        name = script(char)
        readers.append(by_script[name] if name else readers[-1] if readers else None)
        if readers[-1] is None and name:
            raise UnreadCharacter(char, f"is {name}, not {own.language}")
    first = next(filter(None, readers), own)
    for frontend, group in groupby(zip(readers, text, strict=True), key=lambda pair: pair[0] or first):
        yield frontend, "".join(char for _, char in group)


def reader(script: str, own: Frontend, others: dict[str, Frontend]) -> Frontend | None:
    """Return the frontend that reads a script in a text of `own`; None if none does, or it is no letter's."""
    if not script:
        return None
    if (
        script in own.scripts
        or script in own.borrowed_scripts
        or (not own.scripts and script not in ("Han", "Kana", "Hangul"))
    ):
        return own
    return others.get(script)


_LANGUAGES = {"Kana": "ja", "Hangul": "ko", "Han": "zh", "Latin": "en"}
"""Languages by the script that tells them, the most telling first."""


def language_by_script(text: str, tag: str = "auto") -> str:
    """Return the language that the scripts of a text tell: Japanese if it has kana, Korean if it has Hangul, Chinese
    if it has its characters, English if it is in Latin letters.

    Args:
        text: to read.
        tag: `auto`, or `auto-yue` for Cantonese in place of Chinese.
    Raises:
        Rejected: stage "text"; it has other letters, or none.
    """
    found = scripts(text)
    language = next((code for known, code in _LANGUAGES.items() if known in found), "")
    if not language:
        written = " and ".join(sorted(found)) or "without letters"
        raise Rejected("text", f"{excerpt(text)} is {written}, which does not tell its language: name it")
    return "yue" if (language, tag) == ("zh", "auto-yue") else language


_UNIT = re.compile(r"[^。！？!?\n]*?(?:[。！？!?\n]+|(?<![A-Za-z])(?=[A-Za-z])|$)")
"""A sentence, or what stands before a word in Latin letters."""
_OF_CHINESE = frozenset("你妳她們這嗎吧呢麼說很")


def split_by_language(text: str, tag: str) -> list[tuple[str, str, int]]:
    """Split a text where its sentences are Chinese among Japanese ones; return each part with its language and index.

    A sentence without kana is Chinese if it has a character that JIS X 0208 lacks, or one of the commonest in Chinese.

    Args:
        text: to read.
        tag: as in `language_by_script`.
    Raises:
        Rejected: as `language_by_script`.
    """
    main = language_by_script(text, tag)
    if main != "ja":
        return [(main, text, 0)]
    chinese = "yue" if tag == "auto-yue" else "zh"
    parts: list[tuple[str, str, int]] = []
    for unit in filter(None, (match[0] for match in _UNIT.finditer(text))):
        found = {script(char) for char in unit}
        language, before, start = parts[-1] if parts else ("", "", 0)
        if "Kana" in found:
            told = main
        elif "Han" in found:
            told = chinese if any(map(_is_chinese, unit)) else main
        else:
            told = language or main
        if told == language:
            parts[-1] = (language, before + unit, start)
        else:
            parts.append((told, unit, start + len(before)))
    return parts


def _is_chinese(char: str) -> bool:
    if char in _OF_CHINESE:
        return True
    try:
        char.encode("iso2022_jp")
    except UnicodeEncodeError:
        return script(char) == "Han"
    return False
