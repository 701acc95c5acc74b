"""Splitting of batches into microbatches, as many as it takes to fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from headrace.store.errors import RunError
from headrace.train.data.batch import Batch
from headrace.train.distributed.phases import COPYING, PHASES

T = TypeVar("T")


class MicrobatchRunner:
    """Splits each batch of an update into microbatches, and into twice as many from the first on that does not fit."""

    def __init__(self, *, tries_again: bool = True) -> None:
        """
        Args:
            tries_again: compute an update again that did not fit. Processes that share a model cannot: the others
                would wait for what this one does not send.
        """
        self.splits = 1
        """Microbatches of a batch."""
        self.release: Callable[[], None] = lambda: None
        """Frees what memory can be freed."""
        self._tries_again = tries_again

    def run(self, batches: Sequence[Batch], update: Callable[[list[Batch]], T]) -> T:
        """Return what `update` returns for the microbatches of these batches.

        When memory runs out, it is called again with smaller ones.

        Raises:
            RunError: a single utterance does not fit.
        """
        largest = max(map(len, batches))
        while True:
            try:
                return update([microbatch for batch in batches for microbatch in batch.split(self.splits)])
            except torch.OutOfMemoryError as error:
                if not self._tries_again:
                    raise RunError(
                        f"A batch in {self.splits} pieces does not fit into the device's memory, and processes that "
                        f"share a model cannot try it in smaller ones: continue with --resume --microbatches "
                        f"{2 * self.splits}."
                    ) from error
                if self.splits >= largest:
                    longest = max(int(batch.frames.max()) for batch in batches)
                    raise RunError(
                        f"An utterance of {longest} frames does not fit into the device's memory by itself: leave out "
                        "the longest with --where, or save memory with --activation-checkpointing."
                    ) from error
            # Not in the handler above, where the error still holds the tensors of the failed step.
            self.splits *= 2
            self.release()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def copied(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device, as `Batch.to` does, in a phase of its own."""
    with PHASES.enter(COPYING):
        return batch.to(device)
