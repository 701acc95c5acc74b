"""Which utterances have a text that came before, as a column that a condition can name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.quality import near_duplicates
from headrace.store.schema import FeatureSpec


@dataclass(frozen=True, kw_only=True)
class Repeated(Derived):
    """1 where letters and digits of the text are those of an utterance before it in the store, else 0. Utterances that
    a store grows by are compared with texts that were repeated before it grew."""

    name, needs, axis, dtype, learns = "repeated", (), "utterance", "int16", True

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"unit": "text", "normalised": "NFKC casefold alnum"}

    def learn(self, parts: Sequence[Part], note: Callable[[str], None]) -> dict[str, np.ndarray]:
        """Of every text that comes more than once its key, ascending, and the key of the first one's id."""
        texts = np.concatenate([_keys(part) for part in parts])
        ids = np.concatenate([near_duplicates.keys(part.strings("id")) for part in parts])
        found, first, counts = np.unique(texts, return_index=True, return_counts=True)
        more = (counts > 1) & (found != near_duplicates.NO_TEXT)
        note(f"{more.sum():,} texts come more than once")
        return {"texts": found[more], "firsts": ids[first[more]]}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        learned = part.learned(self.name)
        texts, firsts = learned["texts"], learned["firsts"]
        keys, ids = _keys(part), near_duplicates.keys(part.strings("id"))
        places = np.searchsorted(texts, keys)
        there = np.append(texts, near_duplicates.NO_TEXT)[places] == keys
        again = there & (keys != near_duplicates.NO_TEXT) & (np.append(firsts, near_duplicates.NO_TEXT)[places] != ids)
        yield from again.astype(np.int16)[:, None]


def _keys(part: Part) -> np.ndarray:
    return near_duplicates.keys(list(map(near_duplicates.normalised, part.strings("text"))))
