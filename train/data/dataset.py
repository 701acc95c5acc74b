"""A PyTorch dataset of batches for training loops of your own. Its position can be saved and restored.

dataset = BatchDataset(store.open("STORE"), ("wave", "phones"), StreamConfig(batch_frames=9600))
loader = torch.utils.data.DataLoader(dataset, batch_size=None)
for epoch in range(10):
    for batch in loader:
        ...                           # save dataset.state_dict(batch) with the model at any time
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from headrace.store.errors import RunError, UsageError
from headrace.store.reader import Store
from headrace.train.data.batch import Batch
from headrace.train.data.batch_plan import Position
from headrace.train.data.stream import Stream, StreamConfig

READ_AHEAD = ("prefetch", "threads")
"""Settings that do not change the batches."""
FORMER_NAMES = {"together": "chunk_locality", "neighbours": "adjacent_batches"}
"""Names of settings in states that were saved before they were renamed."""


class BatchDataset(IterableDataset[Batch]):
    """Yields the batches of an epoch, or of what is left of it, each time that it is iterated over.

    `state_dict` says which batch comes next; a dataset that loads it continues there, on any number of ranks.
    Threads of this dataset read ahead: a DataLoader around it takes `batch_size=None` and `num_workers=0`. Each rank
    makes its own dataset, with its rank and the world size; nothing else may divide batches between ranks.
    """

    def __init__(
        self,
        store: Store,
        features: Sequence[str],
        config: StreamConfig,
        *,
        numbers: np.ndarray | None = None,
        repeated: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
    ) -> None:
        """
        Args:
            features: names of the features to read.
            numbers: (N,) int64: the utterances of the store to train on; None for all.
            repeated: (N,) float64, at least 1: how often each comes in an epoch on average; None for once.
            pin: read into page-locked memory. Needs CUDA.
        """
        self._store, self._features, self._config, self._repeated = store, tuple(features), config, repeated
        self._numbers = np.arange(len(store), dtype=np.int64) if numbers is None else numbers
        self._rank, self._world, self._pin = rank, world, pin
        self._position = Position.start(world)

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, from 0."""
        return self._position.epoch

    def __iter__(self) -> Iterator[Batch]:
        """
        Raises:
            UsageError: in a worker process of a DataLoader; or fewer utterances are left than there are ranks.
        """
        if torch.utils.data.get_worker_info() is not None:
            raise UsageError("Batches are read ahead by threads: give the DataLoader num_workers=0.")
        epoch = self._position.epoch
        with Stream(
            self._store,
            self._features,
            self._numbers,
            self._config,
            position=self._position,
            rank=self._rank,
            world=self._world,
            pin=self._pin,
            repeated=self._repeated,
        ) as stream:
            while stream.position.epoch == epoch:
                batch = next(stream)
                self._position = stream.position
                yield replace(batch, position=self._position)

    def state_dict(self, after: Batch | None = None) -> dict[str, Any]:
        """Return the position as JSON, and what identifies the dataset.

        Args:
            after: the last batch that was trained on; None for the last that was yielded, which may be ahead of it.
        """
        position = self._position if after is None or after.position is None else after.position
        return {"position": position.to_json(), "of": self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the position of a saved state, from the next iteration on.

        Raises:
            RunError: the state is of a dataset with another store, other utterances or other settings; the details name
                each.
        """
        own, saved = self._identity(), {FORMER_NAMES.get(name, name): value for name, value in state["of"].items()}
        differing = [name for name in own if saved.get(name) != own[name]]
        if differing:
            raise RunError(
                f"The state is of a dataset with another {' and '.join(differing)}: make this one as that one was.",
                *(f"{name}: {saved.get(name)} in the state, {own[name]} here" for name in differing),
            )
        self._position = Position.from_json(state["position"])

    def _identity(self) -> dict[str, Any]:
        """Return everything that determines which utterances are in which batch."""
        settings = {name: value for name, value in asdict(self._config).items() if name not in READ_AHEAD}
        repeated = np.empty(0) if self._repeated is None else self._repeated
        return {
            "store": self._store.fingerprint_of(self._features),
            "utterances": f"{len(self._numbers)}, {zlib.crc32(self._numbers.tobytes()):08x}",
            "repetition": f"{zlib.crc32(repeated.tobytes()):08x}",
            **settings,
        }
