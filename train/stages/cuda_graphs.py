"""CUDA graphs of training passes: what a batch launches, captured once for each of its shapes, and launched as one.

A pass is a forward and a backward pass of a batch. Optimisers, inputs and metrics are launched kernel by kernel: they
are a few kernels, whose numbers change from step to step.

The first `WARM_UPS` batches of a shape are computed eagerly. They warm up what a capture must find there (kernels that
are chosen or compiled for the shape, workspaces), and are updates like all others: no batch is computed in vain, and
no random number is drawn for it. Capturing computes nothing. A replay takes its random numbers from where torch's
generator of the device stands, and moves it on as far as an eager pass does. So results are those of eager passes.

All parts of a pass are captured before the first of them is computed. So a pass that cannot be captured is computed
eagerly from its beginning, as if nobody had tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

WARM_UPS = 3
"""Eager passes of a shape before it is captured, as many as torch's own `make_graphed_callables` makes."""
GRAPHS_PER_SHAPE = 4
"""Captured sizes of batches for each of the fixed lengths: the usual one, and those that are left over."""

T = TypeVar("T")
Terms = dict[str, Tensor]
"""0-d tensors of one dtype, without gradient."""
Work = Callable[[Any, Any], tuple[Terms, Any]]
"""Computes a part of a pass from its inputs, and from what the part before it kept: its terms, and what it keeps."""


class Pass(Protocol):
    """A pass of one batch, in one part or more. The host does between them what no graph holds."""

    def part(self) -> Terms:
        """Do the next part."""


class Passes(Protocol):
    """How the passes of a stage are launched."""

    def open(self, name: str, inputs: Any, variant: Hashable, *works: Work) -> Pass:
        """Begin a pass.

        Args:
            name: of what is done: the same works for all inputs of a shape.
            inputs: a dataclass of tensors on the device, of such dataclasses, and of constants.
            variant: of the computation: what is captured is forgotten when it changes.
            works: of each part.
        """

    def clear(self) -> None:
        """Free the memory of what is captured."""


class Graph(Protocol):
    """Work of a device that is recorded once, without computing anything, and then computed by one launch."""

    def capture(self, work: Callable[[], T]) -> T:
        """Record what `work` submits to the device, and return what it returns: tensors that a replay fills."""

    def replay(self) -> None:
        """Compute it, from what the tensors that it read hold now."""


class CudaGraph:
    """A graph of `torch.cuda`."""

    def __init__(self, beside: CudaGraph | None) -> None:
        """
        Args:
            beside: shares its memory with this graph: no two are computed at a time, and what one leaves there is read
                by none that comes after another one.
        """
        self._graph = torch.cuda.CUDAGraph()
        self._pool: Any = beside._pool if beside else torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], T]) -> T:
        """Record what `work` submits to the device. Other threads may use it meanwhile: they pin batches."""
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        random = generator.clone_state()
        try:
            # A capture that fails does not leave the stream that it enters: the outer context does.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                return work()
        except RuntimeError:
            # Up to torch 2.11, a capture that CUDA fails to begin or to end remains underway for the generator, which
            # then draws nothing, and for the allocator, which then frees nothing.
            generator.graphsafe_set_state(random)
            with suppress(RuntimeError):  # where the capture is not underway
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
                torch._C._cuda_releasePool(torch.cuda.current_device(), self._pool)
            raise

    def replay(self) -> None:
        """Launch it."""
        self._graph.replay()


class EagerPass:
    """A pass that is launched kernel by kernel."""

    def __init__(self, inputs: Any, works: Sequence[Work]) -> None:
        self._inputs, self._works = inputs, iter(works)
        self._kept: Any = None

    def part(self) -> Terms:
        """Do the next part."""
        terms, self._kept = next(self._works)(self._inputs, self._kept)
        return terms


class EagerPasses:
    """Launches all passes kernel by kernel."""

    def open(self, name: str, inputs: Any, variant: Hashable, *works: Work) -> Pass:
        """Begin a pass."""
        return EagerPass(inputs, works)

    def clear(self) -> None:
        """Free nothing."""


