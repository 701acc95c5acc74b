"""More of the speakers, or languages, that a corpus has little of: their utterances come several times an epoch.

Every utterance still comes at least once; none is left out. What is repeated adds no new data: a voice of a minute that
is heard sixty times is learnt by heart, which is why balancing is partial by default.

N utterances.
"""

from __future__ import annotations

import numpy as np

STEPS = 1024
"""Repetitions are multiples of its inverse, whose sums are exact: the same on every machine."""


def repetitions(groups: np.ndarray, frames: np.ndarray, evenness: float) -> np.ndarray:
    """How often each utterance comes in an epoch, on average.

    A group's share of an epoch is proportional to its share of the corpus to the power of 1 - evenness, as multilingual
    models sample languages (Conneau and Lample 2019). The utterances of the largest group come once.

    Args:
        groups: (N,) str: the speaker, say, of each utterance.
        frames: (N,) int.
        evenness: 0 leaves all as it is, 1 makes all groups equal.
    Returns:
        (N,) float64, at least 1.
    """
    _, group = np.unique(groups.astype(str), return_inverse=True)
    total = np.bincount(group, weights=frames)
    return (np.round((total.max() / total) ** evenness * STEPS) / STEPS)[group]


def copies(repeated: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """How often each utterance comes in one epoch: its repetitions rounded up or down, by systematic sampling: right on
    average over the epochs, and over utterances that follow one another.

    Returns:
        (N,) int64, at least 1.
    """
    return np.diff(np.floor(np.cumsum(repeated) + random.random()), prepend=0).astype(np.int64)
