"""Weights into a module: all of them, or a report of what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from torch import Tensor, nn

from headrace.store.errors import RunError


def load_strict(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a module that has exactly these entries; they may be in another precision.

    Args:
        source: where they come from, for the message.
    Raises:
        RunError: an entry is missing, is not the module's, or has another shape. The module is as it was.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    foreign = [name for name in weights if name not in own]
    reshaped = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if missing or foreign or reshaped:
        raise RunError(
            f"The weights of {source} are not of this model: {len(missing)} missing, {len(foreign)} unknown to it, "
            f"{len(reshaped)} of another shape; use the preset that they were trained with.",
            *_by_part("missing", missing),
            *_by_part("unknown", foreign),
            *(f"{name}: {_shape(weights[name])} given, {_shape(own[name])} expected" for name in reshaped[:5]),
        )
    module.load_state_dict(dict(weights))


def _by_part(what: str, names: Iterable[str]) -> Iterable[str]:
    """A line for each part of the model, the first piece of a name, that has such entries."""
    for part, members in groupby(sorted(names), key=lambda name: name.partition(".")[0]):
        first, *more = members
        yield f"{what} in {part}: {first}" + (f" and {len(more)} more" if more else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
