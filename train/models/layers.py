"""Layers that several networks share.

Shapes: B batch, C channels, T frames, N length of a segment. Masks are boolean, (B, 1, T), True where a frame is valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

LEAKY_SLOPE = 0.1
"""Slope of every leaky ReLU in HiFi-GAN and its discriminators except the last one of the decoder."""
DROPOUT_LEVELS = 2**16
"""Levels of the numbers that decide which elements drop: the share is rounded to a multiple of 1 / DROPOUT_LEVELS."""


class WeightNorm(nn.Module):
    """Mixin for a convolution: weight = weight_g * weight_v / |weight_v| (Salimans and Kingma 2016).

    The norm is taken over all axes but the first. Parameters keep the names that trained GPT-SoVITS weights have,
    in their order: bias, weight_g, weight_v.
    """

    weight_g: nn.Parameter
    weight_v: nn.Parameter
    _frozen: Tensor | None = None
    recomputes: bool = False
    """Whether the backward pass normalises the weight again. Else the normalised one is kept for it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        direction = self.get_parameter("weight").detach()
        del self.weight
        others = tuple(range(1, direction.dim()))
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(direction, dim=others, keepdim=True))
        self.weight_v = nn.Parameter(direction)

    def normalised(self) -> Tensor:
        """Return the normalised weight.

        `torch._weight_norm` is one kernel forward and one backward, where the formula written out takes four.
        """
        return torch._weight_norm(self.weight_v, self.weight_g, 0) if self._frozen is None else self._frozen

    def convolve(self, run: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what a convolution computes with the normalised weight."""
        weight = self.normalised()
        if not self.recomputes or self._frozen is not None:
            return run(weight)
        weight = weight.to(self._dtype_of_use())  # what autocast would make of it, so that it is what is kept
        where, dtype = weight.data_ptr(), weight.dtype

        def keep(saved: Tensor) -> Tensor | None:
            return None if saved.data_ptr() == where else saved

        @torch.no_grad()
        def kept(saved: Tensor | None) -> Tensor:
            return self.normalised().to(dtype) if saved is None else saved

        with torch.autograd.graph.saved_tensors_hooks(keep, kept):
            return run(weight)

    @torch.no_grad()
    def freeze(self) -> None:
        """Normalise the weight once, in the precision of its use, for all that follows until `unfreeze`."""
        self._frozen = self.normalised().to(self._dtype_of_use())

    def unfreeze(self) -> None:
        """Normalise the weight whenever it is used."""
        self._frozen = None

    def _dtype_of_use(self) -> torch.dtype:
        """Return the precision in which a convolution reads the weight."""
        device = self.weight_v.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight_v.dtype


class WeightNormConv1d(WeightNorm, nn.Conv1d):
    """1-d convolution with weight normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the normalised weight."""
        return self.convolve(lambda weight: self._conv_forward(x, weight, self.bias))


class WeightNormConv2d(WeightNorm, nn.Conv2d):
    """2-d convolution with weight normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the normalised weight."""
        return self.convolve(lambda weight: self._conv_forward(x, weight, self.bias))


class WeightNormConvTranspose1d(WeightNorm, nn.ConvTranspose1d):
    """Transposed 1-d convolution with weight normalisation."""

    padding: tuple[int]

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve with the normalised weight; `output_size` is ignored."""
        return self.convolve(lambda weight: F.conv_transpose1d(x, weight, self.bias, self.stride, self.padding))


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each frame of (B, C, T)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Normalise each frame. (B, C, T)."""
        return F.layer_norm(x_BCT.mT, self.gamma.shape, self.gamma, self.beta).mT


def recompute_weights(network: nn.Module) -> None:
    """Let the backward pass of a network normalise its weights again, instead of keeping them.

    Where each process has a part of the parameters, the normalised weights that a pass keeps would be all of them.
    """
    for module in network.modules():
        if isinstance(module, WeightNorm):
            module.recomputes = True


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within this context, a network's parameters get no gradients, and its weights are normalised only once."""
    layers = [module for module in network.modules() if isinstance(module, WeightNorm)]
    network.requires_grad_(False)
    try:
        for layer in layers:
            layer.freeze()
        yield
    finally:
        for layer in layers:
            layer.unfreeze()
        network.requires_grad_(True)


def run_block(run: Callable[..., T], *inputs: Any, activation_checkpointing: bool) -> T:
    """Run a block of a network, with activation checkpointing (Chen et al. 2016) if requested.

    With it only the inputs are stored for the backward pass, which runs the block again: a third more time for the
    model, and the activations of one block at a time.
    """
    if activation_checkpointing and torch.is_grad_enabled():
        return checkpoint(run, *inputs, use_reentrant=False)
    return run(*inputs)


def length_mask(lengths_B: Tensor, size: int) -> Tensor:
    """Return a mask, (B, 1, size) bool, that is True before each row's length, (B,)."""
    return (torch.arange(size, device=lengths_B.device) < lengths_B[:, None])[:, None]


def slice_segments(x_BCT: Tensor, starts_B: Tensor, size: int) -> Tensor:
    """Slice x[b, :, starts[b] : starts[b] + size] from every row b. (B, C, size).

    Does not synchronise with the device. starts + size must not exceed T.
    """
    index_BN = starts_B[:, None] + torch.arange(size, device=x_BCT.device)
    return x_BCT.gather(2, index_BN[:, None].expand(-1, x_BCT.shape[1], -1))


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014): sets a share of the elements to 0 in training, and scales the others.

    On a CPU, torch draws a number of 64 bits for each element, one after the other: a quarter of the time of an update
    of gpt. There each element takes 16 bits of such a number.
    """

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
    return _Drop.apply(x, min(round(share * DROPOUT_LEVELS), DROPOUT_LEVELS - 1))


def lacks_kernel(x: Tensor) -> bool:
    """Return whether torch has no kernel for x that draws and drops, as on the CPU."""
    return x.device.type == "cpu"


class _Drop(torch.autograd.Function):
    """Drop `dropped` of DROPOUT_LEVELS elements. What is kept, one byte an element, is stored for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int) -> Tensor:
        """Return the elements that are kept, scaled."""
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = (bits.view(torch.int16)[: x.numel()] >= dropped - DROPOUT_LEVELS // 2).view(x.shape)
        ctx.save_for_backward(kept)
        ctx.scale = DROPOUT_LEVELS / (DROPOUT_LEVELS - dropped)
        return x * _factors(kept, ctx.scale, x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradient of the elements that were kept, scaled."""
        (kept,) = ctx.saved_tensors
        return gradient * _factors(kept, ctx.scale, gradient.dtype), None


def _factors(kept: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Return `scale` where an element is kept, or 0. Booleans are converted four times as fast as bytes."""
    return kept.view(torch.uint8).to(dtype).mul_(scale)
