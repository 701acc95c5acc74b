"""`semantic`: what is spoken as one code for every two frames, 25 a second. By the quantiser of a SoVITS checkpoint, or
by clusters learned from the store itself, as HuBERT's training began with.

Shapes: Q codes, W channels of content, K entries of the codebook, N vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.featurize.features import kmeans, weight_files
from headrace.featurize.features.derived import Derived, Part
from headrace.store.errors import StoreError, UsageError
from headrace.store.schema import FeatureSpec

CODES = 1024
"""Of GPT-SoVITS."""
ROUNDS = 25
MAX_VECTORS = 1 << 18
"""Vectors that clusters are learned from, at most: 256 for each of 1024 codes."""
_PARTS = {"weight": "ssl_proj.weight", "bias": "ssl_proj.bias", "entries": "quantizer.vq.layers.0._codebook.embed"}


@dataclass(frozen=True, kw_only=True)
class TokensN(Derived):
    """How many codes an utterance has: one for every two frames begun."""

    name, needs, axis, dtype = "tokens_n", ("content",), "utterance", "int32"

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for content in part.utterances("content"):
            yield np.array([-(-len(content) // 2)], np.int32)


@dataclass(frozen=True, kw_only=True)
class Quantised(Derived):
    """Codes of a SoVITS generator: two frames to a vector, and the entry of the codebook nearest to it.

    After an odd number of frames a frame of zeros is taken for the last, as that generator sees it in training;
    upstream's preparation leaves that code out.
    """

    sovits: Path
    """A checkpoint of GPT-SoVITS (s2G), one of its trained or our exported weights, or a run."""

    name, needs, axis, dtype, on_gpu = "semantic", ("content", "tokens_n"), "tokens", "int16", True

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        file = checkpoint(self.sovits)
        digest, width = weight_files.digest([file]), there["content"].channels
        quantiser = _quantiser(file, digest, "cpu")
        if quantiser.width != width:
            raise UsageError(
                f"--sovits {file} reads content of {quantiser.width} channels, and here it has {width}: make that by "
                f"the network that it was trained on, or by MFCC with --content-channels {quantiser.width}."
            )
        return {"quantiser": "gpt-sovits", "codebook": len(quantiser.entries), "hz": 25, "weights": digest}

    @torch.inference_mode()
    def rows(self, part: Part) -> Iterator[np.ndarray]:
        digest = part.specs["semantic"].recipe["weights"]
        quantiser = _quantiser(checkpoint(self.sovits), digest, part.device)
        for pairs in pairs_of(part):
            yield np.concatenate([quantiser.codes(some) for some in torch.split(pairs, kmeans.BLOCK)])


@dataclass(frozen=True, kw_only=True)
class Clustered(Derived):
    """The nearest of so many means of two frames side by side: k-means (Lloyd 1982) from random vectors of the store,
    as for the first iteration of HuBERT."""

    codes: int = CODES

    name, needs, axis, dtype, learns = "semantic", ("content", "tokens_n"), "tokens", "int16", True

    def __post_init__(self) -> None:
        if not 2 <= self.codes <= 1 << 15:
            raise UsageError(f"--codes {self.codes}: 2 to {1 << 15} can be told apart.")

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"quantiser": "k-means", "codebook": self.codes, "hz": 25, "rounds": ROUNDS, "taught": MAX_VECTORS}

    def learn(self, parts: Sequence[Part], note: Callable[[str], None]) -> dict[str, np.ndarray]:
        total = sum(int(np.concatenate(list(part.utterances("tokens_n"))).sum()) for part in parts)
        if total < self.codes:
            raise StoreError(f"{total} vectors cannot make {self.codes} codes: take more audio, or --codes {total}.")
        x_NW = torch.cat([_every(-(-total // MAX_VECTORS), part) for part in parts])
        means_KW, error = kmeans.fit(x_NW, self.codes, ROUNDS)
        note(f"{self.codes} codes learned from {len(x_NW)} vectors: {error:.1%} of their variance is left")
        return {"means": means_KW.numpy()}

    @torch.inference_mode()
    def rows(self, part: Part) -> Iterator[np.ndarray]:
        means_KW = torch.from_numpy(part.learned(self.name)["means"])
        for pairs in pairs_of(part):
            yield kmeans.nearest_in_blocks(pairs, means_KW).numpy().astype(np.int16)


class Quantiser(NamedTuple):
    """What of a SoVITS generator makes codes, in float32."""

    weight: Tensor
    """(2 W, W): the convolution over two frames as a product."""
    bias: Tensor
    """(W,)."""
    entries: Tensor
    """(K, W)."""

    @property
    def width(self) -> int:
        return len(self.bias)

    def codes(self, pairs: Tensor) -> np.ndarray:
        """(Q, 2 W) to (Q,) int16."""
        vectors = torch.addmm(self.bias, pairs.to(self.bias), self.weight)
        codes: np.ndarray = kmeans.nearest_in_blocks(vectors, self.entries).cpu().numpy().astype(np.int16)
        return codes


def checkpoint(path: Path) -> Path:
    """The file itself, or a run's newest checkpoint. Raises UsageError where a folder is no run."""
    if not path.is_dir():
        return path
    if not (saved := sorted(path.glob("checkpoints/step-*.pt"))):
        raise UsageError(f"--sovits {path} is a folder, and no run with checkpoints in it.")
    return saved[-1]


@cache
def _quantiser(file: Path, digest: str, device: str) -> Quantiser:
    content = weight_files.read([file], digest)
    found = content.get("weight", content.get("model", content.get("stage")))
    named = weight_files.tensors(found.get("generator", found) if isinstance(found, Mapping) else found, file)
    missing = [name for name in _PARTS.values() if name not in named]
    if missing or named[_PARTS["weight"]].ndim != 3 or named[_PARTS["weight"]].shape[2] != 2:
        raise UsageError(
            f"--sovits {file} holds no SoVITS generator of 25 codes a second: {_PARTS['weight']} is not one's."
        )
    weight, bias, entries = (named[name].float() for name in _PARTS.values())
    return Quantiser(*(part.to(device) for part in (weight.permute(2, 1, 0).flatten(0, 1), bias, entries)))


def pairs_of(part: Part) -> Iterator[Tensor]:
    """(Q, 2 W) float32 of each utterance: two frames side by side, zeros for one that is missing."""
    for content in part.utterances("content"):
        even = np.pad(content, ((0, len(content) % 2), (0, 0)))
        yield torch.from_numpy(even.reshape(len(even) // 2, -1).astype(np.float32))


def _every(step: int, part: Part) -> Tensor:
    """One of so many vectors of a part."""
    return torch.cat([pairs[::step] for pairs in pairs_of(part)] or [torch.empty(0)])
