"""Collective operations between the processes of a run.

With one process, every function returns its argument unchanged. Tensors on a CPU use gloo, those on CUDA NCCL. Every
rank has to call the same functions in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from headrace.train.distributed.phases import PHASES, REDUCING
from headrace.train.distributed.process_group import world_size

T = TypeVar("T")

BUCKET_SIZE = 25_000_000
"""Gradient elements of one all-reduce: 100 MB, enough to fill any link."""


def all_reduce(x: Tensor) -> Tensor:
    """Return the sum over ranks. Does not synchronise with a CUDA device."""
    if world_size() == 1:
        return x
    x = x.clone()
    with PHASES.enter(REDUCING):
        dist.all_reduce(x)
    return x


def maximum(value: int) -> int:
    """Return the largest value of all ranks: one number between CPUs, which waits for no device."""
    if world_size() == 1:
        return value
    largest = torch.tensor(value)
    with PHASES.enter(REDUCING):
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def all_gather(value: T) -> list[T]:
    """Return the object of each rank, in their order. Objects are pickled, between processes of one run."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    with PHASES.enter(REDUCING):
        dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def all_reduce_gradients(parameters: Iterable[nn.Parameter], dtype: torch.dtype = torch.float32) -> None:
    """Replace the gradient of every trainable parameter by its sum over ranks.

    Args:
        dtype: what gradients are rounded to on their way, and summed in.
    """
    if world_size() == 1:
        return
    bucket, size = list[Tensor](), 0
    for parameter in (p for p in parameters if p.requires_grad):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        size += parameter.numel()
        if size >= BUCKET_SIZE:
            _sum_in_place(bucket, dtype)
            bucket, size = [], 0
    if bucket:
        _sum_in_place(bucket, dtype)


def broadcast_buffers(module: nn.Module) -> None:
    """Copy the buffers of rank 0 to every rank: state that is learnt without gradients, such as a codebook."""
    if world_size() > 1:
        with PHASES.enter(REDUCING):
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def _sum_in_place(tensors: list[Tensor], dtype: torch.dtype) -> None:
    """Replace tensors by their sums over ranks, in one collective operation."""
    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(dtype)
    with PHASES.enter(REDUCING):
        dist.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))
