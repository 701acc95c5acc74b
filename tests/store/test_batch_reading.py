"""Batches hold what the store holds, however they are read; and reading keeps within its bounds."""

from __future__ import annotations

import gc
import itertools
import mmap
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import reading
from headrace import store
from headrace.store import index, layout
from headrace.store.arrays import array_reader, prefetch, shard
from headrace.store.arrays.array_metadata import read_metadata
from headrace.store.arrays.shard import ChunkCache
from headrace.store.errors import DamagedStore
from headrace.store.reader import Store
from headrace.store.storage.local import LocalStorage
from headrace.store.writer import Compression, create_store, write_part
from headrace.train.data.batch_plan import Position, Stretch, plan_epoch
from headrace.train.data.batch_reader import read_batch
from headrace.train.data.stream import Stream, StreamConfig
from tests.helpers import training_store
from tests.helpers.parts import ATTRIBUTES, SPECS, make_part

FRAMES = ([5, 6, 6, 6, 40, 900], [900, 900, 901, 1000, 1200, 1500])
COUNT = sum(map(len, FRAMES))
SOAK_SECONDS = float(os.environ.get("HEADRACE_SOAK_SECONDS", 1800))


def make(root: Path, compression: Compression = "none") -> Store:
    plan = {"parts": len(FRAMES), "utterances": COUNT, "digest": ""}
    create_store(root, ATTRIBUTES | {"compression": compression, "plan": plan})
    for number, frames in enumerate(FRAMES):
        write_part(root, make_part(number, frames), compression)
    index.write(root, index.derive(root))
    return store.open(root)


@pytest.fixture(scope="module", params=["none", "zstd"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("read") / "STORE", request.param)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("mapped") / "STORE")


# Which rows


@settings(deadline=None, max_examples=60)
@given(
    numbers=st.lists(st.integers(0, COUNT - 1), max_size=9),
    feature=st.sampled_from([spec.name for spec in SPECS]),
    more=st.integers(0, 3),
)
def test_batches_are_what_is_read_one_by_one(corpus: Store, numbers: list[int], feature: str, more: int) -> None:
    """In any order, some twice, over the borders of parts; nothing of what was in the buffer is left."""
    alone = [corpus.read(feature, number) for number in numbers]
    spec, chosen = corpus.features[feature], np.array(numbers, np.int64)
    longest = max(map(len, alone), default=0) + more
    padded = np.full((len(numbers), longest, *spec.row_shape), 7, spec.dtype)
    spans = corpus.locate(spec.axis, chosen)
    corpus.read_into(feature, spans, padded)
    joined = np.full((sum(map(len, alone)), *spec.row_shape), 7, spec.dtype)
    corpus.read_into(feature, spans, joined)
    for row, values in zip(padded, alone, strict=True):
        assert np.array_equal(row[: len(values)], values) and not row[len(values) :].any()
    assert np.array_equal(joined, np.concatenate([np.empty((0, *spec.row_shape), spec.dtype), *alone]))


def test_a_batch_of_neighbours_of_one_length_is_a_view(mapped: Store) -> None:
    def view(*numbers: int) -> np.ndarray | None:
        return mapped.view_batch("mel", mapped.locate("frames", np.array(numbers)))

    alike = view(1, 2, 3)
    assert alike is not None and alike.shape == (3, 6, 128) and not alike.flags.writeable
    assert np.shares_memory(alike, mapped.read("mel", 2))
    assert all(np.array_equal(row, mapped.read("mel", n)) for n, row in enumerate(alike, 1))
    assert view(6, 7) is not None
    for numbers in ([0, 1], [1, 3], [2, 1], [5, 6]):  # other lengths, a gap, backwards, two parts
        assert view(*numbers) is None


