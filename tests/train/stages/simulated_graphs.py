"""CUDA graphs on a CPU: operators are recorded with the tensors that they read and write, and run again on a replay.

As on a device, capturing computes nothing: what it has changed is put back, and what it has made holds no values until
the first replay. What the host computes meanwhile is not recorded, and reading a value fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

T = TypeVar("T")
ALLOCATING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
SYNCHRONISING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"}


class SimulatedGraph:
    """A graph that records operators."""

    made: ClassVar[list[SimulatedGraph]] = []
    """All that there are."""

    def __init__(self, beside: SimulatedGraph | None) -> None:
        self.replays = 0
        self._calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        SimulatedGraph.made.append(self)

    def capture(self, work: Callable[[], T]) -> T:
        self.begin()
        try:
            return work()
        finally:
            self.end()

    def begin(self) -> None:
        self._random = torch.get_rng_state()
        self._recorder = _Recorder(self._calls)
        self._recorder.__enter__()

    def end(self) -> None:
        self._recorder.__exit__(None, None, None)
        self._recorder.undo()
        torch.set_rng_state(self._random)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, filled in self._calls:
            outputs = [leaf for leaf in tree_leaves(function(*args, **kwargs)) if isinstance(leaf, Tensor)]
            for tensor, output in zip(filled, outputs, strict=bool(filled)):
                tensor.copy_(output)


class _Recorder(TorchDispatchMode):
    def __init__(self, calls: list[tuple[Any, Any, Any, list[Tensor]]]) -> None:
        super().__init__()
        self._calls, self._made = calls, dict[int, Tensor]()
        self._before: list[tuple[Tensor, Tensor]] = []
        self._saved: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name in SYNCHRONISING:
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        writes = func._schema.is_mutable
        if writes:
            self._save(given)
        outputs = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        storages = {_storage(tensor) for tensor in given}
        new = [tensor for tensor in made if _storage(tensor) not in storages]
        self._made |= {_storage(tensor): tensor for tensor in new}
        if writes or (new and name not in ALLOCATING):
            assert writes or len(new) == len(made), f"{name} returns some of what it was given"
            self._calls.append((func, *tree_map(_alias, (args, kwargs)), [] if writes else [*map(_alias, made)]))
        return outputs

    def _save(self, given: list[Tensor]) -> None:
        """Keep what an operator may change, unless the capture has made it."""
        for tensor in given:
            if _storage(tensor) not in self._made and _storage(tensor) not in self._saved:
                self._saved.add(_storage(tensor))
                whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self._before.append((whole, whole.clone()))

    @torch.no_grad()
    def undo(self) -> None:
        """Put back what was changed, and spoil what was made."""
        for tensor, before in self._before:
            tensor.copy_(before)
        for tensor in self._made.values():
            if tensor.is_floating_point():
                torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).fill_(torch.nan)


def _alias(leaf: Any) -> Any:
    """Return a tensor of the same memory of which autograd knows nothing, as it knows nothing of what a device does."""
    if not isinstance(leaf, Tensor):
        return leaf
    alias = torch.empty(0, dtype=leaf.dtype)
    return alias.set_(leaf.untyped_storage(), leaf.storage_offset(), leaf.shape, leaf.stride())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.untyped_storage().nbytes() else id(tensor)
