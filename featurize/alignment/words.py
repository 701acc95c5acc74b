"""Find the word of every phone, and the position of that word in the text."""

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
from headrace.featurize.alignment.label_files import word_indices
from headrace.featurize.text import reading_options
from headrace.featurize.text.g2p import phonemise
from headrace.featurize.text.languages.frontend import PHONE_WORD_RECIPE
from headrace.featurize.text.reading_options import DEFAULT, ReadingOptions
from headrace.store.errors import Rejected
from headrace.store.reader import Store

NO_WORD = -1
"""In place of a character index: the phone belongs to no word, or its word is not known."""
_UNSPACED_SCRIPTS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED_SCRIPTS}]|[^\W{_UNSPACED_SCRIPTS}]+")
_EDGE_MARKS = re.compile(r"^\W+|\W+$")
_MIN_TOKENS, _MIN_COMMON_SHARE, _MIN_SIMILARITY = 2, 0.3, 0.6
SAME_WORDS, SAME_LETTERS = 0.5, 0.7
"""Least share of the words on either side that labels and a text have in common, and least similarity of what they are
spelled with, for labels to be the words of the text."""
_MAX_TOKENS = 2000
"""Matching takes quadratic time at worst."""


class _Token(NamedTuple):
    text: str
    start: int


def phone_word(words: Tier, ends_s: np.ndarray, text: str) -> np.ndarray:
    """Return, for every phone, the index of the character of the text where its word begins.

    A word is found by its spelling. The text between two words that are found, such as a number or an abbreviation, is
    treated as one word, however it is spoken.

    Args:
        words: of the same alignment as the phones. A phone belongs to the word that contains its middle.
        ends_s: (P,) where phones end, in seconds, ascending.
        text: of the utterance.
    Returns:
        (P,) int16. NO_WORD for pauses between words, and for all phones if there are no words or the text is too long.
    """
    indices = word_indices(words)
    positions = np.array([*_match_words([words.labels[n] for n in indices], text), NO_WORD])
    middles = (ends_s + np.append(0.0, ends_s[:-1])) / 2
    nearest = np.searchsorted(words.starts_s[indices], middles, side="right") - 1
    within = (nearest >= 0) & (middles < np.append(words.ends_s[indices], 0.0)[nearest])
    found = np.where(within, positions[nearest], NO_WORD)
    return (found if found.max() < 1 << 15 else np.full_like(found, NO_WORD)).astype(np.int16)


class Word(NamedTuple):
    """A word of an utterance."""

    label: str
    first: int
    """Its first phone."""
    stop: int
    """One past its last phone."""


def spoken_words(store: Store, number: int) -> list[Word]:
    """Return the words of an utterance of a store, without punctuation marks; none if they are not known."""
    if "phone_word" not in store.features:
        return []
    words_P, recipe = store.read("phone_word", number), store.features["phone_word"].recipe
    aligned = bool(store.column("aligned")[number])
    characters = indexed_text(
        store.texts[number],
        store.languages[number],
        words_P,
        recipe,
        aligned=aligned,
        options=reading_options.of_specs(store.features),
    )
    firsts = np.unique(words_P[words_P >= 0]).tolist() if characters else []
    labels = {
        first: _EDGE_MARKS.sub("", characters[first:stop]) for first, stop in pairwise((*firsts, len(characters)))
    }
    edges = [0, *(np.flatnonzero(np.diff(words_P)) + 1).tolist(), len(words_P)]
    found = (Word(labels.get(int(words_P[first]), ""), first, stop) for first, stop in pairwise(edges) if first < stop)
    return [word for word in found if word.label]


