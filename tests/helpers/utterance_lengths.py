"""Lengths of utterances as a speech corpus has them."""

import numpy as np


def log_normal(count: int, seed: int = 0) -> np.ndarray:
    """Draw the frames of utterances of 1 to 20 s with a median of 5 s: (count,) int32."""
    seconds = np.exp(np.log(5) + 0.55 * np.random.default_rng(seed).standard_normal(count))
    return (np.clip(seconds, 1, 20) * 50).astype(np.int32)
