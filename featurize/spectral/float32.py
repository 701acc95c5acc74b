"""Float32 as it is said: without autocast, and without TF32, which has 10 of its 23 bits of mantissa.

On NVIDIA's cards since Ampere, cuDNN convolves float32 in TF32 unless it is told not to, and containers of NVIDIA
multiply matrices so, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def tf32_is_allowed() -> tuple[bool, bool]:
    """Return whether this process lets cards multiply matrices, and convolve, in TF32."""
    backends = torch.backends
    convolution = backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return backends.cuda.matmul.fp32_precision == "tf32", convolution == "tf32"


def allow_tf32(allowed: bool) -> None:
    """Let cards compute float32 in TF32 in this process, or forbid it.

    By torch's older settings: once the newer ones, `fp32_precision`, are set, reading the older ones raises an error,
    and libraries read them.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within this context, or a function that is decorated with it, cards compute float32 with all of its bits.

    This is a setting of the process. A backward pass, which runs after the context, follows what is set outside.
    """
    matmul, convolution = tf32_is_allowed()
    allow_tf32(False)
    try:
        yield
    finally:
        if matmul:
            torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = convolution


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Within this context, operators on a device compute in float32, with all of its bits."""
    with torch.autocast(device.type, enabled=False), without_tf32():
        yield
