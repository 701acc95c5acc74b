"""Batches of utterances of similar length, which a network computes together, and the shapes that they are padded to.

On CUDA, kernels are chosen, compiled or captured once for each shape of a batch: there, batches have few shapes. On a
CPU nothing is chosen by shape, and padding would be computed in vain.

Needs no torch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import TypeVar

Long = TypeVar("Long", bound=Sized)


@dataclass(frozen=True, slots=True)
class BatchShapes:
    """Shapes that batches are padded to."""

    lengths: tuple[int, ...] = ()
    """Frames, ascending; rows are then a power of two. Empty: batches have the rows and frames that they need."""

    def padded(self, rows: int, frames: int) -> tuple[int, int]:
        """Return the rows and frames of a batch that has so many without padding."""
        if not self.lengths:
            return rows, frames
        at = bisect_left(self.lengths, frames)
        return 1 << (rows - 1).bit_length(), self.lengths[at] if at < len(self.lengths) else frames


EXACT = BatchShapes()
FEW = BatchShapes(
    (*(octave * part // 4 for octave in (64, 128, 256, 512, 1024) for part in (4, 5, 6, 7)), 2048, 2560, 3072)
)
"""Four lengths an octave, from 1.28 s to 61.44 s at 50 frames a second: lengths in between are padded by 11 % on
average, and by a quarter at most."""


def shapes_for(device: str) -> BatchShapes:
    """Return the shapes of the batches on a device: cpu or cuda."""
    return EXACT if device == "cpu" else FEW


def batch_by_length(waves: Iterable[Long], frames: int, shapes: BatchShapes, stride: int = 1) -> Iterator[list[Long]]:
    """Yield consecutive waveforms in batches of at most `frames` with padding; a longer one is a batch of its own.

    Args:
        stride: what a waveform has for each frame, as `len` counts it.
    """
    batch: list[Long] = []
    longest = 0
    for wave in waves:
        own = -(-len(wave) // stride)
        rows, length = shapes.padded(len(batch) + 1, max(longest, own))
        if batch and rows * length > frames:
            yield batch
            batch, longest = [], 0
        batch.append(wave)
        longest = max(longest, own)
    if batch:
        yield batch
