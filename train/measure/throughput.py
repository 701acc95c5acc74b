"""How fast batches come out of a store, beside the best that this machine's memory and disk can do.

By the clock, in one run: batches out of the page cache, between two measurements of plain memory copies of the same
sizes; batches from the disk, right after the disk was read sequentially.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from headrace import store as stores
from headrace.store.errors import StoreError, UsageError
from headrace.store.reader import Store
from headrace.store.storage import StoragePath
from headrace.train.data.stream import Stream, StreamConfig, fits_memory
from headrace.train.measure import page_cache
from headrace.train.trainer import auto_settings

BATCH_FRAMES = 9600
COPIED = 1 << 29
"""Bytes of memory that plain copies come from: more than a processor keeps in its caches."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """What a stream delivered, with nobody using it."""

    store: Store
    features: tuple[str, ...]
    numbers: list[np.ndarray]
    """Of each batch, its utterances."""
    sizes: list[list[int]]
    """Of each batch, the bytes of each feature, padding counted."""
    seconds: float
    first_batch_s: float
    """From before the store was opened to the first batch."""

    @property
    def stored(self) -> int:
        """Bytes without padding: what had to be read."""
        numbers, specs = np.concatenate(self.numbers), [self.store.features[name] for name in self.features]
        return sum(
            int(self.store.lengths(spec.axis)[numbers].sum(dtype=np.int64))
            * (np.dtype(spec.dtype).itemsize * (spec.channels or 1))
            for spec in specs
        )

    def to_json(self) -> dict[str, float]:
        """Rates a second. `frames_per_s` without padding, `gb_per_s` 10^9 bytes of tensors with it."""
        lengths = [self.store.frames[numbers] for numbers in self.numbers]
        frames = sum(int(some.sum()) for some in lengths)
        return {
            "seconds": self.seconds,
            "batches": len(self.numbers),
            "first_batch_s": self.first_batch_s,
            "utterances_per_s": sum(map(len, lengths)) / self.seconds,
            "frames_per_s": frames / self.seconds,
            "hours_per_s": frames * self.store.hop / self.store.sample_rate / 3600 / self.seconds,
            "gb_per_s": sum(map(sum, self.sizes)) / self.seconds / 1e9,
            "padding": 1 - frames / sum(len(some) * int(some.max()) for some in lengths),
        }


def streamed(
    path: StoragePath,
    features: tuple[str, ...],
    config: StreamConfig,
    *,
    seconds: float = inf,
    skipped: int = 0,
    epochs: float = inf,
) -> Streamed:
    """Open a store and stream all of its utterances; the clock starts when the first epoch is planned.

    Args:
        features: to read, by name.
        seconds: to measure for, at least.
        skipped: epochs that come before.
        epochs: at whose end to stop, whatever `seconds` says.
    """
    opened, first, elapsed = time.perf_counter(), 0.0, 0.0
    store, numbers, sizes = stores.open(path), list[np.ndarray](), list[list[int]]()
    with Stream(store, features, np.arange(len(store), dtype=np.int64), config) as stream:
        begun = time.perf_counter()
        while not numbers or (elapsed < seconds and stream.position.epoch < epochs):
            counted = stream.position.epoch >= skipped
            batch = next(stream)
            first = first or time.perf_counter() - opened
            if not counted:
                begun = time.perf_counter()
                continue
            numbers.append(batch.numbers)
            sizes.append([tensor.nbytes for tensor in batch.tensors.values()])
            elapsed = time.perf_counter() - begun
    return Streamed(store=store, features=features, numbers=numbers, sizes=sizes, seconds=elapsed, first_batch_s=first)


def bench(
    path: StoragePath,
    features: Sequence[str] = (),
    *,
    batch_frames: int = BATCH_FRAMES,
    seconds: float = 3.0,
    warm: bool = True,
    cold: bool = True,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Measure a store on this machine.

    Args:
        features: to read, by name; none for all.
        batch_frames: most padded frames of a batch.
        seconds: of each measurement, at least.
        warm, cold: whether to measure with the store in the page cache, and without.
        say: is told what is going on.
    Returns:
        What was read and how; `warm` and `cold`, each with what `Streamed.to_json` has, or None; `copy_gb_per_s`, and
        `warm.of_copies`, the share of that rate that the stream has. Where the store lies on disks of this machine,
        `disk_gb_per_s`, `disk_direct`, `cold.of_disk`, and `cold.fetched`, bytes that came from the disk for each one
        delivered: 0 says that the page cache could not be dropped.
    Raises:
        NotAStore, DamagedStore: as `store.open`.
        StoreError: there is nothing in it.
        UsageError: it has no such feature, or cannot be measured as asked.
    """
    store = stores.open(path)
    features = _chosen(store, features)
    utterances, _ = auto_settings.choose_max_utterances(0, batch_frames)
    config = StreamConfig(batch_frames=batch_frames, max_utterances=utterances)
    if reason := never_warm(store, features):
        if not cold:
            raise UsageError(f"{path} cannot be measured warm, since {reason}: leave out --warm.")
        say(f"not measured warm: {reason}")
    found = {
        "store": str(path),
        "utterances": len(store),
        "hours": store.hours,
        "features": list(features),
        "reading": store.read_method,
        "batch_frames": batch_frames,
        "max_utterances": utterances,
    }
    measured_warm = _warm(path, features, config, seconds, say) if warm and not reason else {"warm": None}
    measured_cold = _cold(path, features, config, seconds, say) if cold else {"cold": None}
    return found | measured_warm | measured_cold


