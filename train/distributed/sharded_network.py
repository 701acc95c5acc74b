"""Networks of whose parameters each process keeps a part (Zhao et al. 2023, "PyTorch FSDP").

Each parameter is cut along its first axis, and so are its gradient and what an optimiser keeps for it. A block of the
network is gathered when it computes, forward or backward, and given up after that; its gradients are summed over
processes as soon as they are there, and each process gets its part of the sums.

With several copies of the model, each on as many processes, gradients are summed over copies too (hybrid sharding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from headrace.train.distributed.collectives import maximum
from headrace.train.distributed.gradient_buckets import ReductionOptions
from headrace.train.distributed.network_parts import NetworkInParts


class ShardedNetwork(NetworkInParts):
    """A network whose parameters are each cut over processes, and its optimiser."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        blocks: tuple[type[nn.Module], ...],
        methods: Sequence[str] = (),
        mesh: DeviceMesh,
        options: ReductionOptions,
    ) -> None:
        """Cut the parameters of a network, and the state of its optimiser, which from now on has this process's parts.

        Args:
            network: on the CPU or the device, the same on all ranks. It comes to the device block by block.
            blocks: classes of modules that are gathered one by one; all else is gathered for the whole pass.
            methods: names of methods that compute with parameters, beside `forward`.
            mesh: of `make_mesh`.
        """
        self._mesh = mesh if mesh.size(0) > 1 else mesh["shard"]
        self._blocks, self._methods, self._options = blocks, methods, options
        super().__init__(network, optimizer, mesh.get_group("shard"))

    def allocate(self) -> None:
        """Allocate nothing: parts of gradients come and go with an update."""

    def begin(self) -> None:
        """Clear gradients for an update."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, summed over processes."""
        loss.backward()

    def expect_last(self) -> None:
        """Do nothing: gradients are summed in each backward pass."""

    def finish(self) -> None:
        """Give each part its gradient, zero where there is none. What comes after that is not of this update."""
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                part = self.parts[name]
                part.grad = torch.zeros_like(part) if parameter.grad is None else _local(parameter.grad)
                parameter.grad = None

    def idle_passes(self, passes: int) -> int:
        """Return how many passes more than these another rank makes, and this one has to make with it.

        Args:
            passes: forward and backward passes that this rank makes.
        """
        return maximum(passes) - passes

    def _divide(self) -> dict[str, nn.Parameter]:
        """Cut the parameters of each block, and then all others."""
        dtype = None if self._options.dtype == torch.float32 else self._options.dtype
        policy = MixedPrecisionPolicy(reduce_dtype=dtype, cast_forward_inputs=False)
        inner = [module for module in self.network.modules() if isinstance(module, self._blocks)][::-1]
        for module in (*inner, self.network):
            fully_shard(module, mesh=self._mesh, mp_policy=policy, reshard_after_forward=module is not self.network)
        for module in self.network.modules():
            if isinstance(module, FSDPModule):  # both are not inherited
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        for method in self._methods:
            register_fsdp_forward_method(self.network, method)
        self._parameters: dict[str, DTensor] = dict(self.network.named_parameters())  # type: ignore[arg-type]
        return {
            name: nn.Parameter(_local(parameter), requires_grad=parameter.requires_grad)
            for name, parameter in self._parameters.items()
        }

    def _cut(self, name: str, whole: Tensor) -> Tensor:
        like = self._parameters[name]
        return _local(distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None))

    def _gather(self, name: str, part: Tensor) -> Tensor:
        like = self._parameters[name]
        placed = DTensor.from_local(
            part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        return placed.full_tensor()


def largest_gathered(network: nn.Module, blocks: tuple[type[nn.Module], ...]) -> int:
    """Return how many parameters a process has as a whole at most: those of two blocks, and all outside blocks."""
    sizes = [sum(p.numel() for p in module.parameters()) for module in network.modules() if isinstance(module, blocks)]
    outside = sum(p.numel() for p in network.parameters()) - sum(sizes)
    return outside + sum(sorted(sizes)[-2:])


def _local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor."""
    return cast(DTensor, tensor.detach()).to_local()
