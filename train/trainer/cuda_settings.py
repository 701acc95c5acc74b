"""Settings of CUDA for a run: allocator, TF32, choice of convolution and attention kernels, each with its reason."""

from __future__ import annotations

import os

import torch

from headrace.featurize.spectral.float32 import allow_tf32
from headrace.train.precision import Precision

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""What torch's allocator reads when CUDA starts. The second one is its older name."""
EXPANDABLE = "expandable_segments:True"
HOPPER = (9, 0)
"""Compute capability from which on torch prefers cuDNN's attention."""


def prepare_allocator(fixed_shapes: int) -> None:
    """Let the allocator's segments grow where shapes of batches change. To be called before CUDA starts.

    What is freed of one shape seldom fits the next one: in segments of a fixed size, it would lie idle. Settings of the
    user come first.
    """
    if not fixed_shapes and not any(os.environ.get(name) for name in ALLOCATOR_VARIABLES):
        os.environ[ALLOCATOR_VARIABLES[0]] = EXPANDABLE


def apply(precision: Precision, capability: tuple[int, int] | None, fixed_shapes: int) -> list[str]:
    """Set what CUDA computes by in this process. Returns a line for each setting; none for a CPU.

    Args:
        capability: compute capability of the device; None if it is no CUDA device.
    """
    if capability is None:
        return []
    half = precision.name != "fp32"
    allow_tf32(half)
    torch.backends.cudnn.benchmark = bool(fixed_shapes)
    cudnn_attention = capability < HOPPER or bool(fixed_shapes)
    torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)
    return [
        "TF32 "
        + (
            "where float32 is no requirement: half precision rounds as much"
            if half
            else "off: float32 was asked for; fp16 and bf16 are several times as fast"
        ),
        "convolutions "
        + ("by the fastest of several kernels for each fixed shape" if fixed_shapes else "by cuDNN's own choice"),
        "attention "
        + (
            "by whatever kernel torch prefers"
            if cudnn_attention
            else "without cuDNN's kernels, which are planned anew for each shape: --fixed-shapes allows them"
        ),
        "allocator " + (_allocator() or "as torch sets it"),
    ]


def _allocator() -> str:
    """Return what the allocator was told."""
    return next((value for name in ALLOCATOR_VARIABLES if (value := os.environ.get(name))), "")
