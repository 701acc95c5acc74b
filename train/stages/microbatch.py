"""Steps that fit into memory: a batch is cut into as many pieces as it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from headrace.store.errors import RunError
from headrace.train.data.batch import Batch

T = TypeVar("T")


class Pieces:
    """Into how many pieces each batch of a step is cut: twice as many from the moment on that one does not fit."""

    def __init__(self) -> None:
        self.count = 1

    def fit(self, batches: Sequence[Batch], work: Callable[[list[Batch]], T]) -> T:
        """`work` on the pieces of these batches. When memory runs out it is called again with smaller ones.

        Raises:
            RunError: single utterances do not fit.
        """
        largest = max(map(len, batches))
        while True:
            try:
                return work([piece for batch in batches for piece in batch.split(self.count)])
            except torch.OutOfMemoryError as error:
                if self.count >= largest:
                    longest = max(int(batch.frames.max()) for batch in batches)
                    raise RunError(
                        f"An utterance of {longest} frames does not fit into the device's memory by itself: leave out "
                        "the longest by --where, or compute blocks twice by --activation-checkpointing."
                    ) from error
            # Not above: there the error still holds what the step had made.
            self.count *= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
