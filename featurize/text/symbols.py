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
IPA: tuple[str, ...] = (
    *map("".join, product(("", "ˈ", "ˌ"), _VOWELS, ("", "ː", "\u0303"))),
    *map("".join, product(_CONSONANTS, ("", "ː", "ʲ", "ʰ"))),
    *"ˈˌ˥˦˧˨˩1234567",
)
"""Vowels with their stress, length and nasality; consonants with length, palatalisation and aspiration; tones. A stress
mark that does not precede a vowel is a symbol of its own."""

TABLES: dict[str, tuple[str, ...]] = {
    "gpt-sovits-v1": SYMBOLS[:322],
    "gpt-sovits-v2": SYMBOLS,
    "headrace-ipa": (*SYMBOLS, *(f"/{symbol}/" for symbol in IPA)),
}
"""Tables by name, in the order of their ids. IPA is written between slashes: its `a` is not upstream's `a`."""
DEFAULT_TABLE = "gpt-sovits-v2"

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
    return f"; {holding} has: build with --symbols {holding}" if holding else ""
