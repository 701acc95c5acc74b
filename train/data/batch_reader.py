"""Read one batch of a store: padded features, in memory that suits the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from headrace.train.data.batch import Batch, Ragged

if TYPE_CHECKING:
    from headrace.store.reader import Spans, Store
    from headrace.store.schema import Axis, FeatureSpec


def read_batch(
    store: Store,
    features: Sequence[str],
    numbers: np.ndarray,
    *,
    rows: Mapping[str, int] | None = None,
    ragged: bool = False,
    pin: bool = False,
    views: bool = False,
) -> Batch:
    """Read a batch of utterances.

    Page-locked memory comes from torch's host allocator, which reuses a block only when the copies to the device that
    read from it are done, so batches need not be released. Other memory comes from the C library, whose allocator
    reuses that of the last batches: buffers kept for that were no faster.

    Args:
        features: names of the features to read.
        numbers: (B,) int64: numbers of the utterances.
        rows: axis to the length that its features are padded to; None for that of the longest utterance.
        ragged: leave features along `frames` to be padded on the device.
        pin: read into page-locked memory. Needs CUDA.
        views: return mapped memory, which is read-only, where the batch is contiguous in it.
    """
    specs = {name: store.features[name] for name in features}
    spans = {axis: store.locate(axis, numbers) for axis in {"frames", "phones", *(s.axis for s in specs.values())}}
    longest = rows or {axis: int(span.lengths.max()) for axis, span in spans.items()}
    unpadded = {name for name, spec in specs.items() if ragged and spec.axis == "frames"}
    tensors = _mapped_features(store, specs, spans, longest) if views else {}
    for name, spec in specs.items():
        if name not in tensors:
            leading = (int(spans[spec.axis].lengths.sum()),) if name in unpadded else (len(numbers), longest[spec.axis])
            tensors[name] = _empty((*leading, *spec.row_shape), spec.dtype, pin)
            store.read_into(name, spans[spec.axis], tensors[name].numpy())
    return _batch(numbers, {name: tensors[name] for name in features}, unpadded, spans, longest["frames"])


def _batch(
    numbers: np.ndarray,
    tensors: Mapping[str, torch.Tensor],
    unpadded: Iterable[str],
    spans: Mapping[Axis, Spans],
    longest: int,
) -> Batch:
    """Return the batch of tensors that were read."""
    lengths = {axis: torch.from_numpy(span.lengths) for axis, span in spans.items()}
    frames = spans["frames"].lengths
    ragged = {name: Ragged(rows=tensors[name], lengths=frames, longest=longest) for name in tensors if name in unpadded}
    return Batch(
        numbers=numbers,
        frames=lengths["frames"],
        phones_n=lengths["phones"],
        tokens_n=lengths.get("tokens"),
        tensors={name: tensor for name, tensor in tensors.items() if name not in ragged},
        ragged=ragged,
    )


def _empty(shape: tuple[int, ...], dtype: str, pin: bool) -> torch.Tensor:
    """Return an uninitialised tensor. NumPy takes a quarter of torch's time to allocate it."""
    if pin:
        return torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=True)
    return torch.from_numpy(np.empty(shape, dtype))


def _mapped_features(
    store: Store, specs: Mapping[str, FeatureSpec], spans: Mapping[Axis, Spans], longest: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Return the features of a batch that are contiguous in mapped memory and need no padding.

    torch warns once that they are read-only.
    """
    found = {name: store.view_batch(name, spans[spec.axis]) for name, spec in specs.items()}
    return {
        name: torch.from_numpy(rows)
        for name, rows in found.items()
        if rows is not None and rows.shape[1] == longest[specs[name].axis]
    }
