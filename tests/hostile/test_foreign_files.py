"""Names and links in a store that lead out of it, and what other programs and people put into it: nothing of that is
followed, deleted or in the way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.cli.store import main as store_command
from headrace.store import index, layout, rejects
from headrace.store.errors import HeadraceError, StoreError
from headrace.store.integrity import checksummed_metadata
from headrace.store.integrity.repair import repair
from headrace.store.integrity.verify import verify
from headrace.store.storage import drafts, storage_of
from headrace.store.writer import create_store, write_part
from tests.helpers.commands import add, call
from tests.helpers.corpora import make_tree
from tests.helpers.parts import ATTRIBUTES, LOUDNESS, add_loudness, make_built_store, make_part, make_store

BAD_NAMES = (
    *("../../../victim", "{victim}", "..", ".", "", "a/b", "a\\b", ".hidden", "Mel", "a\0b", "mel\n", "²", "x" * 300),
    *("\ud800", 3, None, ["mel"]),
)


def tree(folder: Path) -> dict[str, bytes | None]:
    """What lies below a folder, without locks. Links are not followed."""
    found = [Path(parent, name) for parent, folders, files in os.walk(folder) for name in (*folders, *files)]
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in found
        if path.name != ".lock"
    }


@pytest.fixture
def around(tmp_path: Path) -> Path:
    """A folder with a store in deep/STORE, and a victim beside it."""
    root = tmp_path / "deep" / "STORE"
    make_store(root)
    add_loudness(root)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.txt").write_text("years of work")
    (tmp_path / "victim" / "zarr.json").write_bytes((root / "zarr.json").read_bytes())
    return tmp_path


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the attributes in a `zarr.json`, and give it the checksum that fits."""
    document = json.loads(file.read_bytes())
    change(document["attributes"])
    file.write_bytes(checksummed_metadata.with_checksum(document))


def damage(root: Path, part: int = 1, array: str = "mel") -> None:
    file = next(path for path in (root / layout.part_name(part) / array / "c").rglob("*") if path.is_file())
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)


def test_features_that_are_no_names_are_refused(around: Path) -> None:
    root = around / "deep" / "STORE"
    before = tree(around)
    for name in BAD_NAMES:
        bad = name.format(victim=around / "victim") if isinstance(name, str) else name
        edit(root / "zarr.json", lambda found, bad=bad: found["features"][-1].update(name=bad))
        with pytest.raises(HeadraceError) as caught:
            store.open(root)
        assert caught.value.message.isprintable() and len(caught.value.message) < 500
        assert [problem.drop for problem in verify(root)] == ["root"] and repair(root).unrepairable
        (root / "zarr.json").write_bytes(before["deep/STORE/zarr.json"] or b"")
        assert tree(around) == before, f"{bad!r} led somewhere"


@pytest.mark.parametrize("bad", ["../../../../victim", "Mel", "a\0b"])
def test_columns_inputs_and_sealed_arrays_that_are_no_names_reach_no_file(around: Path, bad: str) -> None:
    root = around / "deep" / "STORE"
    victim = tree(around / "victim")
    edit(root / "index" / "zarr.json", lambda found: found["columns"].append(bad))
    with pytest.raises(StoreError, match="Headrace did not write this"):
        store.open(root)
    edit(root / "parts" / "00000" / "zarr.json", lambda found: found["seal"]["crc32c"].update({bad: "00000000"}))
    joined = root / "parts" / "00001" / LOUDNESS.name / "zarr.json"
    document = json.loads(joined.read_bytes())
    seal = document["attributes"]["seal"]
    blocks = seal.pop("crc32c")[8:]
    seal["inputs"] = {bad: "0"}
    seal["crc32c"] = checksummed_metadata.document_checksum(document) + blocks
    joined.write_bytes(checksummed_metadata.to_json_bytes(document))
    assert {(problem.part, problem.drop) for problem in verify(root)} == {(0, "part"), (1, "array")}
    repair(root)
    assert tree(around / "victim") == victim


def test_names_of_parts_are_those_that_layout_makes(tmp_path: Path) -> None:
    for name in ("00002", "100000", "2", "0002", "000003", "²", "٣", "-0004", "00004 ", "9" * 200, "._00005", "6.bak"):
        (tmp_path / "parts" / name).mkdir(parents=True)
    (tmp_path / "parts" / "00007").write_text("a file")
    assert layout.sealed_parts(tmp_path) == [2, 100000]


@pytest.mark.parametrize("name", ["index", "parts", "parts/00001", ".lock", "models", drafts.DRAFTS])
def test_a_link_in_place_of_what_is_ours_is_not_followed(around: Path, name: str) -> None:
    root, elsewhere = around / "deep" / "STORE", around / "elsewhere"
    damage(root)
    shutil.move(root / name, elsewhere) if (root / name).exists() else elsewhere.mkdir()
    (root / name).symlink_to(elsewhere)
    before = tree(around)
    result = call(store_command, "repair", root)
    assert result.exit_code == 1 and f"{name} is a link" in result.stderr and tree(around) == before


