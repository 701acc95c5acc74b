"""`align` and `confidence` by a CTC network: where the phones of a text lie in its recording.

    wave --`ctc_network`--> log-probabilities --`ctc_path`--> times of phones

P phones of an utterance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.featurize.features import weight_files
from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.features.huggingface import Precision
from headrace.featurize.forced_alignment import ctc_vocabulary
from headrace.featurize.forced_alignment.ctc_network import (
    MARGIN,
    OPTION,
    PIECE,
    WHOLE,
    CtcNetwork,
    NetworkInput,
    normalises,
    prepare,
)
from headrace.featurize.forced_alignment.ctc_path import REACH, TokenPath, best_path, bounds_of, times_of, tokens_of
from headrace.featurize.forced_alignment.ctc_vocabulary import Stretch
from headrace.featurize.forced_alignment.hmm_aligner import NEVER, UNFITTING, UNKNOWN
from headrace.featurize.text import g2p
from headrace.featurize.text.languages.frontend import Reading
from headrace.featurize.text.symbols import ids
from headrace.store.errors import Rejected, UsageError
from headrace.store.schema import FeatureSpec


@dataclass(frozen=True, kw_only=True)
class _ByCtc(Derived):
    """What both features need: the folder, texts in tokens, and their ways through the frames."""

    ctc: Path
    """A folder as transformers writes them, with a vocab.json."""
    precision: Precision = "fp32"
    """What the network computes in. What is not finite in half precision is computed again in fp32."""

    on_gpu = True

    @property
    def _network(self) -> CtcNetwork:
        return CtcNetwork(self.ctc, self.precision)

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        folder, tokens, grid = self._network.folder(), self._network.vocabulary(), self._network.grid()
        words = there["phone_word"].fingerprint if "phone_word" in there else "unknown"
        unit = "phones" if tokens.of_phones else "characters"
        read = {"vocabulary": weight_files.digest([self.ctc / ctc_vocabulary.FILE]), "unit": unit, "words": words}
        signal = {"normalised": normalises(self.ctc), "precision": self.precision, **grid._asdict()}
        pieces = {"whole_frames": WHOLE, "piece_frames": PIECE, "margin_frames": MARGIN}
        return {"method": "ctc", **folder.recipe, **read, **signal, **pieces}

    def lines(self, part: Part) -> list[list[Stretch]]:
        """What spells every utterance; nothing where the vocabulary lacks too much of it.

        Raises:
            UsageError: the folder is another one here.
        """
        if self.spec(part.specs) != part.specs[self.name]:
            raise UsageError(f"{OPTION} {self.ctc} is not here what it was where the command began: all must see it.")
        tokens, phones = self._network.vocabulary(), list(part.utterances("phones"))
        if tokens.of_phones:
            words = part.utterances("phone_word") if "phone_word" in part.specs else map(np.zeros_like, phones)
            found = [[*ctc_vocabulary.by_phones(*one, tokens)] for one in zip(phones, words, strict=True)]
        else:
            readings = map(_read_again, part.strings("text"), part.strings("language"), phones, _given(part))
            found = [[*ctc_vocabulary.by_characters(reading, tokens)] if reading else [] for reading in readings]
            if unread := sum(not line for line in found):
                part.counts["texts that are read otherwise now than when the store was built"] += unread
        for name in (one.name for line in found for one in line if not one.tokens):
            part.counts[f"{name}: no token in the vocabulary"] += 1
        return [ctc_vocabulary.spelt(line) for line in found]

    def ways(self, part: Part, lines: Sequence[Sequence[Stretch]]) -> Iterator[TokenPath | None]:
        """Of every utterance; None where nothing spells it, or it is too short for that."""
        blank, grid = self._network.vocabulary().blank, self._network.grid()
        rate, centred = part.specs["wave"].recipe["sample_rate"], normalises(self.ctc)
        inputs = (
            NetworkInput(prepare(wave, rate, grid.field, centred), np.unique([*tokens_of(line), blank]))
            for wave, line in zip(part.utterances("wave"), lines, strict=True)
            if line
        )
        emissions = self._network.emissions(part, inputs, part.specs[self.name].recipe["weights"])
        for line in lines:
            yield best_path(next(emissions), tokens_of(line), blank) if line else None


@dataclass(frozen=True, kw_only=True)
class CtcAlign(_ByCtc):
    """Where every phone begins and ends, as `aligner.Align` has it, by a network."""

    name, needs, axis, dtype, channels = "align", ("wave", "phones", "phone_end"), "phones", "int32", 2

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {**super().recipe(there), "reach_frames": REACH}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        given, wave, grid = _given(part), part.specs["wave"], self._network.grid()
        lines = [line if ends is None else [] for line, ends in zip(self.lines(part), given, strict=True)]
        totals = [int(frames) * (wave.channels or 1) for frames in part.strings("frames")]
        ways = zip(self.ways(part, lines), lines, part.utterances("phones"), given, totals, strict=True)
        for way, line, phones, ends, total in ways:
            if ends is not None:
                yield np.stack([np.append(0, ends[:-1]), ends], 1).astype(np.int32)
            elif way is None:
                part.counts[UNFITTING] += 1
                yield np.full((len(phones), 2), UNKNOWN, np.int32)
            else:
                halves = bounds_of(way, line)
                bounds = [grid.samples(one, len(way.tokens), wave.recipe["sample_rate"], total) for one in halves]
                yield times_of(bounds, line, phones, total)


@dataclass(frozen=True, kw_only=True)
class CtcConfidence(_ByCtc):
    """How far the way of a text's tokens is behind the best way of any, in nats a frame: 0 at best."""

    name, needs, axis, dtype = "confidence", ("wave", "phones", "align"), "utterance", "float32"

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for way in self.ways(part, self.lines(part)):
            yield np.array([NEVER if way is None else way.gap], np.float32)


def _given(part: Part) -> list[np.ndarray | None]:
    """Of every utterance the ends that it was built with, where there are any."""
    return [ends if len(ends) and ends[0] >= 0 else None for ends in part.utterances("phone_end")]


def _read_again(written: str, language: str, phones: np.ndarray, ends: np.ndarray | None) -> Reading | None:
    """How a text is read; None where its phones would not be those of the store. Given times brought their own."""
    try:
        reading = g2p.phonemise(written, language)
    except Rejected:
        return None
    same = ends is not None or np.array_equal(ids(reading.phones, "headrace-ipa"), phones)
    return reading if same else None