def folders_of(store: Store) -> list[Path]:
    """Of all stores that are read as this one, those on this machine."""
    return [member.path for member in store.members if isinstance(member.path, Path)]


def drop(store: Store) -> bool:
    """Have nothing of a store in memory, unless somebody else has it mapped. False where it lies in a bucket."""
    gc.collect()  # what is mapped stays in the page cache
    page_cache.sync(*folders_of(store))
    page_cache.evict(*folders_of(store))
    return len(folders_of(store)) == len(store.members)


def never_warm(store: Store, features: Sequence[str]) -> str:
    """Why it is not in memory even when all of it was read; nothing where it is."""
    if len(folders_of(store)) < len(store.members):
        return "it lies in a bucket"
    return "" if fits_memory(store, features) else "these features take more than half of this machine's memory"


def _chosen(store: Store, features: Sequence[str]) -> tuple[str, ...]:
    if not len(store):
        raise StoreError(f"{store.path} holds no utterance: there is nothing to measure.")
    if missing := [name for name in features if name not in store.features]:
        there = ", ".join(store.features)
        raise UsageError(f"{store.path} has no feature {', '.join(missing)}: choose from {there}.")
    return tuple(features or store.features)


def _warm(
    path: StoragePath, features: tuple[str, ...], config: StreamConfig, seconds: float, say: Say
) -> dict[str, Any]:
    say("warm: reading all of it once, then from memory")
    copy_rate = copying(streamed(path, features, config, epochs=1).sizes)
    before = copy_rate(seconds / 2)
    found = streamed(path, features, config, seconds=seconds, skipped=1).to_json()
    copies = fmean((before, copy_rate(seconds / 2))) / 1e9
    return {"warm": found | {"of_copies": found["gb_per_s"] / copies}, "copy_gb_per_s": copies}


def _cold(
    path: StoragePath, features: tuple[str, ...], config: StreamConfig, seconds: float, say: Say
) -> dict[str, Any]:
    store = stores.open(path)
    folders = folders_of(store)
    if not drop(store):
        say("cold: from the bucket")
        return {"cold": streamed(path, features, config, seconds=seconds, epochs=1).to_json()}
    say("cold: the disk sequentially, then the store with nothing of it in memory")
    rate = page_cache.disk_rate(*folders, seconds=seconds)
    drop(store)
    before = page_cache.fetched()
    found = streamed(path, features, config, seconds=seconds, epochs=1)
    fetched = (page_cache.fetched() - before) / found.stored
    return {
        "cold": found.to_json() | {"of_disk": found.stored / found.seconds / rate, "fetched": fetched},
        "disk_gb_per_s": rate / 1e9,
        "disk_direct": page_cache.has_direct(*folders),
    }


def copying(sizes: Sequence[Sequence[int]]) -> Callable[[float], float]:
    """Plain copies of so many bytes: one a feature and a batch, from anywhere in memory, into a buffer used again.

    Returns:
        Bytes a second, of copying for so many seconds.
    """
    source, random = np.ones(COPIED, np.uint8), np.random.default_rng(0)
    buffers = [np.ones(max(some), np.uint8) for some in zip(*sizes, strict=True)]
    starts = random.integers(0, COPIED - max(map(len, buffers)), (len(sizes), len(buffers))) // 64 * 64
    batches = list(zip(sizes, starts.tolist(), strict=True))

    def rate(seconds: float) -> float:
        begun, copied = time.perf_counter(), 0
        for counts, places in itertools.cycle(batches):
            for buffer, count, start in zip(buffers, counts, places, strict=True):
                buffer[:count] = source[start : start + count]
            copied += sum(counts)
            if (elapsed := time.perf_counter() - begun) >= seconds:
                return copied / elapsed
        raise AssertionError("unreachable")

    return rate
