"""The store keeps what it is given, is readable by zarr alone, and notices every change of its bytes."""

from __future__ import annotations

import errno
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from headrace import store
from headrace.store import index, layout
from headrace.store.errors import DamagedStore, NotAStore, StoreError
from headrace.store.integrity.verify import verify
from headrace.store.schema import Reject
from headrace.store.writer import create_store, write_part
from tests.helpers.parts import ATTRIBUTES, SPECS, make_part, make_store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_store(tmp_path / "STORE")
    return tmp_path / "STORE"


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_every_utterance_comes_back_as_it_was_written(tmp_path: Path, compression: str) -> None:
    parts = make_store(tmp_path, compression)
    opened = store.open(tmp_path)
    assert len(opened) == 12 and opened.complete
    number = 0
    for part in parts:
        for spec in SPECS:
            lengths = {"frames": part.lengths["frames"], "phones": part.lengths["phones_n"]}.get(
                spec.axis, np.ones(len(part.strings["id"]))
            )
            starts = layout.offsets(lengths)
            for n, (start, stop) in enumerate(itertools.pairwise(starts)):
                assert np.array_equal(opened.read(spec.name, number + n), part.arrays[spec.name][start:stop])
        number += len(part.strings["id"])
    assert opened.ids.tolist() == parts[0].strings["id"] + parts[1].strings["id"]
    assert opened.texts.tolist() == parts[0].strings["text"] + parts[1].strings["text"]
    assert not list(verify(tmp_path))


def test_uncompressed_reads_are_views_of_the_file(root: Path) -> None:
    view = store.open(root).read("mel", 3)
    assert not view.flags.owndata and not view.flags.writeable


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_zarr_alone_reads_the_same_numbers(tmp_path: Path, compression: str) -> None:
    parts = make_store(tmp_path, compression)
    group = zarr.open_group(tmp_path / "parts" / "00001", mode="r")
    for name, values in parts[1].arrays.items():
        assert np.array_equal(group[name][:], values)
    offsets = np.concatenate(([0], np.cumsum(group["frames"][:])))
    third = group["mel"][offsets[2] : offsets[3]]
    assert np.array_equal(third, store.open(tmp_path).read("mel", 5 + 2))
    assert group["id"][2] == "s1/ünï 2.wav"


def test_gather_pads_with_zeros_whatever_was_there(root: Path) -> None:
    opened = store.open(root)
    numbers = np.array([11, 0, 4, 7])
    out = np.full((4, 3000, 128), 7, np.float16)
    opened.read_into("mel", opened.locate("frames", numbers), out)
    for row, number in zip(out, numbers, strict=True):
        length = opened.frames[number]
        assert np.array_equal(row[:length], opened.read("mel", number)) and not row[length:].any()


def test_small_arrays_take_no_more_room_than_they_need(root: Path) -> None:
    size = (root / "parts" / "00000" / "phones" / "c" / "0").stat().st_size
    assert size == 15 * 2 + 16 + 4


def test_two_writers_of_one_part_leave_one_copy(root: Path) -> None:
    before = {p: p.read_bytes() for p in (root / "parts").rglob("*") if p.is_file()}
    write_part(root, make_part(1, [900, 901, 1000, 1200, 1500, 1800, 3000]))
    assert {p: p.read_bytes() for p in (root / "parts").rglob("*") if p.is_file()} == before
    assert not (root / ".headrace-drafts").exists()


def test_arrays_that_do_not_fit_their_lengths_are_refused(tmp_path: Path) -> None:
    create_store(tmp_path, ATTRIBUTES)
    part = make_part(0, [5, 6])
    part.lengths["frames"][0] = 4
    with pytest.raises(StoreError, match="wave is int16"):
        write_part(tmp_path, part)
    assert layout.sealed_parts(tmp_path) == []


