"""Save activations for the backward pass in 8 bits instead of 32 or 16 (Chen et al. 2021, "ActNN").

Most of the memory of a step is what autograd saves of the forward pass. Here large tensors of it are saved as float8
(E4M3, Micikevicius et al. 2022) with a scale for each row, and the backward pass gets each value to within a 16th. The
forward pass does not change by a bit.

Exact remains what lies outside of a stage's `quantizable_networks`: losses, STFT and mel, the vector quantiser, voice
vectors, and the discriminators, through whose features the generator learns.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from headrace.train.stages.stage import Stage

MIN_ELEMENTS = 1 << 14
"""Smaller tensors are not worth quantising."""
FLOAT8_MAX = 448.0


def quantize_activations(stage: Stage) -> ActivationQuantizer:
    """Quantise the activations that a stage's networks save for the backward pass, from now on."""
    return ActivationQuantizer(stage.quantizable_networks, attention_heads=stage.attention_heads)


class Float8Tensor:
    """A tensor in 8 bits, with a scale for each row along its last axis."""

    def __init__(self, tensor: Tensor) -> None:
        peak = tensor.abs().amax(-1, keepdim=True).float()
        self._scale = peak.clamp(min=torch.finfo(torch.float32).tiny * FLOAT8_MAX) / FLOAT8_MAX
        self._values = (tensor / self._scale).to(torch.float8_e4m3fn)
        self._dtype = tensor.dtype

    def dequantize(self) -> Tensor:
        """Return the tensor in its own dtype, each value within a 16th of what it was."""
        return (self._values.float() * self._scale).to(self._dtype)


class ActivationQuantizer:
    """Quantises what the forward passes of some modules save for their backward passes, from its construction on."""

    def __init__(self, modules: Iterable[nn.Module], *, attention_heads: Container[int] = ()) -> None:
        """
        Args:
            attention_heads: numbers of heads of their attention layers. What attention kernels save, (B, H, L, D), and
                the log-sum-exp of each query, (B, H, L), stays exact: from it they recompute attention weights by an
                exponential, which turned errors of 3 % of queries and keys into errors of half the gradient.
        """
        self._attention_heads = attention_heads
        self._parameter_storages: set[int] = set()
        self._quantized: dict[tuple[Any, ...], tuple[StorageWeakRef, weakref.ref[Float8Tensor]]] = {}
        for module in modules:
            self._parameter_storages |= {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
            _wrap_forward(module, lambda: saved_tensors_hooks(self._pack, _unpack))

    def _pack(self, tensor: Tensor) -> Tensor | Float8Tensor:
        """Return what autograd saves in place of a tensor."""
        storage = tensor.untyped_storage()
        if not self._is_worthwhile(tensor) or storage.data_ptr() in self._parameter_storages:
            return tensor
        # Several functions save the same tensor: it is quantised once.
        reference = StorageWeakRef(storage)
        key = (reference.cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor._version)
        if key in self._quantized and (quantized := self._quantized[key][1]()) is not None:
            return quantized
        quantized = Float8Tensor(tensor.detach())
        self._quantized[key] = reference, weakref.ref(quantized, lambda _: self._quantized.pop(key, None))
        return quantized

    def _is_worthwhile(self, tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or tensor.numel() < MIN_ELEMENTS:
            return False
        expanded = tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()
        return not expanded and not (tensor.dim() in (3, 4) and tensor.shape[1] in self._attention_heads)


def _unpack(saved: Tensor | Float8Tensor) -> Tensor:
    """Return the tensor that `_pack` was given, or an approximation."""
    return saved.dequantize() if isinstance(saved, Float8Tensor) else saved


def _wrap_forward(module: nn.Module, make_context: Callable[[], saved_tensors_hooks]) -> None:
    """Run every forward pass of a module within a new context."""
    contexts: list[saved_tensors_hooks] = []

    def enter(*_: Any) -> None:
        contexts.append(make_context())
        contexts[-1].__enter__()

    def leave(*_: Any) -> None:
        contexts.pop().__exit__()

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)
