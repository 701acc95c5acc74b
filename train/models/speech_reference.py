"""What speech imitates. Needs no torch.

Shapes: P phones, Q codes, E channels of BERT, F spectrogram bins, T frames, V channels of a speaker vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A recording whose voice and manner are imitated, and its transcript."""

    spec: np.ndarray
    """(F, T) float32, linear spectrogram."""
    phones: np.ndarray
    """(P,) int64; empty where its transcript is not known."""
    codes: np.ndarray
    """(Q,) int64; may be empty."""
    bert: np.ndarray | None = None
    """(P, E) float32, BERT features of the transcript."""
    speaker: np.ndarray | None = None
    """(V,) float32, for a generator that reads speaker vectors."""
