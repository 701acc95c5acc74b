"""Read any other language that espeak-ng has a voice for, as symbols of the table `headrace-ipa`."""

from __future__ import annotations

import re
import unicodedata
from functools import cache, partial

from headrace.featurize.text import espeak
from headrace.featurize.text.languages.frontend import (
    PUNCTUATION,
    Frontend,
    Reading,
    concatenate,
    excerpt,
    normalise_marks,
    token,
)
from headrace.featurize.text.symbols import IPA
from headrace.store.errors import HeadraceError, Rejected

_SYMBOL = re.compile("|".join(map(re.escape, sorted(IPA, key=len, reverse=True))))
_SWITCHES = re.compile(r"\([a-z-]+\)")  # espeak-ng says where it reads a word by the rules of another language
_SILENT = re.compile("[ ?_‿'ˑːʷʰʲˠˤ˞\u0300-\u036f-]+")
_SAME = str.maketrans({":": "ː", "g": "ɡ", "ᵻ": "ɨ", "ɫ": "l", "ε": "ɛ"})
_MARK = re.compile(r"((?<!\d)[.,]|[.,](?!\d)|[!?…]|(?<!\w)-|-(?!\w))")


@cache
def make_frontend(language: str) -> Frontend:
    """Return a frontend for a language of espeak-ng.

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
    """Unify punctuation only: espeak-ng itself reads numbers by the rules of the language."""
    return "".join(char for char in normalise_marks(text) if char not in '¿¡"“”„«»‹›()[]{}<>*_|\\^')


def _read(language: str, text: str) -> Reading:
    return concatenate(reading for piece in _MARK.split(text) if piece for reading in _read_piece(language, piece))


def _read_piece(language: str, piece: str) -> list[Reading]:
    """Read word by word if espeak-ng keeps the words apart; if it runs some together, as one token."""
    if piece in PUNCTUATION:
        return [token(piece, [piece])]
    parts = re.split(r"(\s+)", piece)
    words = piece.split()
    if not words:
        return [token(piece)]
    said = _SWITCHES.sub("", espeak.to_ipa(piece, language)).split(" ")
    if len(said) != len(words):
        return [token(piece, ipa_symbols("_".join(said)))]
    phones = iter(said)
    return [token(part, ipa_symbols(next(phones)) if part.strip() else ()) for part in parts if part]


def ipa_symbols(ipa: str) -> list[str]:
    """Convert IPA to symbols of the table, without the diacritics that it lacks.

    Raises:
        Rejected: stage "text"; the table lacks a letter.
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
