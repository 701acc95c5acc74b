"""The features `align` and `confidence` by HMMs that are trained on the store itself, by `hmm`.

    wave --> cepstra, normalised by speaker --> phone models --> best path through the phones of the text --> times

Stress and tone of phones are ignored, so that a small store has enough examples of each. A pause is possible at every
punctuation mark, between words where the store knows them (`phone_word`), and at both ends. What sounds after speech
has ended, in recordings of reverberant rooms, is a pause: `rooms`.

Shapes: P phones of an utterance, U units of its sequence, T frames of 10 ms, D channels, C classes of phones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from headrace.featurize.features import learned_state
from headrace.featurize.features.derived import SILENT, Derived, LearningLog, Part
from headrace.featurize.forced_alignment import cepstra, hmm, rooms, word_graph
from headrace.featurize.forced_alignment.cepstra import Cepstra
from headrace.featurize.forced_alignment.gmm import Scorer, StateMixtures
from headrace.featurize.forced_alignment.hmm import PAUSE, STATES
from headrace.featurize.forced_alignment.word_graph import NO_WORD, Stretch
from headrace.featurize.spectral import reverberation
from headrace.featurize.text import symbols
from headrace.featurize.text.symbols import TABLES
from headrace.store.errors import StoreError, UsageError
from headrace.store.schema import FeatureSpec
from headrace.store.units import format_duration

SYMBOLS = TABLES["headrace-ipa"]
"""The full table of symbols: the other tables are prefixes of it."""
MARKS = frozenset({",", ".", "!", "?", "-", "…", "_", "停", "空", "SP", "SP2", "SP3"})
"""Symbols at which a pause is possible."""
UNKNOWN, SOUNDLESS = -1, -2
"""Instead of a class: a phone that was not in training; a symbol without sound, such as that of a rising pitch."""
METHOD = "hmm-gmm"
UNALIGNABLE = "phones that do not fit into the recording"
UNSEEN_PHONES = "phones that align has not learned, as of a language that came later"
FEW_MINUTES = 2.0
"""Of one minute of a voice a sixth of the onsets are over 50 ms off those that 25 minutes give, of two a twentieth."""
UNALIGNED_CONFIDENCE = -100.0
"""Confidence where the phones cannot be aligned with the recording."""


@dataclass(frozen=True, kw_only=True)
class HmmAlign(Derived):
    """Times of every phone in samples: the first one, and one past the last.

    Samples outside of all phones are silence. Times that an utterance was built with are kept. Times are -1 where the
    phones cannot be aligned with the recording.
    """

    hours: float = 5.0
    """Most hours of speech to train on, in utterances spread over the store."""

    name, needs, axis, dtype, channels, learns = "align", ("wave", "phones", "phone_end"), "phones", "int32", 2, True
    missing = UNKNOWN

    def __post_init__(self) -> None:
        if not 0 < self.hours < math.inf:
            raise UsageError(f"align learns from {self.hours:g} hours: give a number above 0.")

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        spectral = cepstra.recipe(specs["wave"].recipe["sample_rate"])
        words = specs["phone_word"].fingerprint if "phone_word" in specs else "unknown"
        spectral_recipe = {key: getattr(spectral, key) for key in ("n_fft", "win", "hop", "n_mels", "fmax", "n_mfcc")}
        rounds = " ".join(f"{rounds}x{gaussians}" for gaussians, rounds in hmm.SCHEDULE)
        return {"method": METHOD, "hours": float(self.hours), "rounds": rounds, "words": words, **spectral_recipe}

    def learn(self, parts: Sequence[Part], log: LearningLog) -> dict[str, np.ndarray]:
        if warning := scarcity(3600 * _hours(parts)):
            log(warning)
        class_of = phone_classes(phones for part in parts for phones in part.utterances("phones"))
        every = max(1, math.ceil(min(_hours(parts) / self.hours, 1e9)))
        utterances = read_utterances(parts, every, log)
        speakers = [one.speaker for one in utterances]
        speaker_moments = cepstra.normalise([one.x_TD for one in utterances], speakers, {})
        decays = rooms.decays((one.power_TK for one in utterances), speakers)
        utterances = [without_room(one, decays) for one in utterances]
        chains = ((one.x_TD, unit_sequence(one, class_of).units) for one in utterances)
        fitting = [(x_TD, chain) for x_TD, chain in chains if hmm.fits(len(x_TD), chain)]
        if not fitting:
            raise StoreError("align learns from utterances with phones, and the store has none that fit their audio.")
        log(f"align learns {class_of.max()} phones from {len(fitting)} utterances")
        features, units = zip(*fitting, strict=True)
        models = hmm.train(features, units, int(class_of.max()) + 1, log)
        return {**models.arrays(), **speaker_moments, **decays, "class_of": class_of}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        model = StoreAligner(part)
        given = zip(model.utterances, part.utterances("phone_end"), strict=True)
        for number, (utterance, ends) in enumerate(given):
            if len(ends) and ends[0] >= 0:
                yield np.stack([np.append(0, ends[:-1]), ends], 1).astype(np.int32)
                continue
            times = model.times(utterance)
            if times is None:
                part.failed[number] = UNSEEN_PHONES if model.has_unseen_phones(utterance) else UNALIGNABLE
            yield np.full((len(ends), 2), UNKNOWN, np.int32) if times is None else times


@dataclass(frozen=True, kw_only=True)
class HmmConfidence(Derived):
    """Mean log-likelihood ratio of the aligned phone to the best phone of each frame, in nats: 0 at best.

    A text that does not match its recording is far below the others. This is the goodness of pronunciation of Witt and
    Young (2000): the log posterior of the phone, with the best phone in place of the sum over phones, and silence among
    the phones.
    """

    name, needs, axis, dtype = "confidence", ("wave", "phones", "align"), "utterance", "float32"
    missing = UNALIGNED_CONFIDENCE

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        if specs["align"].recipe.get("method") != METHOD:
            raise UsageError("confidence is heard by what align was made with, a network here: name it by --ctc.")
        return {}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        model = StoreAligner(part)
        for utterance, times in zip(model.utterances, part.utterances("align"), strict=True):
            yield np.array([model.confidence(utterance, times)], np.float32)


def scarcity(seconds: float) -> str:
    """Return a warning where `align` has less than FEW_MINUTES of speech to learn from; empty where it has enough."""
    if seconds >= 60 * FEW_MINUTES:
        return ""
    return (
        f"align learns little from {format_duration(seconds)} of speech: expect wrong times below {FEW_MINUTES:g} min; "
        "add recordings or times, or align by a network of yours with --ctc"
    )


class Utterance(NamedTuple):
    """The data of an utterance that the aligner uses."""

    x_TD: np.ndarray
    """(T, D) float32; up to the end of speech by `without_room`."""
    power_TK: np.ndarray
    """(T, K) float32 in the bands of `reverberation`, of the whole recording."""
    samples: int
    phones: np.ndarray
    """(P,) int16."""
    words: np.ndarray
    """(P,) the word of each phone; all equal where words are not known."""
    speaker: str


def read_utterances(parts: Sequence[Part], every: int = 1, log: LearningLog = SILENT) -> list[Utterance]:
    """Read every n-th utterance of some parts. Cepstra are not yet normalised."""
    make = Cepstra(parts[0].specs["wave"].recipe["sample_rate"])
    read = islice(chain.from_iterable(map(_read, log.each(parts, "parts read"))), 0, None, every)
    return [Utterance(*make(wave), wave.size, phones, words, speaker) for wave, phones, words, speaker in read]


def without_room(utterance: Utterance, learned: Mapping[str, np.ndarray]) -> Utterance:
    """Return an utterance whose cepstra end with its speech. Others than those of `rooms.decays` stay as they are."""
    frames = rooms.frames_of_speech(utterance.power_TK, len(utterance.phones), utterance.speaker, learned)
    return utterance._replace(x_TD=utterance.x_TD[:frames])


def _read(part: Part) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, str]]:
    """Yield wave, phones, words and speaker of each utterance."""
    phones = list(part.utterances("phones"))
    words = part.utterances("phone_word") if "phone_word" in part.specs else map(np.zeros_like, phones)
    return zip(part.utterances("wave"), phones, words, part.strings("speaker"), strict=True)


def _check_learned(learned: Mapping[str, np.ndarray]) -> None:
    """Check phone models, whose classes compiled code takes for indices. Raises StoreError."""
    mixtures = {"means": ("f", "S", "K", "D"), "variances": ("f", "S", "K", "D"), "weights": ("f", "S", "K")}
    learned_state.check(learned, "align", **mixtures, stay=("f", "S"), class_of=("i", "symbols"))
    moments = {name: ("f", 2, learned["means"].shape[2]) for name in learned if name.startswith(cepstra.SPEAKER)}
    rates = {name: ("f", reverberation.BANDS) for name in learned if name.startswith(rooms.DECAY)}
    learned_state.check(learned, "align", **moments, **rates)
    classes, channels = learned["class_of"], learned["means"].shape[2]
    counts = (symbols.FIRST_IPA_COUNT, len(SYMBOLS))
    known = len(classes) in counts and SOUNDLESS <= classes.min() <= classes.max() < len(learned["stay"]) / STATES
    if not known or channels != cepstra.CHANNELS:
        raise StoreError(
            "What align learned, in models/align.safetensors, contradicts itself: remove that file, and run the same "
            "command again."
        )


def phone_classes(phones: Iterable[np.ndarray]) -> np.ndarray:
    """Return the class of every symbol, (len(SYMBOLS),) int16, given the phones of all utterances. 0 is the pause."""
    present = np.flatnonzero(sum(np.bincount(some, minlength=len(SYMBOLS)) for some in phones))
    bases = dict.fromkeys(bare for number in present.tolist() if (bare := base_phone(SYMBOLS[number])))
    numbers = {bare: number for number, bare in enumerate(bases, 1)} | {"": SOUNDLESS}
    return np.array(
        [PAUSE if symbol in MARKS else numbers.get(base_phone(symbol), UNKNOWN) for symbol in SYMBOLS], np.int16
    )


def base_phone(symbol: str) -> str:
    """Return a phone without stress and tone; empty for a symbol without a sound of its own."""
    bare = symbol.strip("/").lstrip("ˈˌ").rstrip("0123456789")
    silent = symbol == "UNK" or symbol in MARKS or symbol in symbols.MARKS
    return bare if bare[:1].isalpha() and not silent else ""


def _hours(parts: Sequence[Part]) -> float:
    wave, frames = parts[0].specs["wave"], sum(int(count) for part in parts for count in part.strings("frames"))
    return frames * (wave.channels or 1) / wave.recipe["sample_rate"] / 3600


class UnitSequence(NamedTuple):
    """The units that an utterance is aligned with: phones, and possible pauses."""

    units: np.ndarray
    """(U,) int32 classes; no two pauses follow one another."""
    phones: np.ndarray
    """(U,) number of the phone or mark of each unit; UNKNOWN for a pause without a mark."""


def unit_sequence(utterance: Utterance, class_of: np.ndarray) -> UnitSequence:
    """Return the units of an utterance; one without phones, which never fits, if a phone was not in training."""
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
    made = UnitSequence(np.array([*units, *end], np.int32), np.array([*phones, *(UNKNOWN for _ in end)], np.int32))
    return UnitSequence(made.units[:1], made.phones[:1]) if UNKNOWN in kinds else made


class StoreAligner:
    """Aligns the utterances of a part by the phone models of its store."""

    def __init__(self, part: Part) -> None:
        learned = part.learned("align")
        rate = part.specs["wave"].recipe["sample_rate"]
        _check_learned(learned)
        later = len(SYMBOLS) - len(learned["class_of"])  # symbols that the table got since
        self._class_of = np.pad(learned["class_of"], (0, later), constant_values=UNKNOWN)
        self._models = StateMixtures.from_arrays(learned)
        self._score, self._step = Scorer(self._models), cepstra.recipe(rate).hop
        read = read_utterances([part])
        cepstra.normalise([one.x_TD for one in read], [one.speaker for one in read], learned)
        self.utterances = [without_room(one, learned) for one in read]

    def has_unseen_phones(self, utterance: Utterance) -> bool:
        """Return whether a phone of the utterance was not in training."""
        return bool((self._class_of[utterance.phones] == UNKNOWN).any())

    def times(self, utterance: Utterance) -> np.ndarray | None:
        """Return (P, 2) int32 times in samples; None where no path fits."""
        units, phones = unit_sequence(utterance, self._class_of)
        path = hmm.align(self._score(utterance.x_TD), units, self._models.stay)
        if path is None:
            return None
        after = len(utterance.power_TK) - len(path)  # frames of the room alone: the pause at the end
        path = np.append(path, np.full(after, STATES * len(units) - 1, path.dtype))
        visited, first = np.unique(path // STATES, return_index=True)
        bounds = np.append(first * self._step, utterance.samples)
        owners = phones[visited]
        times = np.full((len(utterance.phones), 2), UNKNOWN, np.int32)
        times[owners[owners >= 0]] = np.stack([bounds[:-1], bounds[1:]], 1)[owners >= 0]
        for number in np.flatnonzero(times[:, 0] == UNKNOWN):  # without sound: at the end of the one before it
            times[number] = times[number - 1, 1] if number else 0
        return times

    def confidence(self, utterance: Utterance, times: np.ndarray) -> float:
        """Return the confidence in nats a frame, at most 0."""
        x_TD, kinds = utterance.x_TD, np.maximum(self._class_of[utterance.phones], PAUSE)
        if not len(times) or times[0, 0] == UNKNOWN:
            return UNALIGNED_CONFIDENCE
        aligned = np.full(len(x_TD), PAUSE)
        for kind, (start, stop) in zip(kinds, (times + self._step // 2) // self._step, strict=True):
            aligned[start:stop] = kind
        by_class = self._score(x_TD).reshape(len(x_TD), -1, STATES).max(2)
        return float((by_class[np.arange(len(x_TD)), aligned] - by_class.max(1)).mean(dtype=np.float64))

    def spoken_words(self, utterance: Utterance) -> list[Stretch] | None:
        """Return which words of an utterance were said, in order, and where something else was; frames are of 10 ms.

        Words have the numbers of `utterance.words`. None where a phone of it was not in training, or it has none.
        """
        units, phones = unit_sequence(utterance, self._class_of)
        if not (units != PAUSE).any() or not len(utterance.x_TD):
            return None
        words_U = np.where(units == PAUSE, NO_WORD, utterance.words[np.maximum(phones, 0)]).astype(np.int32)
        return word_graph.spoken_words(self._score(utterance.x_TD), units, words_U)
