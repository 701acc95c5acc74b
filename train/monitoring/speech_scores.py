"""How speech sounds to people, guessed: DNSMOS (Reddy, Gopal and Cutler 2022), with the networks that speechmos brings.

Opinions are from 1, bad, to 5, excellent (ITU-T P.800).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import soxr

RATE = 16_000
NAMES = {"ovrl_mos": "mos", "sig_mos": "mos_speech", "bak_mos": "mos_background", "p808_mos": "mos_p808"}
"""What speechmos calls its answers, and what they are called here: overall, speech alone, background alone, and overall
as ITU-T P.808 asks for it."""

Score = Callable[[np.ndarray, int], dict[str, float]]
"""A waveform (S,) in [-1, 1], of one sample at least, and its rate, to `NAMES` and opinions."""


def scorer() -> Score | None:
    """None where speechmos is not installed. A second of a CPU for ten of speech."""
    try:
        from speechmos import dnsmos
    except ImportError:
        return None

    def score(wave_S: np.ndarray, rate: int) -> dict[str, float]:
        found = dnsmos.run(soxr.resample(wave_S, rate, RATE).clip(-1, 1), RATE)
        return {ours: float(found[theirs]) for theirs, ours in NAMES.items()}

    return score
