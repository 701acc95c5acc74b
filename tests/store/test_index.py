"""The index and the seals that it is derived from: what does not agree is refused, although its checksums hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.store import index, layout
from headrace.store.errors import DamagedStore
from headrace.store.integrity.checksummed_metadata import with_checksum
from headrace.store.storage import local
from headrace.store.writer import UTTERANCES, create_store, write_array, write_part
from tests.helpers.parts import ATTRIBUTES, make_part

FRAMES = ([5, 6], [7], [8, 9, 10])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("index") / "STORE"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "fsync", lambda path: None)
        create_store(root, ATTRIBUTES | {"plan": {"parts": 3, "utterances": 6, "digest": ""}})
        for number, lengths in enumerate(FRAMES):
            write_part(root, make_part(number, lengths))
        index.write(root, index.derive(root))
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "STORE")


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the attributes in a `zarr.json`, and give it the checksum that fits."""
    document = json.loads(file.read_bytes())
    change(document["attributes"])
    file.write_bytes(with_checksum(document))


def edit_seal(root: Path, number: int, **changes: Any) -> None:
    edit(layout.part_path(root, number) / "zarr.json", lambda found: found["seal"].update(changes))


def replace(root: Path, name: str, values: np.ndarray, dimensions: tuple[str, ...] = UTTERANCES) -> None:
    """Replace an array of the index, and its checksums with it."""
    shutil.rmtree(root / "index" / name)
    checksums = write_array(root / "index" / name, values, "none", dimensions)
    edit(root / "index" / "zarr.json", lambda found: found["arrays"].update({name: checksums}))


def test_the_index_is_what_is_derived(root: Path) -> None:
    read, derived = index.read(root), index.derive(root, check=True)
    index.delete(root)
    for one in (read, derived, index.read(root), index.read(root, check=True)):
        assert one.parts.tolist() == [0, 1, 2] and one.bounds.tolist() == [0, 2, 3, 6]
        assert one.columns["frames"].tolist() == [5, 6, 7, 8, 9, 10] and one.columns["frames"].dtype == np.int32
        assert list(one.columns) == list(derived.columns) and len(one.columns) == len(derived.columns)
        assert one.names["speaker"].tolist() == ["s0", "s0", "s1", "s2", "s2", "s2"]
        assert list(one.names) == list(index.NAMES) and len(one.names) == 3 and one.fingerprint == derived.fingerprint
        assert one.columns["frames"] is one.columns["frames"], "read once"
        with pytest.raises(KeyError):
            one.columns["bounds"]


def test_a_store_without_parts_has_an_empty_index(tmp_path: Path) -> None:
    create_store(tmp_path, ATTRIBUTES)
    index.write(tmp_path, index.derive(tmp_path))
    found = index.read(tmp_path)
    assert found.bounds.tolist() == [0] and not len(found.parts) and found.columns["frames"].shape == (0,)


def test_a_store_of_one_part_and_parts_without_utterances_have_an_index(tmp_path: Path) -> None:
    create_store(tmp_path, ATTRIBUTES | {"plan": {"parts": 1, "utterances": 2, "digest": ""}})
    write_part(tmp_path, make_part(0, [5, 6]))
    assert index.derive(tmp_path).bounds.tolist() == [0, 2]
    index._check_bounds(tmp_path, np.asarray([0, 1, 2], np.int32), np.asarray([0, 0, 2, 2], np.int64))


@pytest.mark.unaccounted
@pytest.mark.parametrize("changes", [{"utterances": 0}, {"utterances": (1 << 48) - 1}, {"frames": 0}, {"rejects": []}])
def test_a_seal_within_bounds_is_read(root: Path, changes: dict[str, Any]) -> None:
    edit_seal(root, 0, **changes)
    assert changes.items() <= index.read_seal(root, 0).items()


@pytest.mark.parametrize(
    "changes",
    [
        *({key: value} for key in ("utterances", "frames") for value in (-1, 1 << 48, True, 2.0, "2", None)),
        {"inputs": 3}, {"inputs": None}, {"columns": ["frames", "phones_n", "aligned", 3]}, {"columns": None},
        {"columns": ["frames", "phones_n"]}, {"columns": []}, {"rejects": [3]}, {"rejects": [{}]}, {"rejects": None},
        {"columns": ["frames", "phones_n", "aligned", "never"]}, {"features": {"mel": 3}}, {"features": {"no": "0"}},
        {"crc32c": {}}, {"crc32c": []}, {"crc32c": None},
        *({"dead_channels": value} for value in ([1], [0, 0, 0], "00", [0, -1], [0, 1 << 31], [0, True], [0, 1.0])),
        {"dead_channels": None}, {"clipped_samples": [1]}, {"clipped_samples": [0, -1]},
    ],
)  # fmt: skip
def test_a_seal_that_is_none_is_refused(root: Path, changes: dict[str, Any]) -> None:
    edit_seal(root, 0, **changes)
    with pytest.raises(DamagedStore, match=r"is not the seal of a part .*: run store repair"):
        index.read_seals(root, [1, 0])


