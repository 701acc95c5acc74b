"""Run a CTC network (Graves et al. 2006) from the folder of a Wav2Vec2ForCTC that Hugging Face's transformers saved.

    wave --> 16 kHz --> network --> log-probabilities of the utterance's tokens

Shapes: S samples at RATE, T frames of the network, K distinct tokens of an utterance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch

from headrace.featurize.features import huggingface, network_batches, network_config
from headrace.featurize.features.content import last_hidden_states
from headrace.featurize.features.derived import Part
from headrace.featurize.features.hubert_input import RATE
from headrace.featurize.features.huggingface import ModelFolder, Precision
from headrace.featurize.features.network_batches import batch_by_length
from headrace.featurize.forced_alignment import ctc_vocabulary
from headrace.featurize.forced_alignment.ctc_vocabulary import Vocabulary
from headrace.featurize.spectral.float32 import without_tf32
from headrace.store.errors import UsageError

OPTION, NETWORK = "--ctc", "Wav2Vec2ForCTC"
BATCH = 6000
"""Most frames of a batch, with padding."""
WHOLE, PIECE, MARGIN = 3000, 2500, 250
"""Frames: recordings over a minute are read in pieces of 50 s."""
KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
"""Defaults of the convolutions, as in transformers."""


class FrameGrid(NamedTuple):
    """The samples at RATE that a frame of the network covers: a receptive field every stride."""

    stride: int
    field: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FrameGrid:
        """Compute the grid from the convolutions of a checked config."""
        kernels, strides = config.get("conv_kernel", KERNELS), config.get("conv_stride", STRIDES)
        steps = [math.prod(strides[:n]) for n in range(len(strides) + 1)]
        return cls(steps[-1], 1 + sum((kernel - 1) * step for kernel, step in zip(kernels, steps, strict=False)))

    def samples(self, halves: np.ndarray, frames: int, rate: int, total: int) -> np.ndarray:
        """Convert numbers of half frames to samples at `rate`, of `total` in all.

        A frame is assigned the stride in the middle of its receptive field; the first and the last frame also extend to
        the ends of the recording.
        """
        at = ((self.stride * halves + self.field - self.stride) * rate + RATE) // (2 * RATE)
        return np.where(halves <= 0, 0, np.where(halves >= 2 * frames, total, np.minimum(at, total)))


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """An utterance as the network reads it."""

    samples: np.ndarray
    """(S,) float32 at RATE, at least one receptive field."""
    columns: np.ndarray
    """(K,) ids of the tokens to return, with the blank, ascending."""

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, slots=True)
class CtcNetwork:
    """A CTC network in a folder, and its precision."""

    path: Path
    precision: Precision

    def folder(self) -> ModelFolder:
        """Check the folder and read its config. Raises UsageError where it holds another network."""
        folder = huggingface.inspect_folder(self.path, "wav2vec2", OPTION)
        kinds = folder.config.get("architectures") or [NETWORK]
        if kinds != [NETWORK]:
            shown = ", ".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds)
            raise UsageError(f"{OPTION} {self.path} holds {shown[:60]}, and {NETWORK} is needed here.")
        if folder.config.get("add_adapter"):
            raise UsageError(f"{OPTION} {self.path} has add_adapter: its frames are not those of its convolutions.")
        return folder

    def vocabulary(self) -> Vocabulary:
        """Read the vocabulary. Raises UsageError."""
        return ctc_vocabulary.read(self.path, self.folder().config, OPTION)

    def grid(self) -> FrameGrid:
        """Return the grid of its frames. Raises UsageError."""
        return FrameGrid.from_config(self.folder().sizes)

    def emissions(self, part: Part, inputs: Iterator[NetworkInput], weights: str) -> Iterator[np.ndarray]:
        """Yield (T, K + 1) float32 log-probabilities of each input; the last column is that of the most likely token.

        Args:
            weights: digest of the network's files.
        """
        grid = self.grid()
        for batch in batch_by_length(inputs, BATCH, network_batches.shapes_for(part.device), grid.stride):
            if len(batch[0]) > WHOLE * grid.stride:
                outputs = (
                    (self._log_probs(part, weights, [piece])[0], margin) for piece, margin in _pieces(batch[0], grid)
                )
                yield np.concatenate([rows[margin:][:PIECE] for rows, margin in outputs])
            else:
                yield from self._log_probs(part, weights, batch)

    def _log_probs(self, part: Part, weights: str, inputs: Sequence[NetworkInput]) -> list[np.ndarray]:
        return huggingface.compute_finite(
            partial(self._log_probs_in, part, weights), inputs, self.precision, part, f"{OPTION} {self.path}"
        )

    @torch.inference_mode()
    @without_tf32()
    def _log_probs_in(
        self, part: Part, weights: str, precision: Precision, inputs: Sequence[NetworkInput]
    ) -> list[np.ndarray]:
        network = huggingface.load_network(NETWORK, self.path, "wav2vec2", OPTION, weights, part.device, precision)
        shapes = network_batches.shapes_for(part.device)
        hidden_BLW, lengths = last_hidden_states(network.wav2vec2, [item.samples for item in inputs], shapes)
        outputs = []
        for hidden_LW, length, item in zip(hidden_BLW, lengths, inputs, strict=False):
            scores = network.lm_head(hidden_LW[:length]).float().log_softmax(-1)
            selected = scores[:, torch.from_numpy(item.columns).to(scores.device)]
            outputs.append(torch.cat([selected, scores.amax(1, keepdim=True)], 1).cpu().numpy())
        return outputs


def normalises(folder: Path) -> bool:
    """Return whether a network expects mean 0 and variance 1, by its preprocessor_config.json.

    Raises:
        UsageError: it expects a sample rate other than RATE.
    """
    file = folder / "preprocessor_config.json"
    try:
        preprocessor = network_config.read_json(file, network_config.MAX_CONFIG) if file.exists() else {}
        rate, normalises = preprocessor.get("sampling_rate", RATE), bool(preprocessor.get("do_normalize", True))
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{OPTION} {file} is not what transformers writes: {error}.") from error
    if rate != RATE:
        raise UsageError(f"{OPTION} {folder} reads audio at {rate} Hz, and {RATE} Hz are needed here.")
    return normalises


def prepare(wave: np.ndarray, rate: int, fewest: int, normalises: bool) -> np.ndarray:
    """Convert (T, hop) int16 at a rate to (S,) float32 at RATE, padded to `fewest` samples."""
    samples = soxr.resample(wave.reshape(-1) / np.float32(32768), rate, RATE, quality="HQ")
    if normalises:
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + np.float32(1e-7))
    return np.pad(samples, (0, max(0, fewest - len(samples))))


def _pieces(whole: NetworkInput, grid: FrameGrid) -> Iterator[tuple[NetworkInput, int]]:
    """Yield pieces of PIECE frames with MARGIN frames on either side, and the length of the margin before each."""
    frames = (len(whole) - grid.field) // grid.stride + 1
    for start in range(0, frames, PIECE):
        first, last = max(0, start - MARGIN), min(frames, start + PIECE + MARGIN) - 1
        samples = whole.samples[first * grid.stride : last * grid.stride + grid.field]
        yield NetworkInput(samples, whole.columns), start - first
