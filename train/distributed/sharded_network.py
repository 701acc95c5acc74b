"""Networks of whose parameters each process keeps a part (Zhao et al. 2023, "PyTorch FSDP").

Each parameter is cut along its first axis, and so are its gradient and what an optimiser keeps for it. A block of the
network is gathered when it computes, forward or backward, and given up after that; its gradients are summed over
processes as soon as they are there, and each process gets its part of the sums. An optimiser sees the parts of its
process as ordinary parameters: what it computes element by element is exact, and a sum over elements takes `sum_parts`.

With several copies of the model, each on as many processes, gradients are summed over copies too (hybrid sharding).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from headrace.train.distributed.collectives import maximum
from headrace.train.distributed.gradient_buckets import ReductionOptions
from headrace.train.distributed.phases import PHASES, REDUCING
from headrace.train.distributed.process_group import rank, world_size
from headrace.train.parallel_form import ParallelForm

OF_ELEMENTS = frozenset({"exp_avg", "exp_avg_sq", "delta"})
"""What AdamW and ScaledAdam keep for each element of a parameter."""


def make_mesh(form: ParallelForm, device: torch.device) -> DeviceMesh:
    """Arrange the processes as copies of the model and shards of a copy.

    Raises:
        UsageError: the form is for another number of processes.
    """
    return init_device_mesh(device.type, form.sizes(world_size()), mesh_dim_names=("copy", "shard"))


class ShardedNetwork:
    """A network in parts, and its optimiser. An update calls the same methods as `GradientBuckets` has."""

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
        self.network, self.optimizer = network, optimizer
        self._mesh = mesh if mesh.size(0) > 1 else mesh["shard"]
        self._group = mesh.get_group("shard")
        self._copy = _without_parameters(network)
        names, state = _taken_from(optimizer, network)
        self._shard(blocks, methods, options)
        self._parameters: dict[str, DTensor] = dict(network.named_parameters())  # type: ignore[arg-type]
        self.parts = {name: _part_of(parameter) for name, parameter in self._parameters.items()}
        for group, of_group in zip(optimizer.param_groups, names, strict=True):
            group["params"] = [self.parts[name] for name in of_group]
        for name, values in state.items():
            optimizer.state[self.parts[name]] = self._cut(name, values)

    @property
    def part(self) -> int:
        """Which part of the model this process has."""
        return dist.get_rank(self._group)

    @property
    def elements(self) -> dict[Tensor, int]:
        """How many elements the whole parameter of each part has."""
        return {self.parts[name]: parameter.numel() for name, parameter in self._parameters.items()}

    def sum_parts(self, values: Tensor) -> Tensor:
        """Return sums over the processes that share a copy of the model. Does not synchronise with a CUDA device."""
        values = values.clone()
        with PHASES.enter(REDUCING):
            dist.all_reduce(values, group=self._group)
        return values

    def allocate(self) -> None:
        """Allocate nothing: parts of gradients come and go with an update."""

    def keep_memory(self) -> None:
        """Do nothing: parts of gradients come and go with an update."""

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

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights as `network.state_dict()` has them in one process. On the CPU, empty on other ranks."""
        return self._on_first_rank(self.network.state_dict())

    def optimizer_state(self) -> dict[str, Any]:
        """Return the state of the optimiser as it is in one process. On the CPU, without tensors on other ranks."""
        packed = self.optimizer.state_dict()
        name_of = {id(part): name for name, part in self.parts.items()}
        names = [name_of[id(part)] for group in self.optimizer.param_groups for part in group["params"]]
        for number, values in packed["state"].items():
            parameter = self._parameters[names[number]]
            gathered = {key: _whole(values[key], parameter) for key in values if key in OF_ELEMENTS}
            packed["state"][number] = self._on_first_rank(values | gathered)
        return packed

    def held(self) -> dict[str, Any]:
        """Return the tensors that this process keeps: the same in every copy of the model."""
        state = [self.optimizer.state[part] for part in self.parts.values()]
        return {"parts": self.parts, "state": state, "buffers": dict(self.network.named_buffers())}

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """Gather all weights into an ordinary network, on each rank, for the duration of this context.

        Ranks need not do the same with it.
        """
        weights = {name: _whole(value, value) for name, value in self.network.state_dict().items()}
        self._copy.load_state_dict(weights, assign=True)
        self._copy.train(self.network.training)
        try:
            yield self._copy
        finally:
            self._copy = _without_parameters(self._copy)

    def _shard(self, blocks: tuple[type[nn.Module], ...], methods: Sequence[str], options: ReductionOptions) -> None:
        """Cut the parameters of each block, and then all others."""
        dtype = None if options.dtype == torch.float32 else options.dtype
        policy = MixedPrecisionPolicy(reduce_dtype=dtype, cast_forward_inputs=False)
        inner = [module for module in self.network.modules() if isinstance(module, blocks)][::-1]
        for module in (*inner, self.network):
            fully_shard(module, mesh=self._mesh, mp_policy=policy, reshard_after_forward=module is not self.network)
        for module in self.network.modules():
            if isinstance(module, FSDPModule):  # both are not inherited
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        for method in methods:
            register_fsdp_forward_method(self.network, method)

    def _cut(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return this process's part of an optimiser's state of a parameter, on the device."""
        parameter, part = self._parameters[name], self.parts[name]

        def cut(key: str, value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            on_device = value.to(part.device)
            if key not in OF_ELEMENTS:
                return on_device
            whole = distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)
            return _local(whole).clone()

        return {key: cut(key, value) for key, value in values.items()}

    def _on_first_rank(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Gather tensors one by one. The first rank has them all on the CPU, others none."""
        found = {}
        for name, value in values.items():
            whole = _whole(value, value) if isinstance(value, Tensor) else value
            if rank() == 0:
                found[name] = whole.detach().cpu() if isinstance(whole, Tensor) else whole
        return found


def largest_gathered(network: nn.Module, blocks: tuple[type[nn.Module], ...]) -> int:
    """Return how many parameters a process has as a whole at most: those of two blocks, and all outside blocks."""
    sizes = [sum(p.numel() for p in module.parameters()) for module in network.modules() if isinstance(module, blocks)]
    outside = sum(p.numel() for p in network.parameters()) - sum(sizes)
    return outside + sum(sorted(sizes)[-2:])


def _taken_from(
    optimizer: torch.optim.Optimizer, network: nn.Module
) -> tuple[list[list[str]], dict[str, dict[str, Any]]]:
    """Take parameters and state from an optimiser, so that it does not keep them in memory.

    Returns:
        The names of the parameters of each group, and the state of each that has one.
    """
    name_of: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    names = [[name_of[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    state = {name_of[parameter]: values for parameter, values in optimizer.state.items() if values}
    for group in optimizer.param_groups:
        group["params"] = []
    optimizer.state = defaultdict(dict)
    return names, state


def _without_parameters(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose parameters take no memory, and whose buffers are those of the network."""
    kept: dict[int, Any] = {id(buffer): buffer for buffer in network.buffers()}
    for parameter in network.parameters():
        empty = torch.empty_like(parameter, device="meta")
        kept[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    return copy.deepcopy(network, kept)


def _part_of(parameter: DTensor) -> nn.Parameter:
    """Return this process's part of a parameter: it shares its memory."""
    return nn.Parameter(_local(parameter), requires_grad=parameter.requires_grad)


def _local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor."""
    return cast(DTensor, tensor.detach()).to_local()


def _whole(value: Tensor, like: Tensor) -> Tensor:
    """Return the whole of a tensor that is cut as another one is, of which each process has its part."""
    if not isinstance(like, DTensor):
        return value
    if not isinstance(value, DTensor):
        value = DTensor.from_local(
            value, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
    with PHASES.enter(REDUCING):
        return cast(DTensor, value.detach()).full_tensor()
