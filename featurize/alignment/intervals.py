"""From labelled intervals to phones with durations in frames, and from either index to the other.

    P  phones, silences among them      T  frames

The alignment law: the durations of an utterance's phones sum to its frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.featurize.text import ipa
from headrace.featurize.text.languages.espeak_languages import ipa_symbols
from headrace.featurize.text.languages.frontend import MARKS
from headrace.featurize.text.symbols import BREATH, SILENCE, SYMBOLS
from headrace.store.errors import Rejected

UPSTREAM = ("zh", "ja", "ko", "yue")
"""Languages with symbols of their own in GPT-SoVITS' table."""
SLACK_S = 1e-4
"""Gaps and overlaps below this are rounding, not silence and not mistakes."""

_SILENT_LABELS = frozenset(
    {"", "sil", "sp", "spn", "pau", "epi", "h#", "nsn", "silence", "noise", "_", "#", "<eps>", "<sil>", "<p>", "<p:>"}
)
_UNSPOKEN = frozenset({SILENCE, BREATH})
_BREATHS = frozenset({"br", "breath", "[breath]", "<breath>", "{breath}", "<br>", "{br}", "++breath++"})


@dataclass(frozen=True, slots=True)
class Tier:
    """Labelled intervals in order; there may be gaps between them."""

    labels: tuple[str, ...]
    starts_s: np.ndarray
    """(P,) float64."""
    ends_s: np.ndarray
    """(P,) float64."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """What is said when in a stretch of speech, in seconds from its first sample."""

    phones: Tier
    words: Tier
    """Empty where the source names no words."""
    duration_s: float
    """Of the speech. No pause begins after it."""


def symbols_and_ends(alignment: Alignment, language: str = "en") -> tuple[list[str], np.ndarray]:
    """The phones of an alignment as symbols without gaps: what no interval covers is SP, neighbouring SPs are one, and
    so are breaths.

    A label that is several symbols (the vowel of *fire* in IPA) is shared out evenly.

    Returns:
        P symbols, and where each ends: (P,) float64, seconds; the last is the end of the speech.
    Raises:
        Rejected: stage "align"; a label that is no phone of the language, or no phone at all.
    """
    names: list[str] = []
    ends: list[float] = [0.0]

    def add(name: str, end: float) -> None:
        if name in _UNSPOKEN and names[-1:] == [name]:
            ends[-1] = end
        else:
            names.append(name)
            ends.append(end)

    tier = alignment.phones
    for label, start, end in zip(tier.labels, tier.starts_s.tolist(), tier.ends_s.tolist(), strict=True):
        *firsts, last = label_symbols(label, language)
        if last in _UNSPOKEN and alignment.duration_s - start <= SLACK_S:
            continue
        if start - ends[-1] > SLACK_S:
            add(SILENCE, start)
        for number, name in enumerate(firsts, 1):
            add(name, start + (end - start) * number / (len(firsts) + 1))
        add(last, end)
    if alignment.duration_s - ends[-1] > SLACK_S:
        add(SILENCE, alignment.duration_s)
    if set(names) <= _UNSPOKEN:
        raise Rejected("align", "its alignment holds silence alone: align the utterance again")
    return names, np.asarray(ends[1:])


def label_symbols(label: str, language: str = "en") -> tuple[str, ...]:
    """Symbols of one interval's label, at least one: SP of a silence, SP2 of a breath, a mark as it is, else of a
    phone.

    English: ARPAbet as it is, IPA by the table. ARPAbet may lack its stress digits, which are then 0, and be in lower
    case, as in TIMIT. Other languages: symbols of upstream's table as they are; of those that it has none for, IPA.
    """
    if label.casefold() in _SILENT_LABELS:
        return (SILENCE,)
    if label.casefold() in _BREATHS or label == "AP":  # as DiffSinger's corpora have it; in IPA, "ap" is two phones
        return (BREATH,)
    if label in MARKS | _UNSPOKEN:
        return (label,)
    if language != "en":
        return _foreign(label, language)
    for spelling in (label.upper(), label.upper() + "0"):
        if spelling in ipa.ARPABET:
            return (spelling,)
    try:
        phones = ipa.to_arpabet(label)
    except ValueError:
        phones = ()
    if not phones:
        raise Rejected("align", f"its alignment has a phone {label[:40]!r}: neither ARPAbet nor English in IPA")
    return phones


def _foreign(label: str, language: str) -> tuple[str, ...]:
    if language in UPSTREAM:
        if label not in SYMBOLS:
            raise Rejected("align", f"its alignment has a phone {label[:40]!r}: no symbol of GPT-SoVITS v2")
        return (label,)
    found = tuple(ipa_symbols(label))
    if not found:
        raise Rejected("align", f"its alignment has a phone {label[:40]!r}: none in IPA")
    return found


def phone_index(ends_s: np.ndarray, *, sample_rate: int, hop: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Where phones end, in samples and in frames.

    Each boundary is rounded to the nearest frame by itself, so that errors do not add up: none exceeds hop / 2.
    A phone shorter than a frame may get none.

    Args:
        ends_s: (P,) ascending, seconds.
        sample_rate: of the store, in Hz.
    Returns:
        phone_end (P,) int32: in samples at `sample_rate`, clipped to the `frames * hop` that are stored.
        phone_frames (P,) int32: durations; they sum to `frames`.
        In both the last phone reaches the end.
    """
    samples = frames * hop
    phone_end = np.clip(np.rint(ends_s * sample_rate), 0, samples).astype(np.int32)
    phone_end[-1] = samples
    boundaries = (phone_end + hop // 2) // hop
    return phone_end, np.diff(boundaries, prepend=0).astype(np.int32)


def phone_of_frame(phone_frames: np.ndarray) -> np.ndarray:
    """(T,) int64: the phone that every frame belongs to."""
    return np.repeat(np.arange(len(phone_frames)), phone_frames)


def frames_of_phone(phone_frames: np.ndarray) -> np.ndarray:
    """(P, 2) int64: every phone's first frame and one past its last."""
    stops = np.cumsum(phone_frames, dtype=np.int64)
    return np.stack([stops - phone_frames, stops], axis=1)