def test_a_stream_of_neighbours_hands_out_views(mapped: Store) -> None:
    """Where they are of one length; all others are copied."""
    alike, config = np.array([1, 2, 3, 6, 7]), StreamConfig(max_utterances=3, adjacent_batches=True)
    with pytest.warns(UserWarning, match="not writable"), Stream(mapped, ("mel",), alike, config) as stream:
        batches = [next(stream) for _ in range(12)]
    shared = [np.shares_memory(b["mel"].numpy(), mapped.read("mel", int(b.numbers[0]))) for b in batches]
    assert shared == [len(set(b.frames.tolist())) == 1 for b in batches] and {*shared} == {True, False}
    for batch in batches:
        assert torch.equal(batch["mel"], read_batch(mapped, ("mel",), batch.numbers)["mel"])


def test_a_compressed_batch_is_no_view(tmp_path: Path) -> None:
    compressed = make(tmp_path, "zstd")
    assert compressed.view_batch("mel", compressed.locate("frames", np.arange(1, 4))) is None


def test_the_read_method_is_described(mapped: Store, tmp_path: Path) -> None:
    assert mapped.read_method == "mapped into memory, since it is not compressed and lies on this machine"
    assert make(tmp_path, "zstd").read_method.endswith("since it is compressed")


def test_metadata_say_what_zarr_reads_in_them(corpus: Store) -> None:
    part = zarr.open_group(corpus.path / "parts" / "00001", mode="r")
    for name, array in part.arrays():
        found = read_metadata(corpus.path / "parts" / "00001" / name)
        assert (found.shape, found.chunk_rows) == (array.shape, array.chunks[0])
        assert found.compressed == bool(array.compressors) and found.sharded == (array.shards is not None)
        assert not found.sharded or found.dtype == array.dtype


def test_reading_imports_neither_zarr_nor_torch(mapped: Store) -> None:
    code = "import sys; from headrace import store; store.open(sys.argv[1]).read('mel', 0); "
    code += "print({'zarr', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code, mapped.path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# To a device


def test_a_ragged_batch_becomes_the_padded_one(corpus: Store) -> None:
    features, numbers = ("wave", "mel", "phones"), np.array([1, 4, 5, 8])
    padded, ragged = (read_batch(corpus, features, numbers, ragged=some) for some in (False, True))
    assert ragged.tensors.keys() == {"phones"} and ragged.ragged["mel"].rows.shape == (6 + 40 + 900 + 901, 128)
    assert ragged.padding == padded.padding and "mel (1847, 128)" in repr(ragged)
    assert all(torch.equal(ragged[name], padded[name]) for name in features)
    moved = ragged.to("cpu")
    assert not moved.ragged and all(torch.equal(moved[name], padded[name]) for name in features)
    for which in (slice(1, 3), np.array([3, 0]), np.array([True, False, False, True])):
        some, same = ragged.select(which), padded.select(which)
        assert all(torch.equal(some[name], same[name]) for name in features)


def test_a_ragged_batch_keeps_fixed_shapes(mapped: Store) -> None:
    batch = read_batch(mapped, ("mel",), np.array([1, 4]), rows={"frames": 64, "phones": 3}, ragged=True)
    assert batch.to("cpu")["mel"].shape == (2, 64, 128)


def test_lengths_come_along_every_axis_that_is_read(tmp_path: Path) -> None:
    corpus = training_store.build(tmp_path / "STORE")
    numbers = np.array([3, 7, 8])
    batch = read_batch(corpus, ("semantic",), numbers)
    assert batch.tokens_n is not None and batch.tokens_n.tolist() == corpus.column("tokens_n")[numbers].tolist()
    assert read_batch(corpus, ("phones",), numbers).tokens_n is None


# Whole chunks


def test_every_chunk_is_fetched_once_by_however_many_threads() -> None:
    cache, fetched, together = ChunkCache(), list[int](), threading.Barrier(8)

    def fetch(chunks: list[int]) -> list[np.ndarray]:
        time.sleep(0.01)
        fetched.extend(chunks)
        return [np.full(4, chunk) for chunk in chunks]

    def take(first: int) -> list[np.ndarray]:
        together.wait()
        return cache.get("file", range(first, first + 6), fetch)

    with ThreadPoolExecutor(8) as pool:
        for first, found in zip(range(8), pool.map(take, range(8)), strict=True):
            assert [int(chunk[0]) for chunk in found] == list(range(first, first + 6))
    assert sorted(fetched) == list(range(13))


