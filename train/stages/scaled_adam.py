"""ScaledAdam (Yao et al. 2023, "Zipformer", section 3.5) as GPT-SoVITS trains its text-to-semantic decoder with it.

Adam's step is taken relative to the size of each parameter tensor, its root mean square, and the size itself is a
parameter that is learnt: its gradient is sum(p * dp). A learning rate means the same for tensors of any scale.

Shapes: N parameters, tensors first and then scalars; R rows of a block, W elements of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEGLIGIBLE_CORRECTION = 0.99
"""From this value on, the bias correction of v is left out for tensors, as in the training of published weights."""
ROW = 512
"""Elements of a row of a block."""


SumParts = Callable[[Tensor], Tensor]
"""Returns the sums of values over the processes that have the other parts of parameters."""


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
        self._groups: list[_Group] = []
        self._elements: Mapping[Tensor, int] = {}
        self._sum_parts: SumParts | None = None

    def share(self, elements: Mapping[Tensor, int], sum_parts: SumParts) -> None:
        """Let the parameters be this process's parts of larger ones, from the next step on.

        Args:
            elements: of each parameter as a whole.
        """
        self._elements, self._sum_parts, self._groups = elements, sum_parts, []

    @torch.no_grad()
    def allocate(self) -> None:
        """Allocate the state before the first step. Weights may not change between, but by steps."""
        if not self._groups:
            self._groups = [self._allocated(group) for group in self.param_groups]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        super().load_state_dict(state_dict)
        self._groups = []

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter. A missing gradient counts as zero."""
        self.allocate()
        for options, group in zip(self.param_groups, self._groups, strict=True):
            _GroupStep(options, group, self.found_inf).run()
            options["step"] += 1

    def _allocated(self, group: dict[str, Any]) -> _Group:
        """Return the state of a group, whose first parameter has what is known of each tensor."""
        elements = {p: self._elements.get(p, p.numel()) for p in group["params"]}
        tensors = [p for p in group["params"] if elements[p] > 1]
        parameters = tensors + [p for p in group["params"] if elements[p] == 1]
        device = tensors[0].device
        together = prefers_one_block(device) if self._in_one_block is None else self._in_one_block
        members = [parameters] if together else [[p] for p in parameters]
        first = 0
        blocks = []
        for of_block in members:
            blocks.append(_Block(first, of_block, [self.state[p] for p in of_block], [elements[p] for p in of_block]))
            first += len(of_block)
        shared = self.state[tensors[0]]
        if "rms" not in shared:
            count = len(tensors)
            norms_N = _joined([block.norms(block.beside(block.parameters))[0] for block in blocks])
            shared.update(
                rms=(_of_all_parts(norms_N, self._sum_parts) / _roots(blocks))[:count],
                size_exp_avg_sq=torch.zeros(count, device=device),
                size_grads=torch.zeros(group["size_period"], count, device=device),
                norms=torch.zeros(group["clipping_period"], device=device),
                threshold=torch.full((), math.inf, device=device),
            )
        scalars = len(parameters) - len(tensors)
        sizes_N = F.pad(shared["rms"], (0, scalars), value=1.0)
        shared["rms"] = sizes_N[: len(tensors)]
        return _Group(
            blocks=blocks,
            shared=shared,
            sizes_N=sizes_N,
            rates_N=F.pad(torch.ones_like(shared["rms"]), (0, scalars), value=group["scalar_rate"]),
            growth_N=torch.zeros_like(sizes_N),
            betas=torch.tensor(group["betas"], device=device),
            sum_parts=self._sum_parts,
        )


@dataclass(frozen=True, kw_only=True)
class _Group:
    """What a group of parameters has beside its options. Nothing of it is copied to the device in a step."""

    blocks: list[_Block]
    shared: dict[str, Any]
    """The state of all tensors together."""
    sizes_N: Tensor
    """The size of each parameter; 1 of a scalar. `rms` of the state is a view of it."""
    rates_N: Tensor
    """Factor on the learning rate of each parameter."""
    growth_N: Tensor
    """Space for the direction in which the size of each parameter moves; 0 of a scalar."""
    betas: Tensor
    """(2,)."""
    sum_parts: SumParts | None
    """None if parameters are whole."""


