"""The state of training is the same on all ranks: it is sent once, and compared from time to time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from headrace.store.errors import HeadraceError, RunError
from headrace.train.distributed.collectives import T, all_gather
from headrace.train.distributed.phases import PHASES, REDUCING
from headrace.train.distributed.process_group import rank, world_size

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
MAX_NAMED = 3
"""Tensors that a message names."""


def named_tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dicts and lists, each with its path, such as `generator.enc_p.proj.weight`."""
    if isinstance(state, Tensor):
        yield prefix, state
    elif isinstance(state, Mapping | list | tuple):
        for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
            yield from named_tensors(value, f"{prefix}.{key}" if prefix else str(key))


@torch.no_grad()
def broadcast_state(state: Mapping[str, Any]) -> None:
    """Copy the tensors of rank 0 into those of every rank.

    Args:
        state: nested dicts and lists that refer to the tensors in use, such as `Stage.state_dict`.
    Raises:
        RunError: ranks have not the same tensors, as when they continue from different checkpoints.
    """
    if world_size() == 1:
        return
    tensors = dict(named_tensors(state))
    shapes = {name: (str(tensor.dtype), *tensor.shape) for name, tensor in tensors.items()}
    everyone = all_gather(shapes)
    if other := [number for number, of_rank in enumerate(everyone) if of_rank != everyone[0]]:
        raise RunError(
            f"{_ranks(other)} would train another model than rank 0, or continue from another checkpoint: let all "
            "processes see the same store, weights and run."
        )
    with PHASES.enter(REDUCING):
        for tensor in tensors.values():
            dist.broadcast(tensor, 0)


@torch.no_grad()
def checksums(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of each tensor's bits, read as integers, (tensors,) int64 on the CPU. Exact.

    It is computed where the tensor is, and synchronises once with each device.
    """
    sums = [tensor.view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64) for tensor in tensors]
    of_device: dict[torch.device, list[int]] = {}
    for number, value in enumerate(sums):
        of_device.setdefault(value.device, []).append(number)
    found = torch.empty(len(sums), dtype=torch.int64)
    for numbers in of_device.values():
        found[numbers] = torch.stack([sums[number] for number in numbers]).cpu()
    return found


def check_state(state: Mapping[str, Any], step: int, part: int = 0) -> None:
    """Check that the tensors of all ranks that keep the same part of the model have the same checksums.

    Args:
        part: what this rank keeps, where it is not all.
    Raises:
        RunError: they have not; on every rank, with the ranks and tensors that differ from most others.
    """
    if world_size() == 1:
        return
    names, tensors = zip(*named_tensors(state), strict=True)
    everyone = all_gather((part, tuple(checksums(tensors).tolist())))
    usual_of = {of: Counter(sums for other, sums in everyone if other == of).most_common(1)[0][0] for of, _ in everyone}
    different = [number for number, (of, sums) in enumerate(everyone) if sums != usual_of[of]]
    if not different:
        return
    of, first = everyone[different[0]]
    usual = usual_of[of]
    found = [name for name, sums in zip(names, zip(first, usual, strict=True), strict=True) if sums[0] != sums[1]]
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    raise RunError(
        f"After step {step} the processes no longer train one model: {_ranks(different)} of {world_size()} has other "
        f"values in {', '.join(found[:MAX_NAMED])}{more}. Check that machine's memory, "
        "and continue from the newest checkpoint, which is older, with --resume."
    )


def agreed(value: Any) -> Any:
    """Return the value of rank 0, on every rank: what is decided by it is decided once. It is pickled."""
    if world_size() == 1:
        return value
    values = [value if rank() == 0 else None]
    with PHASES.enter(REDUCING):
        dist.broadcast_object_list(values, 0)
    return values[0]


def on_first_rank(call: Callable[[], T]) -> T:
    """Return on every rank what a call returns on rank 0, or raise what it raises there. Only that rank makes it.

    Raises:
        HeadraceError, OSError: of the call.
    """
    value: T | None = None
    fault: HeadraceError | OSError | None = None
    if rank() == 0:
        try:
            value = call()
        except (HeadraceError, OSError) as error:
            fault = error
    value, fault = agreed((value, fault))
    if fault is not None:
        raise fault
    return cast(T, value)


def _ranks(numbers: Sequence[int]) -> str:
    return f"rank {numbers[0]}" if len(numbers) == 1 else f"ranks {', '.join(map(str, numbers))}"