@pytest.mark.parametrize("name", ["frames", "aligned", "id", "text", "mel"])
def test_a_seal_has_a_checksum_of_each_array(root: Path, name: str) -> None:
    for value in (3, None):
        edit(
            layout.part_path(root, 2) / "zarr.json",
            lambda found, value=value: (
                found["seal"]["crc32c"].update({name: value}) if value else found["seal"]["crc32c"].pop(name)
            ),
        )
        with pytest.raises(DamagedStore, match="is not the seal of a part"):
            index.read_seal(root, 2)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("parts", np.asarray([0, 1, 2], np.int64)),
        ("bounds", np.asarray([0, 2, 3, 6], np.int32)),
        ("parts", np.asarray([[0], [1], [2]], np.int32)),
        ("bounds", np.asarray([[0], [2], [3], [6]], np.int64)),
        ("parts", np.asarray([0, 1, 1], np.int32)),
        ("parts", np.asarray([0, 2, 1], np.int32)),
        ("parts", np.asarray([-1, 1, 2], np.int32)),
        ("parts", np.asarray([0, 1], np.int32)),
        ("bounds", np.asarray([0, 2, 6], np.int64)),
        ("bounds", np.asarray([1, 2, 3, 6], np.int64)),
        ("bounds", np.asarray([0, 3, 2, 6], np.int64)),
    ],
)  # fmt: skip
def test_parts_and_bounds_that_contradict_themselves_are_refused(root: Path, name: str, values: np.ndarray) -> None:
    replace(root, name, values, ("one", "two")[: values.ndim])
    with pytest.raises(DamagedStore, match=r"does not say which utterances belong to . parts: run store repair"):
        index.read(root)


@pytest.mark.parametrize(
    "values", [np.ones(5, np.int32), np.ones(7, np.int32), np.ones(6, np.int64), np.ones((6, 1), np.int32)]
)
def test_a_column_of_another_shape_is_refused_when_the_store_is_opened(root: Path, values: np.ndarray) -> None:
    replace(root, "frames", values, ("one", "two")[: values.ndim])
    with pytest.raises(DamagedStore, match=r"frames is .*, index/bounds says int32\(6,\)"):
        index.read(root)


@pytest.mark.parametrize("values", [np.ones(6, np.int32), np.ones(5, np.int32)])
def test_names_of_another_kind_are_refused_when_they_are_read(root: Path, values: np.ndarray) -> None:
    replace(root, "id", values)
    with pytest.raises(DamagedStore, match="run store repair"):
        index.read(root).names["id"]


