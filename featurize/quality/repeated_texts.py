"""The feature `repeated`: utterances whose text occurred before, as a column for `--where` conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.featurize.features import learned_state
from headrace.featurize.features.derived import Derived, LearningLog, Part
from headrace.featurize.quality import near_duplicates
from headrace.store.schema import FeatureSpec

BY_SPEAKER = "by_speaker"
"""An array that stores lack in which texts were compared over all speakers."""


@dataclass(frozen=True, kw_only=True)
class RepeatedText(Derived):
    """1 where an earlier utterance of the speaker has the same letters and digits in its text, else 0.

    Utterances that are added later are compared with the texts that were repeated when the feature was computed first.
    """

    name, needs, axis, dtype, learns = "repeated", (), "utterance", "int16", True

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"unit": "text", "normalised": "NFKC casefold alnum"}

    def learn(self, parts: Sequence[Part], log: LearningLog) -> dict[str, np.ndarray]:
        """Return the keys of all repeated texts, ascending, and for each the key of the id of its first utterance."""
        texts = np.concatenate([_spoken(part) for part in log.each(parts, "parts read")])
        ids = np.concatenate([near_duplicates.text_keys(part.strings("id")) for part in parts])
        unique, first, counts = np.unique(texts, return_index=True, return_counts=True)
        more = (counts > 1) & (unique != near_duplicates.NO_TEXT)
        log(f"{more.sum():,} texts come more than once from one speaker")
        return {"texts": unique[more], "firsts": ids[first[more]], BY_SPEAKER: np.ones(1, np.uint8)}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        learned = part.learned(self.name)
        learned_state.check(learned, self.name, texts=("u", "N"), firsts=("u", "N"))
        texts, firsts = learned["texts"], learned["firsts"]
        keys = _spoken(part) if BY_SPEAKER in learned else near_duplicates.text_keys(_texts(part))
        ids = near_duplicates.text_keys(part.strings("id"))
        places = np.searchsorted(texts, keys)
        found = np.append(texts, near_duplicates.NO_TEXT)[places] == keys
        again = found & (keys != near_duplicates.NO_TEXT) & (np.append(firsts, near_duplicates.NO_TEXT)[places] != ids)
        yield from again.astype(np.int16)[:, None]


def _texts(part: Part) -> list[str]:
    return list(map(near_duplicates.normalise_text, part.strings("text")))


def _spoken(part: Part) -> np.ndarray:
    return near_duplicates.spoken_keys(_texts(part), part.strings("speaker"))
