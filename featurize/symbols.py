"""The symbol table: GPT-SoVITS v2's 732 phones and marks. A symbol's id is its line in `symbols_v2.txt`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

import numpy as np

from store.errors import Rejected

SYMBOLS: tuple[str, ...] = tuple(
    resources.files("featurize").joinpath("symbols_v2.txt").read_text(encoding="utf-8").splitlines()
)
"""In the order of their ids. Id 0, "!", is also what upstream pads with: lengths tell pads from marks."""

SILENCE = "SP"

_IDS = {symbol: number for number, symbol in enumerate(SYMBOLS)}


def ids(symbols: Iterable[str]) -> np.ndarray:
    """Ids, int16, shape (P,). Raises Rejected("text") for a symbol that the table does not hold."""
    try:
        return np.array([_IDS[symbol] for symbol in symbols], dtype=np.int16)
    except KeyError as error:
        raise Rejected("text", f"the symbol table has no {error.args[0]!r}") from None
