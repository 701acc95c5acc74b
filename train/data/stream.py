"""Batches of a store in the order of the plan, read ahead in threads.

Threads and not processes: reading is a memory copy that releases the interpreter, whereas handing batches from one
process to another was measured at 0.6 GB/s, a fifth of what one thread reads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import psutil
import torch

from headrace.store.arrays import batch_copy  # noqa: F401 - takes 0.8 s, which the first batch would take longer
from headrace.train.data import fixed_shapes
from headrace.train.data.balance import copies
from headrace.train.data.batch import Batch, Ragged
from headrace.train.data.batch_plan import PADDING, Plan, Position, plan_epoch
from headrace.train.data.fixed_shapes import Shapes
from headrace.train.data.shuffle import random_of

if TYPE_CHECKING:
    from headrace.store.reader import Spans, Store
    from headrace.store.schema import Axis, FeatureSpec

TOLD_AHEAD = 16
"""Batches that the kernel is told of before they are read: with fewer, a disk has too few requests to be busy with."""
MEMORY_SHARE = 0.5
"""Of what this machine has: features that take more are not in memory when they are read again."""

MOST_KEPT = (32 << 20) - 4096
"""Bytes: about the largest threshold that glibc comes to by itself."""


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
    """That read. One copies at memory speed; more help where a store is compressed or far away."""
    together: int = 1
    """Steps of similar length that come one after the other; 1 for any order. A store that is compressed or lies in a
    bucket is read by whole blocks: with 64, each is fetched about once an epoch instead of once a batch."""
    neighbours: bool = False
    """Batches of neighbours by length instead of shuffled ones. Those of one length, nearly all in a large store, are
    handed out as they are mapped, without any copy, and may only be read. Their price: two utterances of a batch meet
    again in the next epoch as often as not."""


class _Coming(NamedTuple):
    numbers: np.ndarray
    """Utterances of a batch to come."""
    after: Position
    cold: bool
    """Whether the kernel may not have them in memory."""


class Epoch(NamedTuple):
    """What is left of an epoch."""

    numbers: np.ndarray
    """(N,) int64: its utterances; those that are repeated several times."""
    padded: np.ndarray
    """(N,) int64 frames of each, fixed shapes counted."""
    plan: Plan
    """Its indices are of `numbers`."""


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
        self.steps = 0
        """Batches of the epoch that is read, for each rank; where the number of ranks changed, since then."""
        self.wait_s = 0.0
        """Seconds for which the last `next` waited."""
        self._store, self._features, self._numbers = store, tuple(features), numbers
        self._config, self._rank, self._pin, self._repeated = config, rank, pin, repeated
        self._shapes = _shapes(store, self._features, numbers, config.fixed_shapes) if config.fixed_shapes else None
        self._large = not fits_memory(store, self._features)
        _keep_freed_memory()
        self._ahead = self._walk(self.position)
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="stream")
        self._coming: deque[_Coming] = deque()
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

    def epoch(self, position: Position) -> Epoch:
        """The epoch that a position is in: what is left of it since the number of ranks changed."""
        config, numbers = self._config, self._numbers_of(position.epoch)
        lengths = self._store.frames[numbers]
        padded = self._shapes.round_up(lengths) if self._shapes else lengths
        plan = plan_epoch(
            padded,
            position,
            batch_frames=config.batch_frames,
            seed=config.seed,
            max_utterances=config.max_utterances,
            padding=config.padding,
            together=config.together,
            neighbours=config.neighbours,
        )
        return Epoch(numbers, padded, plan)

    def read(self, numbers: np.ndarray) -> Batch:
        """A batch of these utterances as the stream hands it out."""
        rows = self._shapes.for_batch(int(self._store.frames[numbers].max())) if self._shapes else None
        return read_batch(
            self._store,
            self._features,
            numbers,
            rows=rows,
            ragged=self._pin,
            pin=self._pin,
            views=self._config.neighbours and not self._pin,
        )

    def close(self) -> None:
        """Stop reading and join the threads. Batches handed out stay valid."""
        self._pool.shutdown(cancel_futures=True)
        self._ahead.close()  # its frame refers to this stream: a cycle that would keep the store's files open

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _submit(self) -> None:
        """Read one batch more; and tell the kernel, well before, what will be read."""
        told = []
        while len(self._coming) <= TOLD_AHEAD:
            self._coming.append(next(self._ahead))
            told += [self._coming[-1].numbers] if self._coming[-1].cold else []
        coming = self._coming.popleft()
        self._queue.append((self._pool.submit(self._read, coming.numbers, told), coming.after))

    def _read(self, numbers: np.ndarray, later: Sequence[np.ndarray]) -> Batch:
        for some in later:
            self._store.prefetch(self._features, some)
        return self.read(numbers)

    def _walk(self, position: Position) -> Generator[_Coming, None, None]:
        first = position.epoch
        while True:
            numbers, _, plan = self.epoch(position)
            self.steps, cold = plan.steps, self._large or position.epoch == first
            for step in range(position.steps, plan.steps):
                last = step + 1 == plan.steps
                position = position.next_epoch() if last else position.after_step()
                yield _Coming(numbers[plan.batch(step, self._rank)], position, cold)

    def _numbers_of(self, epoch: int) -> np.ndarray:
        """The utterances of an epoch, those that are repeated several times."""
        if self._repeated is None:
            return self._numbers
        return np.repeat(self._numbers, copies(self._repeated, random_of(self._config.seed, 0, epoch, 3)))


def _keep_freed_memory() -> None:
    """Let the allocator keep what batches leave. glibc returns it to the kernel, and faults on fresh pages then take a
    quarter of a batch's time, until a block of MOST_KEPT was freed once (mallopt(3), M_MMAP_THRESHOLD)."""
    np.empty(MOST_KEPT, np.uint8)


