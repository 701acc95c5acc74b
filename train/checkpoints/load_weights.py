"""Load weights into a module: all of them, or fail with a report of what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from torch import Tensor, nn

from headrace.store.errors import RunError
from headrace.train.models.sovits_config import FIRST_IPA_SYMBOLS


def load_strict(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights into a module that has exactly these entries. They may have another dtype.

    Args:
        source: where they come from, for messages.
    Raises:
        RunError: an entry is missing, unknown, not finite or has another shape. The module does not change.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    mismatched = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if missing or unknown or mismatched:
        raise RunError(
            f"The weights of {source} are not of this model: {len(missing)} missing, {len(unknown)} unknown to it, "
            f"{len(mismatched)} of another shape; use the preset that they were trained with.",
            *_by_part("missing", missing),
            *_by_part("unknown", unknown),
            *(f"{name}: {_shape(weights[name])} given, {_shape(own[name])} expected" for name in mismatched[:5]),
        )
    if damaged := next((name for name, value in weights.items() if not value.isfinite().all()), None):
        raise RunError(f"The weights of {source} are of no use: {damaged} holds numbers that are not finite.")
    module.load_state_dict(dict(weights))


def keep_first_symbols(embedding: nn.Embedding, weight: Tensor) -> None:
    """Cut an embedding of phones to the ids that its weights have, if the table of symbols has grown since.

    The parameter stays the same one, so that an optimiser keeps it.
    """
    if len(weight) == FIRST_IPA_SYMBOLS < embedding.num_embeddings:
        embedding.weight.data = embedding.weight.data[:FIRST_IPA_SYMBOLS].clone()
        embedding.num_embeddings = FIRST_IPA_SYMBOLS


def _by_part(what: str, names: Iterable[str]) -> Iterable[str]:
    """Yield a line for each part of the model, the first component of names, that has such entries."""
    for part, members in groupby(sorted(names), key=lambda name: name.partition(".")[0]):
        first, *more = members
        yield f"{what} in {part}: {first}" + (f" and {len(more)} more" if more else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
