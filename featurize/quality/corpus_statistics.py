"""Quality statistics of a whole store, in one pass over its parts.

Every column has one number for each utterance. At most a given number of recordings, evenly spread over the store, are
analysed and compared.

Shapes: N utterances, of which A are analysed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from headrace.featurize.features.derived import Part, sealed_part
from headrace.featurize.quality import near_duplicates, signal_quality
from headrace.store import layout
from headrace.store.arrays.array_reader import load_array
from headrace.store.errors import StoreError
from headrace.store.reader import Store

COMPARED_TEXTS = 1_000_000
"""Most texts that are compared with one another: 128 bytes of memory each."""

Pairs = tuple[np.ndarray, np.ndarray]
"""(K, 2) int64 numbers of utterances, and (K,) their similarity, 0 to 1; the most similar pair first."""


@dataclass(frozen=True, kw_only=True)
class CorpusStatistics:
    """Statistics of a store, as `compute_statistics` returns them."""

    speakers: Counter[str]
    """Frames of each speaker."""
    languages: Counter[str]
    columns: dict[str, np.ndarray]
    """(N,) float32 by name: `duration`, `rate` and others as far as known; NaN where an utterance was not measured."""
    analysed: np.ndarray
    """(A,) int64 numbers of the utterances whose recordings were read."""
    compared: int
    """Number of texts that were compared with one another."""
    same_text: np.ndarray
    """(M, 2) int64: an utterance whose text its speaker said before, and the first one with it."""
    near_text: Pairs
    near_sound: Pairs


@dataclass
class _Accumulator:
    speakers: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    keys: list[np.ndarray] = field(default_factory=list)
    """Of texts."""
    spoken: list[np.ndarray] = field(default_factory=list)
    """Of texts with their speakers."""
    signatures: list[np.ndarray] = field(default_factory=list)
    analysed: list[int] = field(default_factory=list)
    contours: list[np.ndarray] = field(default_factory=list)
    measured: list[tuple[float, ...]] = field(default_factory=list)


def parts(store: Store) -> Iterator[Part]:
    """Yield all parts, in the order of the store's utterances."""
    for member in store.members:
        for number in member.index.parts.tolist():
            yield sealed_part(member.path, number, store.features)


def compute_statistics(store: Store, max_recordings: int, progress: Callable[[int, int], None]) -> CorpusStatistics:
    """Compute the quality statistics of a store.

    Args:
        max_recordings: utterances whose audio is analysed, at most.
        progress: called with the number of parts done, and of all parts.
    Raises:
        StoreError: the store is empty.
    """
    if not len(store):
        raise StoreError(f"{store.path} holds no utterance: there is nothing to report.")
    every = math.ceil(len(store) / max(max_recordings, 1)) if "wave" in store.features and max_recordings else 0
    every_text = math.ceil(len(store) / COMPARED_TEXTS)
    totals, first = _Accumulator(), 0
    for done, part in enumerate(parts(store), 1):
        frames = np.asarray(part.strings("frames"), np.int64)
        _collect_metadata(totals, part, frames, first, every_text)
        if every:
            _analyse(totals, part, frames, first, every)
        first += len(frames)
        progress(done, len(store.parts))
    analysed = np.array(totals.analysed, np.int64)
    texts, text_similarity = near_duplicates.similar_texts(np.concatenate(totals.signatures))
    keys = np.concatenate(totals.keys)
    different = keys[texts[:, 0] * every_text] != keys[texts[:, 1] * every_text]
    sounds, sound_similarity = near_duplicates.similar_recordings(
        np.array(totals.contours).reshape(-1, near_duplicates.CONTOUR_SIZE), store.frames[analysed]
    )
    return CorpusStatistics(
        speakers=totals.speakers,
        languages=totals.languages,
        columns=_columns(store, analysed, totals.measured),
        analysed=analysed,
        compared=sum(map(len, totals.signatures)),
        same_text=_same_text_pairs(np.concatenate(totals.spoken)),
        near_text=(texts[different] * every_text, text_similarity[different]),
        near_sound=(analysed[sounds], sound_similarity),
    )


