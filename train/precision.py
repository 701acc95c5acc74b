"""Precision of the networks: float32, float16 with a scaled loss, or bfloat16.

These are float32 in all of them:

| what | why | where |
|---|---|---|
| weights, gradients, optimisers | updates are a ten-thousandth of a weight | autocast casts copies |
| STFT, log-mel | quiet bands lie 1e-5 under loud ones | `headrace.featurize.spectral.dsp`, autocast off |
| content projection, quantiser | the nearest of 1024 codes is a matter of the last bits | `SynthesizerTrn.quantise` |
| layer norms, softmax | sums of many terms | autocast's own list |
| the last two stages of the decoder | rounding is noise that covers quiet bands | `HifiGanDecoder` |
| voice vector's mean | a sum over frames | `MelStyleEncoder` |
| losses | sums and exponentials | `headrace.train.models.losses`, `headrace.train.stages.gpt_losses` |
| the first steps, in fp16 | gradients of fresh networks leave its range | `Precision.autocast` |
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headrace.store.errors import UsageError
from headrace.train import distributed

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FP32_STEPS = 500
"""Default number of steps before float16 begins."""
EXPLOSION_FACTOR = 30.0
"""Gradients whose norm is more than this many times the usual one are scaled down to it. Healthy runs stay below 18."""
NORM_MOMENTUM = 0.1
"""Weight of each update in the running mean, in logarithms, of the usual norm."""


class StepResult(NamedTuple):
    """Gradient norm of an update, and whether it was applied as it was."""

    norm: Tensor
    """() norm of the gradient of all ranks, before it is scaled down."""
    skipped: Tensor
    """() bool: the gradient was not finite, and no weight was changed."""
    exploded: Tensor
    """() bool: it was finite, but far larger than usual."""


class Precision:
    """The precision of a run, with its loss scale, and the reason for it."""

    step_number = 0
    """Updates that are done; the training loop sets it."""

    def __init__(self, name: str, reason: str, device: torch.device, fp32_steps: int = 0) -> None:
        self.name = name
        self.reason = reason
        self.fp32_steps = fp32_steps
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        self._device = device

    @classmethod
    def choose(cls, name: str, device: torch.device, fp32_steps: int | None = None) -> Precision:
        """Choose the precision on this device.

        Args:
            name: auto, fp32, fp16 or bf16.
            fp32_steps: steps in float32 at first; None for FP32_STEPS before float16, and 0 before bfloat16.
        Raises:
            UsageError: the name is unknown, or the device cannot compute in it.
        """
        cuda = device.type == "cuda"
        if name == "auto":
            if cuda:
                name, why = "fp16", "matrix units of the GPU, the range kept by loss scaling"
            else:
                name, why = "fp32", "a CPU gains nothing from half precision here"
            return cls(name, f"{name}: {why}", device, _settled(name, fp32_steps))
        if name not in _DTYPES:
            raise UsageError(f"There is no precision {name!r}; choose from auto, {', '.join(_DTYPES)}.")
        if name == "fp16" and not cuda:
            raise UsageError(f"Precision fp16 needs a CUDA device and this one is {device.type}: use fp32 or bf16.")
        return cls(name, f"{name}: as asked", device, _settled(name, fp32_steps))

    @property
    def is_half(self) -> bool:
        """Whether the networks run in half precision at this step."""
        return self.name != "fp32" and self.step_number >= self.fp32_steps

    def autocast(self) -> torch.autocast:
        """Return the context in which the forward pass runs."""
        return torch.autocast(self._device.type, _DTYPES[self.name], enabled=self.is_half)

    def step(self, optimizer: torch.optim.Optimizer, limit: Tensor | float) -> StepResult:
        """Sum gradients over ranks, clip them and update the weights, unless they are not finite.

        Gradients that explode are scaled down to their usual norm, which the first group of the optimiser keeps: Adam
        would continue in their direction for a dozen updates, and then hardly move for hundreds.

        It does not synchronise with the device: a fused optimiser reads `found_inf` in its kernel. GradScaler sets it;
        without a scaler it is set here.

        Args:
            optimizer: a fused one, or ScaledAdam. Its gradients are of the scaled loss.
            limit: gradients of a larger norm are scaled down to it (Pascanu et al. 2013); 0 for none.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        distributed.all_reduce_gradients(parameters)
        self.scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        usual, exploded = _usual(optimizer.param_groups[0], norm)
        asked = limit if isinstance(limit, Tensor) else norm.new_full((), limit or torch.inf)
        nn.utils.clip_grads_with_norm_(parameters, 1.0, norm / torch.where(exploded, usual.minimum(asked), asked))
        if self.scaler.is_enabled():
            self.scaler.step(optimizer)
        else:
            optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
            optimizer.step()
        return StepResult(norm, ~norm.isfinite(), exploded)

    def state_dict(self) -> dict[str, Any]:
        return {"name": self.name, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the loss scale. A run may continue in another precision: then the scale starts anew."""
        if state["name"] == self.name:
            self.scaler.load_state_dict(state["scaler"])


def _usual(group: dict[str, Any], norm: Tensor) -> tuple[Tensor, Tensor]:
    """Return the usual norm of gradients until now, and whether this one exploded. Updates the norm in `group`."""
    known = group.get("usual_norm", norm).to(norm.device)
    usual = torch.where(known.isfinite() & (known > 0), known, norm)
    exploded = (norm > EXPLOSION_FACTOR * usual) & norm.isfinite()
    followed = usual * (norm.minimum(EXPLOSION_FACTOR * usual) / usual) ** NORM_MOMENTUM
    group["usual_norm"] = torch.where(norm.isfinite() & (norm > 0), followed, usual)
    return usual, exploded


def _settled(name: str, fp32_steps: int | None) -> int:
    return (FP32_STEPS if name == "fp16" else 0) if fp32_steps is None else fp32_steps
