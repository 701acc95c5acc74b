"""The features `align` and `confidence` by a CTC network: times of phones, and how well they match the recording.

    wave --`ctc_network`--> log-probabilities --`ctc_path`--> times of phones

Shapes: P phones of an utterance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headrace.featurize.features import weight_files
from headrace.featurize.features.derived import Derived, Part, require_package
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
from headrace.featurize.forced_alignment.ctc_path import (
    MAX_EXTENSION,
    TokenPath,
    best_path,
    phone_times,
    token_bounds,
    token_sequence,
)
from headrace.featurize.forced_alignment.ctc_vocabulary import TokenSpan
from headrace.featurize.forced_alignment.hmm_aligner import UNALIGNABLE, UNALIGNED_CONFIDENCE, UNKNOWN
from headrace.featurize.text import g2p, reading_options
from headrace.featurize.text.languages.frontend import Reading
from headrace.featurize.text.symbols import ids
from headrace.store.errors import Rejected, UsageError
from headrace.store.schema import FeatureSpec


@dataclass(frozen=True, kw_only=True)
class _CtcFeature(Derived):
    """Base of both features: the network, the spelling of texts in tokens, and their paths through the frames."""

    ctc: Path
    """Folder of a model as transformers saves it, with a vocab.json."""
    precision: Precision = "fp32"
    """Precision of the network. Results that are not finite in half precision are computed again in fp32."""

    on_gpu = True

    @property
    def _network(self) -> CtcNetwork:
        return CtcNetwork(self.ctc, self.precision)

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        require_package("torchaudio", OPTION, "torchaudio")
        folder, tokens, grid = self._network.folder(), self._network.vocabulary(), self._network.grid()
        words = specs["phone_word"].fingerprint if "phone_word" in specs else "unknown"
        unit = "phones" if tokens.is_phonemic else "characters"
        text_recipe = {
            "vocabulary": weight_files.digest([self.ctc / ctc_vocabulary.FILE]),
            "unit": unit,
            "words": words,
        }
        signal = {"normalised": normalises(self.ctc), "precision": self.precision, **grid._asdict()}
        pieces = {"whole_frames": WHOLE, "piece_frames": PIECE, "margin_frames": MARGIN}
        return {"method": "ctc", **folder.recipe, **text_recipe, **signal, **pieces}

    def token_spans(self, part: Part) -> list[list[TokenSpan]]:
        """Return the spans of every utterance; none where the vocabulary lacks too many of its tokens.

        Raises:
            UsageError: the folder on this machine differs from the one that the command began with.
        """
        if self.spec(part.specs) != part.specs[self.name]:
            raise UsageError(f"{OPTION} {self.ctc} is not here what it was where the command began: all must see it.")
        tokens, phones = self._network.vocabulary(), list(part.utterances("phones"))
        if tokens.is_phonemic:
            words = part.utterances("phone_word") if "phone_word" in part.specs else map(np.zeros_like, phones)
            spans_of_all = [[*ctc_vocabulary.phone_spans(*one, tokens)] for one in zip(phones, words, strict=True)]
        else:
            readings = map(
                partial(_phonemise, part.specs),
                part.strings("text"),
                part.strings("language"),
                phones,
                _given_ends(part),
            )
            spans_of_all = [[*ctc_vocabulary.word_spans(reading, tokens)] if reading else [] for reading in readings]
            if unread := sum(not utterance_spans for utterance_spans in spans_of_all):
                part.counts["texts that are read otherwise now than when the store was built"] += unread
        for name in (one.name for utterance_spans in spans_of_all for one in utterance_spans if not one.tokens):
            part.counts[f"{name}: no token in the vocabulary"] += 1
        return [ctc_vocabulary.merge_unspelled(utterance_spans) for utterance_spans in spans_of_all]

    def token_paths(self, part: Part, spans: Sequence[Sequence[TokenSpan]]) -> Iterator[TokenPath | None]:
        """Yield the path of every utterance; None where it has no spans, or is too short for its tokens."""
        blank, grid = self._network.vocabulary().blank, self._network.grid()
        rate, centred = part.specs["wave"].recipe["sample_rate"], normalises(self.ctc)
        inputs = (
            NetworkInput(prepare(wave, rate, grid.field, centred), np.unique([*token_sequence(utterance_spans), blank]))
            for wave, utterance_spans in zip(part.utterances("wave"), spans, strict=True)
            if utterance_spans
        )
        emissions = self._network.emissions(part, inputs, part.specs[self.name].recipe["weights"])
        for utterance_spans in spans:
            yield best_path(next(emissions), token_sequence(utterance_spans), blank) if utterance_spans else None


@dataclass(frozen=True, kw_only=True)
class CtcAlign(_CtcFeature):
    """Times of every phone, as in `hmm_aligner.HmmAlign`, by a CTC network."""

    name, needs, axis, dtype, channels = "align", ("wave", "phones", "phone_end"), "phones", "int32", 2
    missing = UNKNOWN

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {**super().recipe(specs), "reach_frames": MAX_EXTENSION}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        given_ends, wave, grid = _given_ends(part), part.specs["wave"], self._network.grid()
        spans = [
            utterance_spans if ends is None else []
            for utterance_spans, ends in zip(self.token_spans(part), given_ends, strict=True)
        ]
        totals = [int(frames) * (wave.channels or 1) for frames in part.strings("frames")]
        paths = zip(self.token_paths(part, spans), spans, part.utterances("phones"), given_ends, totals, strict=True)
        for number, (path, utterance_spans, phones, ends, total) in enumerate(paths):
            if ends is not None:
                yield np.stack([np.append(0, ends[:-1]), ends], 1).astype(np.int32)
            elif path is None:
                part.failed[number] = UNALIGNABLE
                yield np.full((len(phones), 2), UNKNOWN, np.int32)
            else:
                half_frames = token_bounds(path, utterance_spans)
                bounds = [grid.samples(one, len(path.tokens), wave.recipe["sample_rate"], total) for one in half_frames]
                yield phone_times(bounds, utterance_spans, phones, total)


@dataclass(frozen=True, kw_only=True)
class CtcConfidence(_CtcFeature):
    """Mean log-probability of the text's tokens relative to the best token of each frame, in nats: 0 at best."""

    name, needs, axis, dtype = "confidence", ("wave", "phones", "align"), "utterance", "float32"
    missing = UNALIGNED_CONFIDENCE

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for path in self.token_paths(part, self.token_spans(part)):
            yield np.array([UNALIGNED_CONFIDENCE if path is None else path.gap], np.float32)


def _given_ends(part: Part) -> list[np.ndarray | None]:
    """Return the ends of phones that each utterance was built with; None where there are none."""
    return [ends if len(ends) and ends[0] >= 0 else None for ends in part.utterances("phone_end")]


def _phonemise(
    specs: Mapping[str, FeatureSpec], text: str, language: str, phones: np.ndarray, ends: np.ndarray | None
) -> Reading | None:
    """Phonemise a text; None where it fails, or gives other phones than those that the store made from it."""
    try:
        reading = g2p.phonemise(text, language, reading_options.of_specs(specs))
    except Rejected:
        return None
    now = ids(reading.phones, "headrace-ipa")
    by_network = "g2pw" in reading_options.recipe_of(specs)  # then only the sounds of characters may differ
    is_same = ends is not None or (len(now) == len(phones) if by_network else np.array_equal(now, phones))
    return reading if is_same else None
