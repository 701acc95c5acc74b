"""Blocks of the networks as a few kernels each (Ansel et al. 2024, "PyTorch 2"), made once for every shape of a batch.

Blocks are compiled, not whole networks: the layers of a decoder are alike, so all of them run what is made for one, in
a tenth of the time that the whole takes. Shapes are static, so what is computed depends on the batch alone, and a run
that is resumed computes it again to the last bit.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headrace.store.errors import UsageError
from headrace.train.models.attention import Encoder
from headrace.train.models.discriminator import PeriodDiscriminator, ScaleDiscriminator
from headrace.train.models.flow import WaveNet
from headrace.train.models.transformer import Layer
from headrace.train.models.vocoder import ResBlock
from headrace.train.stages.stage import Stage

BLOCKS = (Layer, Encoder, WaveNet, ResBlock, ScaleDiscriminator, PeriodDiscriminator)
MAX_RECOMPILES = 10_000
"""That a block of code may become: it is compiled for each shape, with gradients of weights and without."""
INDUCTOR_OPTIONS: dict[str, Any] = {"fallback_random": True}
"""Dropout draws what it draws without compiling."""


def compile_stage(stage: Stage) -> int:
    """Compile the blocks of a stage's networks, from the next step on. Returns how many those are.

    Raises:
        UsageError: this machine cannot compile.
    """
    _check_compiler()
    import torch._dynamo  # a second, which only those wait who compile

    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MAX_RECOMPILES
    networks = [value for value in vars(stage).values() if isinstance(value, nn.Module)]
    blocks = [module for network in networks for module in network.modules() if isinstance(module, BLOCKS)]
    for module in blocks:
        module.forward = _in_training(module, module.forward)  # type: ignore[method-assign]
    return len(blocks)


def _in_training(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled in training alone: validation and speech come in lengths of all kinds."""
    compiled = torch.compile(forward, dynamic=False, options=INDUCTOR_OPTIONS)
    return lambda *given: (compiled if module.training else forward)(*given)


def _check_compiler() -> None:
    if not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        raise UsageError("compile needs a C++ compiler, and there is none on the PATH: install g++, or leave it out.")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise UsageError(f"compile needs Python's headers, and {header} is missing: install them, or leave it out.")
