"""Where speech ends in recordings of reverberant rooms: the room goes on to sound, and no phone lies there.

Without this the last phone of an utterance would last as long as the room sounds, since its sound resembles the phone
more than silence.

Shapes: T frames of 10 ms, K = reverberation.BANDS bands of frequency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from headrace.featurize.spectral import reverberation

DECAY = "decay "
"""Prefix of a speaker's name among named arrays: (K,) float32, rates of decay in dB per second."""
REVERBERANT = 0.4
"""Share of a speaker's utterances that end in the decay of a room: fewer may do so by chance."""
FRAMES_PER_PHONE = 5
"""Speech is not taken to end before each phone has had as many frames."""


def decays(powers: Iterable[np.ndarray], speakers: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the rates of decay of the rooms of all speakers, by DECAY and name. Dry speakers are left out.

    Args:
        powers: (T, K) of each utterance.
        speakers: of each utterance.
    """
    by_speaker: dict[str, list[np.ndarray]] = {}
    for power_TK, speaker in zip(powers, speakers, strict=True):
        by_speaker.setdefault(speaker, []).append(reverberation.band_rates(power_TK))
    found = {}
    for speaker, rates in sorted(by_speaker.items()):
        heard = [rate_K for rate_K in rates if rate_K.any()]
        if heard and len(heard) >= REVERBERANT * len(rates):
            found[DECAY + speaker] = np.median(heard, axis=0).astype(np.float32)
    return found


def frames_of_speech(power_TK: np.ndarray, phones: int, speaker: str, known: Mapping[str, np.ndarray]) -> int:
    """Return the number of frames up to the end of speech; all for dry speakers, and where the phones would not fit.

    Args:
        phones: of the utterance.
        known: rates, as `decays` returns them.
    """
    if DECAY + speaker not in known:
        return len(power_TK)
    end = reverberation.speech_end(power_TK, known[DECAY + speaker])
    return end if end >= FRAMES_PER_PHONE * phones else len(power_TK)
