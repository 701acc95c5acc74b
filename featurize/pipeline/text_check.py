"""Read the texts of a corpus before anything is decoded, and find those that a build would reject."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headrace.featurize.pipeline.part_rows import UtteranceFeatures
from headrace.featurize.pipeline.part_worker import Recipe
from headrace.featurize.pipeline.phone_rows import add_phones
from headrace.store import rejects
from headrace.store.errors import Rejected, rejecting
from headrace.store.schema import Reject, Utterance
from headrace.store.storage import StoragePath


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCheck:
    """What became of the texts that were read."""

    read: int
    utterances: int
    """Of the corpus. If more than were read, those were a random sample of them."""
    rejects: tuple[Reject, ...]

    @property
    def is_sample(self) -> bool:
        """Return whether some texts were not read."""
        return self.read < self.utterances

    def to_json(self) -> dict[str, Any]:
        """Return the counts, and the rejects by kind."""
        kinds = [asdict(kind) for kind in rejects.group(self.rejects)]
        return {
            "read": self.read,
            "utterances": self.utterances,
            "rejects": len(self.rejects),
            "reject_kinds": kinds,
        }


def check_texts(
    corpus: StoragePath,
    utterances: Sequence[Utterance],
    recipe: Recipe,
    *,
    budget_seconds: float,
    most: int | None = None,
) -> TextCheck:
    """Make the phones of utterances in random order, from their texts or alignments, as a build does.

    Args:
        budget_seconds: no further text is read after about this long; 0 reads none.
        most: read at most so many texts.
    Returns:
        Nothing is read if the recipe has no phones.
    """
    rejects: list[Reject] = []
    read, begun = 0, time.perf_counter()
    order = np.random.default_rng(0).permutation(len(utterances)).tolist() if "phones" in recipe.features else []
    for number in order[:most]:
        if time.perf_counter() - begun >= budget_seconds:
            break
        read += 1
        try:
            with rejecting("text"):
                _read_phones(corpus, utterances[number], recipe)
        except Rejected as error:
            rejects.append(Reject(utterances[number].id, error.stage, error.reason))
    return TextCheck(read=read, utterances=len(utterances), rejects=tuple(rejects))


def _read_phones(corpus: StoragePath, utterance: Utterance, recipe: Recipe) -> None:
    """Make the phones of an utterance that has the length in its header."""
    spectral = recipe.preset.spectral
    frames = int(utterance.seconds * spectral.sample_rate) // spectral.hop
    sample = UtteranceFeatures(utterance=utterance, arrays={}, columns={"frames": frames})
    add_phones(corpus, sample, spectral, recipe.symbols, recipe.reading)
