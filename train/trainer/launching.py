"""How a run launches the kernels of a step: compiled into a few, captured in CUDA graphs, or one by one, and why."""

from __future__ import annotations

import math
from dataclasses import replace

from headrace.store.errors import UsageError
from headrace.train import distributed
from headrace.train.config import RunConfig
from headrace.train.monitoring.observer import Observer
from headrace.train.stages.compiled_blocks import check_compiler, compile_stage
from headrace.train.stages.cuda_graphs import WARM_UPS, GraphedPasses
from headrace.train.trainer.setup import TrainingSetup

GRAPH_PASSES = 20
"""Passes of a shape from which on capturing it pays: a capture takes the host about as long as two eager passes, and a
replay saves it nearly all of one."""
COMPILED_PASSES = 2000
"""Passes of a shape from which on compiling it pays, if one takes a tenth of a second and becomes a third faster: it
takes up to a minute."""


def apply(setup: TrainingSetup, observer: Observer) -> TrainingSetup:
    """Compile and capture what a run asks for, or what pays for itself where it asks for nothing.

    Returns:
        The setup, with what was chosen of `compile`: its rounding is the run's for life.
    Raises:
        UsageError: what was asked for is not possible here.
    """
    config, on_cuda = setup.config, setup.device.type == "cuda"
    passes = passes_of_a_shape(setup)
    compiled, why = choose_compiled(config, on_cuda, passes)
    if on_cuda and config.compute.compile is None:
        observer.log(f"compile {'on' if compiled else 'off'}: {why}")
    if compiled:
        blocks = compile_stage(setup.stage)
        observer.log(f"{blocks} blocks of the networks are compiled, once for each shape: first steps take minutes")
    graphs, why = choose_graphs(config, on_cuda, distributed.world_size(), passes)
    if on_cuda:
        observer.log(f"CUDA graphs {'on' if graphs else 'off'}: {why}")
    if graphs:
        setup.stage.capture_passes(GraphedPasses(config.data.fixed_shapes, observer.log))
    return replace(setup, config=config.with_options(compile=compiled))


def passes_of_a_shape(setup: TrainingSetup) -> float:
    """Return how many batches of each fixed shape a rank computes in the run; infinite if nothing bounds it."""
    schedule, data = setup.config.schedule, setup.config.data
    frames = int(setup.data.store.lengths("frames")[setup.data.training].sum())
    of_epochs = schedule.max_epochs * frames / data.batch_frames / distributed.world_size()
    of_steps = schedule.max_steps * setup.stage.optim.grad_accum
    return min((count for count in (of_epochs, of_steps) if count), default=math.inf) / max(1, data.fixed_shapes)


def choose_compiled(config: RunConfig, on_cuda: bool, passes: float) -> tuple[bool, str]:
    """Return whether blocks are compiled, and why.

    Args:
        passes: of `passes_of_a_shape`.
    """
    compute = config.compute
    if compute.compile is not None:
        return compute.compile, "asked for"
    if not on_cuda:
        return False, "steps on a CPU are not faster"
    if not config.data.fixed_shapes:
        return False, "lengths of batches change; --fixed-shapes 8 allows it"
    if config.distributed.parallel != "dp":
        return False, "processes share the model"
    if config.model.quantize:
        return False, "rounding to INT8 was not compiled yet"
    if compute.activations_8bit:
        return False, "it would choose itself what is kept for the backward pass, instead of --activations-8bit"
    try:
        check_compiler()
    except UsageError as error:
        return False, str(error)
    return passes >= COMPILED_PASSES, _pays(passes, COMPILED_PASSES)


def choose_graphs(config: RunConfig, on_cuda: bool, world: int, passes: float) -> tuple[bool, str]:
    """Return whether passes are captured, and why.

    Args:
        world: processes.
        passes: of `passes_of_a_shape`.
    Raises:
        UsageError: it was asked for, and is not possible here.
    """
    asked = config.compute.cuda_graphs
    if asked is False:
        return False, "asked for"
    if hindrance := _hindrance(config, on_cuda, world):
        if asked:
            raise UsageError(f"cuda_graphs are not possible here: {hindrance}. Leave them out.")
        return False, hindrance
    if asked:
        return True, "asked for"
    return passes >= GRAPH_PASSES, f"{_pays(passes, GRAPH_PASSES)}; the first {WARM_UPS} of each go without"


def _hindrance(config: RunConfig, on_cuda: bool, world: int) -> str:
    """Return why passes cannot be captured; empty if they can."""
    if not on_cuda:
        return "there is no CUDA device"
    if not config.data.fixed_shapes:
        return "lengths of batches change; --fixed-shapes 8 allows them"
    if world > 1:
        return "gradients are sent to other processes during the backward pass"
    if config.compute.activation_checkpointing:
        return "--activation-checkpointing sets random numbers back, which a graph cannot"
    if config.optim.dpo:
        return "corrupted sequences of --dpo have any length"
    if config.model.quantize:
        return "rounding to INT8 was not captured yet"
    return ""


def _pays(passes: float, least: int) -> str:
    """Return how often a shape comes, and how often it should."""
    often = "without end" if math.isinf(passes) else f"{passes:,.0f} times"
    return f"each shape comes {often}, and it pays from {least:,} times on"
