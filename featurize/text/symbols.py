"""Symbol tables: the phones and marks that ids stand for.

There are three, each a prefix of the next, so that an id means the same symbol in all of them: the 322 symbols of
GPT-SoVITS v1, the 732 of v2, and ours, which continues with IPA for all other languages. A symbol's id is its index.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from itertools import product

import numpy as np

from headrace.store.errors import Rejected
from headrace.store.schema import Stage

SYMBOLS: tuple[str, ...] = tuple(
    resources.files("headrace.featurize.text").joinpath("symbols_v2.txt").read_text(encoding="utf-8").splitlines()
)
"""Symbols of GPT-SoVITS v2. Upstream also pads with id 0, "!": only lengths tell padding from punctuation."""

_VOWELS = "i y ɨ ʉ ɯ u ɪ ʏ ʊ e ø ɘ ɵ ɤ o ə ɛ œ ɜ ɞ ʌ ɔ æ ɐ a ɶ ɑ ɒ ɚ ɝ".split()
_CONSONANTS = (
    "p b t d ʈ ɖ c ɟ k ɡ q ɢ ʔ m ɱ n ɳ ɲ ŋ ɴ ʙ r ʀ ɾ ɽ ɸ β f v θ ð s z ʃ ʒ ʂ ʐ ç ʝ x ɣ χ ʁ ħ ʕ h ɦ ɬ ɮ ʋ ɹ ɻ j ɰ "
    "l ɭ ʎ ʟ w ʍ ɥ ɕ ʑ ɧ ɓ ɗ ɠ ts dz tʃ dʒ tɕ dʑ ʈʂ ɖʐ pf"
).split()
_STRESSES = ("", "ˈ", "ˌ")
_FIRST_IPA = (
    *map("".join, product(_STRESSES, _VOWELS, ("", "ː", "\u0303"))),
    *map("".join, product(_CONSONANTS, ("", "ː", "ʲ", "ʰ"))),
    *"ˈˌ˥˦˧˨˩1234567",
)
"""Symbols that stores and models made by earlier versions may hold: their ids stay."""
_MARKS = (
    "\u0303 \u0308 \u0306 \u0304 \u0301 \u0300 \u030b \u030f \u030c \u0302 \u031a \u0323 \u0324 \u0325 \u0329 "
    "\u032a \u032c \u032f \u0330 \u0339 \u031c \u031d \u031e \u031f \u0320 \u0318 \u0319 \u033a \u033b \u033c "
    "\u033d \u0348 ː ˑ ʰ ʱ ʲ ʷ ˠ ˤ ʼ ˞ ᵝ ⁿ ᵐ ᵑ ˡ ᵊ ᶣ ꜛ ꜜ ↗ ↘"
).split()
_MORE_LETTERS = "ɫ ʄ ʛ ɺ ʜ ʢ ʡ ʘ ǀ ǃ ǂ ǁ ɿ ʅ".split()
_MARKED_VOWELS = (
    "ᵻ ᵻː a\u0306 e\u0306 i\u0306 o\u0306 u\u0306 y\u0306 ə\u0306 ɛ\u0306 ɔ\u0306 a\u0308 u\u0308 u\u0308ː a\u0323 "
    "i\u0323 u\u0323 e\u031e o\u031e e\u032a i\u032a i\u032f u\u032f ɐ\u032f ɔ\u031f ɪʲ ɯᵝ aʼ oʼ a˞ aː˞ e˞ o˞ ɔ˞ ɪ˞"
).split()
_MARKED_CONSONANTS = (
    "r\u031d r\u031d\u0325 r\u0323 s\u0323 ts\u0323 s\u033a s\u033b ts\u033a ts\u033b t\u033b d\u033b tʃ\u0303 "
    "dʒ\u0303 k\u0303 ɡ\u0303 ɣ\u0303 ʃ\u0303 t\u0306 d\u0306 k\u0306 l\u0306 p\u0306 q\u0306 s\u0306 z\u0306 "
    "ŋ\u0306 l\u0329ː r\u0329ː ɫ\u0329"
).split()
IPA: tuple[str, ...] = (
    *_FIRST_IPA,
    *_MARKS,
    *"089",
    *_MORE_LETTERS,
    *map("".join, product(_STRESSES, (*(f"{vowel}\u0303ː" for vowel in _VOWELS), *_MARKED_VOWELS))),
    *map("".join, product(_CONSONANTS, ("ʷ", "ˤ", "ʼ", "\u032a", "\u0325", "\u0329"))),
    *_MARKED_CONSONANTS,
)
"""Vowels with their stress, length and nasality; consonants with length, palatalisation, aspiration and others; tones;
and every further phone of espeak-ng's languages. Accents are decomposed (NFD), and stand before a mark of length.

A mark that no letter of the table has is a symbol of its own, behind its letter, and so is stress that does not precede
a vowel. No two sounds become the same symbols."""
MARKS = frozenset(f"/{mark}/" for mark in _MARKS)
"""Symbols that say how the one before them is spoken, without a sound of their own."""

TABLES: dict[str, tuple[str, ...]] = {
    "gpt-sovits-v1": SYMBOLS[:322],
    "gpt-sovits-v2": SYMBOLS,
    "headrace-ipa": (*SYMBOLS, *(f"/{symbol}/" for symbol in IPA)),
}
"""Tables by name, in the order of their ids. IPA is written between slashes: its `a` is not upstream's `a`."""
FIRST_IPA_COUNT = len(SYMBOLS) + len(_FIRST_IPA)
"""Symbols that `headrace-ipa` had when it was first used: what was learned then knows no others."""
DEFAULT_TABLE = "gpt-sovits-v2"
IPA_TABLE = "headrace-ipa"

SILENCE = "SP"
BREATH = "SP2"
"""A symbol of upstream's table that its frontends never produce."""

_IDS = {symbol: number for number, symbol in enumerate(TABLES["headrace-ipa"])}


def ids(symbols: Iterable[str], table: str = DEFAULT_TABLE, stage: Stage = "text") -> np.ndarray:
    """Return the ids of P symbols, (P,) int16.

    Raises:
        Rejected: at `stage`; the table lacks a symbol. The message says which one and where it is.
    """
    known = len(TABLES[table])
    found = []
    for place, symbol in enumerate(symbols, 1):
        number = _IDS.get(symbol, known)
        if number >= known:
            where = f"{symbol[:40]!r}, phone {place}{_other_table_hint(symbol)}"
            raise Rejected(stage, f"the symbol table {table} has no {where}")
        found.append(number)
    return np.array(found, dtype=np.int16)


def _other_table_hint(symbol: str) -> str:
    holding = next((name for name, table in TABLES.items() if symbol in table), "")
    return f"; {holding} has: build into another --out, with --symbols {holding}" if holding else ""
