"""What a CTC network's tokens stand for, and how an utterance is spelt with them.

A vocabulary is of phones, in IPA, in ARPAbet or as the symbols of a table; or of the characters of some script. Of
phones, each of an utterance's is a token. Of characters, each of its words is several.

P phones of an utterance.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from headrace.featurize.forced_alignment.hmm_aligner import MARKS, base
from headrace.featurize.text import ipa
from headrace.featurize.text.languages.frontend import Reading
from headrace.featurize.text.languages.scripts import script
from headrace.featurize.text.symbols import TABLES
from headrace.store.errors import UsageError

FILE = "vocab.json"
DELIMITER = "|"
"""What networks of characters are trained to hear between words."""
_SPECIAL = re.compile(r"<.*>|\[.*\]")
_NO_ALPHABETS = frozenset("ʃʒɹɑɾʁɪɐʌɜɡː")
"""Letters of IPA that no orthography has."""
_NUANCES = "ːʲʰ\u0303"
_NAMES = TABLES["headrace-ipa"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Of one network."""

    tokens: Mapping[str, int]
    """Those that stand for something spoken."""
    blank: int
    delimiter: int | None
    """Between words, where there is such a token."""

    @property
    def of_phones(self) -> bool:
        """Whether a token has letters that no orthography has, or several."""
        return any(_NO_ALPHABETS & set(token) or (len(token) > 1 and token.isalnum()) for token in self.tokens)

    def of_symbol(self, symbol: str) -> list[int]:
        """The token of a phone: as it is, without its stress or tone, in IPA, in lower case, without its length."""
        bare = base(symbol)
        spellings = (symbol.strip("/"), bare, *ipa.spellings(bare), bare.lower(), bare.rstrip(_NUANCES))
        return next(([self.tokens[one]] for one in spellings if one in self.tokens), [])

    def of_characters(self, written: str) -> list[int]:
        """The tokens of a word; what none stands for is left out."""
        return [token for char in written.strip() for token in self._of_character(char)]

    def _of_character(self, char: str) -> list[int]:
        if char.isspace():
            return [] if self.delimiter is None else [self.delimiter]
        plain = "".join(part for part in unicodedata.normalize("NFD", char) if not unicodedata.combining(part))
        for form in (char, char.lower(), char.upper(), plain.lower(), plain.upper()):
            if form and all(part in self.tokens for part in form):
                return [self.tokens[part] for part in form]
        return []


def read(folder: Path, config: Mapping[str, Any], option: str) -> Vocabulary:
    """
    Args:
        config: of the network.
        option: that named the folder, for messages.
    Raises:
        UsageError: there is none, it is of several languages, or not of this network.
    """
    file, size, blank = folder / FILE, config.get("vocab_size"), config.get("pad_token_id")
    try:
        found = json.loads(file.read_bytes())
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
    spoken = {
        unicodedata.normalize("NFC", token): number
        for token, number in found.items()
        if token.strip() and token != DELIMITER and number != blank and not _SPECIAL.fullmatch(token)
    }
    return Vocabulary(spoken, blank, found.get(DELIMITER))


@dataclass(slots=True)
class Stretch:
    """Of an utterance: phones, and the tokens that spell them together."""

    phones: list[int]
    """Which of the utterance's."""
    tokens: list[int]
    may_pause: bool
    """Whether there may be a pause before it."""
    before: list[int] = field(default_factory=list)
    """Tokens that are heard between the last stretch and this one."""
    name: str = ""
    """What a person calls it."""


def by_phones(phones: np.ndarray, words: np.ndarray, vocabulary: Vocabulary) -> Iterator[Stretch]:
    """Every phone that sounds.

    Args:
        phones: (P,) symbol ids.
        words: (P,) which word each belongs to.
    """
    pause, last = True, -1
    for number, (name, word) in enumerate(zip(map(_NAMES.__getitem__, phones), words.tolist(), strict=True)):
        if name in MARKS:
            pause = True
        elif base(name):
            yield Stretch([number], vocabulary.of_symbol(name), pause or word != last, name=name)
            pause, last = False, word


def by_characters(reading: Reading, vocabulary: Vocabulary) -> Iterator[Stretch]:
    """Every word, or character that is read by itself."""
    owners, last = reading.phone_word, 0
    for begin, end in pairwise([*np.unique(owners).tolist(), len(reading.text)]):
        phones = [n for n in np.flatnonzero(owners == begin).tolist() if base(reading.phones[n])]
        if phones:
            written = reading.text[begin:end]
            apart = vocabulary.delimiter is not None and any(map(str.isspace, reading.text[last:begin]))
            before = [vocabulary.delimiter] if apart and vocabulary.delimiter is not None else []
            name = f"a word in {next(filter(None, map(script, written)), 'figures')}"
            yield Stretch(phones, vocabulary.of_characters(written), True, before, name)
            last = begin


def spelt(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Those that have tokens. The phones of one without join its neighbour in the same word; a word without any is left
    out. Nothing where fewer than half of the phones have tokens."""
    line: list[Stretch] = []
    count = [(len(one.phones), bool(one.tokens)) for one in stretches]
    for one, following in zip_longest(stretches, stretches[1:]):
        if one.tokens:
            line.append(one)
        elif line and not one.may_pause:
            line[-1].phones += one.phones
        elif following and not following.may_pause:
            following.phones, following.may_pause = one.phones + following.phones, True
    if line:
        line[0].before = []
    return line if 2 * sum(spoken for spoken, has in count if has) >= sum(spoken for spoken, _ in count) else []
