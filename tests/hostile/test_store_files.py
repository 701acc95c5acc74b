"""Whatever the files of a store hold: reading, verifying and planning a repair end in a result or in a line."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace import store
from headrace.store.errors import HeadraceError
from headrace.store.integrity.checksummed_metadata import with_checksum
from headrace.store.integrity.repair import plan, repair
from headrace.store.integrity.verify import verify
from headrace.store.lineage import utterances_before_growth
from headrace.store.summary import summarize
from headrace.store.writer import Compression
from tests.helpers.fuzzing import fuzz
from tests.helpers.parts import make_built_store

GROUPS = ("zarr.json", "parts/00000/zarr.json", "index/zarr.json", "scan/zarr.json")
FILES_BY_FORMAT = {
    "group metadata": ("parts/zarr.json",),
    "array metadata": ("parts/00000/loudness/zarr.json", "parts/00000/mel/zarr.json", "index/bounds/zarr.json"),
    "chunks": (
        "parts/00000/mel/c/0/0",
        "parts/00000/frames/c/0",
        "parts/00000/text/c/0",
        "index/bounds/c/0",
        "index/id/c/0",
    ),
    "rejects": ("rejects.jsonl",),
    "account of a build": ("build.json",),
    "safetensors": ("models/speaker_vector.safetensors",),
}
FILES = tuple(name for names in FILES_BY_FORMAT.values() for name in names)
COUNTS = [40, pytest.param(20_000, marks=pytest.mark.soak)]
"""An attempt reads a whole store, and verifies it: `make test` tries fewer mutations than of other formats."""
FILE_COUNTS = [
    pytest.param(name, count // len(names), marks=marks)
    for count, marks in ((40, ()), (20_000, pytest.mark.soak))
    for names in FILES_BY_FORMAT.values()
    for name in names
]
"""Mutations of each file: those of its format, shared out."""
TOKENS = [b'"utterances"', b'"frames"', b'"crc32c"', b"-1", b"[1]", b'"object"', b'"zstd"', b'"channels"', b"1e9", b"0"]


def read_all(root: Path) -> None:
    opened = store.open(root, check=False)
    summarize(opened)
    assert len(opened.ids) == len(opened.texts) == len(opened)
    utterances_before_growth(opened, "0" * 64, opened.features)
    numbers = np.arange(len(opened))
    for name, spec in opened.features.items():
        spans = opened.locate(spec.axis, numbers)
        opened.prefetch([name], numbers)
        opened.read_into(name, spans, np.empty((int(spans.lengths.sum()), *spec.row_shape), spec.dtype))
        for number in numbers.tolist():
            opened.read(name, number).sum()


def use_all(root: Path) -> None:
    """Do what commands do with a store; each may refuse it."""
    with suppress(HeadraceError):
        read_all(root)
    with suppress(HeadraceError):
        store.open(root, check=True)
    with suppress(HeadraceError):
        plan(root, list(verify(root)))


def attempt_file(root: Path, name: str, data: bytes) -> None:
    whole = (root / name).read_bytes()
    (root / name).write_bytes(data)
    try:
        use_all(root)
    finally:
        (root / name).write_bytes(whole)


def attempt_group(root: Path, name: str, data: bytes) -> None:
    """Give the metadata a checksum that holds, if they are metadata at all: hostile instead of damaged."""
    try:
        document: Any = json.loads(data)
        data = with_checksum(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    attempt_file(root, name, data)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory, "none")


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory, "zstd")


def made(factory: pytest.TempPathFactory, compression: Compression) -> Path:
    root = factory.mktemp("fuzzed") / "STORE"
    make_built_store(root, ([5, 6], [7]), compression)
    return root


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", GROUPS)
def test_metadata_with_checksums_that_hold(raw: Path, name: str, count: int) -> None:
    fuzz(partial(attempt_group, raw, name), [(raw / name).read_bytes()], folder=raw, count=count, tokens=TOKENS)


@pytest.mark.parametrize(("name", "count"), FILE_COUNTS)
def test_damaged_files(raw: Path, name: str, count: int) -> None:
    fuzz(partial(attempt_file, raw, name), [(raw / name).read_bytes()], folder=raw, count=count, tokens=TOKENS)


@pytest.mark.parametrize("count", [4, pytest.param(1_000, marks=pytest.mark.soak)])
def test_no_mutation_of_any_file_stops_verify(raw: Path, count: int) -> None:
    """Whichever file it is: `store verify` lists what is wrong, or ends in a line."""
    names = [path.relative_to(raw).as_posix() for path in sorted(raw.rglob("*")) if path.is_file()]
    assert {*GROUPS, *FILES} <= {*names}

    def verify_with(name: str, data: bytes) -> None:
        whole = (raw / name).read_bytes()
        (raw / name).write_bytes(data)
        try:
            assert all(str(problem).isprintable() for problem in verify(raw))
        finally:
            (raw / name).write_bytes(whole)

    for name in names:
        fuzz(partial(verify_with, name), [(raw / name).read_bytes()], folder=raw, count=count, tokens=TOKENS)


@pytest.mark.parametrize("count", COUNTS)
def test_compressed_chunks_and_their_index(compressed: Path, count: int) -> None:
    name = "parts/00000/phones/c/0"
    seed = (compressed / name).read_bytes()
    fuzz(partial(attempt_file, compressed, name), [seed], folder=compressed, count=count)


@pytest.mark.soak
@pytest.mark.parametrize("name", (*GROUPS, *FILES))
def test_a_repair_of_a_damaged_store_ends_in_a_result_or_a_line(raw: Path, tmp_path: Path, name: str) -> None:
    def attempt(data: bytes) -> None:
        shutil.rmtree(tmp_path / "COPY", ignore_errors=True)
        root = shutil.copytree(raw, tmp_path / "COPY")
        (root / name).write_bytes(data)
        repair(root)

    fuzz(attempt, [(raw / name).read_bytes()], folder=tmp_path, count=200, tokens=TOKENS)
