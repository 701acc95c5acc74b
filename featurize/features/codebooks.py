"""Codebooks of semantic tokens, and how two of them are told apart.

The quantiser of SoVITS projects two frames of content to one vector, whose nearest entry of the codebook is the token.
The clusters that a store learned are means of two frames side by side. `from_means` makes a quantiser of them.

Shapes: K codes, W channels of the quantiser, C channels of content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from headrace.store.schema import FeatureSpec

TENSOR_NAMES = {
    "weight": "ssl_proj.weight",
    "bias": "ssl_proj.bias",
    "entries": "quantizer.vq.layers.0._codebook.embed",
}
"""Names of the tensors of a quantiser in the weights of a SoVITS generator."""


class QuantiserTensors(NamedTuple):
    """The tensors of a quantiser, as the weights of a SoVITS generator hold them."""

    weight: Tensor
    """(W, W, 2), of the convolution over two frames."""
    bias: Tensor
    """(W,)."""
    entries: Tensor
    """(K, W)."""


def codebook_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the digest of a generator's quantiser; empty if the weights have none.

    It is that of the numbers in half precision, in which weights are exported, so a run and its export have the same.
    """
    found = [weights[name] for name in TENSOR_NAMES.values() if name in weights]
    if len(found) < len(TENSOR_NAMES):
        return ""
    halves = [tensor.detach().cpu().half().contiguous() for tensor in found]
    return hashlib.sha256(b"".join(half.numpy().tobytes() for half in halves)).hexdigest()[:12]


def codebook_of(features: Mapping[str, FeatureSpec]) -> str:
    """Return the digest of the codebook that a store's semantic tokens are numbers of; empty if it is not known."""
    return features["semantic"].codebook if "semantic" in features else ""


def from_means(means: Tensor, channels: int) -> QuantiserTensors:
    """Return a quantiser whose entries are clusters.

    Vectors are projected onto the directions in which the means differ most. Where there are no more of them than
    channels, the nearest entry is the nearest mean; otherwise it is for nearly all vectors.

    Args:
        means: (K, 2 C), of two frames side by side.
        channels: W. Where it is not C, content cannot be projected, and the convolution is zero.
    """
    means = means.double()
    centre, width = means.mean(0), means.shape[1]
    _, axes = torch.linalg.eigh((means - centre).T @ (means - centre))
    axes = axes.flip(1)[:, :channels]  # (2 C, at most W), the direction of the greatest variance first
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    projection = means.new_zeros(channels, width)
    projection[: axes.shape[1]] = axes.T
    entries, bias = (means - centre) @ projection.T, -projection @ centre
    weight = means.new_zeros(channels, channels, 2)
    if width == 2 * channels:
        weight = projection.unflatten(1, (2, channels)).mT
    else:
        bias = torch.zeros_like(bias)
    return QuantiserTensors(*(tensor.float().contiguous() for tensor in (weight, bias, entries)))
