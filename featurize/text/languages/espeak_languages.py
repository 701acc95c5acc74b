"""Read any other language that espeak-ng has a voice for, as symbols of the table `headrace-ipa`."""

from __future__ import annotations

import re
import unicodedata
from functools import cache, partial

from headrace.featurize.text import espeak
from headrace.featurize.text.languages import ordinal_numerals, short_forms, titles
from headrace.featurize.text.languages.frontend import (
    PUNCTUATION,
    Frontend,
    Reading,
    concatenate,
    excerpt,
    normalise_marks,
    token,
)
from headrace.featurize.text.languages.spoken_numbers import has_words, verbalise
from headrace.featurize.text.languages.unread import is_silent, unread
from headrace.featurize.text.languages.words_spoken import phones_by_word
from headrace.featurize.text.symbols import IPA
from headrace.store.errors import Rejected

_SYMBOL = re.compile("|".join(map(re.escape, sorted(IPA, key=len, reverse=True))))
SWITCHES = re.compile(r"\([A-Za-z0-9-]+\)")
"""What espeak-ng writes where it reads a word by the rules of another language."""
_SILENT = re.compile("[ _‿'|‖-]+")
_TIE = re.compile("[\u0361\u035c]")
_SAME = str.maketrans(
    {":": "ː", "g": "ɡ", "ʦ": "ts", "ʣ": "dz", "ʧ": "tʃ", "ʤ": "dʒ", "ʨ": "tɕ", "ʥ": "dʑ", "Φ": "ɸ"}
    | {"\u030a": "\u0325", "\u030d": "\u0329", "\u0311": "\u032f"}  # above a letter with a descender
    | dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True))
)
"""Spellings of the same sound."""
_LATE_ACCENT = re.compile("([ːˑ])([\u0300-\u036f]+)")

SEPARATOR = "\x1f"
"""Between the phones of espeak-ng: no name of a phone contains it."""
_MNEMONICS = str.maketrans(
    {'"': "\u0308", "^": "ʲ", "#": "\u0325", ".": "\u0323", "`": "ʼ", "[": "\u033b", "-": "\u0306", "+": "\u031f"}
    | {"?": "ʔ", "ε": "ʔɛ", "~": "\u0303"}  # the second is Danish, like ʔe and ʔi
    | {"A": "ɑ", "F": "f", "K": "tɬ", "N": "ŋ", "S": "ʃ", "X": "χ", "Z": "ʒ", "\x01": ""}
)
"""Characters of espeak-ng's own notation, which it writes where a phone has no name in IPA."""
_TONAL = frozenset({"chr", "cmn", "hak", "my", "shn", "th", "vi", "yue"})
"""Languages whose third tone espeak-ng calls `3` in its notation, and so writes as the vowel of that notation."""
_THIRD_TONE = re.compile("ɜ(?!ː)")
_UNNAMED = {"ɣ^": "ɣ\u031f", "[": "dzʲ", "[\x01": "dzʲ", "?": "y"}  # the last of Bulgarian and Oromo
_MARK = re.compile(r"((?<!\d)[.,]|[.,](?!\d)|[!?…]|(?<!\w)-|-(?!\w))")


_STOPS = str.maketrans("،؛፣፤፥၊՝؟՞।॥۔։።။។՜", ",,,,,,,??.......!")
"""Punctuation of other scripts."""
_APOSTROPHES = frozenset("'’׳״")
_MISREAD = frozenset("¹²³⁰⁴⁵⁶⁷⁸⁹")
"""espeak-ng reads an exponent as a number."""

MAX_WORD_BYTES = 150
"""espeak-ng 1.52 cuts a word of more bytes off, or overruns its buffers and crashes."""
_WORD_BY_WORD = frozenset({"my"})
"""Languages that espeak-ng 1.52 reads by single words only: of seven words in Burmese it repeats some, and crashes."""
_UNSPACED = re.compile(r"(?=[เ-ไ])|(?<!\u1039)(?=[\u1000-\u102a\u103f\u104e\u1075-\u1081](?![\u1039\u103a]))")
"""Where a syllable begins in scripts without spaces: Thai vowels that precede their consonant; Burmese and Shan."""


@cache
def make_frontend(language: str) -> Frontend:
    """Return a frontend for a language of espeak-ng.

    Raises:
        Rejected: stage "text"; espeak-ng has no such language.
    """
    if language not in espeak.voices():
        raise Rejected("text", f"nothing here reads language {language!r}: neither a frontend nor espeak-ng")
    return Frontend(
        language=language,
        scripts=frozenset(),
        libraries=("espeakng-loader",),
        version=5,
        normalise=partial(_normalise, language),
        read=partial(_read, language),
    )


def _normalise(language: str, text: str) -> str:
    """Unify punctuation, write abbreviations, ordinal numbers, signs and what is between figures in words, and drop
    marks that are not said.

    Raises:
        Rejected: stage "text"; espeak-ng says nothing for a sign, or reads it in another language.
    """
    spoken = text.translate(_STOPS)
    for write_out in (titles.write_out, short_forms.write_out, ordinal_numerals.write_out, verbalise):
        spoken = write_out(spoken, language)
    kept = normalise_marks(re.sub(r"\s*/\s*", ", ", spoken))
    return "".join(char for place, char in enumerate(kept) if _is_said(language, kept, place))


