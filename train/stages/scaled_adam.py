"""ScaledAdam (Yao et al. 2023, "Zipformer", section 3.5) as GPT-SoVITS trains its text-to-semantic decoder with it.

Adam's step is taken relative to the size of each parameter tensor, its root mean square, and the size itself is a
parameter that is learnt: its gradient is sum(p * dp). A learning rate means the same for tensors of any scale.

Shapes: N parameters, tensors first and then scalars; R rows of a block, W elements of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEGLIGIBLE_CORRECTION = 0.99
"""From this value on, the bias correction of v is left out for tensors, as in the training of published weights."""
ROW = 512
"""Elements of a row of a block."""


class ScaledAdam(torch.optim.Optimizer):
    """ScaledAdam with upstream's arithmetic, in few kernels and without synchronising with the device.

    With p a tensor, g its gradient, r its root mean square at the last size update, and v and delta zero at first:

        v      = beta2 v + (1 - beta2) g^2                                      as in Adam
        delta  = beta1 delta - (1 - beta1) lr max(r, min_rms) g / (sqrt(v / (1 - beta2^(t + 1))) + eps)
        p      = p + delta

    Every `size_period` steps, before that, sizes are updated, with s = sum(p g) of each of these steps: r is measured,
    and (1 - beta1) p times an Adam step of rate `lr * scalar_rate` along s is added to delta. Nothing is added where r
    is below `min_rms`; where it is above `max_rms`, the tensor shrinks at the full rate. A parameter of one element
    takes a plain Adam step of that rate instead, after it is clamped to `scalar_max`.

    s is scaled down where the norm of r g over all tensors exceeds `clipping_scale` times the median of the last
    `clipping_period` steps. As in upstream's code, this clips the gradients of sizes and no others.
    """

    found_inf: Tensor | None = None
    """() float; if it is not 0, the step changes no parameter and no mean of gradients. It is counted all the same:
    the host does not wait to learn of it."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        clipping_scale: float = 2.0,
        clipping_period: int = 1000,
        size_period: int = 4,
        scalar_rate: float = 0.1,
        min_rms: float = 1e-5,
        max_rms: float = 3.0,
        scalar_max: float = 10.0,
        in_one_block: bool | None = None,
    ) -> None:
        """
        Args:
            in_one_block: update all parameters by the same kernels, see `_Block`. None: as `prefers_one_block` says.
        """
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "clipping_scale": clipping_scale, "clipping_period": clipping_period,
            "size_period": size_period, "scalar_rate": scalar_rate, "min_rms": min_rms, "max_rms": max_rms,
            "scalar_max": scalar_max, "step": 0,
        }  # fmt: skip
        super().__init__(params, defaults)
        self._in_one_block = in_one_block
        self._blocks: list[list[_Block]] = []

    @torch.no_grad()
    def allocate(self) -> None:
        """Allocate the state before the first step. Weights may not change between, but by steps."""
        if not self._blocks:
            self._blocks = [self._blocks_of(group) for group in self.param_groups]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        super().load_state_dict(state_dict)
        self._blocks = []

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter. A missing gradient counts as zero."""
        self.allocate()
        for group, blocks in zip(self.param_groups, self._blocks, strict=True):
            _GroupStep(group, blocks, self.state[blocks[0].parameters[0]], self.found_inf).run()
            group["step"] += 1

    def _blocks_of(self, group: dict[str, Any]) -> list[_Block]:
        """Return the blocks of a group, whose first parameter also has what is known of each tensor."""
        tensors = [p for p in group["params"] if p.numel() > 1]
        parameters = tensors + [p for p in group["params"] if p.numel() == 1]
        device = tensors[0].device
        together = prefers_one_block(device) if self._in_one_block is None else self._in_one_block
        members = [parameters] if together else [[p] for p in parameters]
        first = 0
        blocks = []
        for of_block in members:
            blocks.append(_Block(first, of_block, [self.state[p] for p in of_block]))
            first += len(of_block)
        if "rms" not in self.state[tensors[0]]:
            count = len(tensors)
            self.state[tensors[0]].update(
                rms=torch.cat([block.rms(block.beside(block.parameters)) for block in blocks])[:count].clone(),
                size_exp_avg_sq=torch.zeros(count, device=device),
                size_grads=torch.zeros(group["size_period"], count, device=device),
                norms=torch.zeros(group["clipping_period"], device=device),
                threshold=torch.full((), math.inf, device=device),
            )
        return blocks


class _Block:
    """Parameters that are updated by the same kernels: one, or several whose values are copied side by side.

    A block is a matrix (R, W). A parameter fills whole rows of it, the last of them up with zeros, so that a factor of
    each parameter is a factor of each row.
    """

    def __init__(self, first: int, parameters: Sequence[Tensor], state: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            first: number of its first parameter.
            state: of each parameter. Its `delta` and `exp_avg_sq` become views of the block's.
        """
        self.parameters = parameters
        self.tensors = sum(p.numel() > 1 for p in parameters)
        """How many have more than one element."""
        self.numbers = slice(first, first + len(parameters))
        self._width = ROW if len(parameters) > 1 else parameters[0].numel()
        device = parameters[0].device
        rows = [-(-p.numel() // self._width) for p in parameters]
        self._rows = torch.tensor(rows, device=device)
        self._parameter_of_row = torch.arange(len(rows), device=device).repeat_interleave(
            self._rows, output_size=sum(rows)
        )
        self._root_elements = torch.tensor([p.numel() for p in parameters], device=device).sqrt()
        self._ends = [
            torch.zeros(self._width * count - p.numel(), device=device)
            for count, p in zip(rows, parameters, strict=True)
        ]
        self.delta, self.exp_avg_sq = (self._adopt(name, state) for name in ("delta", "exp_avg_sq"))

    def _adopt(self, name: str, state: Sequence[dict[str, Any]]) -> Tensor:
        """Lay a tensor of each parameter's state side by side; zeros where there is none yet. (R, W)."""
        pairs = zip(state, self.parameters, strict=True)
        matrix = self.beside([of[name] if name in of else torch.zeros_like(p) for of, p in pairs])
        for of, view in zip(state, self.apart(matrix), strict=True):
            of[name] = view
        return matrix

    def beside(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return tensors of the parameters' shapes side by side, (R, W): a copy if there are several."""
        if len(tensors) == 1:
            return tensors[0].reshape(1, -1)
        pieces = [x for tensor, end in zip(tensors, self._ends, strict=True) for x in (tensor.flatten(), end)]
        return torch.cat([piece for piece in pieces if piece.numel()]).view(-1, self._width)

    def apart(self, matrix_RW: Tensor) -> list[Tensor]:
        """Return a view for each parameter, of its shape."""
        sizes = [x for p, end in zip(self.parameters, self._ends, strict=True) for x in (p.numel(), end.numel())]
        views = matrix_RW.view(-1).split(sizes)[::2]
        return [view.view(p.shape) for view, p in zip(views, self.parameters, strict=True)]

    def gradients(self) -> Tensor:
        """Return the gradients side by side, (R, W)."""
        return self.beside([torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters])

    def spread(self, values_N: Tensor) -> Tensor:
        """Return a value of each parameter for each row, (R, 1)."""
        own = values_N[self.numbers]
        return (own if len(own) == 1 else own[self._parameter_of_row])[:, None]

    def sums(self, values_R: Tensor) -> Tensor:
        """Return the sum of each parameter's rows."""
        if len(self.parameters) == 1:
            return values_R
        return torch.segment_reduce(values_R, "sum", lengths=self._rows, unsafe=True)

    def norms(self, matrix_RW: Tensor) -> Tensor:
        """Return the Euclidean norm of each parameter's rows."""
        of_rows = torch.linalg.vector_norm(matrix_RW, dim=1)
        return of_rows if len(self.parameters) == 1 else self.sums(of_rows.square()).sqrt()

    def dots(self, one_RW: Tensor, other_RW: Tensor) -> Tensor:
        """Return the sum of products of each parameter's rows."""
        if len(self.parameters) == 1:
            return torch.dot(one_RW[0], other_RW[0])[None]
        return self.sums((one_RW * other_RW).sum(1))

    def rms(self, matrix_RW: Tensor) -> Tensor:
        """Return the root mean square of each parameter's rows."""
        return self.norms(matrix_RW) / self._root_elements


class _GroupStep:
    """One step of a group."""

    def __init__(
        self, group: dict[str, Any], blocks: Sequence[_Block], shared: dict[str, Any], found_inf: Tensor | None
    ) -> None:
        """
        Args:
            shared: the state of all tensors together.
        """
        self.group, self.blocks, self.shared = group, blocks, shared
        self.number: int = group["step"]
        self.weights = [block.beside(block.parameters) for block in blocks]
        self.scalars = sum(len(block.parameters) for block in blocks) - len(shared["rms"])
        self.kept: Tensor | float = 1.0 if found_inf is None else 1 - found_inf
        """() float: 0 if the step changes nothing, else 1. A CPU knows it."""
        if found_inf is not None and found_inf.device.type == "cpu" and all(len(b.parameters) == 1 for b in blocks):
            self.kept = float(self.kept)

    def run(self) -> None:
        """Make the step."""
        gradients = [self._gradients(block) for block in self.blocks]
        growth_N = self._size_growth(gradients, self._clipping_factor(gradients))
        rate = self.group["lr"] * (1 - self.group["betas"][0])
        sizes = self.shared["rms"].clamp(min=self.group["min_rms"])
        rates_N = F.pad(sizes * rate, (0, self.scalars), value=rate * self.group["scalar_rate"])
        for block, weights_RW, gradient_RW in zip(self.blocks, self.weights, gradients, strict=True):
            self._update(block, weights_RW, gradient_RW, rates_N, growth_N)

    def _gradients(self, block: _Block) -> Tensor:
        """Return the gradients of a block, (R, W); zeros if the step changes nothing."""
        if isinstance(self.kept, float):
            return block.gradients() if self.kept else block.delta.new_zeros(()).expand_as(block.delta)
        return block.gradients().masked_fill_(self.kept == 0, 0.0)

    def _clipping_factor(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the factor on gradients of sizes, () at most 1; 1 until a median is known. Step 0 records no norm."""
        shared, period = self.shared, self.group["clipping_period"]
        if not self.number:
            return torch.ones_like(shared["threshold"])
        norms_N = _joined([block.norms(of) for block, of in zip(self.blocks, gradients, strict=True)])
        norm = (norms_N * F.pad(shared["rms"], (0, self.scalars), value=1.0)).norm()
        shared["norms"][self.number % period].lerp_(norm, self.kept)
        if self.number % period == 0:
            median = shared["norms"].sort().values[min(period - 1, period // 4 * 2)]
            shared["threshold"].copy_(self.group["clipping_scale"] * median)
        return (shared["threshold"] / (norm + 1e-20)).clamp(max=1.0)

    def _size_growth(self, gradients: Sequence[Tensor], clipping: Tensor) -> Tensor | None:
        """Return the share of each parameter that is added to its delta, (N,); None between size updates."""
        group, shared, period = self.group, self.shared, self.group["size_period"]
        count = len(shared["rms"])
        matrices = zip(self.blocks, self.weights, gradients, strict=True)
        dots_N = _joined([block.dots(weights_RW, gradient_RW) for block, weights_RW, gradient_RW in matrices])
        torch.mul(dots_N[:count], clipping, out=shared["size_grads"][self.number % period])
        if self.number % period != period - 1:
            return None
        measured = [block.rms(weights_RW) for block, weights_RW in zip(self.blocks, self.weights, strict=True)]
        shared["rms"].copy_(_joined(measured)[:count])
        beta2 = group["betas"][1] ** period
        shared["size_exp_avg_sq"].lerp_(shared["size_grads"].square().mean(0), 1 - beta2)
        correction = math.sqrt(1 - beta2 ** ((self.number + 1) // period))
        rate = group["lr"] * group["scalar_rate"] * (1 - group["betas"][0])
        direction = shared["size_grads"].sum(0) / (shared["size_exp_avg_sq"].sqrt() + group["eps"])
        growth = (direction * (-rate * correction)).masked_fill_(shared["rms"] < group["min_rms"], 0.0)
        growth.masked_fill_(shared["rms"] > group["max_rms"], -rate * period)
        return F.pad(growth * self.kept, (0, self.scalars))

    def _update(
        self, block: _Block, weights_RW: Tensor, gradient_RW: Tensor, rates_N: Tensor, growth_N: Tensor | None
    ) -> None:
        """Update the parameters of a block."""
        beta1, beta2 = (beta**self.kept for beta in self.group["betas"])
        block.delta.mul_(beta1)
        if growth_N is not None:
            block.delta.addcmul_(weights_RW, block.spread(growth_N))
        block.exp_avg_sq.mul_(beta2).addcmul_(gradient_RW, gradient_RW, value=1 - self.group["betas"][1])
        scale_RW = (block.exp_avg_sq / self._correction(block)).sqrt_().add_(self.group["eps"])
        block.delta.sub_(torch.div(gradient_RW, scale_RW, out=scale_RW).mul_(block.spread(rates_N)))
        for p in block.parameters:
            if p.numel() == 1:
                p.clamp_(-self.group["scalar_max"], self.group["scalar_max"])
        # What of delta is added; the space of `scale` is free by now.
        added_RW = block.delta if isinstance(self.kept, float) else torch.mul(block.delta, self.kept, out=scale_RW)
        alpha = self.kept if isinstance(self.kept, float) else 1.0
        torch._foreach_add_(list(block.parameters), block.apart(added_RW), alpha=alpha)

    def _correction(self, block: _Block) -> Tensor | float:
        """Return the bias correction of v: of every row, (R, 1), where they differ."""
        correction = 1 - self.group["betas"][1] ** (self.number + 1)
        if correction < NEGLIGIBLE_CORRECTION or not block.tensors:
            return correction
        if block.tensors == len(block.parameters):
            return 1.0
        return block.spread(F.pad(torch.ones_like(self.shared["rms"]), (0, self.scalars), value=correction))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the values of all blocks as one vector, (N,)."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def prefers_one_block(device: torch.device) -> bool:
    """Return whether a device makes the same step faster in one block. On a CPU copies cost more than kernels."""
    return device.type != "cpu"
