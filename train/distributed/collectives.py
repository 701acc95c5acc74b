"""Collective operations between the processes of a run.

With one process, every function returns its argument unchanged. Tensors on a CPU use gloo, those on CUDA NCCL. Every
rank has to call the same functions in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from headrace.train.distributed.phases import PHASES, REDUCING
from headrace.train.distributed.process_group import world_size

T = TypeVar("T")


def all_reduce(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return the sum over ranks. Does not synchronise with a CUDA device.

    Args:
        group: of the ranks; None for all.
    """
    if world_size() == 1:
        return x
    x = x.clone()
    with PHASES.enter(REDUCING):
        dist.all_reduce(x, group=group)
    return x


def maximum(value: int) -> int:
    """Return the largest value of all ranks: one number between CPUs, which waits for no device."""
    if world_size() == 1:
        return value
    largest = torch.tensor(value)
    with PHASES.enter(REDUCING):
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def gather_integers(values: Sequence[int]) -> list[list[int]]:
    """Return the numbers of each rank, in their order: a few between CPUs, which wait for no device."""
    if world_size() == 1:
        return [list(values)]
    everyone = torch.empty(world_size() * len(values), dtype=torch.int64)
    with PHASES.enter(REDUCING):
        dist.all_gather_into_tensor(everyone, torch.tensor(values))
    return everyone.view(world_size(), -1).tolist()


def all_gather(value: T) -> list[T]:
    """Return the object of each rank, in their order. Objects are pickled, between processes of one run."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    with PHASES.enter(REDUCING):
        dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def broadcast_buffers(module: nn.Module) -> None:
    """Copy the buffers of rank 0 to every rank: state that is learnt without gradients, such as a codebook."""
    if world_size() > 1:
        with PHASES.enter(REDUCING):
            for work in [dist.broadcast(buffer, 0, async_op=True) for buffer in module.buffers()]:
                work.wait()
