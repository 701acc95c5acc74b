"""A stream of batches of a store, read ahead by threads in the order of the plan.

Threads and not processes: reading is a memory copy that releases the interpreter, whereas handing batches from one
process to another was measured at 0.6 GB/s, a fifth of what one thread reads.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import psutil

from headrace.store.arrays import batch_copy  # noqa: F401 - importing it takes 0.8 s, which the first batch would wait for
from headrace.train.data import fixed_shapes
from headrace.train.data.balance import copies
from headrace.train.data.batch import Batch
from headrace.train.data.batch_plan import PADDING, Plan, Position, plan_epoch
from headrace.train.data.batch_reader import read_batch
from headrace.train.data.fixed_shapes import Shapes
from headrace.train.data.shuffle import random_of

if TYPE_CHECKING:
    from headrace.store.reader import Store
    from headrace.store.schema import Axis

READAHEAD_BATCHES = 16
"""Batches that the kernel is told to prefetch before they are read: with fewer, requests do not keep a disk busy."""
MEMORY_SHARE = 0.5
"""Share of this machine's memory. Features that take more are assumed to have left the page cache before the next
epoch."""
LARGEST_KEPT_BLOCK = (32 << 20) - 4096
"""Bytes: about the largest mmap threshold that glibc sets by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """Batching of utterances, and reading ahead of batches."""

    batch_frames: int | None = None
    """Upper limit of padded frames in a batch on one rank: its utterances times the longest of them. None for no limit:
    then `max_utterances` has to be one."""
    max_utterances: int | None = None
    """Upper limit of utterances in a batch on one rank. None for no limit."""
    padding: float = PADDING
    """Share of padded frames, 0 to 1, up to which utterances are shuffled."""
    fixed_shapes: int = 0
    """Pad every batch to one of this many lengths; 0 pads each to its longest utterance. For models compiled or
    captured by shape. 16 lengths cost about 7 % of padding, 32 about 4 %."""
    seed: int = 0
    """Seed of the order, not negative."""
    prefetch: int = 4
    """Batches read ahead."""
    threads: int = 1
    """Threads that read. One copies at memory speed; more help where a store is compressed or remote."""
    chunk_locality: int = 1
    """Steps of similar length that follow one another; 1 for any order. A store that is compressed or lies in a
    bucket is read by whole chunks: with 64, each is fetched about once an epoch instead of once a batch."""
    adjacent_batches: bool = False
    """Batches of utterances that are adjacent in order of length, instead of shuffled ones; only where they begin
    changes between epochs. Those of one length, nearly all in a large store, are returned as mapped memory, without a
    copy and read-only. The price: two utterances of a batch meet again in the next epoch as often as not."""


class _PlannedBatch(NamedTuple):
    numbers: np.ndarray
    """Utterances of the batch."""
    next_position: Position
    """Position after it."""
    cold: bool
    """Whether it may not be in the page cache."""


class Epoch(NamedTuple):
    """The part of an epoch that is left."""

    numbers: np.ndarray
    """(N,) int64: its utterances; those that are repeated appear several times."""
    padded: np.ndarray
    """(N,) int64: frames of each, padded to fixed shapes where there are any."""
    plan: Plan
    """Batches, as indices into `numbers`."""