def _shapes(store: Store, features: Sequence[str], numbers: np.ndarray, count: int) -> Shapes:
    """Fixed shapes for these utterances, along every axis that is read."""
    axes: set[Axis] = {"frames", *(store.features[name].axis for name in features)}
    return fixed_shapes.choose({axis: store.lengths(axis)[numbers] for axis in sorted(axes)}, count)


def fits_memory(store: Store, features: Sequence[str]) -> bool:
    """Whether these features of all utterances, once read, can stay in memory."""
    specs = [store.features[name] for name in features]
    rows = {spec.axis: int(store.lengths(spec.axis).sum(dtype=np.int64)) for spec in specs}
    size = sum(rows[spec.axis] * np.dtype(spec.dtype).itemsize * (spec.channels or 1) for spec in specs)
    return size <= MEMORY_SHARE * psutil.virtual_memory().total


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
    """Read one batch.

    Page-locked memory comes from torch's host allocator, which hands a block out again only when the copies to the
    device that read from it are done. So nobody has to say when a batch is no longer used. Other memory comes from the
    C library, whose allocator hands out again what the last batches had: buffers kept for that were no faster.

    Args:
        features: to read, by name.
        numbers: (B,) int64, utterance numbers.
        rows: axis to the length that its features are padded to; None for that of the longest utterance.
        ragged: leave features along `frames` to be padded on the device.
        pin: read into page-locked memory. Needs CUDA.
        views: hand out mapped memory, which may only be read, where the batch is one piece of it.
    """
    specs = {name: store.features[name] for name in features}
    spans = {axis: store.locate(axis, numbers) for axis in {"frames", "phones", *(s.axis for s in specs.values())}}
    longest = rows or {axis: int(some.lengths.max()) for axis, some in spans.items()}
    unpadded = {name for name, spec in specs.items() if ragged and spec.axis == "frames"}

    def shape(spec: FeatureSpec) -> tuple[int, ...]:
        some = spans[spec.axis].lengths
        padded = (len(some), longest[spec.axis])
        return (*((int(some.sum()),) if spec.name in unpadded else padded), *spec.row_shape)

    tensors = _mapped(store, specs, spans, longest) if views else {}
    for name, spec in specs.items():
        if name not in tensors:
            tensors[name] = _empty(shape(spec), spec.dtype, pin)
            store.read_into(name, spans[spec.axis], tensors[name].numpy())
    counts = {axis: torch.from_numpy(some.lengths) for axis, some in spans.items()}
    return Batch(
        numbers=numbers,
        frames=counts["frames"],
        phones_n=counts["phones"],
        tokens_n=counts.get("tokens"),
        tensors={name: tensors[name] for name in features if name not in unpadded},
        ragged={
            name: Ragged(rows=tensors[name], lengths=spans["frames"].lengths, longest=longest["frames"])
            for name in features
            if name in unpadded
        },
    )


def _empty(shape: tuple[int, ...], dtype: str, pin: bool) -> torch.Tensor:
    """Of any content. NumPy takes a quarter of torch's time for it."""
    if pin:
        return torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=True)
    return torch.from_numpy(np.empty(shape, dtype))


def _mapped(
    store: Store, specs: Mapping[str, FeatureSpec], spans: Mapping[Axis, Spans], longest: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Features of a batch that are one piece of mapped memory and need no padding. torch warns, once, that they may
    only be read."""
    found = {name: store.view_batch(name, spans[spec.axis]) for name, spec in specs.items()}
    return {
        name: torch.from_numpy(rows)
        for name, rows in found.items()
        if rows is not None and rows.shape[1] == longest[specs[name].axis]
    }
