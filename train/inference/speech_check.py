"""Check that the words of a text were said: none skipped, none repeated, and nothing else between them.

What was said is aligned with the phones of the text, by the phone models that `align` has learned from a store. The
voice that speaks may be unknown there: its mean and deviation are then those of the reference recording and of what was
said, together.

Shapes: S samples, P phones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headrace import store as stores
from headrace.featurize.features import learned_state
from headrace.featurize.features.derived import Part
from headrace.featurize.forced_alignment.cepstra import SPEAKER, STEP_S
from headrace.featurize.forced_alignment.hmm_aligner import METHOD, StoreAligner, base_phone
from headrace.featurize.forced_alignment.word_graph import NO_WORD, Stretch
from headrace.featurize.text.languages.frontend import Reading
from headrace.featurize.text.symbols import ids
from headrace.store.advice import command
from headrace.store.errors import StoreError
from headrace.store.multi_store import store_paths
from headrace.store.schema import FeatureSpec
from headrace.store.storage import StoragePath
from headrace.train.inference.voice_networks import Faults

WORDS = FeatureSpec(name="phone_word", axis="phones", dtype="int16", channels=None)
UNKNOWN_VOICE = "\0"
"""Name of a speaker that no store knows."""
MOST_SHOWN = 60
"""Characters of the words that are named as one."""


@dataclass(frozen=True, slots=True)
class PhoneModels:
    """The phone models of a store."""

    store: StoragePath
    specs: Mapping[str, FeatureSpec]
    learned: Mapping[str, np.ndarray]

    @classmethod
    def of_store(cls, location: StoragePath, sample_rate: int) -> PhoneModels:
        """Read the phone models of a store, or of a list of stores that were learned together.

        Raises:
            StoreError: it has none of recordings of this sample rate. The message says what would make them.
        """
        path = store_paths(location)[0]
        store = stores.open(path)
        if "align" not in store.features or store.features["align"].recipe.get("method") != METHOD:
            raise StoreError(f"{path} has no phone models: {command('featurize add', path, 'align')} makes them")
        if store.sample_rate != sample_rate:
            raise StoreError(
                f"the phone models of {path} are of {store.sample_rate} Hz, and what is said has {sample_rate} Hz"
            )
        return cls(path, dict(store.features), learned_state.read(path, store.features["align"]))


class SpeechCheck:
    """Compares speech of one voice with its texts."""

    def __init__(self, models: PhoneModels, speaker: str, reference_S: np.ndarray) -> None:
        """
        Args:
            speaker: name of the voice in the store of the models; empty if it is not known there.
            reference_S: int16 recording of the voice, by which it is heard if it is not known.
        """
        known = SPEAKER + speaker in models.learned
        self._models, self._name = models, speaker if known else UNKNOWN_VOICE
        self._references = [] if known else [reference_S]

    def faults(self, wave_S: np.ndarray, reading: Reading) -> Faults | None:
        """Return what is wrong with speech; None where a phone of it was not in training.

        Args:
            wave_S: float32 in [-1, 1].
            reading: its text, as it was read.
        """
        hop = self._models.specs["wave"].channels or 1
        waves = [np.rint(wave_S * 32767).astype(np.int16), *self._references]
        phones_P = ids(reading.phones, "headrace-ipa")
        rows = {
            "wave": [wave[: len(wave) // hop * hop].reshape(-1, hop) for wave in waves],
            "phones": [phones_P] * len(waves),
            "phone_word": [reading.phone_word] * len(waves),
        }
        part = Part(
            {**self._models.specs, "phone_word": WORDS},
            rows.__getitem__,
            learned=lambda _: self._models.learned,
            strings=lambda _: [self._name] * len(waves),
        )
        aligner = StoreAligner(part)
        said = aligner.spoken_words(aligner.utterances[0])
        return None if said is None else describe(said, reading)


def describe(said: Sequence[Stretch], reading: Reading) -> Faults:
    """Describe how what was said differs from the text."""
    words = np.unique(reading.phone_word).tolist()
    spoken = [word for word in words if _has_letters(reading, word)]
    order = [one.word for one in said if one.word != NO_WORD]
    times = Counter(order)
    skipped = [word for word in spoken if not times[word]]
    repeated = [word for word in spoken if times[word] > 1]
    found = [f"skip {_quote(run, reading)}" for run in _runs(skipped, spoken)]
    found += [f"repeat {_quote(run, reading)}" for run in _runs(repeated, spoken)]
    if not repeated and order != sorted(order):
        found.append("say the words in another order")
    others = [number for number, one in enumerate(said) if one.word == NO_WORD]
    for number in others:
        seconds = (said[number].stop - said[number].start) * STEP_S
        place = f"after {_quote([said[number - 1].word], reading)}" if number else "at the beginning"
        found.append(f"say something else for {seconds:.1f} s {place}")
    if not found:
        return Faults(0, "")
    listed = found[0] if len(found) == 1 else f"{', '.join(found[:-1])}, and to {found[-1]}"
    return Faults(max(1, len(skipped) + len(repeated) + len(others)), f"it seems to {listed}")


def _has_letters(reading: Reading, word: int) -> bool:
    """Return whether a word has phones that sound."""
    phones = [phone for phone, of in zip(reading.phones, reading.phone_word.tolist(), strict=True) if of == word]
    return any(map(base_phone, phones))


def _runs(chosen: Sequence[int], words: Sequence[int]) -> Iterator[list[int]]:
    """Yield those of the words that were chosen, in runs of words that follow one another."""
    run: list[int] = []
    for word in words:
        if word in chosen:
            run.append(word)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _quote(run: Sequence[int], reading: Reading) -> str:
    """Return the words of a run as they are read, in quotation marks."""
    following = [word for word in np.unique(reading.phone_word).tolist() if word > run[-1]]
    text = reading.text[run[0] : following[0] if following else None].strip()
    return f'"{text}"' if len(text) <= MOST_SHOWN else f'"{text[: MOST_SHOWN - 1]}…"'
