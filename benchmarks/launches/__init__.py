"""Counts of the kernels that an update launches on a CUDA device, without one.

An update runs on the CPU under a mode that sees every operator, and each is counted as what CUDA would launch for it:

- An operator is one launch. Some are more on a device, such as the backward pass of a convolution, for both sides.
- Views, and allocations that fill nothing, are none.
- `_foreach_*` and fused optimisers are as many as torch's `multi_tensor_apply` makes of their tensors: a launch takes
  so many of them, and so many blocks of 65,536 elements. Lists that it does not take are a launch for each tensor.
- `cat` and `stack` are one for every 128 tensors.
- Dropout and attention are decomposed on the CPU, where they have no fused kernel with random numbers. On CUDA each is
  one operator in either direction, and so it is here.
- What reads a value of the device is a synchronisation, and no launch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from headrace.train.models import layers, prefix_attention
from headrace.train.stages import scaled_adam

CHUNK = 65_536
"""Elements of a block of `multi_tensor_apply`."""
MAX_TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
"""Tensors of a launch, by the number of lists that it reads or writes."""
MAX_BLOCKS = 320
CAT_INPUTS = 128
NO_KERNEL = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh",
    "_reshape_alias", "resize_", "set_", "_record_function_enter_new", "_record_function_exit",
}  # fmt: skip
SYNCHRONISING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "item"}
"""Operators that read a value, or whose size depends on values."""
_SCALED_DOT_PRODUCT_ATTENTION = F.scaled_dot_product_attention


class LaunchCounter(TorchDispatchMode):
    """Counts launches and synchronisations of all that runs within it, by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.synchronisations: Counter[str] = Counter()
        self._methods = ExitStack()

    def __enter__(self) -> Self:
        for name in ("tolist", "cpu"):  # of which a tensor of the CPU tells no mode
            self._methods.enter_context(mock.patch.object(Tensor, name, self._counted(name, getattr(Tensor, name))))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._methods.close()

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of tensors that is counted as a synchronisation."""

        def call(*given: Any) -> Any:
            self.synchronisations[name] += 1
            return method(*given)

        return call

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled blocks run as such: of them, only what is no generated kernel is counted."""
        return True

    @property
    def total(self) -> int:
        """Launches of all operators."""
        return self.launches.total()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in SYNCHRONISING or _indexes_by_mask(name, args):
            self.synchronisations[name] += 1
        elif not func.is_view and name not in NO_KERNEL:
            self.launches[name] += _launches(name, args)
        return func(*args, **(kwargs or {}))


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Within this context, operators that CUDA has as one run as one, and ScaledAdam as on CUDA.

    What is counted is imported and constructed within it.
    """
    with (
        mock.patch.object(layers, "lacks_kernel", lambda _: False),
        mock.patch.object(prefix_attention, "lacks_kernel", lambda _: False),
        mock.patch.object(F, "dropout", _dropout),
        mock.patch.object(F, "scaled_dot_product_attention", _attention),
        mock.patch.object(scaled_adam, "prefers_one_block", lambda _: True),
    ):
        yield


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop out elements by CUDA's operator, which is never in place."""
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Attend by the CPU's fused operator, which has no dropout."""
    return _SCALED_DOT_PRODUCT_ATTENTION(query, key, value, attn_mask, 0.0, is_causal, scale=scale)


def count(update: Callable[[], object]) -> LaunchCounter:
    """Count an update that is no longer the first one."""
    update()
    with LaunchCounter() as counter:
        update()
    return counter


def _indexes_by_mask(name: str, args: Sequence[Any]) -> bool:
    """Return whether an operator selects or fills elements by a mask, whose number the host has to know."""
    if name not in ("index", "index_put", "index_put_"):
        return False
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _launches(name: str, args: Sequence[Any]) -> int:
    """Return how many kernels CUDA launches for an operator."""
    if name in ("cat", "stack"):
        return math.ceil(len(args[0]) / CAT_INPUTS)
    if not name.startswith(("_foreach", "_fused", "_amp_foreach")):
        return 1
    lists = [of for of in args if isinstance(of, list | tuple) and of and isinstance(of[0], Tensor)]
    if name.startswith("_fused"):
        lists = lists[:4]  # weights, gradients and moments; step counts and options come with them
    if not _are_alike(lists):
        return len(lists[0])
    depth = len(lists) + (not name.endswith("_") and name != "_foreach_norm")
    found = multi_tensor_launches([tensor.numel() for tensor in lists[0]], depth)
    return found + (name == "_foreach_norm")  # which sums up over blocks in one launch more


def _are_alike(lists: Sequence[Sequence[Tensor]]) -> bool:
    """Return whether `multi_tensor_apply` takes these lists: of one dtype, dense, and alike in layout.

    What the CPU's kernels leave as strides of axes of one element is not looked at.
    """
    first = lists[0]
    return all(
        one.shape == other.shape and other.dtype == first[0].dtype and _layout(one) == _layout(other)
        for of in lists
        for one, other in zip(first, of, strict=True)
    )


def _layout(tensor: Tensor) -> list[int]:
    """Return the strides of axes of more than one element."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def multi_tensor_launches(sizes: Sequence[int], depth: int) -> int:
    """Return how many launches `multi_tensor_apply` makes.

    Args:
        sizes: elements of each tensor of a list.
        depth: lists.
    """
    launches, tensors, blocks = 0, 0, 0
    for size in filter(None, sizes):
        tensors += 1
        remaining = math.ceil(size / CHUNK)
        while remaining:
            taken = min(remaining, MAX_BLOCKS - blocks)
            blocks, remaining = blocks + taken, remaining - taken
            if blocks == MAX_BLOCKS or (tensors == MAX_TENSORS[depth] and not remaining):
                launches += 1
                tensors, blocks = int(remaining > 0), 0
    return launches + (blocks > 0)
