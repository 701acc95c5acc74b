"""The vocabulary of a CTC network, and the spelling of an utterance in its tokens.

Tokens are phones, in IPA, in ARPAbet or as symbols of our tables, or they are characters of a script. With phones, each
phone of an utterance is a token; with characters, each word is a sequence of tokens.

Shapes: P phones of an utterance.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from headrace.featurize.features import network_config
from headrace.featurize.forced_alignment.hmm_aligner import MARKS, base_phone
from headrace.featurize.text import ipa
from headrace.featurize.text.languages.frontend import Reading
from headrace.featurize.text.languages.scripts import script
from headrace.featurize.text.symbols import MARKS as MARKS_OF_SOUNDS
from headrace.featurize.text.symbols import TABLES
from headrace.store.errors import UsageError

FILE = "vocab.json"
DELIMITER = "|"
"""Token between words, in networks of characters."""
_SPECIAL = re.compile(r"<.*>|\[.*\]")
_IPA_ONLY = frozenset("ʃʒɹɑɾʁɪɐʌɜɡː")
"""IPA letters that do not occur in any orthography."""
_DIACRITICS = "".join(MARKS_OF_SOUNDS).replace("/", "")
_SYMBOLS = TABLES["headrace-ipa"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of one network."""

    tokens: Mapping[str, int]
    """Ids of the tokens of phones or characters, without special ones."""
    blank: int
    delimiter: int | None
    """Id of the token between words; None where there is no such token."""

    @property
    def is_phonemic(self) -> bool:
        """Whether tokens are phones: some token has IPA letters, or more than one letter."""
        return any(_IPA_ONLY & set(token) or (len(token) > 1 and token.isalnum()) for token in self.tokens)

    def tokens_of_phone(self, symbol: str) -> list[int]:
        """Return the token of a phone as a list; empty where there is none.

        The symbol is tried as it is, without stress or tone, in IPA, in lower case, and without length and diacritics.
        """
        bare = base_phone(symbol)
        spellings = (symbol.strip("/"), bare, *ipa.spellings(bare), bare.lower(), bare.rstrip(_DIACRITICS))
        return next(([self.tokens[span]] for span in spellings if span in self.tokens), [])

    def tokens_of_word(self, text: str) -> list[int]:
        """Return the tokens of a word, without characters that have none."""
        return [token for char in text.strip() for token in self._of_character(char)]

    def _of_character(self, char: str) -> list[int]:
        if char.isspace():
            return [] if self.delimiter is None else [self.delimiter]
        plain = "".join(part for part in unicodedata.normalize("NFD", char) if not unicodedata.combining(part))
        for form in (char, char.lower(), char.upper(), plain.lower(), plain.upper()):
            if form and all(part in self.tokens for part in form):
                return [self.tokens[part] for part in form]
        return []


def read(folder: Path, config: Mapping[str, Any], option: str) -> Vocabulary:
    """Read the vocabulary of a network's folder.

    Args:
        config: of the network.
        option: the option that named the folder, for messages.
    Raises:
        UsageError: the vocabulary is missing, has several languages, or does not fit the network.
    """
    file, size, blank = folder / FILE, config.get("vocab_size"), config.get("pad_token_id")
    try:
        found = network_config.read_json(file, network_config.MAX_VOCABULARY)
    except OSError as error:
        raise UsageError(f"{option} {folder} has no vocabulary: {FILE}: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{option} {file} is not JSON: {error}.") from error
    if isinstance(found, dict) and found and all(isinstance(tokens, dict) for tokens in found.values()):
        languages = ", ".join(list(found)[:5])
        raise UsageError(f"{option} {file} has a vocabulary for each of {languages}, ...: save the network with one.")
    numbers = range(size if isinstance(size, int) else 0)
    if not isinstance(found, dict) or not all(type(n) is int and n in numbers for n in found.values()):
        raise UsageError(f"{option} {file} does not number tokens of 0 to {len(numbers) - 1}, which the network has.")
    if not isinstance(blank, int) or blank not in found.values():
        raise UsageError(f"{option} {file} has no token {blank}, which the config calls pad_token_id: CTC's blank.")
    tokens = {
        unicodedata.normalize("NFC", token): number
        for token, number in found.items()
        if token.strip() and token != DELIMITER and number != blank and not _SPECIAL.fullmatch(token)
    }
    return Vocabulary(tokens, blank, found.get(DELIMITER))


@dataclass(slots=True)
class TokenSpan:
    """Some consecutive phones of an utterance, and the tokens that spell them."""

    phones: list[int]
    """Their numbers within the utterance."""
    tokens: list[int]
    may_pause: bool
    """Whether a pause before the span is possible."""
    before: list[int] = field(default_factory=list)
    """Tokens between the previous span and this one."""
    name: str = ""
    """Name for messages."""


def phone_spans(phones: np.ndarray, words: np.ndarray, vocabulary: Vocabulary) -> Iterator[TokenSpan]:
    """Yield a span for every phone with a sound of its own.

    Args:
        phones: (P,) symbol ids.
        words: (P,) the word of each phone.
    """
    pause, last = True, -1
    for number, (name, word) in enumerate(zip(map(_SYMBOLS.__getitem__, phones), words.tolist(), strict=True)):
        if name in MARKS:
            pause = True
        elif base_phone(name):
            yield TokenSpan([number], vocabulary.tokens_of_phone(name), pause or word != last, name=name)
            pause, last = False, word


def word_spans(reading: Reading, vocabulary: Vocabulary) -> Iterator[TokenSpan]:
    """Yield a span for every word, or for every character that is read by itself."""
    word_starts, last = reading.phone_word, 0
    for begin, end in pairwise([*np.unique(word_starts).tolist(), len(reading.text)]):
        phones = [n for n in np.flatnonzero(word_starts == begin).tolist() if base_phone(reading.phones[n])]
        if phones:
            text = reading.text[begin:end]
            is_separated = vocabulary.delimiter is not None and any(map(str.isspace, reading.text[last:begin]))
            before = [vocabulary.delimiter] if is_separated and vocabulary.delimiter is not None else []
            name = f"a word in {next(filter(None, map(script, text)), 'figures')}"
            yield TokenSpan(phones, vocabulary.tokens_of_word(text), True, before, name)
            last = begin


def merge_unspelled(spans: Sequence[TokenSpan]) -> list[TokenSpan]:
    """Return the spans with tokens, after merging the others into their neighbours in the same word.

    A word without tokens is dropped. Returns an empty list where fewer than half of the phones have tokens.
    """
    merged: list[TokenSpan] = []
    count = [(len(span.phones), bool(span.tokens)) for span in spans]
    for span, following in zip_longest(spans, spans[1:]):
        if span.tokens:
            merged.append(span)
        elif merged and not span.may_pause:
            merged[-1].phones += span.phones
        elif following and not following.may_pause:
            following.phones, following.may_pause = span.phones + following.phones, True
    if merged:
        merged[0].before = []
    return (
        merged
        if 2 * sum(phones for phones, has_tokens in count if has_tokens) >= sum(phones for phones, _ in count)
        else []
    )