def indexed_text(
    text: str,
    language: str,
    words_P: np.ndarray,
    recipe: Mapping[str, Any],
    *,
    aligned: bool,
    options: ReadingOptions = DEFAULT,
) -> str:
    """Return the text whose characters `phone_word` indexes.

    It is the normalised text if Headrace phonemised it, and otherwise the text that came with the times or phones. It
    is empty if it is not known.

    Args:
        text: of the utterance.
        language: its ISO code.
        words_P: its `phone_word`.
        recipe: of `phone_word`.
        aligned: the utterance came with times.
        options: by which the store's phones were made.
    """
    if not (words_P >= 0).any():
        return ""
    if aligned or recipe != PHONE_WORD_RECIPE:
        return text if words_P.max() < len(text) else ""
    try:
        reading = phonemise(text, language, options)
    except Rejected:
        return ""
    return reading.text if np.array_equal(reading.phone_word, words_P) else ""


def check_words_match_text(words: Tier, text: str) -> None:
    """Raise Rejected, stage "align", if the words are those of another text.

    A text with digits, in another script or of a single word cannot be compared and is accepted.
    """
    spoken, written = _tokenise(words.labels[n] for n in word_indices(words)), _tokenise([text])
    fewer = min(len(spoken), len(written))
    spoken_text, written_text = ("".join(token.text for token in tokens) for tokens in (spoken, written))
    has_digits = any(map(str.isdigit, written_text))
    if fewer < _MIN_TOKENS or has_digits or spoken_text.isascii() != written_text.isascii():
        return
    common = Counter(token.text for token in spoken) & Counter(token.text for token in written)
    similarity = SequenceMatcher(None, spoken_text, written_text).quick_ratio
    if common.total() < _MIN_COMMON_SHARE * fewer and similarity() < _MIN_SIMILARITY:
        beginning = " ".join(token.text for token in spoken[:6])
        raise Rejected("align", f"its words, {beginning[:60]!r} ..., are not those of the text: align it again")


def word_count(text: str) -> int:
    """Return the number of words of a text; in scripts without spaces, of characters."""
    return len(_tokenise([text]))


def have_words_of(labels: Iterable[str], text: str) -> bool:
    """Return whether labels and a text have SAME_WORDS in common."""
    spoken, written = (Counter(token.text for token in _tokenise(texts)) for texts in (labels, [text]))
    common = (spoken & written).total()
    return common > 0 and common >= SAME_WORDS * max(spoken.total(), written.total())


def have_letters_of(labels: Iterable[str], text: str) -> bool:
    """Return whether labels are spelled as a text is, by SAME_LETTERS, though their words are cut otherwise."""
    spoken, written = ("".join(token.text for token in _tokenise(texts))[:_MAX_TOKENS] for texts in (labels, [text]))
    return SequenceMatcher(None, spoken, written, autojunk=False).ratio() >= SAME_LETTERS


def _tokenise(texts: Iterable[str]) -> list[_Token]:
    return [_Token(found[0].casefold(), found.start()) for text in texts for found in _TOKEN.finditer(text)]


def _match_words(labels: Sequence[str], text: str) -> list[int]:
    """Return for each label the index of the character of the text where it begins, ascending."""
    tokens_of_labels = [_tokenise([label]) for label in labels]
    firsts = np.cumsum([0, *map(len, tokens_of_labels)]).tolist()
    spoken, written = [token.text for tokens in tokens_of_labels for token in tokens], _tokenise([text])
    if not written or max(len(spoken), len(written)) > _MAX_TOKENS:
        return [NO_WORD] * len(labels)
    matcher = SequenceMatcher(None, spoken, [token.text for token in written], autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if block.size]
    return [written[_match_token(first, blocks, len(written))].start for first in firsts[:-1]]


def _match_token(token: int, blocks: Sequence[Match], count: int) -> int:
    """Return the index of the written token that a spoken one matches, or of the first that stands in its place.

    Args:
        token: index of the spoken token.
        blocks: matching blocks of spoken and written tokens.
        count: of written tokens.
    """
    index = bisect_right(blocks, token, key=lambda block: block.a)
    block = blocks[index - 1] if index else None
    if block and token < block.a + block.size:
        return block.b + token - block.a
    unmatched = block.b + block.size if block else 0
    next_matched = blocks[index].b if index < len(blocks) else count
    return unmatched if unmatched < next_matched else max(unmatched - 1, 0)
