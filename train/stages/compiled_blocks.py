"""Compile blocks of the networks into a few kernels each (Ansel et al. 2024, "PyTorch 2"), for every shape of a batch.

Blocks are compiled, not whole networks: all layers of a decoder share the kernels of one, which compile in a tenth of
the time of the whole. Shapes are static, so results depend only on the batch, and a resumed run reproduces them to the
last bit.
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
from headrace.store.library_settings import keep_compiled_kernels_private
from headrace.train.models.blocks import BLOCKS
from headrace.train.stages.stage import Stage

MAX_RECOMPILES = 10_000
"""Limit of compilations of a block: one for each shape, with and without gradients of weights."""
INDUCTOR_OPTIONS: dict[str, Any] = {"fallback_random": True}
"""Dropout draws the same random numbers as without compiling."""


def compile_stage(stage: Stage) -> int:
    """Compile the blocks of a stage's networks when they first run. Returns how many blocks there are.

    Raises:
        UsageError: this machine cannot compile.
    """
    check_compiler()
    keep_compiled_kernels_private()
    import torch._dynamo  # takes a second to import

    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MAX_RECOMPILES
    networks = [value for value in vars(stage).values() if isinstance(value, nn.Module)]
    blocks = [module for network in networks for module in network.modules() if isinstance(module, BLOCKS)]
    for module in blocks:
        module.forward = _compile_for_training(module, module.forward)  # type: ignore[method-assign]
    return len(blocks)


def _compile_for_training(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return `forward`, compiled in training only: lengths vary too much in validation and speech."""
    compiled = torch.compile(forward, dynamic=False, options=INDUCTOR_OPTIONS)
    return lambda *inputs: (compiled if module.training else forward)(*inputs)


def check_compiler() -> None:
    """
    Raises:
        UsageError: the C++ compiler or Python's headers are missing.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        raise UsageError("compile needs a C++ compiler, and there is none on the PATH: install g++, or leave it out.")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise UsageError(f"compile needs Python's headers, and {header} is missing: install them, or leave it out.")