def test_other_links_and_a_store_that_is_one_are_no_hindrance(around: Path) -> None:
    root, victim = around / "deep" / "STORE", around / "victim"
    (root / "tmp").symlink_to(victim)
    (root / "parts" / "00001" / "notes").symlink_to(victim)
    (around / "LINK").symlink_to(root)
    before = tree(victim)
    damage(root, 0)
    result = call(store_command, "repair", around / "LINK")
    assert result.exit_code == 0 and "tmp: is not the store's" in result.stdout, result.output
    assert not (root / "parts" / "00000").exists() and (root / "parts" / "00001").exists()
    assert tree(victim) == before and (root / "tmp").is_symlink() and (root / "parts" / "00001" / "notes").is_symlink()


@pytest.mark.parametrize("told", [{"compression": "none"}, {}], ids=["compression", "no compression"])
def test_a_feature_is_added_beside_a_link_in_place_of_former_drafts(around: Path, told: dict[str, str]) -> None:
    root, victim = around / "deep" / "STORE", around / "victim"
    edit(root / "zarr.json", lambda found: found.update(told))
    shutil.rmtree(root / "tmp", ignore_errors=True)  # earlier versions kept drafts there
    (root / "tmp").symlink_to(victim)
    before = tree(victim)
    assert add(root, "level").exit_code == 0 and "level" in store.open(root).features
    assert tree(victim) == before and (root / "tmp").is_symlink()


def litter(root: Path) -> list[Path]:
    names = (".DS_Store", "Thumbs.db", "._x", "README", "notes/a.txt")
    folders = (root, root / "parts", root / "parts" / "00001", root / "parts" / "00001" / LOUDNESS.name, root / "index")
    files = [folder / name for folder in folders for name in names]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    return files


def test_foreign_files_are_named_and_left_and_in_nobodys_way(around: Path) -> None:
    root = around / "deep" / "STORE"
    data = store.open(root).read("mel", 3).tobytes()
    mine = litter(root)
    result = call(store_command, "verify", root)
    assert result.exit_code == 0 and "parts/00001/notes/a.txt: is not the store's, and is left" in result.stdout
    assert (
        "no problems" in result.stdout
        and len(json.loads(call(store_command, "verify", root, "--json").stdout)["foreign"]) == 25
    )
    damage(root, 0)
    damage(root, 1, LOUDNESS.name)
    result = call(store_command, "repair", root)
    assert result.exit_code == 0, result.output
    assert layout.sealed_parts(root) == [1] and not (root / "parts" / "00001" / LOUDNESS.name / "zarr.json").exists()
    assert all(file.read_text() == "mine" for file in mine)
    assert (root / "index" / "zarr.json").exists() and len(store.open(root, check=True)) == 7
    add_loudness(root)
    assert LOUDNESS.name in store.open(root, check=True).features and len(data)
    assert all(file.read_text() == "mine" for file in mine)


def test_a_damaged_part_that_holds_something_foreign_is_left_and_named(around: Path) -> None:
    root = around / "deep" / "STORE"
    (root / "parts" / "00001" / "README").write_text("mine")
    damage(root, 0)
    damage(root, 1)
    result = call(store_command, "repair", root)
    assert result.exit_code == 1 and "part 00001: is left" in result.stdout
    assert layout.sealed_parts(root) == [1] and (root / "parts" / "00001" / "README").read_text() == "mine"
    (root / "parts" / "00001" / "README").unlink()
    assert repair(root).parts == (1,)


def test_only_drafts_that_are_ours_are_deleted(tmp_path: Path) -> None:
    own = [drafts.make_file(tmp_path, "zarr.json"), drafts.make_folder(tmp_path, "parts/00000")]
    former = tmp_path / "tmp" / f"parts-00000-{'0' * 32}"
    former.mkdir(parents=True)
    mine = [tmp_path / drafts.DRAFTS / "notes", tmp_path / "tmp" / "notes", tmp_path / "tmp" / "parts-00000-old"]
    for file in mine:
        file.write_text("mine")
    link = tmp_path / drafts.DRAFTS / f"zarr.json-{'1' * 32}"
    link.symlink_to(mine[0])
    storage_of(tmp_path).clear_temporary(tmp_path)
    assert not any(draft.exists() for draft in (*own, former)) and link.is_symlink()
    assert {*os.listdir(tmp_path / drafts.DRAFTS)} == {"notes", link.name}
    assert {*os.listdir(tmp_path / "tmp")} == {"notes", "parts-00000-old"}
    assert all(file.read_text() == "mine" for file in mine)


def test_nothing_is_written_or_deleted_under_a_name_that_leads_elsewhere(tmp_path: Path) -> None:
    for name in ("..", ".", "...", "", "/etc", "parts/../../x", "parts//x", "parts/", "a\0b", "a b", "a\\b"):
        with pytest.raises(StoreError, match="is no name of anything"):
            drafts.inside(tmp_path, name)
    assert drafts.inside(tmp_path, "parts/00000") == tmp_path / "parts" / "00000"