def _collect_metadata(totals: _Accumulator, part: Part, frames: np.ndarray, first: int, every: int) -> None:
    for counter, name in ((totals.speakers, "speaker"), (totals.languages, "language")):
        for value, count in zip(part.strings(name), frames.tolist(), strict=True):
            counter[value] += count
    texts = list(map(near_duplicates.normalise_text, part.strings("text")))
    totals.keys.append(near_duplicates.text_keys(texts))
    totals.spoken.append(near_duplicates.spoken_keys(texts, part.strings("speaker")))
    totals.signatures.append(near_duplicates.signatures(texts[-first % every :: every]))


def _analyse(totals: _Accumulator, part: Part, frames: np.ndarray, first: int, every: int) -> None:
    sample_rate = part.specs["wave"].recipe["sample_rate"]
    mels = part.utterances("mel") if "mel" in part.specs else [None] * len(frames)
    for number, (wave, mel) in enumerate(zip(part.utterances("wave"), mels, strict=True), first):
        if number % every:
            continue
        recording = signal_quality.Recording(wave, sample_rate)
        energy = recording.levels[:, None] / signal_quality.DB_OF_NAT if mel is None else mel
        totals.analysed.append(number)
        totals.contours.append(near_duplicates.energy_contour(energy))
        totals.measured.append(tuple(kind.measure(recording) for kind in signal_quality.KINDS))


def _columns(store: Store, analysed: np.ndarray, measured: list[tuple[float, ...]]) -> dict[str, np.ndarray]:
    """Return all columns; those that the store has are read from it."""
    duration = (store.frames * (store.hop / store.sample_rate)).astype(np.float32)
    columns: dict[str, np.ndarray] = {"duration": duration}
    if "phones" in store.features:
        columns["rate"] = store.phones_n / duration
    for number, kind in enumerate(signal_quality.KINDS):
        column = np.full(len(store), np.nan, np.float32)
        column[analysed] = [values[number] for values in measured]
        columns[kind.name] = column
    for name in layout.RECORDING_COUNTS:
        if (counts := store.recording_counts(name)).any():
            columns[name] = counts.astype(np.float32)
    for name in (*(kind.name for kind in signal_quality.KINDS), "confidence", "mos"):
        if name in store.features:
            columns[name] = store.per_utterance(name, object).astype(np.float32)
    return columns


def _same_text_pairs(keys: np.ndarray) -> np.ndarray:
    """Return `CorpusStatistics.same_text`, in the order of the store."""
    order = np.argsort(keys, kind="stable")
    fresh = np.append(True, keys[order[1:]] != keys[order[:-1]])
    firsts = order[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]]
    again = ~fresh & (keys[order] != near_duplicates.NO_TEXT)
    pairs = np.stack([order[again], firsts[again]], 1)
    return pairs[np.argsort(pairs[:, 0])]


class MetadataReader:
    """Reads ids and texts of single utterances from their parts, since those of all utterances may take gigabytes."""

    def __init__(self, store: Store) -> None:
        counts = [np.diff(member.index.bounds) for member in store.members]
        self._bounds = layout.offsets(np.concatenate(counts))
        self._folders = [
            layout.part_path(member.path, number) for member in store.members for number in member.index.parts.tolist()
        ]
        self._read: dict[tuple[int, str], np.ndarray] = {}

    def __call__(self, name: str, number: int) -> str:
        """Return `id`, `speaker`, `language` or `text` of an utterance."""
        part = int(np.searchsorted(self._bounds, number, side="right")) - 1
        if (part, name) not in self._read:
            self._read[part, name] = load_array(self._folders[part] / name)
        return str(self._read[part, name][number - self._bounds[part]])
