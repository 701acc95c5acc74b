"""Define what a language frontend provides, and what all frontends share, such as punctuation."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from headrace.store.errors import Rejected

PUNCTUATION = frozenset(",.!?-…")
"""Punctuation marks in the symbol table. All others are mapped to one of these or dropped."""
PUNCTUATION_MAP = str.maketrans(
    {
        **dict.fromkeys(";:，；：、､·،؛٬፣፤՝", ","),
        **dict.fromkeys("。．｡\n।॥۔።։", "."),
        **dict.fromkeys("—―–‐‑‒", "-"),
        **dict.fromkeys("~～〜⋯", "…"),
        "！": "!",
        "？": "?",
        "؟": "?",
    }
)
PHONE_WORD_RECIPE: Mapping[str, Any] = {"unit": "character", "text": "in words"}
"""Recipe of the feature `phone_word` where a frontend reads the texts: it counts characters of the normalised text.
Where a corpus brings its own phones, characters are those of its original texts."""
_RUN = re.compile(r"([,.!?…-])(?:\s*[,.!?…-])+")


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of reading a text: its phones, and the characters that they belong to."""

    text: str
    """Normalised text: in words, as spoken, with punctuation."""
    phones: tuple[str, ...]
    """Names of P symbols."""
    word2ph: tuple[int, ...]
    """Number of phones of each character of `text`, P in all. In Chinese and Cantonese each character has its own;
    elsewhere the first character of a word has all phones of the word."""

    @property
    def phone_word(self) -> np.ndarray:
        """Return for each phone the index in `text` of the first character of its word or character: (P,) int16."""
        return np.repeat(np.arange(len(self.text), dtype=np.int16), self.word2ph)

    def __post_init__(self) -> None:
        if len(self.word2ph) != len(self.text) or sum(self.word2ph) != len(self.phones):
            raise ValueError(f"{self.word2ph} does not share {len(self.phones)} phones out to {self.text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontend:
    """The rules that read a language."""

    language: str
    """ISO code."""
    scripts: frozenset[str]
    """Scripts of the language: a text without any of them is in another language."""
    borrowed_scripts: frozenset[str] = frozenset()
    """Further scripts that the frontend reads, those of borrowed words."""
    libraries: tuple[str, ...]
    """Distributions whose version affects the phones."""
    version: int
    """Version of our own rules; raised when a change affects the phones."""
    normalise: Callable[[str], str]
    """Write numbers, units and abbreviations of a whole text in words. Keeps other scripts as they are."""
    read: Callable[[str], Reading]
    """Convert normalised text in the frontend's scripts to phones. Raises Rejected at stage "text"."""


class UnreadCharacter(Rejected):
    """A character is neither read nor a mark that is not said. The reason gets its place in the text as given."""

    def __init__(self, char: str, problem: str, *where: str) -> None:
        """
        Args:
            char: one character of the normalised text.
            problem: what is said of it, as in "is not read in zh: write it in words".
            where: its place, if it is known.
        """
        name = unicodedata.name(char, f"U+{ord(char):04X}")
        super().__init__("text", f"{char!r} ({name}){''.join(where)} {problem}")
        self.char, self.problem, self.where = char, problem, where

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), (self.char, self.problem, *self.where)

    def found_in(self, text: str, index: int) -> UnreadCharacter:
        """Return the error with its place in the text that was given; without one if the index is negative."""
        if index < 0:
            return UnreadCharacter(self.char, self.problem, f", which {excerpt(text)} becomes,")
        around = text if len(text) <= 60 else f"…{text[max(0, index - 25) : index + 25]}…"
        return UnreadCharacter(text[index], self.problem, f", character {index + 1} of {around!r},")


def concatenate(readings: Iterable[Reading]) -> Reading:
    """Return several readings, one after the other, as one."""
    parts = list(readings)
    if len(parts) == 1:
        return parts[0]
    return Reading(
        "".join(part.text for part in parts),
        tuple(chain.from_iterable(part.phones for part in parts)),
        tuple(chain.from_iterable(part.word2ph for part in parts)),
    )


def token(text: str, phones: Iterable[str] = ()) -> Reading:
    """Return the reading of characters that belong together: a word, a mark, or a space without phones."""
    symbols = tuple(phones)
    return Reading(text, symbols, (len(symbols), *[0] * (len(text) - 1)) if text else ())


def normalise_marks(text: str) -> str:
    """Unify the spelling of punctuation and keep only the first of several marks in a row."""
    return _RUN.sub(r"\1", text.translate(PUNCTUATION_MAP))


def split_at_marks(text: str) -> Iterator[str]:
    """Yield the stretches between punctuation marks and the marks themselves, in order."""
    yield from (piece for piece in re.split(r"([,.!?…-])", text) if piece)


@contextmanager
def optional_dependencies(language: str) -> Iterator[None]:
    """Reject the text if an import within the `with` block finds no such library.

    jieba's import of pkg_resources warns users of what only its authors can change: that is not shown.

    Raises:
        Rejected: stage "text"; a library of the language's extra is not installed.
    """
    warnings.filterwarnings("ignore", category=UserWarning, module=r"jieba\b")
    try:
        yield
    except ModuleNotFoundError as error:
        raise Rejected("text", f"{language} is read by {error.name}: pip install 'headrace[{language}]'") from None


def parse_pairs(text: str) -> dict[str, str]:
    """Parse `km:千米 m:米` as a dictionary."""
    return dict(pair.rsplit(":", 1) for pair in text.split())


def excerpt(text: str) -> str:
    """Return a text for a message, quoted and cut to 60 characters."""
    return repr(text if len(text) <= 60 else text[:59] + "…")
