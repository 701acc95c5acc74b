"""Where the phones of a text lie in its recording, by a network that was trained with CTC (Graves et al. 2006): one for
phones or for characters, in a folder in the form of Hugging Face's Wav2Vec2ForCTC.

    wave --> 16 kHz --> network --> log-probabilities --`ctc_path`--> times of phones

Shapes: T frames of the network, K different tokens of an utterance, P phones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch

from headrace.featurize.features import huggingface, weight_files
from headrace.featurize.features.content import RATE, batches, last_hidden
from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.features.huggingface import Folder, Precision
from headrace.featurize.forced_alignment import ctc_vocabulary
from headrace.featurize.forced_alignment.ctc_path import REACH, Way, best_way, bounds_of, times_of, tokens_of
from headrace.featurize.forced_alignment.ctc_vocabulary import Stretch, Vocabulary
from headrace.featurize.forced_alignment.hmm_aligner import NEVER, UNFITTING, UNKNOWN
from headrace.featurize.text import g2p
from headrace.featurize.text.languages.frontend import Reading
from headrace.featurize.text.symbols import ids
from headrace.store.errors import Rejected, UsageError
from headrace.store.schema import FeatureSpec

OPTION, NETWORK = "--ctc", "Wav2Vec2ForCTC"
BATCH = 6000
"""Frames together, padding included."""
WHOLE, PIECE, MARGIN = 3000, 2500, 250
"""Frames: what is longer than a minute, attention sees in pieces of 50 s."""
KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
"""Of the convolutions, where a config does not say."""


class Grid(NamedTuple):
    """Which samples at RATE the network's frames see."""

    stride: int
    field: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Grid:
        kernels, strides = config.get("conv_kernel", KERNELS), config.get("conv_stride", STRIDES)
        if not all(isinstance(sizes, list) and all(type(n) is int for n in sizes) for sizes in (kernels, strides)):
            raise UsageError(f"{OPTION}: conv_kernel={kernels}, conv_stride={strides}, and whole numbers are needed.")
        steps = [math.prod(strides[:n]) for n in range(len(strides) + 1)]
        return cls(steps[-1], 1 + sum((kernel - 1) * step for kernel, step in zip(kernels, steps, strict=False)))

    def samples(self, halves: np.ndarray, frames: int, rate: int, total: int) -> np.ndarray:
        """The samples, of `total` at `rate`, that so many half frames are over at: a frame's own are a stride in the
        middle of its field. The first frame has what is before it too, and the last what is after it."""
        at = ((self.stride * halves + self.field - self.stride) * rate + RATE) // (2 * RATE)
        return np.where(halves <= 0, 0, np.where(halves >= 2 * frames, total, np.minimum(at, total)))


