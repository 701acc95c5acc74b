"""The same features in other formats, read in the same batches, beside this store.

    python -m benchmarks.peers FOLDER [--utterances N] [--site DIR] [--upstream DIR]

Made-up utterances of log-normal length, each with log-mel, MFCC and phones, are written by everyone into FOLDER and
read again in the batches of one epoch's plan, padded into reused buffers. Writing ends with a sync of every file. Warm:
files in the page cache, CPU time of all threads, rounds that take everyone in turn, each batch when it is asked for;
ratios are medians of those within a round. Cold: the files' pages dropped, wall time. What is not installed, here or
in --site, is left out and says so.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks import peer_formats, peer_upstream, peer_zarr, report
from benchmarks.peer_formats import NAMES, Payload, Peer, Rows
from headrace import store as stores
from headrace.featurize.pipeline.presets import PRESETS, feature_specs
from headrace.store import index, layout
from headrace.store.reader import Store
from headrace.store.writer import Part, create_store, write_part
from headrace.train.data.batch_plan import Position, plan_epoch
from headrace.train.data.batch_reader import read_batch
from headrace.train.data.stream import Stream, StreamConfig
from headrace.train.measure.page_cache import disk_rate, evict, files_in, load, sync

PEERS: dict[str, Peer] = {
    "LMDB, one value an utterance": Peer(package="lmdb", write=peer_formats.write_lmdb, read=peer_formats.read_lmdb),
    "HF datasets, Arrow columns mapped": Peer(
        package="datasets", write=peer_formats.write_arrow, read=peer_formats.read_arrow_columns
    ),
    "HF datasets, dataset[numbers]": Peer(
        package="datasets", write=peer_formats.write_arrow, read=peer_formats.read_arrow
    ),
    "MosaicML streaming, dataset[n]": Peer(
        package="mosaicml-streaming", write=peer_formats.write_mds, read=peer_formats.read_mds
    ),
    "litdata, dataset[n]": Peer(package="litdata", write=peer_formats.write_litdata, read=peer_formats.read_litdata),
    ".npy, one file an array": Peer(package="numpy", write=peer_formats.write_npy, read=peer_formats.read_npy),
    "lhotse, HDF5": Peer(package="lhotse", write=peer_formats.write_lhotse, read=peer_formats.read_lhotse),
    "lhotse, Shar": Peer(package="lhotse", write=peer_formats.write_shar, read=peer_formats.read_shar),
    "WebDataset": Peer(package="webdataset", write=peer_formats.write_webdataset, read=peer_formats.read_webdataset),
    "tensorstore, this store": Peer(package="tensorstore", write=None, read=peer_zarr.read_tensorstore),
    "zarr-python, this store": Peer(package="zarr", write=None, read=peer_zarr.read_zarr),
    "zarr-python with zarrs, this store": Peer(package="zarrs", write=None, read=peer_zarr.read_zarrs),
}
OURS, AHEAD, COPY = "Headrace", "Headrace, read ahead in a thread", "memory copies of the batches' bytes"
CONFIG = StreamConfig(batch_frames=9600, seed=0)
ABSENT = "not installed"
HEAD = (
    "format", "version", "MB/s written", "bytes / payload", "files", "utt/s warm", "quartiles", "GB/s warm",
    "of memory copies", "Headrace is faster by", "utt/s cold", "of the disk's rate",
)  # fmt: skip
Batches = Iterator[tuple[int, int]]
"""Utterances and bytes of payload of each batch, once it is delivered."""
Reader = Callable[[Path, Payload], Batches]
Warm = dict[str, list[tuple[float, float]]]
TITLE = (
    "{utterances:,} utterances, {hours:.1f} h: log-mel (T, 128) and MFCC (T, 20) float16, phones int16, "
    "{gigabytes:.2f} GB; padded batches of up to {frames:,} frames. Warm: CPU time of all threads, medians over "
    "{rounds} rounds of {seconds:g} s. Cold: wall time; a plain read of the store's files comes to {disk:.2f} GB/s."
)


def make_store(folder: Path, count: int) -> float:
    """Log-normal lengths, 5 s in the median, 0.7 to 20 s; values of log-mel's range. Returns seconds of writing."""
    random = np.random.default_rng(count)
    frames = np.sort((np.clip(np.exp(np.log(5) + 0.6 * random.standard_normal(count)), 0.7, 20) * 50).astype(np.int32))
    specs = [spec for spec in feature_specs(PRESETS["gpt-sovits-v2"], NAMES) if spec.name in NAMES]
    features = [spec.to_json() for spec in specs]
    parts = max(1, round(frames.sum() / 180_000))
    plan = {"parts": parts, "utterances": count, "digest": ""}
    common = {"format": layout.FORMAT, "sample_rate": 32_000, "hop": 640, "preset": "gpt-sovits-v2"}
    create_store(folder, {**common, "compression": "none", "features": features, "plan": plan})
    values, writing = random.uniform(-11, 2, 1 << 22).astype(np.float16), 0.0
    for number, members in enumerate(np.array_split(np.arange(count), parts)):
        lengths = frames[members]
        phones_n = np.maximum(4, lengths // 4)
        arrays = {
            "mel": np.resize(values, (int(lengths.sum()), 128)),
            "mfcc": np.resize(values[::-1], (int(lengths.sum()), 20)),
            "phones": random.integers(0, 732, int(phones_n.sum())).astype(np.int16),
        }
        strings = {
            "id": [f"utt{n}" for n in members.tolist()],
            **dict.fromkeys(("speaker", "language", "text"), ["x"] * len(members)),
        }
        columns = {"frames": lengths, "phones_n": phones_n, "aligned": np.zeros_like(lengths)}
        begun = time.perf_counter()
        write_part(folder, Part(number=number, specs=specs, arrays=arrays, lengths=columns, strings=strings))
        writing += time.perf_counter() - begun
    index.write(folder, index.derive(folder))
    return writing


def batches_of(store: Store) -> list[np.ndarray]:
    plan = plan_epoch(store.frames, Position.start(), batch_frames=CONFIG.batch_frames, seed=CONFIG.seed)
    return [plan.batch(step, 0) for step in range(plan.steps)]


def ours(folder: Path, payload: Payload) -> Batches:
    """Batch by batch when asked, as everyone else."""
    for numbers in payload.batches:
        yield len(read_batch(payload.store, NAMES, numbers)), payload_bytes(payload.store, numbers)


def ahead(folder: Path, payload: Payload) -> Batches:
    """As a training loop reads it."""
    with Stream(payload.store, NAMES, np.arange(len(payload.store)), CONFIG) as stream:
        for numbers in payload.batches:
            batch = next(stream)
            assert np.array_equal(batch.numbers, numbers)
            yield len(batch), payload_bytes(payload.store, numbers)


def copies(folder: Path, payload: Payload) -> Batches:
    """As many bytes as each batch has, from mapped files into one buffer."""
    files = sorted(payload.store.path.glob("parts/*/mel/c/0/0"))
    sources = [np.memmap(file, np.uint8, "r") for file in files]
    buffer = np.empty(1 << 24, np.uint8)
    at, source = 0, 0
    for numbers in payload.batches:
        size = payload_bytes(payload.store, numbers)
        if at + size > len(sources[source]):
            at, source = 0, (source + 1) % len(sources)
        size_here = min(size, len(sources[source]))
        np.copyto(buffer[:size_here], sources[source][at : at + size_here])
        at += size_here
        yield len(numbers), size


def payload_bytes(store: Store, numbers: np.ndarray) -> int:
    return int(store.frames[numbers].sum()) * 2 * (128 + 20) + int(store.phones_n[numbers].sum()) * 2


def padded(read: Callable[[Path, Payload], Iterator[Sequence[Rows]]]) -> Reader:
    """A peer's batches, padded into buffers that are used again and again."""

    def batches(folder: Path, payload: Payload) -> Batches:
        buffers = [np.empty(1 << 23, payload.store.features[name].dtype) for name in NAMES]
        for numbers, utterances in zip(payload.batches, read(folder, payload), strict=False):
            for arrays, buffer in zip(zip(*utterances, strict=True), buffers, strict=True):
                pad(arrays, buffer)
            yield len(utterances), payload_bytes(payload.store, numbers)

    return batches


def pad(arrays: Sequence[np.ndarray], buffer: np.ndarray) -> None:
    shape = (len(arrays), max(map(len, arrays)), *arrays[0].shape[1:])
    out = buffer[: int(np.prod(shape))].reshape(shape)
    for row, values in zip(out, arrays, strict=True):
        row[: len(values)] = values
        row[len(values) :] = 0


def check(name: str, peer: Peer, folder: Path, payload: Payload) -> None:
    """It delivers what was written."""
    with closing(peer.read(folder, payload)) as batches:  # type: ignore[type-var]
        for row, number in zip(next(batches), payload.batches[0].tolist(), strict=True):
            for found, wanted in zip(row, payload.rows(number), strict=True):
                assert np.array_equal(found, wanted), f"{name} delivers other numbers"


def measured(batches: Batches, seconds: float, clock: Callable[[], float]) -> tuple[float, float]:
    """Utterances and bytes a second, of as many batches as fit, the first not counted."""
    utterances = size = 0
    with closing(batches):  # type: ignore[type-var]
        next(batches)
        begun, elapsed = clock(), 0.0
        for count, more in batches:
            utterances, size, elapsed = utterances + count, size + more, clock() - begun
            if elapsed >= seconds:
                break
    return utterances / elapsed, size / elapsed


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


def written(folder: Path, peers: dict[str, Peer], payload: Payload, size: int) -> dict[str, tuple[float, float, int]]:
    """By format, MB of payload a second, bytes on disk for one of payload, and files."""
    taken = {}
    for name, peer in peers.items():
        here = place_of(folder, name, peer)
        if peer.write and not here.exists():
            here.mkdir()
            begun = time.perf_counter()
            peer.write(here, payload)
            sync(here)
            taken[name] = (size / 1e6 / (time.perf_counter() - begun), *weight(here, size))
        check(name, peer, here, payload)
    return taken


def weight(folder: Path, size: int) -> tuple[float, int]:
    files = files_in(folder)
    return sum(path.stat().st_size for path in files) / size, len(files)


def place_of(folder: Path, name: str, peer: Peer) -> Path:
    """Formats that are read in two ways are written once."""
    return folder / (peer.write.__name__.removeprefix("write_") if peer.write else "store")


def cells(name: str, wrote: Sequence[Any], warm: Warm, cold: tuple[float, float] | None) -> dict[str, Any]:
    package = {OURS: "headrace", AHEAD: "headrace", COPY: "numpy"}.get(name) or PEERS[name].package
    row = dict.fromkeys(HEAD, "") | {"format": name, "version": installed(package)}
    if name not in warm:
        return row
    low, middle, high = statistics.quantiles((utterances for utterances, _ in warm[name]), n=4)
    of_copies, slower = (
        statistics.median(a[1] / b[1] for a, b in zip(warm[one], warm[other], strict=True))
        for one, other in ((name, COPY), (OURS, name))
    )
    rates = (middle, f"{low:.4g} to {high:.4g}", statistics.median(size for _, size in warm[name]) / 1e9)
    return row | dict(zip(HEAD[2:], (*wrote, *rates, of_copies, slower, *(cold or ("", ""))), strict=True))


def warm_rates(
    readers: dict[str, Reader], places: dict[str, Path], payload: Payload, rounds: int, seconds: float
) -> Warm:
    """Utterances and bytes a second of CPU time, by format and round."""
    rates: Warm = {name: [] for name in readers}
    for place in set(places.values()):
        load(place)
    for _ in range(rounds):
        for name, read in readers.items():
            rates[name].append(measured(read(places[name], payload), seconds, time.process_time))
    return rates


def cold_rates(
    readers: dict[str, Reader], places: dict[str, Path], batches: Sequence[np.ndarray], seconds: float
) -> tuple[float, dict[str, tuple[float, float]]]:
    """The disk's own rate, in the median, and by format utterances a second and the share of what that rate was just
    before. Nothing may be mapped: pages stay as long as they are."""
    disk, rates = [], {}
    for name in readers.keys() - {COPY}:
        disk.append(disk_rate(places[OURS]))
        evict(places[OURS])
        evict(places[name])
        payload = Payload(stores.open(places[OURS]), batches)
        utterances, size = measured(readers[name](places[name], payload), seconds, time.perf_counter)
        rates[name] = (utterances, size / disk[-1])
        del payload
    return statistics.median(disk), rates


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--utterances", default=12_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="That each is read for in a round.")
@click.option("--site", type=click.Path(exists=True, path_type=Path), help="Folder of packages not installed here.")
@click.option("--upstream", type=click.Path(exists=True, path_type=Path), help="GPT-SoVITS, for its own loader.")
def main(folder: Path, utterances: int, rounds: int, seconds: float, site: Path | None, upstream: Path | None) -> None:
    torch.set_num_threads(1)
    if site:
        sys.path.append(str(site))  # behind all that is installed
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    writing = make_store(folder / "store", utterances)
    peers = {name: peer for name, peer in PEERS.items() if installed(peer.package) != ABSENT}
    readers = {COPY: copies, OURS: ours, AHEAD: ahead, **{name: padded(peer.read) for name, peer in peers.items()}}
    places = dict.fromkeys((COPY, OURS, AHEAD), folder / "store")
    places |= {name: place_of(folder, name, peer) for name, peer in peers.items()}
    store = stores.open(folder / "store")
    batches, size, hours = batches_of(store), payload_bytes(store, np.arange(len(store))), store.hours
    wrote: dict[str, Any] = {OURS: (size / 1e6 / writing, *weight(folder / "store", size))}
    wrote |= written(folder, peers, Payload(store, batches), size)
    warm = warm_rates(readers, places, Payload(store, batches), rounds, seconds)
    del store
    disk, cold = cold_rates(readers, places, batches, seconds)
    rows = [cells(name, wrote.get(name, ("", "", "")), warm, cold.get(name)) for name in (COPY, OURS, AHEAD, *PEERS)]
    title = TITLE.format(
        utterances=utterances, hours=hours, gigabytes=size / 1e9, frames=CONFIG.batch_frames, rounds=rounds,
        seconds=seconds, disk=disk / 1e9,
    )  # fmt: skip
    markdown = f"{title}\n\n{report.table(HEAD, [tuple(row.values()) for row in rows])}"
    loader = peer_upstream.compare(folder / "upstream", upstream, site) if upstream else {}
    markdown += f"\n\n{peer_upstream.described(loader)}" if loader else ""
    click.echo(markdown)
    report.save("peers", markdown, {"rows": rows, "upstream": loader})


if __name__ == "__main__":
    main()