class GraphedPasses:
    """Captures passes of shapes that come again, and replays them from then on. What fails is launched eagerly."""

    def __init__(
        self, fixed_shapes: int, log: Callable[[str], None], make_graph: Callable[[Any], Graph] = CudaGraph
    ) -> None:
        """
        Args:
            fixed_shapes: lengths that batches are padded to.
            log: is told why passes are not captured.
            make_graph: makes a graph that shares its memory with another one, or with none.
        """
        self._limit, self._log, self._make_graph = GRAPHS_PER_SHAPE * fixed_shapes, log, make_graph
        self._captured: dict[Hashable, _Captured] = {}
        self._newest: Graph | None = None
        self._seen: Counter[Hashable] = Counter()
        self._variant: Hashable = None
        self._stopped, self._told = False, False

    def open(self, name: str, inputs: Any, variant: Hashable, *works: Work) -> Pass:
        """Begin a pass: eagerly, or by replaying it, which may have to be captured first."""
        if variant != self._variant:
            self.clear()
            self._variant = variant
        key = name, tuple(map(_described, _leaves(inputs)))
        if key not in self._captured:
            self._seen[key] += 1
            if self._stopped or self._seen[key] <= WARM_UPS or self._is_full():
                return EagerPass(inputs, works)
            if (reason := self._try_to_capture(key, inputs, works)) is not None:
                self._stop(name, reason)
                return EagerPass(inputs, works)
        return _Replay(self._captured[key], inputs)

    def clear(self) -> None:
        """Forget all graphs, and how often shapes came."""
        self._captured.clear()
        self._seen.clear()
        self._newest = None

    def _try_to_capture(self, key: Hashable, inputs: Any, works: Sequence[Work]) -> str | None:
        """Capture the parts of a pass. Returns why that is not possible; None if they are captured.

        What a failed capture holds is free when this returns: no frame that its error knows refers to the error.
        """
        try:
            self._captured[key] = self._capture(inputs, works)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            return _reason(error)
        return None

    def _capture(self, inputs: Any, works: Sequence[Work]) -> _Captured:
        """Capture the parts of a pass."""
        static = (torch.empty_like(leaf) if isinstance(leaf, Tensor) else leaf for leaf in _leaves(inputs))
        captured = _Captured(inputs=_with_leaves(inputs, static), graphs=[], terms=[])
        captured.load(inputs)
        kept: Any = None
        for work in works:
            graph = self._make_graph(self._newest)
            terms, kept = graph.capture(partial(_submit, work, captured.inputs, kept))
            captured.graphs.append(graph)
            captured.terms.append(terms)
            self._newest = graph
        return captured

    def _stop(self, name: str, reason: str) -> None:
        """Launch all passes eagerly from now on."""
        self.clear()
        self._stopped = True
        self._log(f"CUDA graphs: off from here on, since the pass {name!r} could not be captured ({reason[:200]})")

    def _is_full(self) -> bool:
        """Return whether no more graphs are captured, and tell the user once."""
        full = len(self._captured) >= self._limit
        if full and not self._told:
            self._told = True
            self._log(f"CUDA graphs: {len(self._captured)} are captured, batches of other sizes go without")
        return full


@dataclass(frozen=True, kw_only=True)
class _Captured:
    """A pass that can be replayed."""

    inputs: Any
    """Read by the graphs: what a batch has is copied to where these are."""
    graphs: list[Graph]
    """Of each part."""
    terms: list[tuple[list[str], Tensor]]
    """Of each part: names, and the values that its graph fills."""

    def load(self, inputs: Any) -> None:
        """Copy the inputs of a batch."""
        given, static = ([leaf for leaf in _leaves(of) if isinstance(leaf, Tensor)] for of in (inputs, self.inputs))
        torch._foreach_copy_(static, given)

    def replay(self, part: int) -> Terms:
        """Compute a part, and return its terms: copies, since the next replay fills the same memory."""
        self.graphs[part].replay()
        names, values = self.terms[part]
        return dict(zip(names, values.clone().unbind(), strict=True))


class _Replay:
    """A pass that is captured."""

    def __init__(self, captured: _Captured, inputs: Any) -> None:
        self._captured, self._part = captured, 0
        captured.load(inputs)

    def part(self) -> Terms:
        """Replay the next part."""
        self._part += 1
        return self._captured.replay(self._part - 1)


def _reason(error: RuntimeError) -> str:
    """Return why a capture failed: its end fails by what has failed within it."""
    cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


def _submit(work: Work, inputs: Any, kept: Any) -> tuple[tuple[list[str], Tensor], Any]:
    """Submit a part of a pass. Returns its terms, in one tensor, and what it keeps."""
    terms, kept = work(inputs, kept)
    return (list(terms), torch.stack(list(terms.values()))), kept


def input_bytes(inputs: Any) -> int:
    """Return how many bytes a graph keeps of the inputs of a pass."""
    return sum(leaf.nbytes for leaf in _leaves(inputs) if isinstance(leaf, Tensor))


def _leaves(inputs: Any) -> Iterator[Any]:
    """Yield the tensors and constants of a dataclass."""
    for field in fields(inputs):
        value = getattr(inputs, field.name)
        yield from _leaves(value) if is_dataclass(value) else (value,)


def _with_leaves(inputs: Any, leaves: Iterator[Any]) -> Any:
    """Return a dataclass with other tensors and constants, in the order of `_leaves`."""
    values = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    return replace(
        inputs,
        **{
            name: _with_leaves(value, leaves) if is_dataclass(value) else next(leaves) for name, value in values.items()
        },
    )


def _described(leaf: Any) -> Hashable:
    """Return what two passes have in common that one graph serves."""
    return (leaf.shape, leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf
