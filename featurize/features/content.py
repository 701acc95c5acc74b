"""`content`: what is spoken, by whoever speaks. By HuBERT (Hsu et al. 2021) as GPT-SoVITS prepares it, or by MFCC with
their deltas, which HuBERT's own training began with.

Shapes: T frames, H samples of a hop, B utterances, L frames of the longest, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from headrace.featurize.features import huggingface
from headrace.featurize.features.derived import Derived, Part, in_pieces
from headrace.featurize.features.huggingface import Precision
from headrace.featurize.spectral.dsp import mfcc_content
from headrace.store.errors import StoreError, UsageError
from headrace.store.schema import FeatureSpec

RATE, HZ, WIDTH = 16_000, 50, 768
FIELD = 400
"""Samples at RATE that one frame of HuBERT sees; fewer make none."""
FULL_SCALE = 1145.14
"""GPT-SoVITS feeds samples of this magnitude, and does not normalise them further."""
Long = TypeVar("Long", bound=Sized)
STRIDES = [5, 2, 2, 2, 2, 2, 2]
"""Of the convolutions, where a config does not say."""


@dataclass(frozen=True, kw_only=True)
class Hubert(Derived):
    """The last hidden state of HuBERT, 50 frames a second.

    Convolutions run for each utterance alone, since the first is followed by statistics over its whole length; the
    transformer runs for neighbours in length together, masked. So a result depends on its own utterance alone, but for
    rounding.
    """

    hubert: Path
    """A folder as transformers writes them, such as chinese-hubert-base."""
    precision: Precision = "fp32"
    """What the network computes in. What is not finite in half precision is computed again in fp32."""

    name, needs, axis, dtype, channels, on_gpu = "content", ("wave",), "frames", "float16", WIDTH, True
    BATCH = 6000  # frames, padding included
    WHOLE, PIECE, MARGIN = 3000, 2500, 250  # frames: what is longer than a minute, attention sees in pieces of 50 s

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        rate, hop = (there["wave"].recipe[key] for key in ("sample_rate", "hop"))
        if rate != HZ * hop:
            raise UsageError(
                f"HuBERT has {HZ} frames a second, this store {rate / hop:g}: build one with --preset gpt-sovits-v2."
            )
        folder = huggingface.inspect_folder(self.hubert, "hubert", "--hubert", hidden_size=WIDTH)
        stride = math.prod(folder.config.get("conv_stride", STRIDES))
        if stride * HZ != RATE:
            raise UsageError(f"--hubert {self.hubert} makes a frame of {stride} samples, {RATE // HZ} are needed here.")
        signal = {"level": f"gpt-sovits {FULL_SCALE}", "resampler": "soxr-hq", "short_of_a_frame": "repeated"}
        pieces = {"whole_frames": self.WHOLE, "piece_frames": self.PIECE, "margin_frames": self.MARGIN}
        return {"network": "hubert", **folder.recipe, "layer": "last", "precision": self.precision, **signal, **pieces}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        wave = part.specs["wave"].recipe
        waves = (samples * gain(samples, wave["level"]) for samples in part.utterances("wave"))
        for batch in batches(waves, self.BATCH):
            if len(batch[0]) > self.WHOLE:
                yield in_pieces(lambda piece: self._content(part, [piece])[0], batch[0], self.PIECE, self.MARGIN)
            else:
                yield from self._content(part, batch)

    def _content(self, part: Part, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(T, W) float16 of each of some waves (T, H) float32."""
        rate, weights = part.specs["wave"].recipe["sample_rate"], part.specs["content"].recipe["weights"]
        heard = [resampled(wave.reshape(-1), rate) for wave in waves]

        def by(precision: Precision, heard: Sequence[np.ndarray]) -> list[np.ndarray]:
            network = huggingface.network(
                "HubertModel", self.hubert, "hubert", "--hubert", weights, part.device, precision
            )
            made_BLW, lengths = last_hidden(network, heard)
            return [rows[:length] for rows, length in zip(made_BLW.half().cpu().numpy(), lengths, strict=True)]

        made = huggingface.finite(by, heard, self.precision, part, f"--hubert {self.hubert}")
        return [lengthened(rows, len(wave)) for rows, wave in zip(made, waves, strict=True)]