@pytest.mark.parametrize("held", ["tmp/a.txt", "parts/00001/wheel.txt", "parts/a.txt", "zarr.json", ".lock", "tmp/"])
def test_a_folder_that_is_not_empty_and_no_store_is_refused(tmp_path: Path, held: str) -> None:
    out = tmp_path / "work"
    (out / held).parent.mkdir(parents=True)
    (out / held).mkdir() if held.endswith("/") else (out / held).write_text("mine")
    if held == ".lock":
        (out / "notes").write_text("mine")
    before = sorted(out.rglob("*"))
    result = call(featurize, "build", make_tree(tmp_path / "corpus", 2), "--out", out)
    assert result.exit_code == 2 and "is no store" in result.stderr and len(result.stderr.splitlines()) == 1
    assert sorted(out.rglob("*")) == before


def test_nothing_is_written_or_deleted_through_a_link_in_place_of_a_chunk_or_an_array(around: Path) -> None:
    root, outside = around / "deep" / "STORE", around / "outside"
    outside.mkdir()
    links = [root / "parts" / "00000" / "mel" / "c" / "0" / "0", root / "parts" / "00001" / LOUDNESS.name]
    for number, link in enumerate(links):
        link.rename(outside / str(number))
        link.symlink_to(outside / str(number))
    (outside / "0").write_bytes((outside / "0").read_bytes()[:-1] + b"?")
    (outside / "1" / "zarr.json").write_text("{}")
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    storage = storage_of(root)
    steps: tuple[Callable[[], object], ...] = (
        lambda: list(verify(root)),
        lambda: repair(root),
        lambda: add_loudness(root),
        lambda: storage.delete_folder(root, f"parts/00001/{LOUDNESS.name}"),
        lambda: storage.delete_folder(root, "parts/00000/mel"),
        lambda: storage.delete_folder(root, "parts/00000"),
        lambda: storage.write_atomic(root, f"parts/00001/{LOUDNESS.name}/zarr.json", b"mine"),
        lambda: repair(root),
    )
    for step in steps:
        with suppress(HeadraceError):
            step()
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    assert all(link.is_symlink() for link in links)


def _other_kinds(root: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Yield the paths of a store, of arrays only some, with a kind of thing that does not belong there."""
    arrays = ("mel", "loudness", "id", "bounds")
    for number, path in enumerate(sorted(root.rglob("*"))):
        name = path.relative_to(root).as_posix()
        parts = [part for part in name.split("/")[1:] if not part.isdigit()]
        if parts and not {parts[0], "zarr.json"} & {*arrays, "zarr.json"} and not name.startswith("models"):
            continue
        others = (Path.mkdir, os.mkfifo) if path.is_file() else (Path.touch, os.mkfifo)
        yield from ((name, make) for make in (others if path.parent == root else others[number % 2 :][:1]))


def _write_again(root: Path) -> None:
    """Write what a build writes again, where it is missing."""
    create_store(root, ATTRIBUTES | {"plan": {"parts": 1, "utterances": 2, "digest": ""}})
    if not layout.sealed_parts(root):
        write_part(root, make_part(0, [5, 6]))
    index.write(root, index.derive(root))
    rejects.write(root, [])
    add_loudness(root)


def test_nothing_of_another_kind_in_a_store_blocks_or_breaks_a_command(tmp_path: Path) -> None:
    """A folder or a pipe in place of a file, a file or a pipe in place of a folder: each error names what to do."""
    make_built_store(tmp_path / "whole", [[5, 6]])
    steps: tuple[Callable[[Path], object], ...] = (
        lambda root: store.open(root, check=True).read("mel", 0),
        lambda root: list(verify(root)),
        repair,
        _write_again,
        lambda root: list(verify(root)),
    )
    tried = 0
    for name, make in _other_kinds(tmp_path / "whole"):
        root = tmp_path / f"{tried}"
        shutil.copytree(tmp_path / "whole", root)
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)
        for step in steps:
            with suppress(HeadraceError):
                step(root)
        tried += 1
        shutil.rmtree(root)
    assert tried > 30


def test_a_folder_in_place_of_the_metadata_of_the_index_is_named(around: Path) -> None:
    root = around / "deep" / "STORE"
    metadata = root / "index" / "zarr.json"
    metadata.unlink()
    metadata.mkdir()
    with pytest.raises(StoreError, match=r"index/zarr\.json is in the way \(File exists\).*Move it away"):
        repair(root)
    assert metadata.is_dir()
    metadata.rmdir()
    assert repair(root).unrepairable == () and not list(verify(root))


def test_a_pipe_in_place_of_data_is_told_as_damage(around: Path) -> None:
    root = around / "deep" / "STORE"
    data = root / "parts" / "00000" / "mel" / "c" / "0" / "0"
    data.unlink()
    os.mkfifo(data)
    assert any("is not a regular file" in problem.what for problem in verify(root))


def test_repair_of_what_is_no_store_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for path in (tmp_path / "docs", tmp_path / "nowhere"):
        assert call(store_command, "repair", path).exit_code == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["docs"]
