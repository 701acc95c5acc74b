"""Any other language that espeak-ng has a voice for: IPA, in the part of the symbol table that is our own."""

from __future__ import annotations

import re
import unicodedata
from functools import cache, partial

from headrace.featurize.text import espeak
from headrace.featurize.text.languages.frontend import MARKS, Frontend, Reading, excerpt, first_marks, joined, unit
from headrace.featurize.text.symbols import IPA
from headrace.store.errors import HeadraceError, Rejected

_SYMBOL = re.compile("|".join(map(re.escape, sorted(IPA, key=len, reverse=True))))
_SWITCHES = re.compile(r"\([a-z-]+\)")  # espeak-ng tells where it reads a word by another language's rules
_SILENT = re.compile("[ ?_‿'ˑːʷʰʲˠˤ˞\u0300-\u036f-]+")
_SAME = str.maketrans({":": "ː", "g": "ɡ", "ᵻ": "ɨ", "ɫ": "l", "ε": "ɛ"})
_MARK = re.compile(r"((?<!\d)[.,]|[.,](?!\d)|[!?…]|(?<!\w)-|-(?!\w))")


@cache
def frontend(language: str) -> Frontend:
    """
    Raises:
        Rejected: stage "text"; espeak-ng has no such language.
    """
    try:
        espeak.to_ipa("a", language)
    except HeadraceError:
        raise Rejected("text", f"nothing here reads language {language!r}: neither a frontend nor espeak-ng") from None
    return Frontend(
        language=language,
        scripts=frozenset(),
        libraries=("espeakng-loader",),
        version=1,
        normalise=_normalise,
        read=partial(_read, language),
    )


def _normalise(text: str) -> str:
    """Marks alone: espeak-ng reads figures itself, by the language's rules."""
    return "".join(char for char in first_marks(text) if char not in '¿¡"“”„«»‹›()[]{}<>*_|\\^')


def _read(language: str, text: str) -> Reading:
    return joined(reading for piece in _MARK.split(text) if piece for reading in _piece(language, piece))


def _piece(language: str, piece: str) -> list[Reading]:
    """Word by word where espeak-ng keeps words apart; where it runs some together, all in one."""
    if piece in MARKS:
        return [unit(piece, [piece])]
    parts = re.split(r"(\s+)", piece)
    words = piece.split()
    if not words:
        return [unit(piece)]
    said = _SWITCHES.sub("", espeak.to_ipa(piece, language)).split(" ")
    if len(said) != len(words):
        return [unit(piece, ipa_symbols("_".join(said)))]
    phones = iter(said)
    return [unit(part, ipa_symbols(next(phones)) if part.strip() else ()) for part in parts if part]


def ipa_symbols(ipa: str) -> list[str]:
    """IPA as symbols of the table; diacritics that the table has no room for are left out.

    Raises:
        Rejected: stage "text"; a letter is not in it.
    """
    spelled = unicodedata.normalize("NFD", ipa).replace("c\u0327", "ç").translate(_SAME)
    symbols, at = [], 0
    while at < len(spelled):
        if skipped := _SILENT.match(spelled, at):
            at = skipped.end()
            continue
        match = _SYMBOL.match(spelled, at)
        if match is None:
            raise Rejected("text", f"{spelled[at]!r} in {excerpt(ipa)} is not in the table of IPA")
        symbols.append(f"/{match[0]}/")
        at = match.end()
    return symbols
