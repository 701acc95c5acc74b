"""What the updates of both models have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from headrace.train import distributed
from headrace.train.config import RunConfig
from headrace.train.distributed import GradientBuckets, Machines, NetworkInParts, ReductionOptions, ShardedNetwork
from headrace.train.models.blocks import BLOCKS
from headrace.train.models.fake_quantisation import FakeQuantisation
from headrace.train.parallel_form import parse_form
from headrace.train.precision import DTYPES, Precision
from headrace.train.stages.cuda_graphs import Pass, Terms
from headrace.train.stages.scaled_adam import ScaledAdam


class Gradients(Protocol):
    """The gradients of a network in training, as `GradientBuckets` and networks in parts have them."""

    def begin(self) -> None:
        """Clear them for an update."""

    def expect_last(self) -> None:
        """Tell that the next backward pass is the last one of this update."""

    def finish(self) -> None:
        """Replace each by its sum over ranks."""


def reduction_options(config: RunConfig, device: torch.device) -> ReductionOptions:
    """Return how a run sums gradients over ranks.

    Raises:
        UsageError: machines are averaged that have different numbers of processes.
    """
    options = config.distributed
    form = replace(parse_form(options.parallel), schedule=options.pipeline_schedule)
    machines = Machines.find(device) if options.average_every else None
    return ReductionOptions(dtype=DTYPES[options.reduce], overlap=options.overlap, form=form, machines=machines)


def over_machines(values: dict[str, Tensor], options: ReductionOptions) -> dict[str, Tensor]:
    """Return the means of an update's metrics over machines that made updates of their own: the same on all ranks.

    `skipped` and `exploded` are 1 where they are on any of them.
    """
    if options.machines is None:
        return values
    means = distributed.all_reduce(torch.stack(list(values.values()))) / distributed.world_size()
    found = dict(zip(values, means.unbind(), strict=True))
    return found | {name: found[name].ceil() for name in ("skipped", "exploded")}


def average_over_machines(state: dict[str, Any], precision: Precision, options: ReductionOptions) -> None:
    """Average what machines have learned by themselves, and let all have the loss scale of the first.

    Args:
        state: of a stage.
    """
    if options.machines is not None:
        options.machines.average(state)
        precision.load_state_dict(distributed.agreed(precision.state_dict()))


def share_network(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    mesh: torch.distributed.device_mesh.DeviceMesh,
    options: ReductionOptions,
    methods: Sequence[str] = (),
) -> ShardedNetwork:
    """Share out each parameter of a network, and its optimiser's state, over processes, as `ShardedNetwork` does."""
    shared = ShardedNetwork(network, optimizer, blocks=BLOCKS, methods=methods, mesh=mesh, options=options)
    tell_optimizer(optimizer, shared)
    return shared


def tell_optimizer(optimizer: torch.optim.Optimizer, shared: NetworkInParts) -> None:
    """Let an optimiser that sums over the elements of a parameter know of their other parts."""
    if isinstance(optimizer, ScaledAdam):
        optimizer.share(shared.elements, shared.sum_parts)


def state_of(
    network: nn.Module, optimizer: torch.optim.Optimizer, gradients: GradientBuckets | NetworkInParts
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the states of a network and of its optimiser, as one process has them.

    Where they are shared out, all ranks have to call this, and only the first one gets the tensors.
    """
    if isinstance(gradients, NetworkInParts):
        return gradients.state_dict(), gradients.optimizer_state()
    return network.state_dict(), optimizer.state_dict()


def ranges_of(quantisation: FakeQuantisation | None) -> dict[str, Any]:
    """Return what a checkpoint holds of the ranges of activations: nothing where a model is not trained for INT8."""
    return {} if quantisation is None else {"ranges": quantisation.state_dict()}


def whole_network(network: nn.Module, gradients: GradientBuckets | NetworkInParts) -> AbstractContextManager[Any]:
    """Return a context that gives the network with all its weights on each rank."""
    return gradients.whole() if isinstance(gradients, NetworkInParts) else nullcontext(network)


def sum_of_parts(gradients: GradientBuckets | NetworkInParts) -> Callable[[Tensor], Tensor] | None:
    """Return what sums values over the processes that share a network; None if each has the whole."""
    return gradients.sum_parts if isinstance(gradients, NetworkInParts) else None


def idle_passes(gradients: GradientBuckets | NetworkInParts, passes: int) -> int:
    """Return how many passes this rank has to make beside its own, so that all ranks that share make as many."""
    return gradients.idle_passes(passes) if isinstance(gradients, NetworkInParts) else 0


def accumulate(passes: Iterable[Pass], count: int, gradients: Gradients) -> list[Terms]:
    """Compute the gradient of the passes of an update, summed over ranks. Returns the terms of each.

    Args:
        passes: as many as `count`. The next part of each adds its gradients.
    """
    gradients.begin()
    terms = []
    for number, of_microbatch in enumerate(passes, 1):
        if number == count:
            gradients.expect_last()
        terms.append(of_microbatch.part())
    gradients.finish()
    return terms


def sum_terms(
    *terms: Sequence[dict[str, Tensor]], group: torch.distributed.ProcessGroup | None = None
) -> dict[str, Tensor]:
    """Sum 0-d terms over microbatches and ranks, in one collective operation.

    Args:
        terms: of each backward pass, one or more sequences of them: the terms of a sequence have the same names.
        group: of the ranks; None for all.
    """
    names = [name for sequence in terms for name in sequence[0]]
    sums = [torch.stack([torch.stack(list(of_pass.values())) for of_pass in sequence]).sum(0) for sequence in terms]
    return dict(zip(names, distributed.all_reduce(torch.cat(sums), group).unbind(), strict=True))


@torch.no_grad()
def allocate_state(optimizer: torch.optim.Optimizer) -> None:
    """Allocate the state of an optimiser as its first step would do it, so that memory does not run out in that step.

    Args:
        optimizer: ScaledAdam or a fused AdamW.
    """
    if isinstance(optimizer, ScaledAdam):
        optimizer.allocate()
        return
    for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.requires_grad):
        if not optimizer.state[parameter]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within this context, the network is in evaluation mode."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def gradient_norm(loss: Tensor, network: nn.Module) -> Tensor:
    """Return the norm of a loss's gradient, (). Gradients that parameters have stay as they are."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return nn.utils.get_total_norm([gradient for gradient in found if gradient is not None])