def test_a_feature_with_the_name_of_a_column_is_refused(tmp_path: Path) -> None:
    create_store(tmp_path, ATTRIBUTES)
    part = make_part(0, [5, 6])
    part.lengths["mel"] = part.lengths["frames"]
    with pytest.raises(StoreError, match="share the names mel"):
        write_part(tmp_path, part)
    assert layout.sealed_parts(tmp_path) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_store(tmp_path, ATTRIBUTES)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("headrace.store.storage.local.os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        write_part(tmp_path, make_part(0, [5, 6]))
    assert layout.sealed_parts(tmp_path) == [] and not (tmp_path / ".headrace-drafts").exists()


def test_an_empty_part_is_a_part(tmp_path: Path) -> None:
    create_store(tmp_path, ATTRIBUTES | {"plan": {"parts": 2, "utterances": 4}})
    write_part(tmp_path, make_part(0, [], tuple(Reject(f"{n}", "decode", "broken") for n in range(2))))
    write_part(tmp_path, make_part(1, [5, 6]))
    index.write(tmp_path, index.derive(tmp_path))
    assert len(store.open(tmp_path)) == 2 and not list(verify(tmp_path))


def test_the_index_is_derived_where_it_is_missing(root: Path) -> None:
    stored = store.open(root)
    index.delete(root)
    derived = store.open(root)
    assert derived.fingerprint == stored.fingerprint
    assert derived.ids.tolist() == stored.ids.tolist() and np.array_equal(derived.frames, stored.frames)


def test_verify_names_the_part_the_array_and_the_block(root: Path) -> None:
    path = root / "parts" / "00001" / "wave" / "c" / "0" / "0"
    with path.open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"\xff\x00\xff")
    (problem,) = verify(root)
    assert problem.where == "part 00001 wave s1/ünï 2.wav to s1/ünï 3.wav" and "block 3" in problem.what


@pytest.mark.unaccounted
@pytest.mark.parametrize("law", ["alignment", "finite", "order", "total"])
def test_verify_finds_inconsistencies(tmp_path: Path, law: str) -> None:
    create_store(tmp_path, ATTRIBUTES | {"plan": {"parts": 1, "utterances": 4 if law == "total" else 3}})
    part = make_part(0, [10, 20, 30] if law != "order" else [10, 30, 20])
    if law == "alignment":
        part.arrays["phone_frames"][4] += 1
    if law == "finite":
        part.arrays["mel"][12, 5] = np.nan
    write_part(tmp_path, part)
    index.write(tmp_path, index.derive(tmp_path))
    (problem,) = verify(tmp_path)
    expected = {"alignment": "cover 21 frames of 20", "finite": "not finite", "order": "order", "total": "4 planned"}
    assert expected[law] in problem.what
    if law in ("alignment", "finite"):
        assert "s0/ünï 1.wav" in problem.where


def test_what_is_not_a_store_is_refused_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(NotAStore, match="is not a Headrace store: make one with featurize build"):
            store.open(path)
    zarr.create_group(tmp_path / "other", attributes={"format": "headrace-9"})
    with pytest.raises(NotAStore, match="headrace-9"):
        store.open(tmp_path / "other")


def test_a_cut_shard_is_refused_and_named(root: Path) -> None:
    path = root / "parts" / "00001" / "mel" / "c" / "0" / "0"
    path.write_bytes(path.read_bytes()[:-9])
    opened = store.open(root)
    assert len(opened.read("wave", 11)) == 3000
    with pytest.raises(DamagedStore, match="does not end with its index"):
        opened.read("mel", 11)


def test_unknown_ids_suggest_similar_ones(root: Path) -> None:
    opened = store.open(root)
    assert opened.ids[opened.find("s0/ünï 3.wav")] == "s0/ünï 3.wav"
    with pytest.raises(StoreError, match=r"s0/ünï 3\.wav"):
        opened.find("s0/uni 3.wav")


def test_unfinished_stores_open_and_say_so(root: Path) -> None:
    index.delete(root)
    shutil.rmtree(root / "parts" / "00000")
    opened = store.open(root)
    assert len(opened) == 7 and not opened.complete
    assert "1 parts are not sealed" in next(iter(verify(root))).what
