"""Tracking of the memory of tensors: counted as operations allocate them, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of tensors that are computed within this context, forward and backward, until they are freed.
    Tensors that share memory count once; earlier tensors do not count, nor do workspaces of kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        """Bytes in use now."""
        self.peak = 0
        """Peak of bytes in use."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs.values()))}
        made = func(*args, **kwargs)
        for storage in {tensor.untyped_storage() for tensor in _tensors(made)}:
            if storage._cdata not in given:
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return made

    def _change(self, size: int) -> None:
        self.current += size
        self.peak = max(self.peak, self.current)


def _tensors(of: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested sequences."""
    if isinstance(of, Tensor):
        yield of
    elif isinstance(of, Iterable) and not isinstance(of, str | torch.UntypedStorage):
        for one in of:
            yield from _tensors(one)
