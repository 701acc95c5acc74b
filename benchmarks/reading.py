"""How fast batches come out of a store, in relation to copies of memory and to the disk.

    python -m benchmarks.reading [STORE] [--rounds N]

Without STORE, one of 1.2 GB is made: 14,000 utterances of noise, 5 s in the median, mel, MFCC and phones. Batches are
those of a training epoch, 9,600 frames and 75 utterances at most.

Warm, one thread, CPU time: every way once in every round, medians. A plain copy of memory is one copy a feature and a
batch, of as many bytes, from anywhere in a gigabyte into a buffer that is used again. Cold, by the clock: an epoch of
the stream with nothing of the store in the page cache, and the disk read sequentially past the page cache (O_DIRECT)
beside it, in turn.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks import report
from headrace import store
from headrace.featurize.pipeline.presets import PRESETS, feature_specs
from headrace.store import index, layout
from headrace.store.reader import Store
from headrace.store.writer import Compression, Part, create_store, write_part
from headrace.train.data.batch import Batch
from headrace.train.data.batch_plan import Position, plan_epoch
from headrace.train.data.batch_reader import read_batch
from headrace.train.data.stream import Stream, StreamConfig
from headrace.train.measure import page_cache

FEATURES = ("mel", "mfcc", "phones")
CONFIG = StreamConfig(batch_frames=9600, max_utterances=75)
PLACES = 1 << 30
"""Bytes of memory that plain copies come from."""


def make(
    root: Path, count: int = 14_000, compression: Compression = "none", features: Sequence[str] = FEATURES
) -> None:
    """A store of noise: parts of an hour, lengths log-normal, 1 to 20 s."""
    random, preset = np.random.default_rng(0), PRESETS["gpt-sovits-v2"]
    specs = feature_specs(preset, features)
    seconds = np.clip(np.exp(np.log(5) + 0.55 * random.standard_normal(count)), 1, 20)
    order, bounds = layout.plan_parts(seconds, 3600.0)
    frames = (seconds * 50).astype(np.int32)[order]
    attributes = {"format": layout.FORMAT, "sample_rate": preset.spectral.sample_rate, "hop": preset.spectral.hop}
    attributes |= {"preset": preset.name, "compression": compression, "features": [spec.to_json() for spec in specs]}
    create_store(root, attributes | {"plan": {"parts": len(bounds) - 1, "utterances": count, "digest": ""}})
    for number in range(len(bounds) - 1):
        lengths = frames[bounds[number] : bounds[number + 1]]
        columns = {"frames": lengths, "phones_n": np.maximum(1, lengths // 6), "aligned": np.zeros_like(lengths)}
        rows = {"frames": int(lengths.sum()), "phones": int(columns["phones_n"].sum())}
        arrays = {
            spec.name: (random.random((rows[spec.axis], *spec.row_shape), np.float32) * 700).astype(spec.dtype)
            for spec in specs
        }
        names = [f"{number}/{n}" for n in range(len(lengths))]
        strings = {"id": names, "speaker": ["s"] * len(names), "language": ["en"] * len(names), "text": names}
        part = Part(number=number, specs=specs, arrays=arrays, lengths=columns, strings=strings)
        write_part(root, part, compression)
    index.write(root, index.derive(root))


def batches_of(opened: Store) -> list[np.ndarray]:
    """The utterances of every batch of an epoch."""
    plan = plan_epoch(
        opened.frames, Position.start(), batch_frames=CONFIG.batch_frames, max_utterances=CONFIG.max_utterances, seed=0
    )
    return [plan.batch(step, 0) for step in range(plan.steps)]


def in_order(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Batches of as many utterances as these, of neighbours in the store."""
    ends = np.cumsum([len(batch) for batch in batches])
    return [np.arange(end - len(batch), end) for end, batch in zip(ends.tolist(), batches, strict=True)]


def sizes(batch: Batch) -> list[int]:
    """Bytes of each feature as it was read."""
    return [tensor.nbytes for tensor in batch.tensors.values()] + [some.rows.nbytes for some in batch.ragged.values()]


