"""The feature `content`: what is spoken, independent of the speaker.

It is computed by HuBERT (Hsu et al. 2021) as GPT-SoVITS prepares it, or from MFCC with their deltas, from which
HuBERT's own training started.

Shapes: T frames, H samples of a hop, B utterances, L frames of the longest, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from headrace.featurize.features import huggingface
from headrace.featurize.features.derived import Derived, Part, apply_in_pieces
from headrace.featurize.features.hubert_input import FULL_SCALE, RATE, gain, resample
from headrace.featurize.features.huggingface import Precision
from headrace.featurize.spectral.dsp import mfcc_content
from headrace.featurize.spectral.float32 import without_tf32
from headrace.store.errors import Rejected, UsageError
from headrace.store.schema import FeatureSpec

HZ, WIDTH = 50, 768
Long = TypeVar("Long", bound=Sized)
STRIDES = [5, 2, 2, 2, 2, 2, 2]
"""Default strides of the convolutions, as in transformers."""


@dataclass(frozen=True, kw_only=True)
class HubertContent(Derived):
    """The last hidden states of HuBERT, 50 frames a second.

    The convolutions run on one utterance at a time, because the first one is normalised over the whole length. The
    transformer runs on padded, masked batches. A result thus depends only on its own utterance, except for rounding.
    """

    hubert: Path
    """Folder of a model as transformers saves it, such as chinese-hubert-base."""
    precision: Precision = "fp32"
    """Precision of the network. Results that are not finite in half precision are computed again in fp32."""

    name, needs, axis, dtype, channels, on_gpu = "content", ("wave",), "frames", "float16", WIDTH, True
    BATCH = 6000  # frames, padding included
    WHOLE, PIECE, MARGIN = 3000, 2500, 250  # frames: recordings over a minute are read in pieces of 50 s

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        rate, hop = (specs["wave"].recipe[key] for key in ("sample_rate", "hop"))
        if rate != HZ * hop:
            raise UsageError(
                f"HuBERT has {HZ} frames a second, this store {rate / hop:g}: build one with --preset gpt-sovits-v2."
            )
        folder = huggingface.inspect_folder(self.hubert, "hubert", "--hubert", hidden_size=WIDTH)
        stride = math.prod(folder.sizes.get("conv_stride", STRIDES))
        if stride * HZ != RATE:
            raise UsageError(f"--hubert {self.hubert} makes a frame of {stride} samples, {RATE // HZ} are needed here.")
        signal = {"level": f"gpt-sovits {FULL_SCALE}", "resampler": "soxr-hq", "short_of_a_frame": "repeated"}
        pieces = {"whole_frames": self.WHOLE, "piece_frames": self.PIECE, "margin_frames": self.MARGIN}
        return {"network": "hubert", **folder.recipe, "layer": "last", "precision": self.precision, **signal, **pieces}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        wave = part.specs["wave"].recipe
        waves = (samples * gain(samples, wave["level"]) for samples in part.utterances("wave"))
        for batch in batch_by_length(waves, self.BATCH):
            if len(batch[0]) > self.WHOLE:
                yield apply_in_pieces(lambda piece: self._content(part, [piece])[0], batch[0], self.PIECE, self.MARGIN)
            else:
                yield from self._content(part, batch)

    def _content(self, part: Part, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the hidden states (T, W) float16 of each waveform (T, H) float32."""
        rate, weights = part.specs["wave"].recipe["sample_rate"], part.specs["content"].recipe["weights"]
        samples_16k = [resample(wave.reshape(-1), rate) for wave in waves]

        def compute(precision: Precision, samples_16k: Sequence[np.ndarray]) -> list[np.ndarray]:
            network = huggingface.load_network(
                "HubertModel", self.hubert, "hubert", "--hubert", weights, part.device, precision
            )
            made_BLW, lengths = last_hidden_states(network, samples_16k)
            return [rows[:length] for rows, length in zip(made_BLW.half().cpu().numpy(), lengths, strict=True)]

        features = huggingface.compute_finite(compute, samples_16k, self.precision, part, f"--hubert {self.hubert}")
        return [match_frame_count(rows, len(wave)) for rows, wave in zip(features, waves, strict=True)]


@dataclass(frozen=True, kw_only=True)
class MfccContent(Derived):
    """MFCC, deltas and delta-deltas, with zero mean and unit variance per utterance: `dsp.mfcc_content`."""

    width: int | None = None
    """Channels. Neighbouring frames are stacked as far as they fit. None: three for each MFCC."""

    name, needs, axis, dtype = "content", ("mfcc",), "frames", "float16"

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"method": "mfcc-deltas", "normalised": "utterance", "delta_frames": 2}

    def spec(self, specs: Mapping[str, FeatureSpec], model: str = "") -> FeatureSpec:
        narrowest = 3 * (specs["mfcc"].channels or 1)
        if self.width is not None and self.width < narrowest:
            raise UsageError(f"--content-channels {self.width}: MFCC with their deltas are {narrowest} here, or more.")
        return replace(super().spec(specs, model), channels=self.width or narrowest)

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        width = part.specs["content"].channels or 0
        for mfcc in part.utterances("mfcc"):
            content_1TW = mfcc_content(torch.tensor(mfcc[None]), torch.tensor([len(mfcc)]), width)
            yield content_1TW[0].half().numpy()


def match_frame_count(rows: np.ndarray, frames: int) -> np.ndarray:
    """Repeat the last row where HuBERT made one frame less than the STFT. Raises Rejected if more are missing."""
    if not 0 <= frames - len(rows) <= 1:
        raise Rejected("features", f"HuBERT made {len(rows)} frames of {frames}, and not as many or one less")
    return rows if len(rows) == frames else np.concatenate((rows, rows[-1:]))


def batch_by_length(waves: Iterable[Long], frames: int) -> Iterator[list[Long]]:
    """Yield consecutive waveforms in batches of at most `frames` with padding; a longer one is a batch of its own."""
    batch: list[Long] = []
    for wave in waves:
        if batch and max(len(wave), len(batch[-1])) * (len(batch) + 1) > frames:
            yield batch
            batch = []
        batch.append(wave)
    if batch:
        yield batch


@torch.inference_mode()
@without_tf32()
def last_hidden_states(network: Any, samples_16k: Sequence[np.ndarray]) -> tuple[Tensor, list[int]]:
    """Compute the last hidden states of HuBERT or wav2vec 2.0 for waveforms (S,), independent of one another.

    Returns:
        (B, L, W) on the device and in the dtype of the network, and the number of frames of each waveform.
    """
    of = next(network.parameters())
    features = [network.feature_extractor(torch.from_numpy(wave).to(of)[None])[0].T for wave in samples_16k]
    lengths = [len(feature) for feature in features]
    projected = network.feature_projection(pad_sequence(features, batch_first=True))
    hidden_BLW = projected if isinstance(projected, Tensor) else projected[0]  # wav2vec 2.0's has its input too
    valid_BL = torch.arange(hidden_BLW.shape[1]) < torch.tensor(lengths)[:, None]
    made_BLW: Tensor = network.encoder(hidden_BLW, attention_mask=valid_BL.to(of.device)).last_hidden_state
    return made_BLW, lengths
