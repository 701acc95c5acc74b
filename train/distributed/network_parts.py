"""Networks of which each process keeps a part, and their optimisers.

An optimiser sees the parts of its process as ordinary parameters: what it computes element by element is exact, and a
sum over elements takes `sum_parts`. What a checkpoint holds, and what validations compute with, is gathered.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

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


class NetworkInParts(ABC):
    """A network in parts, and its optimiser. An update calls the same methods as `GradientBuckets` has."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, group: dist.ProcessGroup) -> None:
        """Divide a network, and the state of its optimiser, which from now on has this process's parts.

        Args:
            network: the same on all ranks.
            group: the processes that share it.
        """
        self.network, self.optimizer, self._group = network, optimizer, group
        self._shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
        self._copy = _without_parameters(network)
        names, state = _taken_from(optimizer, network)
        self.parts: dict[str, nn.Parameter] = self._divide()
        """This process's part of each parameter: empty where it has none of it."""
        for group_of, of_group in zip(optimizer.param_groups, names, strict=True):
            group_of["params"] = [self.parts[name] for name in of_group]
        for name, values in state.items():
            optimizer.state[self.parts[name]] = self._own_state(name, values)

    @abstractmethod
    def _divide(self) -> dict[str, nn.Parameter]:
        """Divide the network. Returns this process's part of each parameter, by name."""

    @abstractmethod
    def _cut(self, name: str, whole: Tensor) -> Tensor:
        """Return this process's part of a tensor that is as large as a parameter."""

    @abstractmethod
    def _gather(self, name: str, part: Tensor) -> Tensor:
        """Return the whole of a tensor that is divided as a parameter is. All processes call this."""

    @abstractmethod
    def begin(self) -> None:
        """Clear gradients for an update."""

    @abstractmethod
    def finish(self) -> None:
        """Give each part its gradient, summed over processes, zero where there is none."""

    @property
    def part(self) -> int:
        """Which part of the model this process has."""
        return dist.get_rank(self._group)

    @property
    def elements(self) -> dict[Tensor, int]:
        """How many elements the whole parameter of each part has."""
        return {part: self._shapes[name].numel() for name, part in self.parts.items()}

    def sum_parts(self, values: Tensor) -> Tensor:
        """Return sums over the processes that share a copy of the model. Does not synchronise with a CUDA device."""
        values = values.clone()
        with PHASES.enter(REDUCING):
            dist.all_reduce(values, group=self._group)
        return values

    @abstractmethod
    def allocate(self) -> None:
        """Allocate the gradients, where they do not come and go with an update."""

    def idle_passes(self, passes: int) -> int:
        """Return how many passes more than these another rank makes, and this one has to make with it.

        Args:
            passes: forward and backward passes that this rank makes.
        """
        return 0

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights as `network.state_dict()` has them in one process. On the CPU, empty on other ranks."""
        return self._on_first_rank({name: value.detach() for name, value in self._named()})

    def optimizer_state(self) -> dict[str, Any]:
        """Return the state of the optimiser as it is in one process. On the CPU, without tensors on other ranks."""
        packed = self.optimizer.state_dict()
        name_of = {id(part): name for name, part in self.parts.items()}
        names = [name_of[id(part)] for group in self.optimizer.param_groups for part in group["params"]]
        for number, values in packed["state"].items():
            packed["state"][number] = self._on_first_rank(values, names[number])
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
        weights = {name: self._whole(name, value.detach()) for name, value in self._named()}
        self._copy.load_state_dict(weights, assign=True)
        self._copy.train(self.network.training)
        try:
            yield self._copy
        finally:
            self._copy = _without_parameters(self._copy)

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradient of each parameter that has one, as one process has it. All processes call this."""
        with_gradient = {name: part.grad for name, part in self.parts.items() if part.grad is not None}
        return {name: self._whole(name, gradient) for name, gradient in with_gradient.items()}

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what the state of the network holds: parts of its parameters, and its buffers."""
        for name, value in self.network.state_dict().items():
            yield name, self.parts.get(name, value)

    def _whole(self, name: str, part: Tensor) -> Tensor:
        """Return the whole of a tensor that is divided as a parameter is; a buffer as it is."""
        if name not in self.parts:
            return part
        with PHASES.enter(REDUCING):
            return self._gather(name, part)

    def _own_state(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return this process's part of an optimiser's state of a parameter, on the device."""
        device = self.parts[name].device
        on_device = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in values.items()}
        cut = {key: self._cut(name, on_device[key]).clone() for key in values.keys() & OF_ELEMENTS}
        return on_device | cut

    def _on_first_rank(self, values: Mapping[str, Any], parameter: str = "") -> dict[str, Any]:
        """Gather tensors one by one. The first rank has them all on the CPU, others none.

        Args:
            parameter: whose state these values are; empty for weights.
        """
        found = {}
        for name, value in values.items():
            divided = name in OF_ELEMENTS if parameter else isinstance(value, Tensor)
            whole = self._whole(parameter or name, value) if divided else value
            if rank() == 0:
                found[name] = whole.detach().cpu() if isinstance(whole, Tensor) else whole
        return found


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
