"""Every small or derived file of a store may be lost or damaged: `store verify` sees it and `store repair` mends it, or
nothing depends on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace import store
from headrace.store import layout, learned_models, rejects
from headrace.store.errors import HeadraceError
from headrace.store.integrity import scan_record
from headrace.store.integrity.checksummed_metadata import with_checksum
from headrace.store.integrity.repair import repair
from headrace.store.integrity.verify import verify
from headrace.store.storage import local
from headrace.store.summary import summarize
from tests.helpers.parts import LOUDNESS, SCANNED, make_built_store

FRAMES = ([5, 6, 40], [60, 90, 100])
OTHER = ([5, 7, 41], [61, 90])


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("derived")
    make_built_store(folder / "STORE", FRAMES)
    make_built_store(folder / "OTHER", OTHER)
    return folder / "STORE", folder / "OTHER"


def flip(file: Path, place: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 0x20
    file.write_bytes(data)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "deleted": lambda file, other: file.unlink(),
    "emptied": lambda file, other: file.write_bytes(b""),
    "truncated": lambda file, other: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "flipped": lambda file, other: flip(file, 0.45),
    "of another store": lambda file, other: shutil.copy(other, file),
}
HARMLESS = ("build.json", "add.json")
BUILD, ADD, PUT_BACK = "featurize build", "featurize add", "put it back"
REMEDIES = {
    "zarr.json": BUILD,
    scan_record.FILE: BUILD,
    "parts/00000/zarr.json": BUILD,
    f"parts/00000/{LOUDNESS.name}/zarr.json": ADD,
}
"""What is not made again by repair, but by the command that it prints."""


FILES = (
    *REMEDIES,
    "parts/zarr.json",
    "index/zarr.json",
    "index/bounds/c/0",
    "index/frames/c/0",
    rejects.FILE,
    learned_models.model_file("speaker_vector"),
    *HARMLESS,
)


def seen(root: Path) -> list[object]:
    """What a reader sees."""
    opened = store.open(root)
    data = [opened.read(name, number).tobytes() for name in opened.features for number in range(len(opened))]
    columns = [opened.column(name).tolist() for name in opened.column_names]
    info = {key: value for key, value in summarize(opened).items() if key != "rejects"}
    return [data, columns, opened.ids.tolist(), opened.speakers.tolist(), opened.texts.tolist(), info]


@pytest.mark.parametrize(
    "damage", [pytest.param(each, marks=[pytest.mark.soak] * (each in ("emptied", "truncated"))) for each in DAMAGE]
)
def test_damage_is_seen_and_mended_or_harmless(
    stores: tuple[Path, Path], tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "fsync", lambda path: None)  # the power stays on
    whole, other = stores
    before = seen(whole)
    assert not list(verify(whole))
    for name in FILES:
        root = shutil.copytree(whole, tmp_path / "STORE")
        DAMAGE[damage](root / name, other / name)
        if (root / name).is_file() and (root / name).read_bytes() == (whole / name).read_bytes():
            shutil.rmtree(root)
            continue
        where = f"{name} {damage}"
        try:
            read = seen(root)
        except HeadraceError as error:
            assert "run store" in error.message or "featurize" in error.message, f"{where}: {error.message}"
            read = None
        problems = list(verify(root))
        if name in HARMLESS:
            assert read == before and not problems, where
        elif not problems:
            assert read == before, f"{where} is not seen"
        else:
            _mend(root, name, where, before)
        shutil.rmtree(root)


def _mend(root: Path, name: str, where: str, before: list[object]) -> None:
    done = repair(root)
    left = [problem.what for problem in verify(root)]
    if where.endswith("zarr.json of another store") and where.startswith(
        ("zarr", "scan")
    ):  # as intact as the right one: its sums are not those of the parts
        assert done.problems
        return
    if name in REMEDIES:
        assert any(command.startswith(REMEDIES[name]) for command in done.commands), where
        return
    assert not done.commands and seen(root) == before, where
    if name.startswith("models/"):
        assert len(left) == 1 and PUT_BACK in left[0], where
    elif name == rejects.FILE:
        listed, unreadable = rejects.read(root)
        assert not unreadable and not left and {reject.id for reject in listed} == {"x.wav", SCANNED.id}, where
    else:
        assert not left, f"{where}: {left}"


def test_an_emptied_group_of_parts_is_seen_and_made_again(stores: tuple[Path, Path], tmp_path: Path) -> None:
    root = shutil.copytree(stores[0], tmp_path / "STORE")
    group = root / "parts" / "zarr.json"
    group.write_bytes(b"")
    assert [problem.what for problem in verify(root)], "it is not seen"
    assert not repair(root).commands and group.read_bytes() == (stores[0] / "parts" / "zarr.json").read_bytes()
    assert not list(verify(root))


@pytest.mark.parametrize("missing", ["sample_rate", "hop", "preset", "features", "plan"])
def test_a_root_without_a_key_is_told_in_a_line(stores: tuple[Path, Path], tmp_path: Path, missing: str) -> None:
    """Its checksum holds: something else wrote it."""
    root = shutil.copytree(stores[0], tmp_path / "STORE")
    document = json.loads((root / "zarr.json").read_bytes())
    del document["attributes"][missing]
    (root / "zarr.json").write_bytes(with_checksum(document))
    with pytest.raises(HeadraceError, match=f"zarr.json lacks '{missing}': run store verify"):
        store.open(root)
    assert [problem.drop for problem in verify(root)] == ["root"]


@pytest.mark.parametrize("value", ["lzma", None, ["zstd"]])
def test_a_root_with_another_compression_is_told_in_a_line(
    stores: tuple[Path, Path], tmp_path: Path, value: object
) -> None:
    root = shutil.copytree(stores[0], tmp_path / "STORE")
    document = json.loads((root / "zarr.json").read_bytes())
    document["attributes"]["compression"] = value
    (root / "zarr.json").write_bytes(with_checksum(document))
    with pytest.raises(HeadraceError, match=r"zarr\.json cannot be used, its compression is .*: run store verify"):
        store.open(root)


def test_a_store_of_a_later_format_is_told(stores: tuple[Path, Path], tmp_path: Path) -> None:
    root = shutil.copytree(stores[0], tmp_path / "STORE")
    (root / "zarr.json").write_bytes((root / "zarr.json").read_bytes().replace(b"headrace-1", b"headrace-2"))
    with pytest.raises(HeadraceError, match="has format 'headrace-2', this version reads 'headrace-1': read it with"):
        store.open(root)


def test_a_repair_while_a_store_is_open_ends_in_a_line(stores: tuple[Path, Path], tmp_path: Path) -> None:
    root = shutil.copytree(stores[0], tmp_path / "STORE")
    opened = store.open(root)
    mel = opened.read("mel", 0).copy()
    (layout.part_path(root, 0) / "zarr.json").write_bytes(b"")
    repair(root)
    assert (opened.read("mel", 0) == mel).all() and len(opened.frames) == 6
    with pytest.raises(HeadraceError, match="run store verify"):
        opened.read("wave", 0)
    assert len(store.open(root)) == 3


def test_one_store_by_two_names_is_refused(stores: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(stores[0])
    for other in (stores[0] / ".." / "STORE", tmp_path / "link"):
        with pytest.raises(HeadraceError, match="is named twice"):
            store.open([stores[0], other])
