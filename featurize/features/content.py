"""The feature `content`: what is spoken, independent of the speaker.

It is computed by HuBERT (Hsu et al. 2021) as GPT-SoVITS prepares it, or from MFCC with their deltas, from which
HuBERT's own training started.

Shapes: T frames, H samples of a hop, B utterances, L frames of the longest, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from headrace.featurize.features import huggingface, network_batches
from headrace.featurize.features.derived import Derived, Part, apply_in_pieces
from headrace.featurize.features.hubert_input import FULL_SCALE, RATE, gain, resample
from headrace.featurize.features.huggingface import Precision
from headrace.featurize.features.network_batches import BatchShapes, batch_by_length
from headrace.featurize.spectral.dsp import mfcc_content
from headrace.featurize.spectral.float32 import without_tf32
from headrace.store.errors import Rejected, UsageError
from headrace.store.schema import FeatureSpec

HZ, WIDTH = 50, 768
STRIDES = [5, 2, 2, 2, 2, 2, 2]
"""Default strides of the convolutions, as in transformers."""


@dataclass(frozen=True, kw_only=True)
class HubertContent(Derived):
    """The last hidden states of HuBERT, 50 frames a second.

    It computes padded, masked batches: on CUDA all of it, on a CPU the transformer. The first convolution is normalised
    over an utterance's own samples. A result thus depends only on its own utterance, except for rounding.
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
        for batch in batch_by_length(waves, self.BATCH, network_batches.shapes_for(part.device)):
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
            made_BLW, lengths = last_hidden_states(network, samples_16k, network_batches.shapes_for(part.device))
            return [rows[:length] for rows, length in zip(made_BLW.half().cpu().numpy(), lengths, strict=False)]

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


@torch.inference_mode()
@without_tf32()
def last_hidden_states(
    network: Any, samples_16k: Sequence[np.ndarray], shapes: BatchShapes
) -> tuple[Tensor, list[int]]:
    """Compute the last hidden states of HuBERT or wav2vec 2.0 for waveforms (S,), independent of one another.

    Args:
        shapes: that the batch is padded to.
    Returns:
        (B, L, W) on the device and in the dtype of the network, and the number of frames of each waveform. With
        padding, B and L are larger than what was given.
    """
    of, extractor = next(network.parameters()), network.feature_extractor
    lengths = [_frames(extractor.conv_layers, len(wave)) for wave in samples_16k]
    if shapes.lengths:
        features_BLC = _convolve_padded(
            extractor.conv_layers, samples_16k, shapes.padded(len(lengths), max(lengths)), of
        )
    else:  # on a CPU, one by one takes two thirds of the time, and half of the memory
        each = [extractor(torch.from_numpy(wave).to(of)[None])[0].T for wave in samples_16k]
        features_BLC = pad_sequence(each, batch_first=True)
    projected = network.feature_projection(features_BLC)
    hidden_BLW = projected if isinstance(projected, Tensor) else projected[0]  # wav2vec 2.0's has its input too
    rows, frames = hidden_BLW.shape[:2]
    ends_B = torch.tensor([*lengths, *[1] * (rows - len(lengths))])  # a row of nothing but padding would be no number
    valid_BL = torch.arange(frames) < ends_B[:, None]
    made_BLW: Tensor = network.encoder(hidden_BLW, attention_mask=valid_BL.to(of.device)).last_hidden_state
    return made_BLW, lengths


def _convolve_padded(layers: Any, samples_16k: Sequence[np.ndarray], shape: tuple[int, int], of: Tensor) -> Tensor:
    """Compute the convolutions of HuBERT for waveforms together, each as alone. (B, L, C).

    Args:
        shape: B and L, no less than there are.
        of: on the device and in the dtype of the network.
    """
    rows, frames = shape
    padded_BS = np.zeros((rows, _samples(layers, frames)), np.float32)
    for row, wave in zip(padded_BS, samples_16k, strict=False):
        row[: len(wave)] = wave
    sizes = [*map(len, samples_16k), *[_samples(layers, 1)] * (rows - len(samples_16k))]
    hidden_BCS = torch.from_numpy(padded_BS).to(of)[:, None]
    for layer in layers:
        sizes = [_frames([layer], size) for size in sizes]
        norm = getattr(layer, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):  # over all samples of a channel, of the first layer only
            hidden_BCS = layer.activation(_normalise(norm, layer.conv(hidden_BCS), sizes))
        else:
            hidden_BCS = layer(hidden_BCS)
    return hidden_BCS.mT


def _normalise(norm: nn.GroupNorm, x_BCS: Tensor, sizes: Sequence[int]) -> Tensor:
    """Apply a norm of each channel over samples, of which those beyond each waveform's size do not count. (B, C, S)."""
    sizes_B11 = torch.tensor(sizes, device=x_BCS.device)[:, None, None]
    padding_B1S = torch.arange(x_BCS.shape[2], device=x_BCS.device) >= sizes_B11
    mean_BC1 = x_BCS.masked_fill_(padding_B1S, 0.0).sum(2, keepdim=True, dtype=torch.float32) / sizes_B11
    centred_BCS = (x_BCS - mean_BC1).masked_fill_(padding_B1S, 0.0)
    deviation_BC1 = (
        torch.linalg.vector_norm(centred_BCS, dim=2, keepdim=True).square().div(sizes_B11).add(norm.eps).sqrt()
    )
    scale_BC1 = norm.weight.float()[:, None] / deviation_BC1
    return centred_BCS.mul_(scale_BC1).add_(norm.bias.float()[:, None]).to(x_BCS.dtype)


def _frames(layers: Iterable[Any], samples: int) -> int:
    """Return how many frames convolutions make of samples."""
    for layer in layers:
        samples = (samples - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
    return samples


def _samples(layers: Sequence[Any], frames: int) -> int:
    """Return the most samples of which convolutions make so many frames."""
    for layer in reversed(layers):
        frames = frames * layer.conv.stride[0] + layer.conv.kernel_size[0] - 1
    return frames
