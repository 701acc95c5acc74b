"""Batches of a store in the order of the plan, read ahead in threads.

Threads and not processes: reading is a memory copy that releases the interpreter, whereas handing batches from one
process to another was measured at 0.6 GB/s, a fifth of what one thread reads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import torch

from train import shapes
from train.balance import copies
from train.batch import Batch
from train.plan import PADDING, Position, plan_epoch
from train.shapes import Shapes
from train.shuffle import random_of

if TYPE_CHECKING:
    from store.reader import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    batch_frames: int | None = None
    """Most padded frames of a batch on one rank. None for no limit: then `max_utterances` is one."""
    max_utterances: int | None = None
    """Most utterances of a batch on one rank. None for no limit."""
    padding: float = PADDING
    """Share of padded frames up to which utterances are shuffled."""
    fixed_shapes: int = 0
    """Batches are padded to one of so many lengths; 0 pads each to its longest utterance. For models compiled or
    captured per shape. 16 lengths cost about 7 % of padding, 32 about 4 %."""
    seed: int = 0
    prefetch: int = 4
    """Batches read ahead."""
    threads: int = 1
    """That read. One copies at memory speed; a second one helps while a cold disk is waited for."""


class Stream:
    """An endless iterator of batches, epoch after epoch. Use it in a `with` statement: it owns threads.

    Whatever a reading thread raises comes out of `next` as it is, in place of the batch it belongs to, and the stream
    stays there: no batch is ever passed over.
    """

    def __init__(
        self,
        store: Store,
        features: Sequence[str],
        numbers: np.ndarray,
        config: StreamConfig,
        *,
        position: Position | None = None,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
        repeated: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            features: to read, by name.
            numbers: (N,) int64: the utterances of the store to train on.
            position: where to begin; it may come from a run on another number of ranks.
            repeated: (N,) float64, at least 1: how often each comes in an epoch, on average; None for once.
            pin: read into page-locked memory. Needs CUDA.
        Raises:
            UsageError: fewer utterances are left than there are ranks.
        """
        self.position = (position or Position.start()).on(world)
        """Of the next batch: what a checkpoint has to keep."""
        self.wait_s = 0.0
        """Seconds for which the last `next` waited."""
        self._store, self._features, self._numbers = store, tuple(features), numbers
        self._config, self._rank, self._pin, self._repeated = config, rank, pin, repeated
        self._shapes = _shapes(store, self._features, numbers, config.fixed_shapes) if config.fixed_shapes else None
        self._ahead = self._walk(self.position)
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="stream")
        self._queue: deque[tuple[Future[Batch], Position]] = deque()
        for _ in range(config.prefetch):
            self._submit()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Batch:
        begun = time.perf_counter()
        reading, after = self._queue[0]
        batch = reading.result()
        self._queue.popleft()
        self._submit()
        self.position, self.wait_s = after, time.perf_counter() - begun
        return batch

    def close(self) -> None:
        """Stop reading and join the threads. Batches handed out stay valid."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _submit(self) -> None:
        numbers, after = next(self._ahead)
        rows = self._shapes.for_batch(int(self._store.frames[numbers].max())) if self._shapes else None
        reading = self._pool.submit(read_batch, self._store, self._features, numbers, rows=rows, pin=self._pin)
        self._queue.append((reading, after))

    def _walk(self, position: Position) -> Iterator[tuple[np.ndarray, Position]]:
        """The utterances of every batch to come, and the position after it."""
        config = self._config
        while True:
            numbers = self._numbers_of(position.epoch)
            lengths = self._store.frames[numbers]
            plan = plan_epoch(
                self._shapes.round_up(lengths) if self._shapes else lengths,
                position,
                batch_frames=config.batch_frames,
                seed=config.seed,
                max_utterances=config.max_utterances,
                padding=config.padding,
            )
            for step in range(position.steps, plan.steps):
                last = step + 1 == plan.steps
                position = position.next_epoch() if last else position.after_step()
                yield numbers[plan.batch(step, self._rank)], position

    def _numbers_of(self, epoch: int) -> np.ndarray:
        """The utterances of an epoch, those that are repeated several times."""
        if self._repeated is None:
            return self._numbers
        return np.repeat(self._numbers, copies(self._repeated, random_of(self._config.seed, 0, epoch, 3)))


def _shapes(store: Store, features: Sequence[str], numbers: np.ndarray, count: int) -> Shapes:
    """Fixed shapes for these utterances, along every axis that is read."""
    axes = {"frames"} | {store.features[name].axis for name in features}
    return shapes.choose({axis: store.lengths(axis)[numbers] for axis in sorted(axes)}, count)


def read_batch(
    store: Store,
    features: Sequence[str],
    numbers: np.ndarray,
    *,
    rows: Mapping[str, int] | None = None,
    pin: bool = False,
) -> Batch:
    """Read one padded batch.

    Page-locked memory comes from torch's host allocator, which hands a block out again only when the copies to the
    device that read from it are done. So nobody has to say when a batch is no longer used.

    Args:
        features: to read, by name.
        numbers: (B,) int64, utterance numbers.
        rows: axis to the length that its features are padded to; None for that of the longest utterance.
        pin: read into page-locked memory. Needs CUDA.
    """

    def read(name: str) -> torch.Tensor:
        spec = store.features[name]
        length = rows[spec.axis] if rows else int(store.lengths(spec.axis)[numbers].max())
        out = torch.empty((len(numbers), length, *spec.row_shape), dtype=getattr(torch, spec.dtype), pin_memory=pin)
        store.gather(name, numbers, out.numpy())
        return out

    return Batch(
        numbers=numbers,
        frames=torch.from_numpy(store.frames[numbers].astype(np.int64)),
        phones_n=torch.from_numpy(store.phones_n[numbers].astype(np.int64)),
        tensors={name: read(name) for name in features},
    )
