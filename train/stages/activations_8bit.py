"""Activations that wait for the backward pass in 8 bits instead of 32 or 16 (Chen et al. 2021, "ActNN").

What autograd keeps of a forward pass is most of the memory of a step. Here large tensors of it are kept as float8
(E4M3, Micikevicius et al. 2022) times a scale for each row, and are what they were, to within a 16th of each value,
when the backward pass asks for them. The forward pass of a step stays as it is to the last bit.

What is exact all the same, because it is kept outside of the modules that `pack_stage` names: losses, STFT and mel, the
quantiser, voice vectors, and the discriminators, through whose features the generator learns.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.registry import Stage
from headrace.train.stages.sovits_stage import SovitsStage

SMALLEST = 1 << 14
"""Elements; of less there is nothing to gain."""
LARGEST_FLOAT8 = 448.0


def pack_stage(stage: Stage) -> Packing:
    """Pack what the networks of a stage keep."""
    if isinstance(stage, GptStage):
        return Packing([stage.model.h], heads={stage.config.heads})
    assert isinstance(stage, SovitsStage)
    generator, config = stage.generator, stage.config
    networks = generator.enc_p, generator.enc_q, generator.flow, generator.dec
    return Packing(networks, heads={config.n_heads, config.mrte_heads})


class Packed:
    """A tensor in 8 bits. Rows are along its last axis."""

    def __init__(self, tensor: Tensor) -> None:
        peak = tensor.abs().amax(-1, keepdim=True).float()
        self._scale = peak.clamp(min=torch.finfo(torch.float32).tiny * LARGEST_FLOAT8) / LARGEST_FLOAT8
        self._values = (tensor / self._scale).to(torch.float8_e4m3fn)
        self._dtype = tensor.dtype

    def unpack(self) -> Tensor:
        return (self._values.float() * self._scale).to(self._dtype)


class Packing:
    """Packs what the forward passes of some modules keep, from the moment on that it is made."""

    def __init__(self, modules: Iterable[nn.Module], *, heads: Container[int] = ()) -> None:
        """
        Args:
            heads: of their attention. What its kernels keep, (B, H, L, D) and for each query the logarithm of a sum,
                (B, H, L), stays exact: they make weights anew from it by an exponential, which turned errors of 3 % of
                queries and keys into errors of half the gradient.
        """
        self._heads = heads
        self._own: set[int] = set()
        self._packed: dict[tuple[Any, ...], tuple[StorageWeakRef, weakref.ref[Packed]]] = {}
        for module in modules:
            self._own |= {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
            _within(module, lambda: saved_tensors_hooks(self._pack, _unpack))

    def _pack(self, tensor: Tensor) -> Tensor | Packed:
        storage = tensor.untyped_storage()
        if not self._worth(tensor) or storage.data_ptr() in self._own:
            return tensor
        # Several functions keep the same tensor: it is packed once.
        reference = StorageWeakRef(storage)
        key = (reference.cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor._version)
        if key in self._packed and (packed := self._packed[key][1]()) is not None:
            return packed
        packed = Packed(tensor.detach())
        self._packed[key] = reference, weakref.ref(packed, lambda _: self._packed.pop(key, None))
        return packed

    def _worth(self, tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or tensor.numel() < SMALLEST:
            return False
        expanded = tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()
        return not expanded and not (tensor.dim() in (3, 4) and tensor.shape[1] in self._heads)


def _unpack(kept: Tensor | Packed) -> Tensor:
    return kept.unpack() if isinstance(kept, Packed) else kept


def _within(module: nn.Module, make: Callable[[], saved_tensors_hooks]) -> None:
    """Run every forward pass of a module in such a context."""
    entered: list[saved_tensors_hooks] = []

    def enter(*_: Any) -> None:
        entered.append(make())
        entered[-1].__enter__()

    def leave(*_: Any) -> None:
        entered.pop().__exit__()

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)