def _is_said(language: str, text: str, place: int) -> bool:
    """Return whether a character goes to espeak-ng rather than being a mark that is not said; or raise Rejected."""
    char, before, after = text[place], text[place - 1 : place], text[place + 1 : place + 2]
    kind = unicodedata.category(char)
    if kind[0] in "LZ" or kind == "Nd" or char in PUNCTUATION or (char in _APOSTROPHES and (before + after).strip()):
        return True
    if kind[0] == "M" and before and unicodedata.category(before)[0] in "LM":
        return True
    if is_silent(char) or char in "¿¡":
        return False
    if char in _MISREAD or not _says(language, char):
        raise unread(text, place, f"the language {language}")
    return True


@cache
def _says(language: str, char: str) -> bool:
    """Return whether espeak-ng has words for a sign: in the language itself, unless nothing better is at hand."""
    ipa = espeak.to_ipa(char, language, SEPARATOR)
    return bool(ipa.strip()) and not (SWITCHES.search(ipa) and has_words(language))


def _read(language: str, text: str) -> Reading:
    return concatenate(reading for piece in _MARK.split(text) if piece for reading in _read_piece(language, piece))


def _read_piece(language: str, piece: str) -> list[Reading]:
    """Read a piece of text between punctuation marks, all of it at once and with the phones of each word."""
    if piece in PUNCTUATION:
        return [token(piece, [piece])]
    parts = [part for span in re.split(r"(\s+)", piece) if span for part in _cut(span)]
    words = [part for part in parts if not part.isspace()]
    phones = iter(_phones_of_words(language, words) if words else ())
    return [token(part, () if part.isspace() else next(phones)) for part in parts]


def _cut(word: str) -> list[str]:
    """Cut a word that is too long for espeak-ng where its script allows.

    Raises:
        Rejected: stage "text"; it cannot be cut.
    """
    cut = [""]
    for syllable in _UNSPACED.split(word) if len(word.encode()) > MAX_WORD_BYTES else [word]:
        if len((cut[-1] + syllable).encode()) > MAX_WORD_BYTES:
            cut.append("")
        cut[-1] += syllable
        if len(syllable.encode()) > MAX_WORD_BYTES:
            reason = f"{excerpt(word)} has {len(word)} characters without a space"
            raise Rejected("text", f"{reason}: put spaces between its words")
    return [part for part in cut if part]


def _phones_of_words(language: str, words: list[str]) -> list[list[str]]:
    """Return the phones of each word of a piece of text.

    espeak-ng runs words together (`do not`, clitics) and reads others as several (numbers). Then its phones are
    aligned with those of each word by itself.
    """
    if language in _WORD_BY_WORD:
        return _phones_alone(language, words)
    groups = _spoken_groups(language, " ".join(words))
    if len(groups) == len(words) and all(groups) and not any(char.isdigit() for word in words for char in word):
        return groups
    return phones_by_word(_phones_alone(language, words), groups)


def _phones_alone(language: str, words: list[str]) -> list[list[str]]:
    """Return the phones of each word when it is read by itself.

    Raises:
        Rejected: stage "text"; a word has letters, and espeak-ng reads none of them.
    """
    alone = [[phone for group in _spoken_groups(language, word) for phone in group] for word in words]
    for word, phones in zip(words, alone, strict=True):
        if not phones and any(map(str.isalpha, word)):
            raise Rejected("text", f"the voice {language} of espeak-ng reads nothing in {excerpt(word)}")
    return alone


def _spoken_groups(language: str, text: str) -> list[list[str]]:
    """Return the phones of each group between two spaces of what espeak-ng says."""
    said = SWITCHES.sub("", espeak.to_ipa(text, language, SEPARATOR)).split(" ")
    return [[symbol for phone in group.split(SEPARATOR) for symbol in phone_symbols(phone, language)] for group in said]


def phone_symbols(phone: str, language: str) -> list[str]:
    """Convert a phone of a language of espeak-ng, as `to_ipa` names it, to symbols of the table.

    Raises:
        Rejected: stage "text"; the table lacks a letter.
    """
    name = phone.lstrip("ˈˌ")
    stress = phone[: len(phone) - len(name)]
    name = name.replace("_r", "˞").replace("_h", "ʰ")
    if language.partition("-")[0] in _TONAL:
        name = _THIRD_TONE.sub("3", name)
    return ipa_symbols(stress + (_UNNAMED.get(name) or name.translate(_MNEMONICS)))


def ipa_symbols(ipa: str) -> list[str]:
    """Convert IPA to symbols of the table. What has no sound, such as a tie, is left out; no two sounds are merged.

    Raises:
        Rejected: stage "text"; the table lacks a letter.
    """
    spelled = unicodedata.normalize("NFD", ipa).replace("c\u0327", "ç").translate(_SAME)
    spelled = _LATE_ACCENT.sub(r"\2\1", _TIE.sub("", spelled))
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