class Stream:
    """An endless iterator of batches, epoch after epoch. Use it in a `with` statement: it owns threads.

    An error of a reading thread is raised by `next` in place of its batch, and the stream stays there: no batch is ever
    skipped.
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
            features: names of the features to read.
            numbers: (N,) int64: the utterances of the store to train on.
            position: where to begin; it may come from a run on another number of ranks.
            rank, world: number of this process, and how many there are.
            pin: read into page-locked memory. Needs CUDA.
            repeated: (N,) float64, at least 1: how often each utterance comes in an epoch on average; None for once.
        Raises:
            UsageError: fewer utterances are left than there are ranks.
        """
        self.position = (position or Position.start()).for_world(world)
        """Position of the next batch: what a checkpoint has to keep."""
        self.steps = 0
        """Batches of the epoch that is being read, for each rank; where the number of ranks changed, since then."""
        self.wait_s = 0.0
        """Seconds that the last `next` waited."""
        self.plan_s = self.read_s = 0.0
        """Seconds that planning took since the `next` before, and that a thread took to read the last batch."""
        self._store, self._features, self._numbers = store, tuple(features), numbers
        self._config, self._rank, self._pin, self._repeated = config, rank, pin, repeated
        self._shapes = (
            _choose_shapes(store, self._features, numbers, config.fixed_shapes) if config.fixed_shapes else None
        )
        self._planning_s = 0.0
        self._large = not fits_memory(store, self._features)
        _keep_freed_memory()
        self._planned = self._plan_from(self.position)
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="stream")
        self._stop = weakref.finalize(self, self._pool.shutdown, cancel_futures=True)  # or else at exit
        self._upcoming: deque[_PlannedBatch] = deque()
        self._reading: deque[tuple[Future[tuple[Batch, float]], Position]] = deque()
        for _ in range(config.prefetch):
            self._submit()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        future, next_position = self._reading[0]
        batch, self.read_s = future.result()
        self._reading.popleft()
        self._submit()
        self.plan_s, self._planning_s = self._planning_s, 0.0
        self.position, self.wait_s = next_position, time.perf_counter() - start
        return batch

    def epoch(self, position: Position) -> Epoch:
        """Plan the epoch of a position: what was left of it when the number of ranks last changed."""
        config, numbers = self._config, self._utterances_of(position.epoch)
        lengths = self._store.frames[numbers]
        padded = self._shapes.round_up(lengths) if self._shapes else lengths
        plan = plan_epoch(
            padded,
            position,
            batch_frames=config.batch_frames,
            seed=config.seed,
            max_utterances=config.max_utterances,
            padding=config.padding,
            chunk_locality=config.chunk_locality,
            adjacent_batches=config.adjacent_batches,
        )
        return Epoch(numbers, padded, plan)

    def read(self, numbers: np.ndarray) -> Batch:
        """Read a batch of these utterances as the stream returns it."""
        rows = self._shapes.for_batch(int(self._store.frames[numbers].max())) if self._shapes else None
        return read_batch(
            self._store,
            self._features,
            numbers,
            rows=rows,
            ragged=self._pin,
            pin=self._pin,
            views=self._config.adjacent_batches and not self._pin,
        )

    def close(self) -> None:
        """Stop reading and join the threads. Batches that were returned stay valid."""
        self._stop()
        self._planned.close()  # its frame refers to this stream: a cycle that would keep the store's files open

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _submit(self) -> None:
        """Submit the next batch for reading, with later ones that the kernel should prefetch."""
        advised, start = [], time.perf_counter()
        while len(self._upcoming) <= READAHEAD_BATCHES:
            planned = next(self._planned)
            self._upcoming.append(planned)
            advised += [planned.numbers] if planned.cold else []
        planned = self._upcoming.popleft()
        self._planning_s += time.perf_counter() - start
        self._reading.append((self._pool.submit(self._read, planned.numbers, advised), planned.next_position))

    def _read(self, numbers: np.ndarray, upcoming: Sequence[np.ndarray]) -> tuple[Batch, float]:
        """Read a batch, and return it with the seconds that this took."""
        start = time.perf_counter()
        for batch in upcoming:
            self._store.prefetch(self._features, batch)
        return self.read(numbers), time.perf_counter() - start

    def _plan_from(self, position: Position) -> Generator[_PlannedBatch, None, None]:
        """Yield this rank's batches from a position on, without an end."""
        first = position.epoch
        while True:
            numbers, _, plan = self.epoch(position)
            self.steps, cold = plan.steps, self._large or position.epoch == first
            for step in range(position.steps, plan.steps):
                last = step + 1 == plan.steps
                position = position.next_epoch() if last else position.after_step()
                yield _PlannedBatch(numbers[plan.batch(step, self._rank)], position, cold)

    def _utterances_of(self, epoch: int) -> np.ndarray:
        """Return the utterances of an epoch; those that are repeated appear several times."""
        if self._repeated is None:
            return self._numbers
        return np.repeat(self._numbers, copies(self._repeated, random_of(self._config.seed, 0, epoch, 3)))


def _keep_freed_memory() -> None:
    """Let the allocator keep the memory of freed batches.

    By default glibc returns it to the kernel, and page faults then take a quarter of a batch's time. Freeing one block
    of LARGEST_KEPT_BLOCK raises its threshold (mallopt(3), M_MMAP_THRESHOLD).
    """
    np.empty(LARGEST_KEPT_BLOCK, np.uint8)


def _choose_shapes(store: Store, features: Sequence[str], numbers: np.ndarray, count: int) -> Shapes:
    """Choose fixed shapes for these utterances, along every axis that is read."""
    axes: set[Axis] = {"frames", *(store.features[name].axis for name in features)}
    return fixed_shapes.choose({axis: store.lengths(axis)[numbers] for axis in sorted(axes)}, count)


def fits_memory(store: Store, features: Sequence[str]) -> bool:
    """Return whether these features of all utterances, once read, can stay in memory."""
    return decoded_bytes(store, features) <= MEMORY_SHARE * psutil.virtual_memory().total


def decoded_bytes(store: Store, features: Sequence[str]) -> int:
    """Return the bytes that these features of all utterances take, not compressed."""
    specs = [store.features[name] for name in features]
    rows = {spec.axis: int(store.lengths(spec.axis).sum(dtype=np.int64)) for spec in specs}
    return sum(rows[spec.axis] * np.dtype(spec.dtype).itemsize * (spec.channels or 1) for spec in specs)
