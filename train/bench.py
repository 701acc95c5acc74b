"""How fast batches come out of a store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from train.stream import Stream, StreamConfig

if TYPE_CHECKING:
    from store.reader import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    utterances_per_second: float
    frames_per_second: float
    """Padding not counted."""
    gigabytes_per_second: float
    """10^9 bytes of tensors, padding counted."""


def measure(
    store: Store, features: Sequence[str], *, batch_frames: int = 8000, seconds: float = 3.0, threads: int = 1
) -> Rates:
    """Stream batches from a warm page cache, with nobody using them.

    One epoch goes unmeasured, to bring the files into memory, unless it takes longer than the measurement itself.

    Args:
        features: to read, by name.
        batch_frames: most padded frames of a batch.
        seconds: to measure for, at least.
        threads: that read.
    """
    everything = np.arange(len(store), dtype=np.int64)
    config = StreamConfig(batch_frames=batch_frames, threads=threads)
    utterances = frames = size = 0
    with Stream(store, features, everything, config) as stream:
        begun = time.perf_counter()
        while stream.position.epoch == 0 and time.perf_counter() - begun < seconds:
            next(stream)
        begun = time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < seconds:
            batch = next(stream)
            utterances += len(batch)
            frames += int(batch.frames.sum())
            size += sum(tensor.nbytes for tensor in batch.tensors.values())
    return Rates(
        utterances_per_second=utterances / elapsed,
        frames_per_second=frames / elapsed,
        gigabytes_per_second=size / elapsed / 1e9,
    )
