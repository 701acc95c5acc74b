"""Precision of the networks: float32, float16 with a scaled loss, or bfloat16.

These are float32 in all of them:

| what | why | where |
|---|---|---|
| weights, gradients, optimisers | updates are a ten-thousandth of a weight | autocast casts copies |
| STFT, log-mel | quiet bands lie 1e-5 under loud ones | `headrace.featurize.spectral.dsp`, autocast off |
| content projection, quantiser | which of 1024 codes is nearest depends on the last bits | `SynthesizerTrn.quantise` |
| layer norms, softmax | sums of many terms | autocast's own list |
| the last two stages of the decoder | rounding noise masks quiet bands | `HifiGanDecoder` |
| voice vector's mean | a sum over frames | `MelStyleEncoder` |
| losses | sums and exponentials | `headrace.train.models.losses`, `headrace.train.stages.gpt_losses` |
| the first steps of fp16 | gradients of untrained networks exceed its range | `Precision.autocast` |

STFT and log-mel, quantiser and the last stages of the decoder do without TF32 too, see
`headrace.featurize.spectral.float32`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headrace.store.errors import RunError, UsageError
from headrace.train.distributed.phases import OPTIMISER, PHASES

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Name of a format to its dtype."""
FP32_STEPS = 500
"""Default number of steps in float32 before those in float16."""
EXPLOSION_FACTOR = 30.0
"""Gradients whose norm is more than this many times the usual one are scaled down to it. Healthy runs stay below 18."""
NORM_MOMENTUM = 0.1
"""Weight of each update in the running mean, in logarithms, of the usual norm."""


class StepResult(NamedTuple):
    """The gradient norm of an update, and whether the update was skipped or scaled down."""

    norm: Tensor
    """() norm of the gradient, summed over ranks, before it is scaled down."""
    skipped: Tensor
    """() bool: the gradient was not finite, and no weight was changed."""
    exploded: Tensor
    """() bool: it was finite, but far larger than usual."""


class Precision:
    """The precision of a run and the reason for it, its loss scale, and its optimiser steps."""

    step_number = 0
    """Number of updates done; the training loop sets it."""
    _exact = False

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
            return cls(name, f"{name}: {why}", device, _fp32_steps(name, fp32_steps))
        if name not in DTYPES:
            raise UsageError(f"There is no precision {name!r}; choose from auto, {', '.join(DTYPES)}.")
        if name == "fp16" and not cuda:
            raise UsageError(f"Precision fp16 needs a CUDA device and this one is {device.type}: use fp32 or bf16.")
        return cls(name, f"{name}: as asked", device, _fp32_steps(name, fp32_steps))

    @property
    def is_half(self) -> bool:
        """Whether the networks run in half precision at this step."""
        return self.name != "fp32" and self.step_number >= self.fp32_steps and not self._exact

    @contextmanager
    def float32(self) -> Iterator[None]:
        """Let the networks run in float32 within this context."""
        self._exact = True
        try:
            yield
        finally:
            self._exact = False

    def autocast(self) -> torch.autocast:
        """Return the context in which the forward pass runs."""
        return torch.autocast(self._device.type, DTYPES[self.name], enabled=self.is_half)

    def loss_scale(self) -> Tensor:
        """Return the loss scale, () float32 on the device; 1 without one. Does not synchronise with the device."""
        return self.scaler.scale(torch.ones((), device=self._device))

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        limit: Tensor | float,
        sum_parts: Callable[[Tensor], Tensor] | None = None,
    ) -> StepResult:
        """Clip gradients that are summed over ranks, and update the weights, unless they are not finite.

        Gradients that explode are scaled down to their usual norm, which is kept in the first parameter group. With
        the full gradient, Adam would continue in its direction for a dozen updates, and then hardly move for hundreds.

        This does not synchronise with the device: a fused optimiser reads `found_inf` in its kernel. The loss scale
        falls by elements that are not finite, which `unscale_` has noted.

        Args:
            optimizer: a fused one, or ScaledAdam, with gradients of the scaled loss.
            limit: largest norm; larger gradients are scaled down to it (Pascanu et al. 2013). 0 for no limit.
            sum_parts: returns the sums of values over the processes that have the other parts of the optimiser's
                parameters; None if they are whole.
        Raises:
            RunError: memory ran out. Other ranks may have made this update: it cannot be tried again in smaller pieces.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        try:
            with PHASES.enter(OPTIMISER):
                return self._update(optimizer, parameters, limit, sum_parts)
        except torch.OutOfMemoryError as error:
            raise RunError(
                "An update of the weights does not fit into the device's memory beside the model: continue from the "
                "newest checkpoint with --resume and a smaller --batch-frames."
            ) from error

    def _update(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        limit: Tensor | float,
        sum_parts: Callable[[Tensor], Tensor] | None,
    ) -> StepResult:
        """Clip gradients and update the weights, as `step` says."""
        self.scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if sum_parts is not None:
            norm = sum_parts(norm.square()).sqrt()
            noted = self.scaler._found_inf_per_device(optimizer) if self.scaler.is_enabled() else {}
            for found_inf in noted.values():  # by each rank of its own parts
                found_inf.copy_(sum_parts(found_inf))
        usual, exploded = _update_usual_norm(optimizer.param_groups[0], norm)
        max_norm = limit if isinstance(limit, Tensor) else norm.new_full((), limit or torch.inf)
        nn.utils.clip_grads_with_norm_(parameters, 1.0, norm / torch.where(exploded, usual.minimum(max_norm), max_norm))
        # Not by GradScaler.step: it looks at elements alone, and a norm can overflow though all of them are finite.
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
        return StepResult(norm, ~norm.isfinite(), exploded)

    def state_dict(self) -> dict[str, Any]:
        """Return the name of the precision and the state of the loss scale."""
        return {"name": self.name, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the loss scale, unless the run continues in another precision: then it starts from its default."""
        if state["name"] == self.name:
            self.scaler.load_state_dict(state["scaler"])


def _update_usual_norm(group: dict[str, Any], norm: Tensor) -> tuple[Tensor, Tensor]:
    """Return the usual norm before this gradient, and whether this one exploded. Updates the norm in `group`."""
    previous = group.get("usual_norm", norm).to(norm.device)
    usual = torch.where(previous.isfinite() & (previous > 0), previous, norm)
    exploded = (norm > EXPLOSION_FACTOR * usual) & norm.isfinite()
    updated = usual * (norm.minimum(EXPLOSION_FACTOR * usual) / usual) ** NORM_MOMENTUM
    group["usual_norm"] = torch.where(norm.isfinite() & (norm > 0), updated, usual)
    return usual, exploded


def _fp32_steps(name: str, fp32_steps: int | None) -> int:
    """Return the number of first steps in float32: as given, or the default of the precision."""
    return (FP32_STEPS if name == "fp16" else 0) if fp32_steps is None else fp32_steps
