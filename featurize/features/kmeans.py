"""k-means (Lloyd 1982), for semantic tokens and for the initial codebook of training.

Shapes: N vectors, W channels, K means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1 << 13
"""Vectors whose distances to all means are in memory at the same time."""

Sums: TypeAlias = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Vectors (N, W), the nearest mean of each (N,) int64, and K, to sums (K, W) and counts (K,) of each mean's vectors."""


def nearest(x_NW: Tensor, means_KW: Tensor) -> Tensor:
    """Return (N,) int64, the nearest mean of each vector by Euclidean distance; the first one in a tie."""
    return (x_NW @ means_KW.T - 0.5 * means_KW.square().sum(1)).argmax(1)


def nearest_in_blocks(x_NW: Tensor, means_KW: Tensor) -> Tensor:
    """Return `nearest` of any number of vectors, BLOCK at a time."""
    return torch.cat([nearest(block, means_KW) for block in torch.split(x_NW, BLOCK)])


def sums_in_order(x_NW: Tensor, nearest_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sum the vectors of each mean in order, without extra memory. On CUDA, the order would vary between runs."""
    sums_KW = x_NW.new_zeros(count, x_NW.shape[1]).index_add_(0, nearest_N, x_NW)
    return sums_KW, torch.bincount(nearest_N, minlength=count)


def sums_by_product(x_NW: Tensor, nearest_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sum the vectors of each mean by a product with an (N, K) matrix, which is reproducible on CUDA too."""
    one_hot_NK = F.one_hot(nearest_N, count).to(x_NW)
    return one_hot_NK.T @ x_NW, one_hot_NK.sum(0)


def update(x_NW: Tensor, means_KW: Tensor, nearest_N: Tensor, sums: Sums) -> tuple[Tensor, Tensor]:
    """Move every mean to the mean of its nearest vectors; a mean without vectors stays.

    Returns:
        means (K, W), and the number of vectors of each, (K,).
    """
    sums_KW, count_K = sums(x_NW, nearest_N, len(means_KW))
    moved_KW = sums_KW / count_K.clamp(min=1)[:, None]
    return torch.where(count_K[:, None] > 0, moved_KW, means_KW), count_K


@torch.inference_mode()
def fit(
    x_NW: Tensor, count: int, rounds: int, watch: Callable[[int, float], None] | None = None
) -> tuple[Tensor, float]:
    """Learn means from random initial vectors. The same vectors give the same means.

    A mean that is nearest to no vector moves to one of those farthest from their means.

    Args:
        x_NW: on the CPU; at least `count` vectors.
        count: K.
        watch: receives the number of rounds that are done after each, and the share of the variance that remains.
    Returns:
        means (K, W), and the share of the variance that remains.
    """
    generator = torch.Generator().manual_seed(0)
    means_KW = x_NW[torch.randperm(len(x_NW), generator=generator)[:count]].clone()
    variance = (x_NW - x_NW.mean(0)).square().sum()
    for done in range(1, rounds + 1):
        nearest_N = nearest_in_blocks(x_NW, means_KW)
        distance_N = (x_NW - means_KW[nearest_N]).square().sum(1)
        means_KW, count_K = update(x_NW, means_KW, nearest_N, sums_in_order)
        empty = torch.nonzero(count_K == 0)[:, 0]
        means_KW[empty] = x_NW[distance_N.argsort(descending=True, stable=True)[: len(empty)]]
        if watch:
            watch(done, float(distance_N.sum() / variance))
    return means_KW, float(distance_N.sum() / variance)