@dataclass(frozen=True, slots=True)
class Heard:
    """An utterance as the network gets it."""

    samples: np.ndarray
    """(S,) float32 at RATE, enough for a frame."""
    columns: np.ndarray
    """(K,) tokens whose probabilities are asked for, the blank among them, ascending."""

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, kw_only=True)
class _ByCtc(Derived):
    """What both features need: the folder, texts in tokens, and their ways through the frames."""

    ctc: Path
    """A folder as transformers writes them, with a vocab.json."""
    precision: Precision = "fp32"
    """What the network computes in. What is not finite in half precision is computed again in fp32."""

    on_gpu = True

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        folder, tokens, grid = self._folder(), self._vocabulary(), self._grid()
        words = there["phone_word"].fingerprint if "phone_word" in there else "unknown"
        unit = "phones" if tokens.of_phones else "characters"
        read = {"vocabulary": weight_files.digest([self.ctc / ctc_vocabulary.FILE]), "unit": unit, "words": words}
        signal = {"normalised": _normalises(self.ctc), "precision": self.precision, **grid._asdict()}
        pieces = {"whole_frames": WHOLE, "piece_frames": PIECE, "margin_frames": MARGIN}
        return {"method": "ctc", **folder.recipe, **read, **signal, **pieces}

    def lines(self, part: Part) -> list[list[Stretch]]:
        """What spells every utterance; nothing where the vocabulary lacks too much of it.

        Raises:
            UsageError: the folder is another one here.
        """
        if self.spec(part.specs) != part.specs[self.name]:
            raise UsageError(f"{OPTION} {self.ctc} is not here what it was where the command began: all must see it.")
        tokens, phones = self._vocabulary(), list(part.utterances("phones"))
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

    def ways(self, part: Part, lines: Sequence[Sequence[Stretch]]) -> Iterator[Way | None]:
        """Of every utterance; None where nothing spells it, or it is too short for that."""
        blank, grid = self._vocabulary().blank, self._grid()
        rate, normalises = part.specs["wave"].recipe["sample_rate"], _normalises(self.ctc)
        heard = (
            Heard(_prepared(wave, rate, grid.field, normalises), np.unique([*tokens_of(line), blank]))
            for wave, line in zip(part.utterances("wave"), lines, strict=True)
            if line
        )
        emissions = self._emissions(part, heard, grid)
        for line in lines:
            yield best_way(next(emissions), tokens_of(line), blank) if line else None

    def _folder(self) -> Folder:
        folder = huggingface.look(self.ctc, "wav2vec2", OPTION)
        kinds = folder.config.get("architectures") or [NETWORK]
        if kinds != [NETWORK]:
            raise UsageError(f"{OPTION} {self.ctc} holds {', '.join(kinds)}, and {NETWORK} is needed here.")
        if folder.config.get("add_adapter"):
            raise UsageError(f"{OPTION} {self.ctc} has add_adapter: its frames are not those of its convolutions.")
        return folder

    def _vocabulary(self) -> Vocabulary:
        return ctc_vocabulary.read(self.ctc, self._folder().config, OPTION)

    def _grid(self) -> Grid:
        return Grid.of(self._folder().config)

    def _emissions(self, part: Part, heard: Iterator[Heard], grid: Grid) -> Iterator[np.ndarray]:
        """(T, K + 1) float32 log-probabilities of each; the last column is that of the best token, whichever it is."""
        for batch in batches(heard, BATCH * grid.stride):
            if len(batch[0]) > WHOLE * grid.stride:
                made = ((self._made(part, [piece])[0], ahead) for piece, ahead in _pieces(batch[0], grid))
                yield np.concatenate([rows[ahead:][:PIECE] for rows, ahead in made])
            else:
                yield from self._made(part, batch)

    def _made(self, part: Part, heard: Sequence[Heard]) -> list[np.ndarray]:
        return huggingface.finite(partial(self._by, part), heard, self.precision, part, f"{OPTION} {self.ctc}")

    @torch.inference_mode()
    def _by(self, part: Part, precision: Precision, heard: Sequence[Heard]) -> list[np.ndarray]:
        digest = part.specs[self.name].recipe["weights"]
        network = huggingface.network(NETWORK, self.ctc, "wav2vec2", OPTION, digest, part.device, precision)
        hidden_BLW, lengths = last_hidden(network.wav2vec2, [one.samples for one in heard])
        made = []
        for hidden_LW, length, one in zip(hidden_BLW, lengths, heard, strict=True):
            scores = network.lm_head(hidden_LW[:length]).float().log_softmax(-1)
            asked = scores[:, torch.from_numpy(one.columns).to(scores.device)]
            made.append(torch.cat([asked, scores.amax(1, keepdim=True)], 1).cpu().numpy())
        return made


@dataclass(frozen=True, kw_only=True)
class CtcAlign(_ByCtc):
    """Where every phone begins and ends, as `aligner.Align` has it, by a network."""

    name, needs, axis, dtype, channels = "align", ("wave", "phones", "phone_end"), "phones", "int32", 2

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {**super().recipe(there), "reach_frames": REACH}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        given, wave, grid = _given(part), part.specs["wave"], self._grid()
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


def _normalises(folder: Path) -> bool:
    """Whether a network hears every utterance at mean 0 and variance 1, by what stands beside it.

    Raises:
        UsageError: it hears at another rate than RATE.
    """
    file = folder / "preprocessor_config.json"
    try:
        said = json.loads(file.read_bytes()) if file.exists() else {}
        rate, normalises = said.get("sampling_rate", RATE), bool(said.get("do_normalize", True))
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{OPTION} {file} is not what transformers writes: {error}.") from error
    if rate != RATE:
        raise UsageError(f"{OPTION} {folder} hears at {rate} Hz, and {RATE} are needed here.")
    return normalises


def _prepared(wave: np.ndarray, rate: int, fewest: int, normalises: bool) -> np.ndarray:
    """(T, H) int16 at a rate to (S,) float32 at RATE, as many as make a frame at least."""
    samples = soxr.resample(wave.reshape(-1) / np.float32(32768), rate, RATE, quality="HQ")
    if normalises:
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + np.float32(1e-7))
    return np.pad(samples, (0, max(0, fewest - len(samples))))


def _pieces(heard: Heard, grid: Grid) -> Iterator[tuple[Heard, int]]:
    """Stretches of PIECE frames with MARGIN on either side, and how many of these are before it."""
    frames = (len(heard) - grid.field) // grid.stride + 1
    for start in range(0, frames, PIECE):
        first, last = max(0, start - MARGIN), min(frames, start + PIECE + MARGIN) - 1
        samples = heard.samples[first * grid.stride : last * grid.stride + grid.field]
        yield Heard(samples, heard.columns), start - first
