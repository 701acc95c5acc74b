"""A network that was trained with CTC (Graves et al. 2006), in the folder that Hugging Face writes of a Wav2Vec2ForCTC.

    wave --> 16 kHz --> network --> log-probabilities of an utterance's tokens

Shapes: S samples at RATE, T frames of the network, K different tokens of an utterance.
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

from headrace.featurize.features import huggingface
from headrace.featurize.features.content import RATE, batches, last_hidden
from headrace.featurize.features.derived import Part
from headrace.featurize.features.huggingface import Folder, Precision
from headrace.featurize.forced_alignment import ctc_vocabulary
from headrace.featurize.forced_alignment.ctc_vocabulary import Vocabulary
from headrace.store.errors import UsageError

OPTION, NETWORK = "--ctc", "Wav2Vec2ForCTC"
BATCH = 6000
"""Frames together, padding included."""
WHOLE, PIECE, MARGIN = 3000, 2500, 250
"""Frames: what is longer than a minute, attention sees in pieces of 50 s."""
KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
"""Of the convolutions, where a config does not say."""


class Grid(NamedTuple):
    """Which samples at RATE the network's frames cover: one field every stride."""

    stride: int
    field: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Grid:
        """Return the grid of a config's convolutions. Raises UsageError."""
        kernels, strides = config.get("conv_kernel", KERNELS), config.get("conv_stride", STRIDES)
        if not all(isinstance(sizes, list) and all(type(n) is int for n in sizes) for sizes in (kernels, strides)):
            raise UsageError(f"{OPTION}: conv_kernel={kernels}, conv_stride={strides}, and whole numbers are needed.")
        steps = [math.prod(strides[:n]) for n in range(len(strides) + 1)]
        return cls(steps[-1], 1 + sum((kernel - 1) * step for kernel, step in zip(kernels, steps, strict=False)))

    def samples(self, halves: np.ndarray, frames: int, rate: int, total: int) -> np.ndarray:
        """Return the samples, of `total` at `rate`, at which numbers of half frames end.

        A frame owns a stride in the middle of its field; the first one also what is before it, and the last one what is
        after it.
        """
        at = ((self.stride * halves + self.field - self.stride) * rate + RATE) // (2 * RATE)
        return np.where(halves <= 0, 0, np.where(halves >= 2 * frames, total, np.minimum(at, total)))


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """An utterance as the network reads it."""

    samples: np.ndarray
    """(S,) float32 at RATE, enough for a frame."""
    columns: np.ndarray
    """(K,) tokens whose probabilities are asked for, the blank among them, ascending."""

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, slots=True)
class CtcNetwork:
    """A folder with a network, and the precision that it computes in."""

    path: Path
    precision: Precision

    def folder(self) -> Folder:
        """Inspect the folder. Raises UsageError where it holds another network."""
        folder = huggingface.inspect_folder(self.path, "wav2vec2", OPTION)
        kinds = folder.config.get("architectures") or [NETWORK]
        if kinds != [NETWORK]:
            raise UsageError(f"{OPTION} {self.path} holds {', '.join(kinds)}, and {NETWORK} is needed here.")
        if folder.config.get("add_adapter"):
            raise UsageError(f"{OPTION} {self.path} has add_adapter: its frames are not those of its convolutions.")
        return folder

    def vocabulary(self) -> Vocabulary:
        """Read what the tokens stand for. Raises UsageError."""
        return ctc_vocabulary.read(self.path, self.folder().config, OPTION)

    def grid(self) -> Grid:
        """Return which samples its frames cover."""
        return Grid.of(self.folder().config)

    def emissions(self, part: Part, inputs: Iterator[NetworkInput], weights: str) -> Iterator[np.ndarray]:
        """Yield (T, K + 1) float32 log-probabilities of each input; the last column is that of the most likely token.

        Args:
            weights: digest of the network's files.
        """
        grid = self.grid()
        for batch in batches(inputs, BATCH * grid.stride):
            if len(batch[0]) > WHOLE * grid.stride:
                made = ((self._log_probs(part, weights, [piece])[0], ahead) for piece, ahead in _pieces(batch[0], grid))
                yield np.concatenate([rows[ahead:][:PIECE] for rows, ahead in made])
            else:
                yield from self._log_probs(part, weights, batch)

    def _log_probs(self, part: Part, weights: str, inputs: Sequence[NetworkInput]) -> list[np.ndarray]:
        return huggingface.finite(
            partial(self._by, part, weights), inputs, self.precision, part, f"{OPTION} {self.path}"
        )

    @torch.inference_mode()
    def _by(self, part: Part, weights: str, precision: Precision, inputs: Sequence[NetworkInput]) -> list[np.ndarray]:
        network = huggingface.network(NETWORK, self.path, "wav2vec2", OPTION, weights, part.device, precision)
        hidden_BLW, lengths = last_hidden(network.wav2vec2, [one.samples for one in inputs])
        made = []
        for hidden_LW, length, one in zip(hidden_BLW, lengths, inputs, strict=True):
            scores = network.lm_head(hidden_LW[:length]).float().log_softmax(-1)
            asked = scores[:, torch.from_numpy(one.columns).to(scores.device)]
            made.append(torch.cat([asked, scores.amax(1, keepdim=True)], 1).cpu().numpy())
        return made


def normalises(folder: Path) -> bool:
    """Return whether a network reads utterances at mean 0 and variance 1, by its preprocessor_config.json.

    Raises:
        UsageError: it reads another rate than RATE.
    """
    file = folder / "preprocessor_config.json"
    try:
        said = json.loads(file.read_bytes()) if file.exists() else {}
        rate, normalises = said.get("sampling_rate", RATE), bool(said.get("do_normalize", True))
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{OPTION} {file} is not what transformers writes: {error}.") from error
    if rate != RATE:
        raise UsageError(f"{OPTION} {folder} reads audio at {rate} Hz, and {RATE} Hz are needed here.")
    return normalises


def prepare(wave: np.ndarray, rate: int, fewest: int, normalises: bool) -> np.ndarray:
    """Return (T, hop) int16 at a rate as (S,) float32 at RATE, padded to `fewest` samples."""
    samples = soxr.resample(wave.reshape(-1) / np.float32(32768), rate, RATE, quality="HQ")
    if normalises:
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + np.float32(1e-7))
    return np.pad(samples, (0, max(0, fewest - len(samples))))


def _pieces(whole: NetworkInput, grid: Grid) -> Iterator[tuple[NetworkInput, int]]:
    """Yield pieces of PIECE frames with MARGIN on either side, and the number of frames of the margin before it."""
    frames = (len(whole) - grid.field) // grid.stride + 1
    for start in range(0, frames, PIECE):
        first, last = max(0, start - MARGIN), min(frames, start + PIECE + MARGIN) - 1
        samples = whole.samples[first * grid.stride : last * grid.stride + grid.field]
        yield NetworkInput(samples, whole.columns), start - first
