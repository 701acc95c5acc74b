"""What every language's frontend gives, and what they share: marks, and words for libraries that are missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.store.errors import Rejected

MARKS = frozenset(",.!?-…")
"""Marks that are symbols of their own. All others are spelled as one of them, or not at all."""
MARK_SPELLING = str.maketrans(
    {
        **dict.fromkeys(";:，；：、､·", ","),
        **dict.fromkeys("。．｡\n", "."),
        **dict.fromkeys("—―–‐‑‒", "-"),
        **dict.fromkeys("~～〜⋯", "…"),
        "！": "!",
        "？": "?",
    }
)
PHONE_WORD: Mapping[str, Any] = {"unit": "character", "text": "in words"}
"""Recipe of the feature of that name where texts are read here. Where phones come with their texts or times, characters
are those of the texts as they are."""
_RUN = re.compile(r"([,.!?…-])(?:\s*[,.!?…-])+")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a text is read."""

    text: str
    """Normalised: in words, as spoken, marks among them."""
    phones: tuple[str, ...]
    """P names of symbols."""
    word2ph: tuple[int, ...]
    """For each character of `text` how many phones begin with it. In Chinese and Cantonese these are the character's
    own; elsewhere the first character of a word has those of the whole word. They sum to P."""

    @property
    def phone_word(self) -> np.ndarray:
        """(P,) int16: at which character of `text` the word, or the character, of each phone begins."""
        return np.repeat(np.arange(len(self.text), dtype=np.int16), self.word2ph)

    def __post_init__(self) -> None:
        if len(self.word2ph) != len(self.text) or sum(self.word2ph) != len(self.phones):
            raise ValueError(f"{self.word2ph} does not share {len(self.phones)} phones out to {self.text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontend:
    """How a language is read."""

    language: str
    """ISO code."""
    scripts: frozenset[str]
    """Scripts of its own: a text without any is of another language."""
    also: frozenset[str] = frozenset()
    """Scripts of words that it borrows and reads itself."""
    libraries: tuple[str, ...]
    """Distributions whose version changes what is read."""
    version: int
    """Of our own rules; raised when they change what is read."""
    normalise: Callable[[str], str]
    """Figures, units and abbreviations of a whole text to words. Keeps what is of other scripts."""
    read: Callable[[str], Reading]
    """A normalised piece in its scripts. Raises Rejected("text")."""


def joined(readings: Iterable[Reading]) -> Reading:
    """One after the other."""
    parts = list(readings)
    return Reading(
        "".join(part.text for part in parts),
        tuple(phone for part in parts for phone in part.phones),
        tuple(count for part in parts for count in part.word2ph),
    )


def unit(text: str, phones: Iterable[str] = ()) -> Reading:
    """Characters that are read as one: a word, a mark; or a space, without phones."""
    symbols = tuple(phones)
    return Reading(text, symbols, (len(symbols), *[0] * (len(text) - 1)) if text else ())


def first_marks(text: str) -> str:
    """`text` with one spelling of every mark, and of a run of them the first: a pause is one pause."""
    return _RUN.sub(r"\1", text.translate(MARK_SPELLING))


def spoken_marks(text: str) -> Iterator[str]:
    """Stretches between marks, and single marks, in order; white space goes with the stretch before it."""
    yield from (piece for piece in re.split(r"([,.!?…-])", text) if piece)


@contextmanager
def extra(language: str) -> Iterator[None]:
    """Libraries that a language needs are imported in here.

    Raises:
        Rejected: stage "text"; one is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise Rejected("text", f"{language} is read by {error.name}: pip install 'headrace[{language}]'") from None


def pairs(text: str) -> dict[str, str]:
    """`km:千米 m:米` as a dictionary."""
    return dict(pair.rsplit(":", 1) for pair in text.split())


def excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
