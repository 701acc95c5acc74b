"""Summation of gradients over ranks, while the backward pass is still computing others.

The gradients of an optimiser's parameters lie in buckets, in the order in which a backward pass completes them. In the
last backward pass of an update, a bucket is sent as soon as it and all before it are complete. So every rank sends the
same buckets in the same order, each once an update: however many batches and microbatches it makes the update of,
whether or not it ran out of memory on the way, and whichever parameters its utterances do not use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from headrace.train.distributed.machines import Machines
from headrace.train.distributed.phases import PHASES, REDUCING
from headrace.train.distributed.process_group import world_size
from headrace.train.parallel_form import DATA_PARALLEL, ParallelForm

BUCKET_BYTES = 25 << 20
"""Size from which on a bucket is full: large enough to fill a link, small enough that the last one is soon sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReductionOptions:
    """How gradients are summed over ranks."""

    dtype: torch.dtype = torch.float32
    """What they are rounded to on their way, and summed in."""
    overlap: bool = True
    """Send them during the last backward pass instead of after it. The sums are the same to the last bit."""
    form: ParallelForm = DATA_PARALLEL
    """Whether a process keeps only parts of parameters."""
    machines: Machines | None = None
    """Machines that sum gradients within themselves only. None: over all ranks."""
    readers: dist.ProcessGroup | None = None
    """The ranks that read other batches than this one, and this one, where several ranks read the same. None: all."""

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The ranks whose batches make an update together; None for all."""
        return self.machines.within if self.machines else self.readers

    @property
    def shards(self) -> bool:
        """Whether the parameters of a network are shared out over the processes that there are."""
        return self.form.is_sharded and world_size() > 1


class GradientBuckets:
    """The gradients of one optimiser's parameters. One process keeps them as torch does, and sends nothing.

    An update calls `begin`, `backward` for each of its losses, `expect_last` before the last of them, and `finish`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], options: ReductionOptions) -> None:
        """
        Args:
            parameters: in the order in which a forward pass uses them, the same on all ranks.
        """
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._options = options
        self._buckets: list[_Bucket] = []
        self._sent = 0
        self._last = False
        self._keeps_memory = False

    def keep_memory(self) -> None:
        """Let the gradients of one process stay where they are, from update to update, as CUDA graphs write them.

        Those that no pass has computed remain none.
        """
        self._keeps_memory = True

    def allocate(self) -> None:
        """Allocate the gradients, if there are several ranks."""
        if world_size() == 1 or self._buckets:
            return
        self._buckets = [_Bucket(parameters) for parameters in _filled(self._parameters[::-1])]
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._complete, bucket))

    def begin(self) -> None:
        """Clear gradients for an update, or for another try at one whose backward pass did not fit into memory.

        What was sent in the first try stays as it is: those gradients were complete, and other ranks have them.
        """
        self.allocate()
        self._last = False
        if world_size() == 1:
            self._clear()
        for number, bucket in enumerate(self._buckets):
            bucket.clear(sent=number < self._sent)

    def _clear(self) -> None:
        """Clear the gradients of one process."""
        kept = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if self._keeps_memory and kept:
            torch._foreach_zero_(kept)
            return
        for parameter in self._parameters:
            parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss.

        In one process, all gradients are added at once when all are there: torch adds each when it is there, in a
        kernel of its own.
        """
        if world_size() > 1:
            loss.backward()
            return
        before = [parameter.grad for parameter in self._parameters]
        added: list[Tensor | None] = [None] * len(before)  # if the backward pass fails
        for parameter in self._parameters:
            parameter.grad = None
        try:
            loss.backward()
            added = [parameter.grad for parameter in self._parameters]
        finally:
            for parameter, old, new in zip(self._parameters, before, added, strict=True):
                parameter.grad = new if old is None else old
        pairs = [(old, new) for old, new in zip(before, added, strict=True) if old is not None and new is not None]
        if pairs:
            torch._foreach_add_(*map(list, zip(*pairs, strict=True)))

    def expect_last(self) -> None:
        """Tell that the next backward pass is the last one of this update."""
        self._last = self._options.overlap

    def finish(self) -> None:
        """Send what has not been sent, wait, and replace every gradient by its sum over ranks.

        A parameter that has no gradient on a rank counts as zero there.
        """
        if world_size() == 1:
            return
        with PHASES.enter(REDUCING):
            while self._sent < len(self._buckets):
                self._send_next()
            for bucket in self._buckets:
                bucket.receive()
        self._sent = 0

    def _complete(self, bucket: _Bucket, parameter: nn.Parameter) -> None:
        """Note that a backward pass has completed a gradient."""
        if not self._last:
            return
        bucket.missing.discard(parameter)
        while self._sent < len(self._buckets) and not self._buckets[self._sent].missing:
            self._send_next()

    def _send_next(self) -> None:
        self._buckets[self._sent].send(self._options)
        self._sent += 1


class _Bucket:
    """Gradients that lie side by side, and are summed over ranks together."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = set(parameters)
        """Those whose gradients are not complete."""
        first = parameters[0]
        self._flat = torch.zeros(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
        parts = self._flat.split([parameter.numel() for parameter in parameters])
        self._gradients = [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]
        self._sums = self._flat
        self._work: dist.Work | None = None

    def clear(self, *, sent: bool) -> None:
        """Set gradients to zero, or where they have been sent, let new ones be put elsewhere."""
        self.missing = set(self.parameters)
        if not sent:
            self._flat.zero_()
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = None if sent else gradient

    def send(self, options: ReductionOptions) -> None:
        """Begin to sum gradients over ranks."""
        self._sums = self._flat.to(options.dtype)
        self._work = dist.all_reduce(self._sums, group=options.group, async_op=True)

    def receive(self) -> None:
        """Wait until the sums are there. They become the gradients."""
        assert self._work is not None
        self._work.wait()
        if self._sums is not self._flat:
            self._flat.copy_(self._sums)
            self._sums = self._flat
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient


def _filled(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return the parameters in groups, each of them full except for the last."""
    groups, size = list[list[nn.Parameter]](), BUCKET_BYTES
    for parameter in parameters:
        if size >= BUCKET_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += parameter.nbytes
    return groups
