"""Training on several devices: one process each, as torchrun starts them, and what they have to agree on.

Without torchrun there is one rank, and everything here gives back what it was given. Tensors on a CPU go by gloo,
those on CUDA by NCCL. Every rank has to call the same functions in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

BUCKET = 25_000_000
"""Elements of gradients that are summed over ranks in one go: 100 MB, enough to fill any link."""


@contextmanager
def joined() -> Iterator[None]:
    """Within it the processes that torchrun started know one another."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def local() -> int:
    """Number of this process on its machine: that of its device."""
    return int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() else 0


def total(x: Tensor) -> Tensor:
    """The sum over ranks. Nobody waits for a CUDA device."""
    if world() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def gathered(thing: T) -> list[T]:
    """What each rank has, in their order. Objects are pickled, between processes of one run."""
    if world() == 1:
        return [thing]
    things: list[T | None] = [None] * world()
    dist.all_gather_object(things, thing)
    return things  # type: ignore[return-value]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradient of every parameter that is learnt by its sum over ranks."""
    if world() == 1:
        return
    bucket: list[Tensor] = []
    for parameter in (p for p in parameters if p.requires_grad):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        if sum(grad.numel() for grad in bucket) >= BUCKET:
            _sum_in_place(bucket)
            bucket = []
    if bucket:
        _sum_in_place(bucket)


def share_buffers(module: nn.Module) -> None:
    """Give every rank the buffers of rank 0: what they have learnt outside of gradients, as a codebook does."""
    if world() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def _sum_in_place(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))