@dataclass(frozen=True, kw_only=True)
class MfccContent(Derived):
    """MFCC, deltas and delta-deltas, each utterance brought to zero mean and unit variance: `dsp.mfcc_content`."""

    width: int | None = None
    """Channels, neighbouring frames side by side as far as they fit; None has three for each MFCC."""

    name, needs, axis, dtype = "content", ("mfcc",), "frames", "float16"

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"method": "mfcc-deltas", "normalised": "utterance", "delta_frames": 2}

    def spec(self, there: Mapping[str, FeatureSpec], model: str = "") -> FeatureSpec:
        narrowest = 3 * (there["mfcc"].channels or 1)
        if self.width is not None and self.width < narrowest:
            raise UsageError(f"--content-channels {self.width}: MFCC with their deltas are {narrowest} here, or more.")
        return replace(super().spec(there, model), channels=self.width or narrowest)

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        width = part.specs["content"].channels or 0
        for mfcc in part.utterances("mfcc"):
            content_1TW = mfcc_content(torch.tensor(mfcc[None]), torch.tensor([len(mfcc)]), width)
            yield content_1TW[0].half().numpy()


def gain(samples: np.ndarray, level: str) -> np.float32:
    """What int16 samples are multiplied with on their way to HuBERT: half of them as they are and half brought to a
    peak of 0.95, at FULL_SCALE. A store of level `gpt-sovits` has them mixed that way already."""
    if level == "gpt-sovits":
        return np.float32(FULL_SCALE / 32768)
    peak = max(1, int(samples.max()), -int(samples.min())) / 32768
    return np.float32((0.5 * 0.95 / peak + 0.5) * FULL_SCALE / 32768)


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """(S,) float32 at RATE, as many as make a frame at least."""
    heard: np.ndarray = soxr.resample(samples, rate, RATE, quality="HQ")
    return np.pad(heard, (0, max(0, FIELD - len(heard))))


def lengthened(rows: np.ndarray, frames: int) -> np.ndarray:
    """HuBERT makes of a waveform as many frames as the STFT does, or one less: then the last one counts twice."""
    if not 0 <= frames - len(rows) <= 1:
        raise StoreError(f"HuBERT made {len(rows)} frames of {frames}, and not as many or one less.")
    return rows if len(rows) == frames else np.concatenate((rows, rows[-1:]))


def batches(waves: Iterable[Long], frames: int) -> Iterator[list[Long]]:
    """Neighbours together, of so many frames at the most, padding included; one that has more is alone."""
    batch: list[Long] = []
    for wave in waves:
        if batch and max(len(wave), len(batch[-1])) * (len(batch) + 1) > frames:
            yield batch
            batch = []
        batch.append(wave)
    if batch:
        yield batch


@torch.inference_mode()
def last_hidden(network: Any, heard: Sequence[np.ndarray]) -> tuple[Tensor, list[int]]:
    """What HuBERT, or wav2vec 2.0, makes of some waves (S,), each as if it were alone.

    Returns:
        (B, L, W) on the network's device, as precise as it, and how many frames each has.
    """
    of = next(network.parameters())
    features = [network.feature_extractor(torch.from_numpy(wave).to(of)[None])[0].T for wave in heard]
    lengths = [len(feature) for feature in features]
    projected = network.feature_projection(pad_sequence(features, batch_first=True))
    hidden_BLW = projected if isinstance(projected, Tensor) else projected[0]  # wav2vec 2.0's has its input too
    valid_BL = torch.arange(hidden_BLW.shape[1]) < torch.tensor(lengths)[:, None]
    made_BLW: Tensor = network.encoder(hidden_BLW, attention_mask=valid_BL.to(of.device)).last_hidden_state
    return made_BLW, lengths