class _Block:
    """Parameters that are updated by the same kernels: one, or several whose values are copied side by side.

    A block is a matrix (R, W). A parameter fills whole rows of it, the last of them up with zeros, so that a factor of
    each parameter is a factor of each row.
    """

    def __init__(
        self, first: int, parameters: Sequence[Tensor], state: Sequence[dict[str, Any]], elements: Sequence[int]
    ) -> None:
        """
        Args:
            first: number of its first parameter.
            state: of each parameter. Its `delta` and `exp_avg_sq` become views of the block's.
            elements: of each parameter, with those that other processes have.
        """
        self.parameters = parameters
        self.scalars = [p for p, count in zip(parameters, elements, strict=True) if count == 1]
        self.tensors = len(parameters) - len(self.scalars)
        """How many have more than one element."""
        self.numbers = slice(first, first + len(parameters))
        self._width = ROW if len(parameters) > 1 else parameters[0].numel()
        device = parameters[0].device
        rows = [-(-p.numel() // self._width) for p in parameters] if len(parameters) > 1 else [1]
        row_counts = torch.tensor(rows, device=device)
        self._parameter_of_row = torch.arange(len(rows), device=device).repeat_interleave(
            row_counts, output_size=sum(rows)
        )
        self._bounds = F.pad(row_counts.repeat(2).cumsum(0), (1, 0))
        """Where the rows of each parameter begin, and the last ones end, in two matrices one after the other."""
        self._is_scalar_R1 = (self._parameter_of_row >= self.tensors)[:, None]
        self.root_elements = torch.tensor(elements, device=device).sqrt()
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
            return tensors[0].reshape(1, self._width)
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

    def corrections(self, of_scalars: float) -> Tensor:
        """Return this for each row of a scalar, and 1 for all others, (R, 1)."""
        return torch.where(self._is_scalar_R1, of_scalars, 1.0)

    def sums(self, values_R: Tensor) -> Tensor:
        """Return the sum of each parameter's rows: of one matrix, or of two, one after the other."""
        if len(self.parameters) == 1:
            return values_R
        count = len(values_R) // len(self._parameter_of_row) * len(self.parameters)
        return torch.segment_reduce(values_R, "sum", offsets=self._bounds[: count + 1], unsafe=True)

    def norms(self, *matrices_RW: Tensor) -> tuple[Tensor, ...]:
        """Return the Euclidean norms of each parameter's rows, in one matrix or in two."""
        of_rows = [torch.linalg.vector_norm(matrix_RW, dim=1) for matrix_RW in matrices_RW]
        if len(self.parameters) == 1:
            return tuple(of_rows)
        return self.sums(_joined(of_rows).square()).sqrt().chunk(len(of_rows))

    def dots(self, one_RW: Tensor, other_RW: Tensor) -> Tensor:
        """Return the sum of products of each parameter's rows."""
        if len(self.parameters) == 1:
            return torch.dot(one_RW[0], other_RW[0])[None]
        return self.sums((one_RW * other_RW).sum(1))


class _GroupStep:
    """One step of a group."""

    def __init__(self, options: dict[str, Any], group: _Group, found_inf: Tensor | None) -> None:
        self.options, self.group, self.shared = options, group, group.shared
        self.number: int = options["step"]
        self.weights = [block.beside(block.parameters) for block in group.blocks]
        self.kept: Tensor | float = 1.0 if found_inf is None else 1 - found_inf
        """() float: 0 if the step changes nothing, else 1. A CPU knows it."""
        one_by_one = all(len(block.parameters) == 1 for block in group.blocks)
        if found_inf is not None and found_inf.device.type == "cpu" and one_by_one:
            self.kept = float(self.kept)

    def run(self) -> None:
        """Make the step."""
        gradients = [self._gradients(block) for block in self.group.blocks]
        norms_N, weight_norms_N = self._norms(gradients)
        growth_N = self._size_growth(gradients, self._clipping_factor(norms_N), weight_norms_N)
        rates_N = self.group.sizes_N.clamp(min=self.options["min_rms"]).mul_(self.group.rates_N)
        if isinstance(self.kept, Tensor):
            betas: Sequence[Tensor | float] = (self.group.betas**self.kept).unbind()
        else:
            betas = [beta**self.kept for beta in self.options["betas"]]
        for block, weights_RW, gradient_RW in zip(self.group.blocks, self.weights, gradients, strict=True):
            self._update(block, weights_RW, gradient_RW, rates_N, growth_N, betas)

    @property
    def sizes_are_due(self) -> bool:
        """Whether sizes are updated in this step."""
        return self.number % self.options["size_period"] == self.options["size_period"] - 1

    def _norms(self, gradients: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Return the norms of gradients and of weights, (N,) each. Step 0 needs none, and others only the former."""
        if not self.number:
            return None, None
        both = (gradients, self.weights) if self.sizes_are_due else (gradients,)
        found = [block.norms(*matrices) for block, *matrices in zip(self.group.blocks, *both, strict=True)]
        joined = [_of_all_parts(_joined(of_blocks), self.group.sum_parts) for of_blocks in zip(*found, strict=True)]
        return joined[0], joined[1] if self.sizes_are_due else None

    def _gradients(self, block: _Block) -> Tensor:
        """Return the gradients of a block, (R, W); zeros if the step changes nothing."""
        if isinstance(self.kept, float):
            return block.gradients() if self.kept else block.delta.new_zeros(()).expand_as(block.delta)
        return block.gradients().masked_fill_(self.kept == 0, 0.0)

    def _clipping_factor(self, norms_N: Tensor | None) -> Tensor:
        """Return the factor on gradients of sizes, () at most 1; 1 until a median is known. Step 0 records no norm."""
        shared, period = self.shared, self.options["clipping_period"]
        if norms_N is None:
            return torch.ones_like(shared["threshold"])
        norm = (norms_N * self.group.sizes_N).norm()
        shared["norms"][self.number % period].lerp_(norm, self.kept)
        if self.number % period == 0:
            median = shared["norms"].sort().values[min(period - 1, period // 4 * 2)]
            shared["threshold"].copy_(self.options["clipping_scale"] * median)
        return (shared["threshold"] / (norm + 1e-20)).clamp(max=1.0)

    def _size_growth(
        self, gradients: Sequence[Tensor], clipping: Tensor, weight_norms_N: Tensor | None
    ) -> Tensor | None:
        """Return the direction in which each size moves, (N,), up to a rate; None between size updates."""
        options, shared, period = self.options, self.shared, self.options["size_period"]
        count = len(shared["rms"])
        matrices = zip(self.group.blocks, self.weights, gradients, strict=True)
        dots_N = _joined([block.dots(weights_RW, gradient_RW) for block, weights_RW, gradient_RW in matrices])
        if self.group.sum_parts is not None:
            dots_N = self.group.sum_parts(dots_N)
        torch.mul(dots_N[:count], clipping, out=shared["size_grads"][self.number % period])
        if weight_norms_N is None:
            return None
        roots_N = _roots(self.group.blocks)
        torch.div(weight_norms_N[:count], roots_N[:count], out=shared["rms"])
        shared["size_exp_avg_sq"].lerp_(shared["size_grads"].square().mean(0), 1 - options["betas"][1] ** period)
        scale = shared["size_exp_avg_sq"].sqrt().add_(options["eps"])
        growth = torch.div(shared["size_grads"].sum(0), scale, out=self.group.growth_N[:count])
        growth.masked_fill_(shared["rms"] < options["min_rms"], 0.0)
        growth.masked_fill_(shared["rms"] > options["max_rms"], period / self._size_correction)
        return self.group.growth_N.mul_(self.kept)

    @property
    def _size_correction(self) -> float:
        """The bias correction of `size_exp_avg_sq`, as a factor on steps of sizes."""
        period = self.options["size_period"]
        return math.sqrt(1 - self.options["betas"][1] ** (period * ((self.number + 1) // period)))

    def _update(
        self,
        block: _Block,
        weights_RW: Tensor,
        gradient_RW: Tensor,
        rates_N: Tensor,
        growth_N: Tensor | None,
        betas: Sequence[Tensor | float],
    ) -> None:
        """Update the parameters of a block.

        Args:
            betas: 1 where the step changes nothing.
        """
        beta1, beta2 = self.options["betas"]
        rate = -self.options["lr"] * (1 - beta1)
        block.delta.mul_(betas[0])
        if growth_N is not None:
            size_rate = rate * self.options["scalar_rate"] * self._size_correction
            block.delta.addcmul_(weights_RW, block.spread(growth_N), value=size_rate)
        block.exp_avg_sq.mul_(betas[1]).addcmul_(gradient_RW, gradient_RW, value=1 - beta2)
        scale_RW = (block.exp_avg_sq / self._correction(block)).sqrt_().add_(self.options["eps"])
        torch.div(gradient_RW, scale_RW, out=scale_RW)
        block.delta.addcmul_(scale_RW, block.spread(rates_N), value=rate)
        for p in block.scalars:
            p.clamp_(-self.options["scalar_max"], self.options["scalar_max"])
        # What of delta is added; the space of `scale` is free by now.
        added_RW = block.delta if isinstance(self.kept, float) else torch.mul(block.delta, self.kept, out=scale_RW)
        alpha = self.kept if isinstance(self.kept, float) else 1.0
        torch._foreach_add_(list(block.parameters), block.apart(added_RW), alpha=alpha)

    def _correction(self, block: _Block) -> Tensor | float:
        """Return the bias correction of v: of every row, (R, 1), where they differ."""
        correction = 1 - self.options["betas"][1] ** (self.number + 1)
        if correction < NEGLIGIBLE_CORRECTION or not block.tensors:
            return correction
        if block.tensors == len(block.parameters):
            return 1.0
        return block.corrections(correction)


def _of_all_parts(norms_N: Tensor, sum_parts: SumParts | None) -> Tensor:
    """Return the norms of whole parameters from those of this process's parts, (N,)."""
    return norms_N if sum_parts is None else sum_parts(norms_N.square()).sqrt()


def _roots(blocks: Sequence[_Block]) -> Tensor:
    """Return the root of each parameter's number of elements, (N,)."""
    return _joined([block.root_elements for block in blocks])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the values of all blocks as one vector, (N,)."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def prefers_one_block(device: torch.device) -> bool:
    """Return whether a device makes the same step faster in one block. On a CPU copies cost more than kernels."""
    return device.type != "cpu"
