"""Throughput of reading batches from a store, compared with what this machine's memory and disk can do.

All of it is measured in one run: batches from the page cache, between two measurements of plain memory copies of the
same sizes; batches from the disk, right after the disk was read sequentially.
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
COPY_SOURCE_BYTES = 1 << 29
"""Bytes of memory that plain copies read from: more than fits into a processor's caches."""

Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StreamMeasurement:
    """The batches and bytes that a stream delivered while no model used them."""

    store: Store
    features: tuple[str, ...]
    numbers: list[np.ndarray]
    """Utterance numbers of each batch."""
    sizes: list[list[int]]
    """Bytes of each feature of each batch, with padding."""
    seconds: float
    first_batch_s: float
    """Seconds from before the store was opened to the first batch."""

    @property
    def stored(self) -> int:
        """Bytes without padding: those that had to be read from the store."""
        numbers, specs = np.concatenate(self.numbers), [self.store.features[name] for name in self.features]
        return sum(
            int(self.store.lengths(spec.axis)[numbers].sum(dtype=np.int64))
            * (np.dtype(spec.dtype).itemsize * (spec.channels or 1))
            for spec in specs
        )

    def to_json(self) -> dict[str, float]:
        """Return rates per second: `frames_per_s` without padding, `gb_per_s` in 10^9 bytes of tensors with it."""
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


def measure_stream(
    path: StoragePath,
    features: tuple[str, ...],
    config: StreamConfig,
    *,
    seconds: float = inf,
    skipped: int = 0,
    epochs: float = inf,
) -> StreamMeasurement:
    """Open a store, stream its utterances and measure. The time starts when the first epoch is planned.

    Args:
        features: names of the features to read.
        seconds: measure for at least this time.
        skipped: number of first epochs that are not measured.
        epochs: stop after this many epochs, even before `seconds` have passed.
    """
    opened, first, elapsed = time.perf_counter(), 0.0, 0.0
    store, numbers, sizes = stores.open(path), list[np.ndarray](), list[list[int]]()
    with Stream(store, features, np.arange(len(store), dtype=np.int64), config) as stream:
        start = time.perf_counter()
        while not numbers or (elapsed < seconds and stream.position.epoch < epochs):
            counted = stream.position.epoch >= skipped
            batch = next(stream)
            first = first or time.perf_counter() - opened
            if not counted:
                start = time.perf_counter()
                continue
            numbers.append(batch.numbers)
            sizes.append([tensor.nbytes for tensor in batch.tensors.values()])
            elapsed = time.perf_counter() - start
    return StreamMeasurement(
        store=store, features=features, numbers=numbers, sizes=sizes, seconds=elapsed, first_batch_s=first
    )


def bench(
    path: StoragePath,
    features: Sequence[str] = (),
    *,
    batch_frames: int = BATCH_FRAMES,
    seconds: float = 3.0,
    warm: bool = True,
    cold: bool = True,
    log: Log = lambda _: None,
) -> dict[str, Any]:
    """Measure how fast a store is read on this machine.

    Args:
        features: names of the features to read; none for all.
        batch_frames: upper limit of padded frames in a batch.
        seconds: least duration of each measurement.
        warm, cold: whether to measure with the store in the page cache, and without.
        log: called with a line when a measurement starts.
    Returns:
        What was read and how; `warm` and `cold`, each as `StreamMeasurement.to_json` or None; `copy_gb_per_s`, and
        `warm.of_copies`, the stream's share of that rate. Where the store lies on disks of this machine also
        `disk_gb_per_s`, `disk_direct`, `cold.of_disk`, and `cold.fetched`, bytes that came from the disk for each one
        delivered: 0 means that the page cache could not be dropped.
    Raises:
        NotAStore, DamagedStore: as `store.open`.
        StoreError: the store holds no utterance.
        UsageError: it has no such feature, or cannot be measured as requested.
    """
    store = stores.open(path)
    features = _select_features(store, features)
    utterances, _ = auto_settings.choose_max_utterances(0, batch_frames)
    config = StreamConfig(batch_frames=batch_frames, max_utterances=utterances)
    warm = warm and _check_warm(store, features, cold, log)
    found = {
        "store": str(path),
        "utterances": len(store),
        "hours": store.hours,
        "features": list(features),
        "reading": store.read_method,
        "batch_frames": batch_frames,
        "max_utterances": utterances,
    }
    measured_warm = _measure_warm(path, features, config, seconds, log) if warm else {"warm": None}
    measured_cold = _measure_cold(path, features, config, seconds, log) if cold else {"cold": None}
    return found | measured_warm | measured_cold


