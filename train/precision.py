"""Arithmetic of the networks: float32, float16 with a scaled loss, or bfloat16. Spectra, quantiser and losses are
float32 in all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from store.errors import UsageError

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Precision:
    """A choice of arithmetic and the reason for it."""

    def __init__(self, name: str, reason: str, device: torch.device) -> None:
        self.name = name
        self.reason = reason
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        self._device = device

    @classmethod
    def choose(cls, name: str, device: torch.device) -> Precision:
        """Settle what a user asked for on this device.

        Args:
            name: auto, fp32, fp16 or bf16.
        Raises:
            UsageError: the name is unknown, or the device cannot compute in it.
        """
        cuda = device.type == "cuda"
        if name == "auto":
            if cuda:
                return cls("fp16", "fp16: matrix units of the GPU, the range kept by loss scaling", device)
            return cls("fp32", "fp32: a CPU gains nothing from half precision here", device)
        if name not in _DTYPES:
            raise UsageError(f"There is no precision {name!r}; choose from auto, {', '.join(_DTYPES)}.")
        if name == "fp16" and not cuda:
            raise UsageError(f"Precision fp16 needs a CUDA device and this one is {device.type}: use fp32 or bf16.")
        return cls(name, f"{name}: as asked", device)

    def autocast(self) -> torch.autocast:
        """Context in which the networks run forward."""
        return torch.autocast(self._device.type, _DTYPES[self.name], enabled=self.name != "fp32")

    def step(self, optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
        """Update the weights from gradients that are already unscaled, unless their norm is not finite.

        Nobody waits for the device: a fused optimiser reads `found_inf` in its kernel. That is how GradScaler
        talks to it; without a scaler it is said here.

        Args:
            optimizer: a fused one.
            norm: 0-d, total norm of the gradients.
        """
        if self.scaler.is_enabled():
            self.scaler.step(optimizer)
            return
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"name": self.name, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the loss scale. A run may go on in another precision: then the scale starts afresh."""
        if state["name"] == self.name:
            self.scaler.load_state_dict(state["scaler"])