def test_the_cache_is_bounded_and_keeps_what_was_used_last() -> None:
    cache, fetched = ChunkCache(max_bytes=3 * 800), list[int]()

    def fetch(chunks: list[int]) -> list[np.ndarray]:
        fetched.extend(chunks)
        return [np.zeros(100) for _ in chunks]

    for chunk in (0, 1, 2, 0, 3, 0, 1):
        cache.get("file", [chunk], fetch)
    assert fetched == [0, 1, 2, 3, 1]


def test_a_chunk_that_could_not_be_fetched_is_tried_again() -> None:
    cache = ChunkCache()

    def fail(_: list[int]) -> list[np.ndarray]:
        raise DamagedStore("cut short")

    with pytest.raises(DamagedStore):
        cache.get("file", [0, 1], fail)
    assert len(cache.get("file", [0, 1], lambda chunks: [np.zeros(1) for _ in chunks])) == 2


def test_chunk_locality_fetches_each_chunk_about_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache of a tenth of the store."""
    reading.make(tmp_path / "STORE", 1200, "zstd")
    monkeypatch.setattr(shard.ChunkCache.__init__, "__defaults__", (10 << 20,))
    read, fetched = LocalStorage.read_ranges, list[int]()
    counting = lambda self, file, some: fetched.append(len(some)) or read(self, file, some)  # noqa: E731
    monkeypatch.setattr(LocalStorage, "read_ranges", counting)
    counts = {}
    for together in (1, 16):
        opened, config = store.open(tmp_path / "STORE"), StreamConfig(batch_frames=1600, chunk_locality=together)
        fetched.clear()
        with Stream(opened, ("mel",), np.arange(len(opened)), config) as stream:
            while stream.position.epoch == 0:
                next(stream)
            stream.close()
        counts[together] = sum(fetched)
    chunks = sum(
        read_metadata(part / "mel").chunks for part in (tmp_path / "STORE" / "parts").iterdir() if part.is_dir()
    )
    assert counts[16] < 2 * chunks < counts[1]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=90), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99)
)
def test_chunk_locality_loses_no_step(lengths: list[int], together: int, world: int, seed: int) -> None:
    frames, world = np.array(lengths), min(world, len(lengths))
    plan = plan_epoch(frames, Position.start(world), batch_frames=4000, seed=seed, chunk_locality=together)
    assert sorted(plan.turns.ravel()) == list(range(len(plan.bounds) - 1))
    step = plan.turns[:, 0] // world
    jumps = np.count_nonzero(np.abs(np.diff(step)) >= together)
    assert jumps <= -(-(plan.steps + together - 1) // together)


# Checking, and the disk


def test_checking_finds_a_flipped_bit_before_it_is_handed_out(corpus: Store, tmp_path: Path) -> None:
    root = tmp_path / "STORE"
    make(root, corpus.attributes["compression"])
    file = root / "parts" / "00001" / "wave" / "c" / "0" / "0"
    with file.open("r+b") as opened:
        opened.seek(3 << 20)
        (byte,) = opened.read(1)
        opened.seek(3 << 20)
        opened.write(bytes([byte ^ 16]))
    checked = store.open(root, check=True)
    whole = [n for n in range(COUNT) if n < len(FRAMES[0])]
    assert all(np.array_equal(checked.read("wave", n), corpus.read("wave", n)) for n in whole)
    with pytest.raises(DamagedStore, match=r"wave/c/0/0: block \d is not what was sealed"):
        read_batch(checked, ("wave",), np.arange(len(FRAMES[0]), COUNT))


def test_a_store_checks_each_mapped_block_once(mapped: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = store.open(mapped.path, check=True)
    compared = list[int]()
    monkeypatch.setattr(array_reader, "crc32c", lambda data: compared.append(len(data)) or shard.crc32c(data))
    for _ in range(3):
        read_batch(checked, ("mel",), np.arange(COUNT))
    blocks = sum(read_metadata(mapped.path / layout.part_name(part) / "mel").chunks for part in range(2))
    assert len([size for size in compared if size > 2000]) == blocks  # what is smaller are metadata


def test_the_kernel_is_advised_of_all_reads(mapped: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of no more than the gaps between it."""
    told = list[list[int]]()
    monkeypatch.setattr(prefetch, "prefetch", lambda address, spans, advice: told.extend(spans.tolist()))
    mapped.prefetch(("wave",), np.array([6, 7, 9, 11]))
    ends, page = np.cumsum(FRAMES[1]) * 1280, mmap.PAGESIZE
    for (first, last), (start, stop) in zip(told, ((0, ends[1]), (ends[2], ends[3]), (ends[4], ends[5])), strict=True):
        assert first % page == 0 and first <= start < first + page and last == stop