def _check_warm(store: Store, features: Sequence[str], cold: bool, log: Log) -> bool:
    """Return whether the store can be measured from memory; logs the reason if not.

    Raises:
        UsageError: it cannot, and no cold measurement was requested.
    """
    reason = reason_never_warm(store, features)
    if reason and not cold:
        raise UsageError(f"{store.path} cannot be measured warm, since {reason}: leave out --warm.")
    if reason:
        log(f"not measured warm: {reason}")
    return not reason


def local_folders(store: Store) -> list[Path]:
    """Return the folders of a store, or of those read as one, that are on this machine."""
    return [member.path for member in store.members if isinstance(member.path, Path)]


def drop_page_cache(store: Store) -> bool:
    """Drop a store from the page cache, except what other processes map. Returns False if it lies in a bucket."""
    gc.collect()  # what is mapped stays in the page cache
    page_cache.sync(*local_folders(store))
    page_cache.evict(*local_folders(store))
    return len(local_folders(store)) == len(store.members)


def reason_never_warm(store: Store, features: Sequence[str]) -> str:
    """Return why a store is not in memory even after all of it was read; an empty string if it is."""
    if len(local_folders(store)) < len(store.members):
        return "it lies in a bucket"
    return "" if fits_memory(store, features) else "these features take more than half of this machine's memory"


def _select_features(store: Store, features: Sequence[str]) -> tuple[str, ...]:
    """Return the features to measure, after checking that the store has them; all if none are named."""
    if not len(store):
        raise StoreError(f"{store.path} holds no utterance: there is nothing to measure.")
    if missing := [name for name in features if name not in store.features]:
        there = ", ".join(store.features)
        raise UsageError(f"{store.path} has no feature {', '.join(missing)}: choose from {there}.")
    return tuple(features or store.features)


def _measure_warm(
    path: StoragePath, features: tuple[str, ...], config: StreamConfig, seconds: float, log: Log
) -> dict[str, Any]:
    """Measure batches from memory, and plain copies before and after them."""
    log("warm: reading all of it once, then from memory")
    copy_rate = copy_rate_of(measure_stream(path, features, config, epochs=1).sizes)
    before = copy_rate(seconds / 2)
    found = measure_stream(path, features, config, seconds=seconds, skipped=1).to_json()
    copies = fmean((before, copy_rate(seconds / 2))) / 1e9
    return {"warm": found | {"of_copies": found["gb_per_s"] / copies}, "copy_gb_per_s": copies}


def _measure_cold(
    path: StoragePath, features: tuple[str, ...], config: StreamConfig, seconds: float, log: Log
) -> dict[str, Any]:
    """Measure batches from the disk or the bucket, and the sequential rate of the disk."""
    store = stores.open(path)
    folders = local_folders(store)
    if not drop_page_cache(store):
        log("cold: from the bucket")
        return {"cold": measure_stream(path, features, config, seconds=seconds, epochs=1).to_json()}
    log("cold: the disk sequentially, then the store with nothing of it in memory")
    rate = page_cache.disk_rate(*folders, seconds=seconds)
    drop_page_cache(store)
    before = page_cache.bytes_read()
    found = measure_stream(path, features, config, seconds=seconds, epochs=1)
    fetched = (page_cache.bytes_read() - before) / found.stored
    return {
        "cold": found.to_json() | {"of_disk": found.stored / found.seconds / rate, "fetched": fetched},
        "disk_gb_per_s": rate / 1e9,
        "disk_direct": page_cache.supports_direct_io(*folders),
    }


def copy_rate_of(sizes: Sequence[Sequence[int]]) -> Callable[[float], float]:
    """Prepare plain memory copies of these sizes: from random places into buffers that are reused.

    Args:
        sizes: bytes of each feature of each batch.
    Returns:
        A function that copies for a number of seconds and returns the bytes per second.
    """
    source, random = np.ones(COPY_SOURCE_BYTES, np.uint8), np.random.default_rng(0)
    buffers = [np.ones(max(some), np.uint8) for some in zip(*sizes, strict=True)]
    starts = random.integers(0, COPY_SOURCE_BYTES - max(map(len, buffers)), (len(sizes), len(buffers))) // 64 * 64
    batches = list(zip(sizes, starts.tolist(), strict=True))

    def rate(seconds: float) -> float:
        started, copied = time.perf_counter(), 0
        for counts, places in itertools.cycle(batches):
            for buffer, count, start in zip(buffers, counts, places, strict=True):
                buffer[:count] = source[start : start + count]
            copied += sum(counts)
            if (elapsed := time.perf_counter() - started) >= seconds:
                return copied / elapsed
        raise AssertionError("unreachable")

    return rate
