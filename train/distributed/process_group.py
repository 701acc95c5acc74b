"""The group of processes that train together, one per device, and the place of this process in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from headrace.train.launcher import slurm_group


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that a launcher started into a group for the duration of this context.

    The launcher is that of `train run --gpus`, torchrun, or srun with several tasks. Without one there is one process.
    """
    os.environ |= slurm_group(os.environ)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def cuda_device() -> int:
    """Return the number of this process's CUDA device, among those that it sees.

    A launcher shows each process all devices of the machine, or as `srun --gpus-per-task=1` only its own.
    """
    number = int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() else 0
    return number % max(1, torch.cuda.device_count())
