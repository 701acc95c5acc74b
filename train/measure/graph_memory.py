"""Forecast of the memory that CUDA graphs of training passes take, from the shapes of batches.

A graph keeps the tensors that it computes in a private pool, where nothing else is put. All graphs share one pool,
since no two are computed at a time: it is as large as the largest pass needs. Each graph keeps a copy of its inputs.
Gradients stay where graphs write them. Passes without a graph (warm-ups, batches of rare sizes) take their own memory
beside all that.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.train.stages.cuda_graphs import GRAPHS_PER_SHAPE, WARM_UPS, EagerPasses, Pass, Work, input_bytes


class InputCounter(EagerPasses):
    """Launches all passes kernel by kernel, and counts the bytes of the inputs that their graphs would keep."""

    def __init__(self) -> None:
        self.bytes = 0

    def open(self, name: str, inputs: Any, variant: Hashable, *works: Work) -> Pass:
        """Begin a pass."""
        self.bytes += input_bytes(inputs)
        return super().open(name, inputs, variant, *works)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphMemory:
    """Bytes that the graphs of a run take beside what it takes without any."""

    passes: int
    """Number of passes that are captured, each of another shape."""
    pool: float
    """What the largest of them computes."""
    inputs: float
    """Inputs of all of them."""
    gradients: float
    """Gradients that stay."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.pool + self.inputs + self.gradients


def captured_shapes(utterances: np.ndarray, frames: np.ndarray, epochs: int, fixed_shapes: int) -> np.ndarray:
    """Return (K, 2): utterances and frames of the batches that a run captures.

    Args:
        utterances, frames: of each batch of an epoch, frames with padding.
        epochs: of the run.
        fixed_shapes: lengths that batches are padded to.
    """
    shapes, counts = np.unique(np.stack([utterances, frames], 1), axis=0, return_counts=True)
    usual = np.argsort(-counts, kind="stable")[: GRAPHS_PER_SHAPE * fixed_shapes]
    return shapes[usual[counts[usual] * epochs > WARM_UPS]]
