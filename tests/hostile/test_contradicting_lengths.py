"""Compiled code copies only rows that are there, whatever a store says of its lengths."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from headrace import store
from headrace.store import index, layout
from headrace.store.arrays import batch_copy
from headrace.store.errors import DamagedStore, HeadraceError
from headrace.store.integrity.checksummed_metadata import with_checksum
from headrace.store.integrity.repair import repair
from headrace.store.integrity.verify import verify
from headrace.store.writer import Part, create_store, write_array, write_part
from tests.helpers.parts import ATTRIBUTES, make_part, make_store


def outcome(action: Callable[[], object]) -> str:
    """Return how an action ends in a child process: `ok`, the message of its HeadraceError, or how the child died."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if not child:
        os.close(reading)
        _act(action, writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as said:
        text = said.read()
    _, status = os.waitpid(child, 0)
    return f"killed by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else text


def _act(action: Callable[[], object], writing: int) -> NoReturn:
    text = ""
    try:
        action()
        text = "ok"
    except HeadraceError as error:
        text = error.message
    except BaseException:  # noqa: BLE001
        text = traceback.format_exc()
    finally:
        os.write(writing, text.encode())
        os._exit(0)


def read_batches(root: Path, *, check: bool = False) -> None:
    """Read every feature of all utterances: one by one, and as a batch."""
    opened = store.open(root, check=check)
    numbers = np.arange(len(opened))
    for name, spec in opened.features.items():
        for number in numbers.tolist():
            opened.read(name, number).sum()
        spans = opened.locate(spec.axis, numbers)
        opened.prefetch([name], numbers)
        opened.view_batch(name, spans)
        opened.read_into(name, spans, np.empty((int(spans.lengths.sum()), *spec.row_shape), spec.dtype))
        padded = (len(numbers), max(int(spans.lengths.max()), 1), *spec.row_shape)
        opened.read_into(name, spans, np.empty(padded, spec.dtype))


def with_lengths(part: Part, column: str, lengths: list[int]) -> Part:
    """Return the part with other lengths, of the same sum: its arrays and its seal still fit."""
    assert sum(lengths) == part.lengths[column].sum()
    return dataclasses.replace(part, lengths={**part.lengths, column: np.asarray(lengths, np.int32)})


def write_store(root: Path, part: Part) -> None:
    create_store(root, ATTRIBUTES | {"plan": {"parts": 1, "utterances": len(part.strings["id"]), "digest": ""}})
    write_part(root, part)


@pytest.mark.parametrize("has_index", [False, True])
@pytest.mark.parametrize("lengths", [[-9_000_000, 9_000_017], [2_000_000_000, 17 - 2_000_000_000], [18, -1]])
def test_lengths_below_zero_are_refused(tmp_path: Path, lengths: list[int], has_index: bool) -> None:
    """Their sum is that of the arrays, and every checksum holds."""
    write_store(tmp_path, with_lengths(make_part(0, [8, 9]), "frames", lengths))
    if has_index:
        index.write(tmp_path, index.derive(tmp_path))
    ended = outcome(lambda: read_batches(tmp_path))
    assert "lengths below zero in frames" in ended and "run store verify" in ended
    assert any("below zero" in problem.what for problem in verify(tmp_path))


def change_root(root: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change the root attributes of a store, and its checksum with them."""
    document = json.loads((root / "zarr.json").read_bytes())
    change(document["attributes"])
    (root / "zarr.json").write_bytes(with_checksum(document))


@pytest.mark.parametrize("change", [{"channels": 1 << 20}, {"channels": None}, {"dtype": "float64"}])
def test_rows_of_another_width_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """As many bytes are copied as the root says: more than the array has."""
    make_store(tmp_path)
    change_root(tmp_path, lambda attributes: attributes["features"][1].update(change))  # type: ignore[index]
    ended = outcome(lambda: read_batches(tmp_path))
    assert "mel is float16 in rows of (128,), the root says" in ended


BOUNDS = {
    "too many": [0, 5, 39_484],
    "too few": [0, 5, 11],
    "descending": [0, 14, 12],
    "below zero": [0, -5_000_000, 12],
    "not from zero": [3, 5, 12],
    "one missing": [0, 12],
    "other seals": [0, 6, 12],
}


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("sealed", [False, True])
def test_bounds_that_contradict_the_parts_are_refused_and_repaired(
    tmp_path: Path, bounds: list[int], sealed: bool
) -> None:
    """Whether their checksums are wrong, or were made to fit."""
    make_store(tmp_path)
    folder = tmp_path / "index"
    checksums = write_array(folder / "bounds", np.asarray(bounds, np.int64), "none", ("bound",))
    if sealed:
        document = json.loads((folder / "zarr.json").read_bytes())
        document["attributes"]["arrays"]["bounds"] = checksums
        (folder / "zarr.json").write_bytes(with_checksum(document))
    ended = outcome(lambda: read_batches(tmp_path))
    assert "index" in ended and ("run store repair" in ended or "run store verify" in ended)
    assert [problem.drop for problem in verify(tmp_path)] == ["index"]
    repair(tmp_path)
    assert outcome(lambda: read_batches(tmp_path)) == "ok" and not list(verify(tmp_path))


def test_an_index_of_another_store_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "ONE")
    write_store(tmp_path / "TWO", make_part(0, [8, 9]))
    index.write(tmp_path / "TWO", index.derive(tmp_path / "TWO"))
    (tmp_path / "ONE" / "index").rename(tmp_path / "old")
    (tmp_path / "TWO" / "index").rename(tmp_path / "ONE" / "index")
    with pytest.raises(DamagedStore, match="2 utterances of part 00000, its seal has 5: run store repair"):
        store.open(tmp_path / "ONE")


def test_a_seal_that_contradicts_its_arrays_is_told(tmp_path: Path) -> None:
    make_store(tmp_path)
    index.delete(tmp_path)
    file = layout.part_path(tmp_path, 1) / "zarr.json"
    document = json.loads(file.read_bytes())
    document["attributes"]["seal"]["frames"] += 1
    file.write_bytes(with_checksum(document))
    with pytest.raises(DamagedStore, match="00001 has 10301 frames, its seal says 10302: run store verify"):
        store.open(tmp_path)
    assert "its seal says 10302" in next(iter(verify(tmp_path))).what


def test_compiled_code_refuses_spans_outside_of_an_array() -> None:
    def call(start: int, stop: int) -> list[int]:
        spans = np.array([start]), np.array([stop])
        return list(batch_copy.row_addresses(1000, 10, 5, *spans))

    assert call(0, 5) == [1000] and call(5, 5) == [1050] and call(2, 3) == [1020]
    for start, stop in ((-1, 2), (0, 6), (4, 3), (6, 6)):
        with pytest.raises(IndexError):
            call(start, stop)
    with pytest.raises(ValueError, match="longer than the room"):
        batch_copy.gather(np.empty(4, np.uint8), np.array([0]), np.array([-4]), -1)


def test_spans_of_another_axis_are_refused(tmp_path: Path) -> None:
    """A mistake of a program, which would otherwise read what lies behind the array."""
    make_store(tmp_path)
    opened = store.open(tmp_path)
    spans = opened.locate("frames", np.arange(5))
    with pytest.raises(IndexError):
        opened.read_into("phones", spans, np.empty(int(spans.lengths.sum()), np.int16))


@pytest.mark.parametrize("size", [0, 4096, -8192, -1])
def test_a_file_that_is_shortened_while_it_is_read_ends_in_a_message(tmp_path: Path, size: int) -> None:
    """It is mapped: touching what is gone kills the process with SIGBUS."""
    make_store(tmp_path)
    file = layout.part_path(tmp_path, 1) / "mel" / "c" / "0" / "0"

    def read(as_batch: bool) -> None:
        opened = store.open(tmp_path)
        numbers = np.arange(5, len(opened))
        spans = opened.locate("frames", numbers)
        out = np.empty((int(spans.lengths.sum()), 128), np.float16)
        opened.read_into("mel", spans, out)
        os.truncate(file, size if size >= 0 else file.stat().st_size + size)
        if as_batch:
            opened.read_into("mel", spans, out)
        else:
            opened.read("mel", len(opened) - 1).sum()

    whole = file.read_bytes()
    for as_batch in (True, False):
        ended = outcome(lambda batch=as_batch: read(batch))
        file.write_bytes(whole)
        assert f"had {len(whole)} bytes when it was opened and has" in ended and "run store verify" in ended


def test_an_index_that_is_shortened_while_it_is_read_is_harmless(tmp_path: Path) -> None:
    make_store(tmp_path)

    def read() -> None:
        opened = store.open(tmp_path)
        assert opened.frames.sum() and len(opened.parts) == 2
        for file in (tmp_path / "index").rglob("c/*"):
            os.truncate(file, 0)
        assert opened.frames.sum() and len(opened.parts) == 2 and opened.locate("frames", np.arange(3))

    assert outcome(read) == "ok"
