"""Dropout (Srivastava et al. 2014) that is fast on a CPU too.

There, torch draws a number of 64 bits for each element, one after the other: a quarter of the time of an update of gpt.
Here each element takes 16 bits of such a number. On other devices it is torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16
"""Of the numbers that are compared with a share: it is rounded to a multiple of 1 / LEVELS."""


class Dropout(nn.Dropout):
    """Sets a share of the elements to 0 in training, and scales the others so that the mean stays."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements. Of the same shape."""
        return drop(input, self.p if self.training else 0.0)


def drop(x: Tensor, share: float) -> Tensor:
    """Set a share of the elements to 0, and scale the others so that the mean stays. Of the same shape.

    Random numbers are drawn from torch's global generator.

    Args:
        share: from 0 to less than 1.
    """
    if not share:
        return x
    if not lacks_kernel(x) or torch.compiler.is_compiling():
        return F.dropout(x, share)
    return _Drop.apply(x, min(round(share * LEVELS), LEVELS - 1))


def lacks_kernel(x: Tensor) -> bool:
    """Return whether torch has no kernel for x that draws and drops, as on the CPU."""
    return x.device.type == "cpu"


class _Drop(torch.autograd.Function):
    """Drop `dropped` of LEVELS elements. What is kept, one byte an element, is stored for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int) -> Tensor:
        """Return the elements that are kept, scaled."""
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = (bits.view(torch.int16)[: x.numel()] >= dropped - LEVELS // 2).view(x.shape)
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - dropped)
        return x * _factors(kept, ctx.scale, x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradient of the elements that were kept, scaled."""
        (kept,) = ctx.saved_tensors
        return gradient * _factors(kept, ctx.scale, gradient.dtype), None


def _factors(kept: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Return `scale` where an element is kept, or 0. Booleans are converted four times as fast as bytes."""
    return kept.view(torch.uint8).to(dtype).mul_(scale)
