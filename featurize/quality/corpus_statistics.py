"""What there is to know of a whole store's quality, in one pass over its parts.

Columns are kept of every utterance, a number each; recordings are heard, and near-duplicates looked for, among at most
so many utterances from all over the store.

N utterances, H of them heard.
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
"""Texts among which nearly equal ones are looked for, at most: 128 bytes each."""

Pairs = tuple[np.ndarray, np.ndarray]
"""(K, 2) int64 numbers of utterances, (K,) how alike they are; the most alike first."""


@dataclass(frozen=True, kw_only=True)
class Appraisal:
    """Of a store."""

    speakers: Counter[str]
    """Frames of each."""
    languages: Counter[str]
    columns: dict[str, np.ndarray]
    """By name, (N,) float32: `duration`, `rate` and what else a number is known of; NaN of an utterance of which it is
    not known."""
    heard: np.ndarray
    """(H,) int64 numbers of the utterances whose recordings were read."""
    compared: int
    """Texts among which nearly equal ones were looked for."""
    same_text: np.ndarray
    """(M, 2) int64: an utterance whose text came before, and the first one that has it."""
    near_text: Pairs
    near_sound: Pairs


@dataclass
class _Gathered:
    speakers: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    keys: list[np.ndarray] = field(default_factory=list)
    signatures: list[np.ndarray] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)
    outlines: list[np.ndarray] = field(default_factory=list)
    measured: list[tuple[float, ...]] = field(default_factory=list)


def parts(store: Store) -> Iterator[Part]:
    """All that are there, in the order of the store's numbers."""
    for member in store.members:
        for number in member.index.parts.tolist():
            yield sealed_part(member.path, number, store.features)


def appraise(store: Store, listen: int, watch: Callable[[int, int], None]) -> Appraisal:
    """
    Args:
        listen: recordings that are read, at most.
        watch: told how many parts are done, and how many there are.
    Raises:
        StoreError: the store is empty.
    """
    if not len(store):
        raise StoreError(f"{store.path} holds no utterance: there is nothing to report.")
    every = math.ceil(len(store) / max(listen, 1)) if "wave" in store.features and listen else 0
    every_text = math.ceil(len(store) / COMPARED_TEXTS)
    found, first = _Gathered(), 0
    for done, part in enumerate(parts(store), 1):
        frames = np.asarray(part.strings("frames"), np.int64)
        _read_names(found, part, frames, first, every_text)
        if every:
            _listen(found, part, frames, first, every)
        first += len(frames)
        watch(done, len(store.parts))
    heard = np.array(found.heard, np.int64)
    texts, likely = near_duplicates.alike_texts(np.concatenate(found.signatures))
    keys = np.concatenate(found.keys)
    different = keys[texts[:, 0] * every_text] != keys[texts[:, 1] * every_text]
    sounds, alike = near_duplicates.alike_sounds(
        np.array(found.outlines).reshape(-1, near_duplicates.OUTLINE), store.frames[heard]
    )
    return Appraisal(
        speakers=found.speakers,
        languages=found.languages,
        columns=_columns(store, heard, found.measured),
        heard=heard,
        compared=sum(map(len, found.signatures)),
        same_text=_repeated(keys),
        near_text=(texts[different] * every_text, likely[different]),
        near_sound=(heard[sounds], alike),
    )


def _read_names(found: _Gathered, part: Part, frames: np.ndarray, first: int, every: int) -> None:
    for counter, name in ((found.speakers, "speaker"), (found.languages, "language")):
        for value, count in zip(part.strings(name), frames.tolist(), strict=True):
            counter[value] += count
    texts = list(map(near_duplicates.normalised, part.strings("text")))
    found.keys.append(near_duplicates.keys(texts))
    found.signatures.append(near_duplicates.signatures(texts[-first % every :: every]))


def _listen(found: _Gathered, part: Part, frames: np.ndarray, first: int, every: int) -> None:
    mels = part.utterances("mel") if "mel" in part.specs else [None] * len(frames)
    for number, (wave, mel) in enumerate(zip(part.utterances("wave"), mels, strict=True), first):
        if number % every:
            continue
        levels = signal_quality.levels(wave)
        found.heard.append(number)
        found.outlines.append(
            near_duplicates.outline(levels[:, None] / signal_quality.DB_OF_NAT if mel is None else mel)
        )
        found.measured.append(
            (
                signal_quality.level(levels),
                signal_quality.snr(levels),
                signal_quality.silence(levels),
                signal_quality.clipped(wave),
            )
        )


def _columns(store: Store, heard: np.ndarray, measured: list[tuple[float, ...]]) -> dict[str, np.ndarray]:
    """Those that the store has are taken from there."""
    duration = (store.frames * (store.hop / store.sample_rate)).astype(np.float32)
    columns: dict[str, np.ndarray] = {"duration": duration}
    if "phones" in store.features:
        columns["rate"] = store.phones_n / duration
    for number, kind in enumerate(signal_quality.KINDS):
        column = np.full(len(store), np.nan, np.float32)
        column[heard] = [values[number] for values in measured]
        columns[kind.name] = column
    for name in (*(kind.name for kind in signal_quality.KINDS), "confidence", "mos"):
        if name in store.features:
            columns[name] = store.per_utterance(name, object).astype(np.float32)
    return columns


def _repeated(keys: np.ndarray) -> np.ndarray:
    """(M, 2) as `Appraisal.same_text`, in the store's order."""
    order = np.argsort(keys, kind="stable")
    fresh = np.append(True, keys[order[1:]] != keys[order[:-1]])
    firsts = order[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]]
    again = ~fresh & (keys[order] != near_duplicates.NO_TEXT)
    pairs = np.stack([order[again], firsts[again]], 1)
    return pairs[np.argsort(pairs[:, 0])]


class Names:
    """Identity and text of single utterances, read from their parts: all of ten million take gigabytes."""

    def __init__(self, store: Store) -> None:
        counts = [np.diff(member.index.bounds) for member in store.members]
        self._bounds = layout.offsets(np.concatenate(counts))
        self._folders = [
            layout.part_path(member.path, number) for member in store.members for number in member.index.parts.tolist()
        ]
        self._read: dict[tuple[int, str], np.ndarray] = {}

    def __call__(self, name: str, number: int) -> str:
        """`id`, `speaker`, `language` or `text` of an utterance."""
        part = int(np.searchsorted(self._bounds, number, side="right")) - 1
        if (part, name) not in self._read:
            self._read[part, name] = load_array(self._folders[part] / name)
        return str(self._read[part, name][number - self._bounds[part]])
