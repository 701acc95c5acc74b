"""Words: which phones are of one, and where it stands in the text."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import Match, SequenceMatcher
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from headrace.featurize.alignment.intervals import Tier
from headrace.featurize.alignment.label_files import said
from headrace.featurize.text.g2p import phonemise
from headrace.featurize.text.languages.frontend import PHONE_WORD
from headrace.store.errors import Rejected
from headrace.store.reader import Store

NONE = -1
"""In the place of a character: of no word, or nobody knows."""
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_ENDS = re.compile(r"^\W+|\W+$")
_FEWEST, _COMMON, _ALIKE = 2, 0.3, 0.6
_LONGEST = 2000
"""Tokens. Matching takes the square of it at worst."""


class _Token(NamedTuple):
    text: str
    start: int


def phone_word(words: Tier, ends_s: np.ndarray, text: str) -> np.ndarray:
    """At which character of the text the word begins that is said while a phone is.

    A word is found by its spelling. What stands in the text between two words that are found, a figure or an
    abbreviation, is one word, whatever is said for it.

    Args:
        words: of the same alignment as the phones; a phone is of the word that its middle lies in.
        ends_s: (P,) where phones end, ascending.
    Returns:
        (P,) int16, NONE for pauses between words, and for all where no words are named or the text is too long.
    """
    named = said(words)
    places = np.array([*_places([words.labels[n] for n in named], text), NONE])
    middles = (ends_s + np.append(0.0, ends_s[:-1])) / 2
    nearest = np.searchsorted(words.starts_s[named], middles, side="right") - 1
    within = (nearest >= 0) & (middles < np.append(words.ends_s[named], 0.0)[nearest])
    found = np.where(within, places[nearest], NONE)
    return (found if found.max() < 1 << 15 else np.full_like(found, NONE)).astype(np.int16)


class Word(NamedTuple):
    """Of an utterance."""

    label: str
    first: int
    stop: int
    """Its phones: the first, and one past the last."""


def spoken(store: Store, number: int) -> list[Word]:
    """The words of an utterance of a store, without marks; none where nobody knows them."""
    if "phone_word" not in store.features:
        return []
    words_P, recipe = store.read("phone_word", number), store.features["phone_word"].recipe
    timed = bool(store.column("aligned")[number])
    characters = counted(store.texts[number], store.languages[number], words_P, recipe, timed=timed)
    firsts = np.unique(words_P[words_P >= 0]).tolist() if characters else []
    labels = {first: _ENDS.sub("", characters[first:stop]) for first, stop in pairwise((*firsts, len(characters)))}
    edges = [0, *(np.flatnonzero(np.diff(words_P)) + 1).tolist(), len(words_P)]
    found = (Word(labels.get(int(words_P[first]), ""), first, stop) for first, stop in pairwise(edges) if first < stop)
    return [word for word in found if word.label]


def counted(written: str, language: str, words_P: np.ndarray, recipe: Mapping[str, Any], *, timed: bool) -> str:
    """The characters that `phone_word` counts: of the text in words where it was read here, else of the text as it
    came with its times or phones. Empty where nobody knows.

    Args:
        recipe: of `phone_word`.
        timed: the utterance came with times.
    """
    if not (words_P >= 0).any():
        return ""
    if timed or recipe != PHONE_WORD:
        return written if words_P.max() < len(written) else ""
    try:
        reading = phonemise(written, language)
    except Rejected:
        return ""
    return reading.text if np.array_equal(reading.phone_word, words_P) else ""


def check_text(words: Tier, text: str) -> None:
    """Raise Rejected("align") where the words are those of another text. Of a text in figures, in another script or of
    a single word nobody can say."""
    spoken, written = _tokens(words.labels[n] for n in said(words)), _tokens([text])
    fewer = min(len(spoken), len(written))
    ours, theirs = ("".join(token.text for token in tokens) for tokens in (spoken, written))
    if fewer < _FEWEST or any(map(str.isdigit, theirs)) or ours.isascii() != theirs.isascii():
        return
    common = Counter(token.text for token in spoken) & Counter(token.text for token in written)
    if common.total() < _COMMON * fewer and SequenceMatcher(None, ours, theirs).quick_ratio() < _ALIKE:
        begin = " ".join(token.text for token in spoken[:6])
        raise Rejected("align", f"its words, {begin[:60]!r} ..., are not those of the text: align it again")


def _tokens(texts: Iterable[str]) -> list[_Token]:
    return [_Token(found[0].casefold(), found.start()) for text in texts for found in _TOKEN.finditer(text)]


def _places(labels: Sequence[str], text: str) -> list[int]:
    """For each label the character of the text where it begins; ascending."""
    spoken = [_tokens([label]) for label in labels]
    firsts = np.cumsum([0, *map(len, spoken)]).tolist()
    flat, written = [token.text for tokens in spoken for token in tokens], _tokens([text])
    if not written or max(len(flat), len(written)) > _LONGEST:
        return [NONE] * len(labels)
    matcher = SequenceMatcher(None, flat, [token.text for token in written], autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if block.size]
    return [written[_place(first, blocks, len(written))].start for first in firsts[:-1]]


def _place(token: int, blocks: Sequence[Match], count: int) -> int:
    """Which token of the text a spoken one is, or the first of those that stand in its place."""
    after = bisect_right(blocks, token, key=lambda block: block.a)
    before = blocks[after - 1] if after else None
    if before and token < before.a + before.size:
        return before.b + token - before.a
    free = before.b + before.size if before else 0
    following = blocks[after].b if after < len(blocks) else count
    return free if free < following else max(free - 1, 0)
