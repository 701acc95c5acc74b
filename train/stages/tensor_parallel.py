"""Text decoders whose heads and hidden channels lie on several processes (Shoeybi et al. 2019, "Megatron-LM").

Each process has some heads of each attention, and some channels of each feed-forward layer: rows of the projections
into them, columns of those out of them. All processes read the same batch, compute everything outside the layers alike,
and sum what the projections out of their parts give: twice a layer forward, and twice backward.

A parameter outside of that is on all processes, and each updates a part of it: no moment is kept twice.

Shapes: P processes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from headrace.store.errors import UsageError
from headrace.train.distributed import DividedLayers, ReductionOptions
from headrace.train.distributed.phases import PHASES, REDUCING
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.transformer import Layer


class _Cut(NamedTuple):
    """How a parameter is cut: along an axis, each of so many blocks by itself."""

    axis: int
    blocks: int = 1


CUTS = {
    "self_attn.in_proj_weight": _Cut(0, 3),
    "self_attn.in_proj_bias": _Cut(0, 3),
    "self_attn.out_proj.weight": _Cut(1),
    "linear1.weight": _Cut(0),
    "linear1.bias": _Cut(0),
    "linear2.weight": _Cut(1),
}
"""Parameters of a layer that are cut: queries, keys and values are three blocks."""


def check_divides(config: GptConfig, processes: int) -> None:
    """Check that the heads and channels of a decoder can be shared out evenly.

    Raises:
        UsageError: they cannot.
    """
    for name, count in (("attention heads", config.heads), ("hidden channels", config.feed_forward_width)):
        if count % processes:
            raise UsageError(
                f"tp:{processes} cuts each layer into equal parts, and this model has {count} {name}: give --parallel "
                "tp a number that divides them."
            )


class TensorParallelDecoder(DividedLayers):
    """A decoder whose layers are cut over processes, and its optimiser."""

    def __init__(
        self,
        network: Text2SemanticDecoder,
        optimizer: torch.optim.Optimizer,
        *,
        mesh: DeviceMesh,
        options: ReductionOptions,
        device: torch.device,
    ) -> None:
        """Cut the layers of a decoder, and move it to the device.

        Args:
            All as for `DividedLayers`.
        Raises:
            UsageError: its layers cannot be cut into so many equal parts.
        """
        check_divides(network.config, mesh.size(1))
        super().__init__(network, optimizer, mesh=mesh, options=options, device=device)
        optimizer.register_step_post_hook(lambda *_: self._share_updates())

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        self._gradients.backward(loss)

    def expect_last(self) -> None:
        """Tell that the next backward pass is the last one of this update."""
        self._gradients.expect_last()

    def _part_gradient(self, name: str, part: nn.Parameter) -> Tensor:
        gradient = self._parameters[name].grad
        assert gradient is not None, "it is in a bucket"
        return gradient if name in self._cuts else self._cut(name, gradient)

    def _divide(self) -> dict[str, nn.Parameter]:
        """Cut the layers. Of each other parameter, the part that this process updates is a view."""
        rank = self.part
        self._cuts: dict[str, _Cut] = {}
        for path, layer in self.network.named_modules():
            if isinstance(layer, Layer):
                self._cuts |= {f"{path}.{name}": cut for name, cut in CUTS.items()}
        for name, cut in self._cuts.items():
            path, _, attribute = name.rpartition(".")
            whole = self.network.get_parameter(name)
            part = _blocks(whole.detach(), cut, self._size)[rank].clone()
            setattr(self.network.get_submodule(path), attribute, nn.Parameter(part, requires_grad=whole.requires_grad))
        self.network.to(self._device)
        for layer in self.network.modules():
            if isinstance(layer, Layer):
                _connect(layer, self._group, self._size)
        self._parameters = dict(self.network.named_parameters())
        return {name: self._part_of(name, parameter) for name, parameter in self._parameters.items()}

    def _part_of(self, name: str, parameter: nn.Parameter) -> nn.Parameter:
        if name in self._cuts:
            return parameter
        return nn.Parameter(self._cut(name, parameter.detach()), requires_grad=parameter.requires_grad)

    def _cut(self, name: str, whole: Tensor) -> Tensor:
        if name in self._cuts:
            return _blocks(whole, self._cuts[name], self._size)[self.part]
        return whole[slice(*self._rows(name)[self.part])]

    def _gather(self, name: str, part: Tensor) -> Tensor:
        if name in self._cuts:
            axis, blocks = self._cuts[name]
            parts = [each.unflatten(axis, (blocks, -1)) for each in self._all(part.contiguous())]
            return torch.cat(parts, axis + 1).flatten(axis, axis + 1)
        rows = self._rows(name)
        most = max(end - start for start, end in rows)
        padded = F.pad(part, (0, 0) * (part.dim() - 1) + (0, most - len(part)))
        every = self._all(padded.contiguous())
        return torch.cat([each[: end - start] for each, (start, end) in zip(every, rows, strict=True)])

    def _rows(self, name: str) -> list[tuple[int, int]]:
        """Return where the rows begin and end that each process updates of a parameter that is on all of them."""
        count = self._shapes[name][0]
        return list(pairwise(number * count // self._size for number in range(self._size + 1)))

    def _all(self, part: Tensor) -> list[Tensor]:
        """Return what each process has in place of this tensor."""
        found = [torch.empty_like(part) for _ in range(self._size)]
        dist.all_gather(found, part, group=self._group)
        return found

    @torch.no_grad()
    def _share_updates(self) -> None:
        """Bring what each process has updated of parameters that are on all of them to the others."""
        names = [name for name, part in self.parts.items() if name not in self._cuts and part.requires_grad]
        wholes, rows = [self._parameters[name].detach() for name in names], [self._rows(name) for name in names]
        views = [
            [whole[slice(*of[number])] for whole, of in zip(wholes, rows, strict=True)] for number in range(self._size)
        ]
        sizes = [[view.numel() for view in of_process] for of_process in views]
        own = self.part
        flat = torch.cat([view.reshape(-1) for view in views[own]])
        with PHASES.enter(REDUCING):
            every = self._all(F.pad(flat, (0, max(map(sum, sizes)) - len(flat))))
        for number in (number for number in range(self._size) if number != own):
            pieces = every[number][: sum(sizes[number])].split(sizes[number])
            given = [piece.view_as(view) for piece, view in zip(pieces, views[number], strict=True)]
            torch._foreach_copy_(views[number], given)


class _OutOfParts(nn.Module):
    """A linear layer whose input channels lie on several processes. Its parameters have the names of `nn.Linear`."""

    def __init__(self, linear: nn.Linear, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.weight, self.bias, self._group = linear.weight, linear.bias, group

    def forward(self, x: Tensor) -> Tensor:
        """Project this process's channels, and sum over processes."""
        summed: Tensor = _SumForward.apply(F.linear(x, self.weight), self._group)
        return summed + self.bias.to(summed.dtype)


