"""What the updates of both models have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from headrace.train import distributed
from headrace.train.config import RunConfig
from headrace.train.distributed import ReductionOptions
from headrace.train.precision import DTYPES
from headrace.train.stages.scaled_adam import ScaledAdam


def reduction_options(config: RunConfig) -> ReductionOptions:
    """Return how a run sums gradients over ranks."""
    return ReductionOptions(dtype=DTYPES[config.distributed.reduce], overlap=config.distributed.overlap)


def sum_terms(*terms: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Sum 0-d terms over microbatches and ranks, in one collective operation.

    Args:
        terms: of each backward pass, one or more sequences of them: the terms of a sequence have the same names.
    """
    names = [name for sequence in terms for name in sequence[0]]
    sums = [torch.stack([torch.stack(list(of_pass.values())) for of_pass in sequence]).sum(0) for sequence in terms]
    return dict(zip(names, distributed.all_reduce(torch.cat(sums)).unbind(), strict=True))


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
