"""Refuse what a frontend does not read, by name and place, so that no character is lost in silence."""

from __future__ import annotations

import re
import unicodedata

from headrace.featurize.text.languages.frontend import excerpt
from headrace.store.errors import Rejected

SILENT_MARKS = frozenset("\"'`´′″‵〃*_|‖\\^•※†‡¦¬¨¯¸・")
"""Marks that are not said, beside quotes and brackets of every script: emphasis, footnotes, points of lists."""
_SILENT_CATEGORIES = frozenset({"Ps", "Pe", "Pi", "Pf"})
"""Unicode's categories of brackets and quotes that open and close."""


def is_silent(char: str) -> bool:
    """Return whether a mark is not said in any language."""
    return char in SILENT_MARKS or unicodedata.category(char) in _SILENT_CATEGORIES


def keep_said(text: str, said: re.Pattern[str], language: str) -> str:
    """Return a text without the marks that are not said.

    Args:
        text: normalised text, all of it or the piece in the scripts of a frontend.
        said: matches a character that the frontend reads.
        language: named if it does not.
    Raises:
        Rejected: stage "text"; a character is neither read nor a mark that is not said.
    """
    kept = []
    for place, char in enumerate(text):
        if said.match(char):
            kept.append(char)
        elif not is_silent(char):
            raise unread(text, place, language)
    return "".join(kept)


def unread(text: str, place: int, language: str) -> Rejected:
    """Return the reason that the character at an index of a text is not read."""
    char = text[place]
    name = unicodedata.name(char, f"U+{ord(char):04X}")
    said = f"{char!r} ({name}), character {place + 1} of {excerpt(text)}"
    return Rejected("text", f"{said}, is not read in {language}: write it in words, or take it out")
