"""Convert labelled intervals to symbols with durations in frames.

    P  phones, including silences

The alignment law: the durations of an utterance's phones sum to its frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.featurize.alignment.phone_labels import UNSPOKEN, label_symbols
from headrace.featurize.text.symbols import SILENCE
from headrace.store.errors import Rejected

ROUNDING_S = 1e-4
"""Gaps and overlaps below this are rounding errors, and neither silence nor mistakes."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Labelled intervals in order. There may be gaps between them."""

    labels: tuple[str, ...]
    starts_s: np.ndarray
    """(P,) float64."""
    ends_s: np.ndarray
    """(P,) float64."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Phones and words of an utterance, with times in seconds from its first sample."""

    phones: Tier
    """Empty if the source names no phones."""
    words: Tier
    """Empty if the source names no words."""
    duration_s: float
    """Of the speech. No pause begins after it."""


def symbols_and_ends(alignment: Alignment, language: str = "en") -> tuple[list[str], np.ndarray]:
    """Return the phones of an alignment as symbols without gaps.

    Gaps become SP. Adjacent SPs are merged, and so are breaths. If a label is several symbols, like the vowel of *fire*
    in IPA, its interval is divided evenly.

    Args:
        alignment: with at least one phone.
        language: ISO code.
    Returns:
        P symbols, and (P,) float64 where each ends, in seconds. The last ends with the speech.
    Raises:
        Rejected: stage "align"; a label is not a phone of the language, or all are silence.
    """
    names: list[str] = []
    ends: list[float] = [0.0]

    def add(name: str, end: float) -> None:
        if name in UNSPOKEN and names[-1:] == [name]:
            ends[-1] = end
        else:
            names.append(name)
            ends.append(end)

    tier = alignment.phones
    for label, start, end in zip(tier.labels, tier.starts_s.tolist(), tier.ends_s.tolist(), strict=True):
        *firsts, last = label_symbols(label, language)
        if last in UNSPOKEN and alignment.duration_s - start <= ROUNDING_S:
            continue
        if start - ends[-1] > ROUNDING_S:
            add(SILENCE, start)
        for number, name in enumerate(firsts, 1):
            add(name, start + (end - start) * number / (len(firsts) + 1))
        add(last, end)
    if alignment.duration_s - ends[-1] > ROUNDING_S:
        add(SILENCE, alignment.duration_s)
    if set(names) <= UNSPOKEN:
        raise Rejected("align", "its alignment holds only silence: align the utterance again")
    return names, np.asarray(ends[1:])


def phone_boundaries(ends_s: np.ndarray, *, sample_rate: int, hop: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of phones in samples and their durations in frames.

    Each boundary is rounded to the nearest frame independently, so that errors do not accumulate: none exceeds hop / 2.
    A phone shorter than a frame may get a duration of 0.

    Args:
        ends_s: (P,) in seconds, ascending.
        sample_rate: of the store, in Hz.
        hop: samples per frame.
        frames: of the utterance.
    Returns:
        phone_end (P,) int32: in samples at `sample_rate`, clipped to the `frames * hop` samples that are stored.
        phone_frames (P,) int32: durations, which sum to `frames`.
        In both, the last phone ends with the utterance.
    """
    samples = frames * hop
    phone_end = np.clip(np.rint(ends_s * sample_rate), 0, samples).astype(np.int32)
    phone_end[-1] = samples
    boundaries = (phone_end + hop // 2) // hop
    return phone_end, np.diff(boundaries, prepend=0).astype(np.int32)
