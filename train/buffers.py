"""Memory for batches, used again as soon as nobody holds the batch that it was for.

Fresh memory costs more than what is copied into it: the kernel clears every page of it, at a fault each.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch

ALIGNED = 64
"""Bytes: a cache line."""

ROUNDED = 1 << 21
"""Bytes that a block is a multiple of: the size of a huge page, which NumPy asks the kernel for."""
SPARE = 8
"""Blocks that are kept for batches to come."""


class Buffers:
    """For the batches of one stream, from any thread. Blocks become as large as the largest batch so far."""

    def __init__(self) -> None:
        # Used without a lock, as lists may be: a lease can end anywhere, wherever garbage is collected.
        self._free: list[np.ndarray] = []
        self._size = ROUNDED

    def take(self, size: int) -> np.ndarray:
        """(size,) uint8 of any content. Its memory is used again when it and all views of it are gone."""
        self._size = max(self._size, -(-size // ROUNDED) * ROUNDED)
        try:
            block = self._free.pop()
        except IndexError:
            block = np.empty(0, np.uint8)
        if len(block) < size:
            block = np.empty(self._size, np.uint8)
        return np.asarray(_Lease(self, block))[:size]

    def give_back(self, block: np.ndarray) -> None:
        if len(self._free) < SPARE:
            self._free.append(block)


class _Lease:
    """What the arrays on a block refer to, as long as there are any."""

    def __init__(self, buffers: Buffers, block: np.ndarray) -> None:
        self._buffers, self._block = buffers, block

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._block.__array_interface__

    def __del__(self) -> None:
        self._buffers.give_back(self._block)


def empty(
    wanted: Mapping[str, tuple[tuple[int, ...], str]], buffers: Buffers, pin: bool = False
) -> dict[str, torch.Tensor]:
    """Tensors of these shapes and dtypes, of any content, in one piece of memory.

    Args:
        pin: page-locked memory, from torch's allocator. Needs CUDA.
    """
    dtypes = {name: getattr(torch, dtype) for name, (_, dtype) in wanted.items()}
    sizes = {name: prod(shape) * dtypes[name].itemsize for name, (shape, _) in wanted.items()}
    total = sum(-(-size // ALIGNED) * ALIGNED for size in sizes.values())
    memory = torch.empty(total, dtype=torch.uint8, pin_memory=True) if pin else torch.from_numpy(buffers.take(total))
    tensors, at = {}, 0
    for name, size in sizes.items():
        tensors[name] = memory[at : at + size].view(dtypes[name]).view(wanted[name][0])
        at += -(-size // ALIGNED) * ALIGNED
    return tensors
