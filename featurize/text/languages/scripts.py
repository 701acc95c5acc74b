"""Which script a letter is of, and which frontend reads it in a text of some language."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import groupby

from headrace.featurize.text.languages.frontend import Frontend, excerpt
from headrace.store.errors import Rejected

_SCRIPTS = {
    "LATIN": "Latin", "CJK": "Han", "IDEOGRAPHIC": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana", "HANGUL": "Hangul",
    "KATAKANA-HIRAGANA": "Kana", "FEMININE": "Latin", "MASCULINE": "Latin",
}  # fmt: skip


@cache
def script(char: str) -> str:
    """Latin, Han, Kana, Hangul, or the first word of the letter's name; empty where it is no letter."""
    if not char.isalpha() and char != "〇":
        return ""
    first = unicodedata.name(char, "UNKNOWN").split()[0]
    return _SCRIPTS.get(first, first.capitalize())


def pieces(text: str, own: Frontend, others: dict[str, Frontend]) -> Iterator[tuple[Frontend, str]]:
    """`text` cut where another frontend has to read on, with the frontend of each piece.

    What is no letter goes with what is before it, at the beginning with what comes after.

    Args:
        own: of the text's language: it reads what is of its scripts.
        others: by script, who reads the rest.
    Raises:
        Rejected: stage "text"; nobody reads a letter.
    """
    readers: list[Frontend | None] = []
    for place, char in enumerate(text):
        readers.append(_reader(script(char), own, others) if script(char) else readers[-1] if readers else None)
        if readers[-1] is None and script(char):
            raise Rejected(
                "text", f"{char!r}, character {place + 1} of {excerpt(text)}, is {script(char)}, not {own.language}"
            )
    first = next((reader for reader in readers if reader), own)
    for reader, group in groupby(zip(readers, text, strict=True), key=lambda pair: pair[0] or first):
        yield reader, "".join(char for _, char in group)


def _reader(script: str, own: Frontend, others: dict[str, Frontend]) -> Frontend | None:
    if script in own.scripts or script in own.also or (not own.scripts and script not in ("Han", "Kana", "Hangul")):
        return own
    return others.get(script)