def _connect(layer: Layer, group: dist.ProcessGroup, size: int) -> None:
    """Let a layer whose parameters are cut compute with the other processes."""

    def into_parts(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return _SumBackward.apply(given[0], group), *given[1:]

    layer.self_attn.heads //= size
    layer.self_attn.register_forward_pre_hook(into_parts)
    layer.linear1.register_forward_pre_hook(into_parts)
    layer.self_attn.out_proj = _OutOfParts(layer.self_attn.out_proj, group)  # type: ignore[assignment]
    layer.linear2 = _OutOfParts(layer.linear2, group)  # type: ignore[assignment]


class _SumForward(torch.autograd.Function):
    """Sums over processes; the gradient is that of the sum, on each of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _SumBackward(torch.autograd.Function):
    """Passes on what is the same on all processes; the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _summed(gradient, ctx.group), None


def _summed(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    sums = x.clone(memory_format=torch.contiguous_format)
    with PHASES.enter(REDUCING):
        dist.all_reduce(sums, group=group)
    return sums


def _blocks(whole: Tensor, cut: _Cut, size: int) -> list[Tensor]:
    """Return each process's part of a tensor."""
    parts = whole.unflatten(cut.axis, (cut.blocks, -1)).chunk(size, cut.axis + 1)
    return [part.flatten(cut.axis, cut.axis + 1) for part in parts]