@pytest.mark.parametrize("bounds", [[0, 1, 3, 6], [0, 2, 4, 6]])
def test_the_first_and_the_last_part_are_compared_with_their_seals(root: Path, bounds: list[int]) -> None:
    replace(root, "bounds", np.asarray(bounds, np.int64), ("bound",))
    with pytest.raises(DamagedStore, match=r"utterances of part 0000[02], its seal has"):
        index.read(root)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: found["columns"].remove("aligned"), "other columns than part 00000"),
        (lambda found: found["columns"].append("id"), "int32"),
        (lambda found: found["arrays"].pop("bounds"), "not that of an index"),
        (lambda found: found["arrays"].pop("language"), "not that of an index"),
        (lambda found: found["arrays"].update(frames=3), "not that of an index"),
        (lambda found: found.pop("columns"), "not that of an index"),
        (lambda found: found.pop("fingerprint"), "not that of an index"),
        (lambda found: found.update(columns=3), "not that of an index"),
        (lambda found: found.update(arrays=[]), "not that of an index"),
        (lambda found: found.pop("arrays"), "written by another version"),
    ],
)
def test_metadata_that_are_none_of_an_index_are_refused(
    root: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    edit(root / "index" / "zarr.json", change)
    with pytest.raises(DamagedStore, match=reason):
        index.read(root)


def test_an_index_that_a_build_replaces_or_deletes_while_it_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = index.read_seals, list[Callable[[], object]]()

    def read_seals(path: Path, numbers: list[int]) -> list[dict[str, Any]]:
        if steps:
            steps.pop()()
            raise DamagedStore("the index has others")
        return real(path, numbers)

    monkeypatch.setattr(index, "read_seals", read_seals)
    file = root / "index" / "zarr.json"
    steps.append(lambda: edit(file, lambda found: found.update(fingerprint="another")))
    assert index.read(root).fingerprint == "another", "it is read again"
    steps.extend([lambda: None] * 5)
    with pytest.raises(DamagedStore, match="has others"):
        index.read(root)
    assert 0 < len(steps) < 5
    steps[:] = [lambda: index.delete(root)]
    assert index.read(root).fingerprint == index.derive(root).fingerprint != "another"


def test_what_is_read_later_comes_from_the_index_that_was_opened_or_from_the_parts(root: Path) -> None:
    opened, damaged, replaced, deleted = (index.read(root) for _ in range(4))
    data = root / "index" / "frames" / "c" / "0"
    good = data.read_bytes()
    data.write_bytes(bytes(len(good)))
    with pytest.raises(DamagedStore):
        damaged.columns["frames"]
    data.write_bytes(good)
    assert opened.columns["frames"].tolist() == [5, 6, 7, 8, 9, 10]
    replace(root, "frames", np.arange(6, dtype=np.int32))
    assert replaced.columns["frames"].tolist() == [5, 6, 7, 8, 9, 10]
    assert index.read(root).columns["frames"].tolist() == [0, 1, 2, 3, 4, 5]
    index.delete(root)
    assert deleted.columns["frames"].tolist() == [5, 6, 7, 8, 9, 10] and deleted.names["id"][3] == "s2/ünï 0.wav"


def test_parts_are_compared_with_their_checksums_where_that_is_asked_for(root: Path) -> None:
    index.delete(root)
    data = layout.part_path(root, 1) / "speaker" / "c" / "0"
    damaged = bytearray(data.read_bytes())
    damaged[damaged.index(b"s1") + 1] ^= 1
    data.write_bytes(damaged)
    assert index.read(root).names["speaker"].tolist()[2] == index.derive(root).names["speaker"][2] == "s0"
    with pytest.raises(DamagedStore):
        index.read(root, check=True).names["speaker"]


def test_an_index_that_is_gone_is_made_up_for_by_parts_that_are_compared_where_that_is_asked_for(root: Path) -> None:
    trusting, checking = index.read(root), index.read(root, check=True)
    index.delete(root)
    data = layout.part_path(root, 1) / "frames" / "c" / "0"
    data.write_bytes(np.asarray([9], np.int32).tobytes())
    assert trusting.columns["frames"].tolist() == [5, 6, 9, 8, 9, 10]
    with pytest.raises(DamagedStore, match="frames"):
        checking.columns["frames"]


def test_an_index_is_written_in_place_of_the_one_that_is_there(root: Path) -> None:
    replace(root, "frames", np.arange(6, dtype=np.int32))
    (root / "index" / "old").mkdir()
    index.write(root, index.derive(root))
    assert index.read(root).columns["frames"].tolist() == [5, 6, 7, 8, 9, 10]
    assert not (root / "index" / "old").exists()


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("frames", np.asarray([7, 7], np.int32), "has 2 values for 1 utterances"),
        ("frames", np.asarray([], np.int32), "has 0 values for 1 utterances"),
        ("frames", np.asarray([7.0], np.float32), "holds float32, which frames never is"),
        ("frames", np.asarray([8], np.int32), "has 8 frames, its seal says 7"),
        ("id", np.asarray([7], np.int32), "holds int32, which id never is"),
    ],
)  # fmt: skip
def test_a_part_that_contradicts_its_seal_is_told(root: Path, name: str, values: np.ndarray, reason: str) -> None:
    index.delete(root)
    write_array(layout.part_path(root, 1) / name, values, "none")
    with pytest.raises(DamagedStore, match=reason):
        index.derive(root).names["id"]


def test_parts_of_different_columns_are_told(root: Path) -> None:
    index.delete(root)
    columns = index.read_seal(root, 1)["columns"]
    edit_seal(root, 1, columns=columns[::-1])
    with pytest.raises(DamagedStore, match="have different columns: run store verify"):
        index.derive(root)


@pytest.mark.unaccounted
def test_dead_channels_are_those_of_the_seals_and_none_where_they_were_not_counted(root: Path) -> None:
    for number, counts in ((0, [0, (1 << 31) - 1]), (1, [])):
        edit_seal(root, number, dead_channels=counts)
    found = index.recording_counts(root, [1, 0, 2], "dead_channels")
    assert found.tolist() == [0, 0, (1 << 31) - 1, 0, 0, 0] and found.dtype == np.int32
    assert index.recording_counts(root, [], "dead_channels").shape == (0,)
