"""Balancing of speakers or languages: utterances of small groups come several times in an epoch.

Every utterance comes at least once; none is left out. Repetition adds no new data: a minute of a voice that is repeated
sixty times is memorised, which is why balancing is partial by default.

N utterances.
"""

from __future__ import annotations

import numpy as np

STEPS = 1024
"""Repetitions are multiples of 1 / STEPS, whose sums are exact: the same on every machine."""


def repetitions(groups: np.ndarray, frames: np.ndarray, strength: float) -> np.ndarray:
    """Return how often each utterance comes in an epoch, on average.

    A group's share of an epoch is proportional to its share of the corpus to the power of 1 - strength, as multilingual
    models sample languages (Conneau and Lample 2019). The utterances of the largest group come once.

    Args:
        groups: (N,) str: the group of each utterance, its speaker for example.
        frames: (N,) int.
        strength: 0 repeats nothing, 1 makes all groups equal.
    Returns:
        (N,) float64, at least 1.
    """
    _, group = np.unique(groups.astype(str), return_inverse=True)
    total = np.bincount(group, weights=frames)
    return (np.round((total.max() / total) ** strength * STEPS) / STEPS)[group]


def copies(repeated: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw how often each utterance comes in one epoch.

    Its average number is rounded up or down by systematic sampling, so that averages over epochs and over consecutive
    utterances are right.

    Returns:
        (N,) int64, at least 1.
    """
    return np.diff(np.floor(np.cumsum(repeated) + random.random()), prepend=0).astype(np.int64)