def test_no_more_files_stay_open_than_allowed(mapped: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_reader, "MAX_OPEN_SHARE", 3.5 / array_reader.MAX_MAPPINGS)
    monkeypatch.setattr("resource.getrlimit", lambda _: (-1, -1))
    wanted = {(spec.name, number): mapped.read(spec.name, number) for spec in SPECS for number in (0, COUNT - 1)}
    opened, before = store.open(mapped.path), open_files(mapped.path)
    for _ in range(3):
        assert all(np.array_equal(opened.read(*which), values) for which, values in wanted.items())
    assert open_files(mapped.path) == before + 3


def open_files(folder: Path) -> int:
    """Of a store, in this process; what else is open comes and goes with other tests' threads."""
    gc.collect()
    opened = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(file).startswith(os.path.realpath(folder)) for file in opened)


def test_a_column_of_the_index_is_mapped(mapped: Store) -> None:
    """In memory once for all processes: opening a store of ten million utterances takes milliseconds."""
    assert not mapped.frames.flags.owndata and not mapped.frames.flags.writeable


# For long


def resident() -> int:
    """Bytes of memory that belong to this process alone."""
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return (int(fields["Private_Dirty"].split()[0]) + int(fields["Swap"].split()[0])) << 10


@pytest.mark.soak
def test_long_streaming_leaks_nothing(tmp_path: Path) -> None:
    """With random pauses, seeks and restarts, in other worlds and by other numbers of threads. For half an hour, or
    HEADRACE_SOAK_SECONDS."""
    reading.make(tmp_path / "STORE", 3000)
    random, numbers, used = np.random.default_rng(0), np.arange(3000), list[tuple[int, int, int]]()
    opened, begun = store.open(tmp_path / "STORE"), time.monotonic()
    while (elapsed := time.monotonic() - begun) < SOAK_SECONDS:
        if random.random() < 0.1:
            opened = store.open(tmp_path / "STORE")
        config = StreamConfig(
            batch_frames=9600, threads=int(random.integers(1, 4)), prefetch=int(random.integers(1, 6))
        )
        world = int(random.integers(1, 4))
        history = (Stretch(world, int(random.integers(0, 20))),)
        position = Position(epoch=int(random.integers(0, 9)), history=history)
        with Stream(opened, reading.FEATURES, numbers, config, position=position, world=world) as stream:
            for batch in itertools.islice(stream, int(random.integers(0, 150))):
                assert len(batch) * batch["mel"].shape[1] <= 9600
                time.sleep(random.exponential(0.002))
        del stream
        used.append((int(elapsed), resident(), open_files(tmp_path), threading.active_count()))
    half = len(used) // 2
    assert half > 2, "too short to tell"
    for early, late in zip(zip(*used[2:half], strict=True), zip(*used[half:], strict=True), strict=True):
        print(f"first half {min(early)} to {max(early)}, second half {min(late)} to {max(late)}")
    (_, *first), (_, *second) = (zip(*some, strict=True) for some in (used[2:half], used[half:]))
    assert np.median(second[0]) < np.median(first[0]) + (32 << 20)
    assert max(second[1]) <= max(first[1]) and max(second[2]) <= max(first[2])