def copying(counts: list[list[int]]) -> Callable[[], None]:
    """Plain copies of so many bytes."""
    source, random = np.ones(PLACES, np.uint8), np.random.default_rng(0)
    buffers = [np.ones(max(some), np.uint8) for some in zip(*counts, strict=True)]
    starts = random.integers(0, PLACES - max(map(len, buffers)), (len(counts), len(buffers))) // 64 * 64

    def copy() -> None:
        for batch, places in zip(counts, starts.tolist(), strict=True):
            for buffer, count, start in zip(buffers, batch, places, strict=True):
                buffer[:count] = source[start : start + count]

    return copy


def reading(opened: Store, batches: Sequence[np.ndarray], *, ragged: bool = False) -> Callable[[], None]:
    def read() -> None:
        for numbers in batches:
            read_batch(opened, FEATURES, numbers, ragged=ragged)

    return read


def checking(path: Path, batches: Sequence[np.ndarray]) -> Callable[[], None]:
    """Every block is checked once by whoever opened the store: here in every round."""

    def read() -> None:
        reading(store.open(path, check=True), batches)()

    return read


def warm(path: Path, rounds: int) -> list[tuple[Any, ...]]:
    """Rows of the first table."""
    page_cache.load(path)
    opened = store.open(path)
    batches = batches_of(opened)
    padded, unpadded = (
        [sizes(read_batch(opened, FEATURES, numbers, ragged=ragged)) for numbers in batches] for ragged in (False, True)
    )
    copy_padded, copy_unpadded = "plain copies, padded", "plain copies, unpadded"
    ways: dict[str, tuple[Callable[[], None], str]] = {
        copy_padded: (copying(padded), copy_padded),
        "batches, padded": (reading(opened, batches), copy_padded),
        "the same, blocks checked": (checking(path, batches), copy_padded),
        "in order of the store, padded": (reading(opened, in_order(batches)), copy_padded),
        copy_unpadded: (copying(unpadded), copy_unpadded),
        "batches, unpadded": (reading(opened, batches, ragged=True), copy_unpadded),
        "in order of the store, unpadded": (reading(opened, in_order(batches), ragged=True), copy_unpadded),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (way, _) in ways.items():
            begun = time.thread_time()
            way()
            seconds[name].append(time.thread_time() - begun)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    total = {name: sum(map(sum, padded if kind == copy_padded else unpadded)) for name, (_, kind) in ways.items()}
    return [
        (name, len(opened) / medians[name], total[name] / medians[name] / 1e9, medians[kind] / medians[name])
        for name, (_, kind) in ways.items()
    ]


def cold(path: Path, rounds: int) -> list[tuple[Any, ...]]:
    """Rows of the second table."""
    page_cache.sync(path)
    ratios, rates, first = [], [], []
    for _ in range(rounds):
        gc.collect()  # what is mapped stays in the page cache
        page_cache.evict(path)
        rate = page_cache.disk_rate(path)
        page_cache.evict(path)
        begun, count = time.perf_counter(), 0
        opened = store.open(path)
        with Stream(opened, FEATURES, np.arange(len(opened)), CONFIG) as stream:
            while stream.position.epoch == 0:
                batch = next(stream)
                first += [time.perf_counter() - begun] if not count else []
                count += sum(sizes(batch))
                del batch
        rates.append(count / (time.perf_counter() - begun))
        ratios.append(rates[-1] / rate)
        del opened, stream
    return [("stream", statistics.median(rates) / 1e9, statistics.median(ratios), statistics.median(first))]


@click.command()
@click.argument("path", metavar="[STORE]", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=7, show_default=True)
def main(path: Path | None, rounds: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = Path(folder, "STORE")
            make(path)
        opened = store.open(path)
        described = f"{len(opened):,} utterances, {opened.hours:.1f} h, read {opened.read_method}"
        del opened
        warm_rows, cold_rows = warm(path, rounds), cold(path, rounds)
    tables = {
        f"Warm: {described}": (("way", "utterances/s", "GB/s", "of plain copies"), warm_rows),
        "Cold": (("way", "GB/s", "of O_DIRECT", "first batch, s"), cold_rows),
    }
    markdown = "\n\n".join(f"{title}\n\n{report.table(head, rows)}" for title, (head, rows) in tables.items())
    click.echo(markdown)
    data = {title: [dict(zip(head, row, strict=True)) for row in rows] for title, (head, rows) in tables.items()}
    report.save("reading", markdown, data)


if __name__ == "__main__":
    main()
