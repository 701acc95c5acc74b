"""Averaging between machines, for links that are slow (Lin et al. 2020, "Don't use large mini-batches, use local SGD").

The processes of a machine sum their gradients at each update. Machines train copies of the model of their own, which
are averaged from time to time: weights, moments and all else that is learned.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from headrace.store.errors import UsageError
from headrace.train.distributed.phases import PHASES, REDUCING
from headrace.train.distributed.process_group import world_size
from headrace.train.distributed.replicas import named_tensors


@dataclass(frozen=True, slots=True)
class Machines:
    """The machines of a run, and this process among them."""

    mesh: DeviceMesh
    """(machines, processes of each)."""

    @classmethod
    def find(cls, device: torch.device) -> Machines | None:
        """Return the machines that a launcher has started processes on; None if there is one.

        Raises:
            UsageError: they have different numbers of processes.
        """
        processes, of_machine = world_size(), _processes_here(os.environ)
        everyone: list[int] = [of_machine] * processes
        if processes > 1:
            dist.all_gather_object(everyone, of_machine)
        if set(everyone) != {of_machine} or processes % of_machine:
            raise UsageError("average_every averages equal machines: start as many processes on each of them.")
        if processes == of_machine:
            return None
        sizes = (processes // of_machine, of_machine)
        return cls(init_device_mesh(device.type, sizes, mesh_dim_names=("machine", "process")))

    @property
    def number(self) -> int:
        """Which machine this one is."""
        return int(self.mesh.get_local_rank("machine"))

    @property
    def within(self) -> dist.ProcessGroup:
        """The processes of this machine."""
        return self.mesh.get_group("process")

    @torch.no_grad()
    def average(self, state: Mapping[str, Any]) -> None:
        """Replace each tensor by its mean over machines, in a few large collective operations.

        Args:
            state: nested dicts and lists that refer to the tensors in use, such as `Stage.state_dict`.
        """
        tensors = [tensor for _, tensor in named_tensors(state)]
        group, count = self.mesh.get_group("machine"), self.mesh.size(0)
        for same in _alike(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            with PHASES.enter(REDUCING):
                dist.all_reduce(flat, group=group)
            parts = (flat / count).split([tensor.numel() for tensor in same])
            for tensor, part in zip(same, parts, strict=True):
                tensor.copy_(part.view_as(tensor))


def _processes_here(environment: Mapping[str, str]) -> int:
    """Return the number of processes of this machine: as torchrun gives it, or srun, by `4(x2)` for two machines."""
    given = environment.get("LOCAL_WORLD_SIZE") or environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    return int(given.partition("(")[0].partition(",")[0])


def _alike(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Return the tensors by device and dtype, in their order."""
    found: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    return list(found.values())
