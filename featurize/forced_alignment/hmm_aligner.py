"""Where the phones of a text lie in its recording: learned from the store itself, by `hmm`.

    wave --> cepstra by speaker --> phone models --> the best way through the phones of the text --> times

Phones are taken without their stress or tone, so that a small store has enough of each. There may be a pause at every
mark, between any two words where the store knows them (`phone_word`), and at both ends.

Shapes: P phones of an utterance, U units of its chain, T frames of 10 ms, D numbers of each, C classes of phones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.forced_alignment import cepstra, hmm
from headrace.featurize.forced_alignment.cepstra import Cepstra
from headrace.featurize.forced_alignment.gmm import Models, Scorer
from headrace.featurize.forced_alignment.hmm import PAUSE, STATES
from headrace.featurize.text.symbols import TABLES
from headrace.store.errors import StoreError, UsageError
from headrace.store.schema import FeatureSpec

SYMBOLS = TABLES["headrace-ipa"]
"""All that there are: the other tables are its beginning."""
MARKS = frozenset({",", ".", "!", "?", "-", "…", "_", "停", "空", "SP", "SP2", "SP3"})
"""Where a pause may be."""
UNKNOWN, SOUNDLESS = -1, -2
"""In the place of a class: like nothing that was learned from; a symbol that is no phone, as of a rising pitch."""
METHOD = "hmm-gmm"
UNFITTING = "phones that do not fit into their recording"
UNSEEN = "phones that align has not learned, as of a language that came later"
NEVER = -100.0
"""Confidence where the phones do not fit into the recording at all."""


@dataclass(frozen=True, kw_only=True)
class Align(Derived):
    """Where every phone begins and ends, in samples: first one, and one past the last. What no phone covers is silence.
    Times that an utterance was built with are kept; -1 where the phones do not fit into the recording."""

    hours: float = 5.0
    """Speech to learn from, at most; utterances from all over the store."""

    name, needs, axis, dtype, channels, learns = "align", ("wave", "phones", "phone_end"), "phones", "int32", 2, True

    def __post_init__(self) -> None:
        if not 0 < self.hours < math.inf:
            raise UsageError(f"align learns from {self.hours:g} hours: give a number above 0.")

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        spectral = cepstra.recipe(there["wave"].recipe["sample_rate"])
        words = there["phone_word"].fingerprint if "phone_word" in there else "unknown"
        heard = {key: getattr(spectral, key) for key in ("n_fft", "win", "hop", "n_mels", "fmax", "n_mfcc")}
        rounds = " ".join(f"{rounds}x{gaussians}" for gaussians, rounds in hmm.SCHEDULE)
        return {"method": METHOD, "hours": float(self.hours), "rounds": rounds, "words": words, **heard}

    def learn(self, parts: Sequence[Part], note: Callable[[str], None]) -> dict[str, np.ndarray]:
        class_of = classes(phones for part in parts for phones in part.utterances("phones"))
        found = read_utterances(parts, every=max(1, math.ceil(_hours(parts) / self.hours)))
        voices = cepstra.normalise([one.x_TD for one in found], [one.speaker for one in found], {})
        chains = ((one.x_TD, unit_sequence(one, class_of).units) for one in found)
        fitting = [(x_TD, chain) for x_TD, chain in chains if hmm.fits(len(x_TD), chain)]
        if not fitting:
            raise StoreError("align learns from utterances with phones, and the store has none that fit their audio.")
        note(f"align learns {class_of.max()} phones from {len(fitting)} utterances")
        features, units = zip(*fitting, strict=True)
        models = hmm.train(features, units, int(class_of.max()) + 1, note)
        return {**models.arrays(), **voices, "class_of": class_of}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        model = Model(part)
        for utterance, ends in zip(model.utterances, part.utterances("phone_end"), strict=True):
            if len(ends) and ends[0] >= 0:
                yield np.stack([np.append(0, ends[:-1]), ends], 1).astype(np.int32)
                continue
            times = model.times(utterance)
            if times is None:
                part.counts[UNSEEN if model.has_unseen_phones(utterance) else UNFITTING] += 1
            yield np.full((len(ends), 2), UNKNOWN, np.int32) if times is None else times


@dataclass(frozen=True, kw_only=True)
class Confidence(Derived):
    """How far each frame fits the phone that it is aligned with less well than the one that it fits best, in nats, over
    the utterance: 0 at best. A text that is not of its recording is far below the others.

    It is the logarithm of the phone's posterior with the best phone in the place of their sum (Witt and Young 2000),
    with silences among the phones.
    """

    name, needs, axis, dtype = "confidence", ("wave", "phones", "align"), "utterance", "float32"

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        if there["align"].recipe.get("method") != METHOD:
            raise UsageError("confidence is heard by what align was made with, a network here: name it by --ctc.")
        return {}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        model = Model(part)
        for utterance, times in zip(model.utterances, part.utterances("align"), strict=True):
            yield np.array([model.confidence(utterance, times)], np.float32)


class Utterance(NamedTuple):
    """What the aligner reads of an utterance."""

    x_TD: np.ndarray
    """(T, D) float32."""
    samples: int
    phones: np.ndarray
    """(P,) int16."""
    words: np.ndarray
    """(P,) which word each belongs to; all the same where nobody knows."""
    speaker: str


def read_utterances(parts: Sequence[Part], every: int = 1) -> list[Utterance]:
    """Return every n-th utterance of some parts, not normalised yet."""
    make = Cepstra(parts[0].specs["wave"].recipe["sample_rate"])
    read = islice(chain.from_iterable(map(_read, parts)), 0, None, every)
    return [Utterance(make(wave), wave.size, phones, words, speaker) for wave, phones, words, speaker in read]


def _read(part: Part) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, str]]:
    """Wave, phones, words and speaker of one utterance after the other."""
    phones = list(part.utterances("phones"))
    words = part.utterances("phone_word") if "phone_word" in part.specs else map(np.zeros_like, phones)
    return zip(part.utterances("wave"), phones, words, part.strings("speaker"), strict=True)


def classes(phones: Iterable[np.ndarray]) -> np.ndarray:
    """(all symbols,) int16: the class of every symbol, given the phones that there are. 0 is the pause."""
    there = np.flatnonzero(sum(np.bincount(some, minlength=len(SYMBOLS)) for some in phones))
    bases = dict.fromkeys(bare for number in there.tolist() if (bare := base(SYMBOLS[number])))
    numbers = {bare: number for number, bare in enumerate(bases, 1)} | {"": SOUNDLESS}
    return np.array([PAUSE if symbol in MARKS else numbers.get(base(symbol), UNKNOWN) for symbol in SYMBOLS], np.int16)


def base(symbol: str) -> str:
    """Return a phone without its stress or tone; empty where it has no sound of its own."""
    bare = symbol.strip("/").lstrip("ˈˌ").rstrip("0123456789")
    return bare if bare[:1].isalpha() and symbol != "UNK" and symbol not in MARKS else ""


def _hours(parts: Sequence[Part]) -> float:
    wave, frames = parts[0].specs["wave"], sum(int(count) for part in parts for count in part.strings("frames"))
    return frames * (wave.channels or 1) / wave.recipe["sample_rate"] / 3600


class Chain(NamedTuple):
    """What an utterance is aligned with: its phones, and pauses where they may be."""

    units: np.ndarray
    """(U,) int32 classes; no two pauses follow one another."""
    phones: np.ndarray
    """(U,) which phone each is; UNKNOWN where it is a pause without a mark."""


def unit_sequence(utterance: Utterance, class_of: np.ndarray) -> Chain:
    """One without phones, which nothing fits, where a phone is like none that was learned from."""
    units, phones = [PAUSE], [UNKNOWN]
    kinds, words = class_of[utterance.phones].tolist(), utterance.words.tolist()
    for number, (kind, word, before) in enumerate(zip(kinds, words, [*words[:1], *words], strict=False)):
        if (kind == PAUSE or word != before) and units[-1] != PAUSE:
            units.append(PAUSE)
            phones.append(UNKNOWN)
        if kind == PAUSE:
            phones[-1] = number if phones[-1] == UNKNOWN else phones[-1]
        elif kind != SOUNDLESS:
            units.append(kind)
            phones.append(number)
    end = [PAUSE] if units[-1] != PAUSE else []
    made = Chain(np.array([*units, *end], np.int32), np.array([*phones, *(UNKNOWN for _ in end)], np.int32))
    return Chain(made.units[:1], made.phones[:1]) if UNKNOWN in kinds else made


class Model:
    """The phone models of a store, and the utterances of a part as they read them."""

    def __init__(self, part: Part) -> None:
        learned = part.learned("align")
        rate = part.specs["wave"].recipe["sample_rate"]
        self._models, self._class_of = Models.from_arrays(learned), learned["class_of"]
        self._score, self._step = Scorer(self._models), cepstra.recipe(rate).hop
        self.utterances = read_utterances([part])
        cepstra.normalise([one.x_TD for one in self.utterances], [one.speaker for one in self.utterances], learned)

    def has_unseen_phones(self, utterance: Utterance) -> bool:
        """Return whether there are phones that nothing was learned of."""
        return bool((self._class_of[utterance.phones] == UNKNOWN).any())

    def times(self, utterance: Utterance) -> np.ndarray | None:
        """Return (P, 2) int32 times in samples; None where no path fits."""
        units, phones = unit_sequence(utterance, self._class_of)
        path = hmm.align(self._score(utterance.x_TD), units, self._models.stay)
        if path is None:
            return None
        visited, first = np.unique(path // STATES, return_index=True)
        bounds = np.append(first * self._step, utterance.samples)
        owners = phones[visited]
        times = np.full((len(utterance.phones), 2), UNKNOWN, np.int32)
        times[owners[owners >= 0]] = np.stack([bounds[:-1], bounds[1:]], 1)[owners >= 0]
        for number in np.flatnonzero(times[:, 0] == UNKNOWN):  # no sound: it is where the one before it ends
            times[number] = times[number - 1, 1] if number else 0
        return times

    def confidence(self, utterance: Utterance, times: np.ndarray) -> float:
        """Return the confidence in nats a frame, 0 or less."""
        x_TD, kinds = utterance.x_TD, np.maximum(self._class_of[utterance.phones], PAUSE)
        if not len(times) or times[0, 0] == UNKNOWN:
            return NEVER
        aligned = np.full(len(x_TD), PAUSE)
        for kind, (start, stop) in zip(kinds, (times + self._step // 2) // self._step, strict=True):
            aligned[start:stop] = kind
        by_class = self._score(x_TD).reshape(len(x_TD), -1, STATES).max(2)
        return float((by_class[np.arange(len(x_TD)), aligned] - by_class.max(1)).mean(dtype=np.float64))
