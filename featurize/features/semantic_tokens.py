"""The feature `semantic`: content as discrete tokens, one for every two frames, 25 a second.

Tokens come from the quantiser of a SoVITS checkpoint, or from k-means clusters of the store's own content, as in the
first iteration of HuBERT's training (Hsu et al. 2021).

Shapes: Q codes, W channels of content, K entries of the codebook, N vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.featurize.features import kmeans, learned_state, weight_files
from headrace.featurize.features.codebooks import TENSOR_NAMES, codebook_digest
from headrace.featurize.features.derived import Derived, LearningLog, Part
from headrace.featurize.files import run_checkpoints
from headrace.featurize.files.load_once import load_once
from headrace.featurize.spectral.float32 import without_tf32
from headrace.store.errors import StoreError, UsageError
from headrace.store.schema import FeatureSpec

CODES = 1024
"""Entries of the codebook of GPT-SoVITS."""
ITERATIONS = 25
MAX_VECTORS = 1 << 18
"""Most vectors that clusters are learned from: 256 for each of 1024 codes."""


@dataclass(frozen=True, kw_only=True)
class TokenCount(Derived):
    """The number of tokens of an utterance: half the number of frames, rounded up."""

    name, needs, axis, dtype = "tokens_n", ("content",), "utterance", "int32"

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for content in part.utterances("content"):
            yield np.array([-(-len(content) // 2)], np.int32)


@dataclass(frozen=True, kw_only=True)
class SovitsTokens(Derived):
    """Tokens by a SoVITS generator: two frames are projected to a vector, whose nearest codebook entry is the token.

    An odd number of frames is padded with a frame of zeros, as the generator does in training; upstream's preparation
    drops that token.
    """

    sovits: Path
    """Checkpoint of GPT-SoVITS (s2G), weights that it or `train` exported, or the folder of a run."""

    name, needs, axis, dtype, on_gpu = "semantic", ("content", "tokens_n"), "tokens", "int16", True

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        file = checkpoint_file(self.sovits)
        digest, width = weight_files.digest([file]), specs["content"].channels
        quantiser = _quantiser(file, digest, "cpu")
        if quantiser.width != width:
            raise UsageError(
                f"--sovits {file} reads content of {quantiser.width} channels, and here it has {width}: make that by "
                f"the network that it was trained on, or by MFCC with --content-channels {quantiser.width}."
            )
        return {"quantiser": "gpt-sovits", "codebook": len(quantiser.entries), "hz": 25, "weights": digest}

    def spec(self, specs: Mapping[str, FeatureSpec], model: str = "") -> FeatureSpec:
        spec = super().spec(specs, model)
        quantiser = _quantiser(checkpoint_file(self.sovits), spec.recipe["weights"], "cpu")
        return replace(spec, codebook=quantiser.codebook)

    @torch.inference_mode()
    @without_tf32()
    def rows(self, part: Part) -> Iterator[np.ndarray]:
        digest = part.specs["semantic"].recipe["weights"]
        quantiser = _quantiser(checkpoint_file(self.sovits), digest, part.device)
        for pairs in frame_pairs(part):
            yield np.concatenate([quantiser.codes(block) for block in torch.split(pairs, kmeans.BLOCK)])


@dataclass(frozen=True, kw_only=True)
class KmeansTokens(Derived):
    """Tokens by k-means (Lloyd 1982) on pairs of frames: the number of the nearest mean."""

    codes: int = CODES

    name, needs, axis, dtype, learns = "semantic", ("content", "tokens_n"), "tokens", "int16", True

    def __post_init__(self) -> None:
        if not 2 <= self.codes <= 1 << 15:
            raise UsageError(f"--codes {self.codes}: 2 to {1 << 15} can be told apart.")

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"quantiser": "k-means", "codebook": self.codes, "hz": 25, "rounds": ITERATIONS, "taught": MAX_VECTORS}

    def learn(self, parts: Sequence[Part], log: LearningLog) -> dict[str, np.ndarray]:
        total = sum(int(np.concatenate(list(part.utterances("tokens_n"))).sum()) for part in parts)
        if total < self.codes:
            raise StoreError(f"{total} vectors cannot make {self.codes} codes: take more audio, or --codes {total}.")
        x_NW = torch.cat([_sample_pairs(-(-total // MAX_VECTORS), part) for part in log.each(parts, "parts read")])

        def watch(done: int, left: float) -> None:
            log.step(done, ITERATIONS, f"{done}/{ITERATIONS} rounds of k-means, {left:.1%} of the variance is left")

        log.step(0, ITERATIONS, f"0/{ITERATIONS} rounds of k-means")
        means_KW, error = kmeans.fit(x_NW, self.codes, ITERATIONS, watch)
        log(f"{self.codes} codes learned from {len(x_NW)} vectors: {error:.1%} of their variance is left")
        return {"means": means_KW.numpy()}

    @torch.inference_mode()
    @without_tf32()
    def rows(self, part: Part) -> Iterator[np.ndarray]:
        learned, width = part.learned(self.name), 2 * (part.specs["content"].channels or 1)
        learned_state.check(learned, self.name, means=("f", "K", width))
        means_KW = torch.from_numpy(learned["means"])
        for pairs in frame_pairs(part):
            yield kmeans.nearest_in_blocks(pairs, means_KW).numpy().astype(np.int16)


class Quantiser(NamedTuple):
    """The quantiser of a SoVITS generator, in float32."""

    weight: Tensor
    """(2 W, W), the convolution over two frames as a matrix."""
    bias: Tensor
    """(W,)."""
    entries: Tensor
    """(K, W), the codebook."""
    codebook: str
    """Digest of the codebook."""

    @property
    def width(self) -> int:
        """Channels of the content that it reads."""
        return len(self.bias)

    def codes(self, pairs: Tensor) -> np.ndarray:
        """Quantise pairs of frames (Q, 2 W) to tokens (Q,) int16."""
        vectors = torch.addmm(self.bias, pairs.to(self.bias), self.weight)
        codes: np.ndarray = kmeans.nearest_in_blocks(vectors, self.entries).cpu().numpy().astype(np.int16)
        return codes


def checkpoint_file(path: Path) -> Path:
    """Return a file itself, or the checkpoint of a run that speaks too. Raises UsageError where a folder is no run."""
    if not path.is_dir():
        return path
    folder = path / run_checkpoints.FOLDER
    if not run_checkpoints.steps_in(folder):
        raise UsageError(f"--sovits {path} is a folder, and no run with checkpoints in it.")
    return run_checkpoints.path_of(folder, run_checkpoints.choices(path)[0].step)


@load_once
def _quantiser(file: Path, digest: str, device: str) -> Quantiser:
    content = weight_files.read([file], digest)
    state = content.get("weight", content.get("model", content.get("stage")))
    tensors = weight_files.as_tensors(state.get("generator", state) if isinstance(state, Mapping) else state, file)
    used = {name: tensors[name] for name in TENSOR_NAMES.values() if name in tensors}
    shapes = [tuple(value.shape) for value in used.values()]
    width, codes = (shapes[2][-1:], shapes[2][:1]) if len(shapes) == 3 else ((), ())
    if shapes != [(*width, *width, 2), width, (*codes, *width)] or not (codes and 0 < codes[0] <= 1 << 15):
        raise UsageError(
            f"--sovits {file} holds no SoVITS generator of 25 codes a second: {TENSOR_NAMES['weight']} is not one's."
        )
    weight_files.check_finite(used, f"--sovits {file}")
    used = {name: value.float() for name, value in used.items()}
    weight, bias, entries = used.values()
    matrix, codebook = weight.permute(2, 1, 0).flatten(0, 1), codebook_digest(used)
    return Quantiser(matrix.to(device), bias.to(device), entries.to(device), codebook)


def frame_pairs(part: Part) -> Iterator[Tensor]:
    """Yield (Q, 2 W) float32 of each utterance: pairs of frames, side by side, padded with zeros."""
    for content in part.utterances("content"):
        even = np.pad(content, ((0, len(content) % 2), (0, 0)))
        yield torch.from_numpy(even.reshape(len(even) // 2, -1).astype(np.float32))


def _sample_pairs(step: int, part: Part) -> Tensor:
    """Return every `step`-th pair of frames of each utterance of a part, (N, 2 W) float32."""
    return torch.cat([pairs[::step] for pairs in frame_pairs(part)] or [torch.empty(0)])
