"""Whatever happens to the bytes of a store is found; what is damaged goes, all else stays. Reading changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace import store
from headrace.cli.store import main as store_command
from headrace.store import index, layout
from headrace.store.errors import HeadraceError
from headrace.store.integrity.repair import repair
from headrace.store.integrity.verify import verify
from headrace.store.storage import local, storage_of
from headrace.store.storage.local import LocalStorage
from headrace.store.writer import Compression, create_store, write_part
from tests.helpers.commands import call
from tests.helpers.parts import ATTRIBUTES, LOUDNESS, add_loudness, make_part


def everything(root: Path) -> dict[str, bytes]:
    """All that a store holds, but for the lock and the accounts of what was done."""
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    return {name: data for name, data in files.items() if name not in (".lock", "add.json", "build.json")}


def make(root: Path, compression: Compression = "none") -> None:
    """Two parts, some arrays of several blocks, and a feature that joined them later."""
    frames = [5, 6, 40], [60, 90, 200, 900]
    create_store(root, ATTRIBUTES | {"plan": {"parts": len(frames), "utterances": 7}})
    for number, lengths in enumerate(frames):
        write_part(root, make_part(number, lengths), compression)
    index.write(root, index.derive(root))
    add_loudness(root, compression)
    storage_of(root).clear_temporary(root)


@pytest.fixture(scope="module", params=["none", "zstd"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("integrity") / "STORE"
    make(root, request.param)
    assert not list(verify(root)) and not list(verify(root, quick=True))
    return root


def read_all(root: Path, **how: Any) -> list[object]:
    """What a reader sees."""
    opened = store.open(root, **how)
    data = [opened.read(name, n).tobytes() for name in opened.features for n in range(len(opened))]
    columns = [opened.column(name).tolist() for name in opened.column_names]
    names = [values.tolist() for values in (opened.ids, opened.speakers, opened.languages, opened.texts)]
    return [data, columns, names, opened.features, opened.sample_rate, opened.hop, opened.fingerprint]


def flip(path: Path, random: np.random.Generator) -> bytes:
    """One random bit. Returns what was there."""
    good = path.read_bytes()
    bad = bytearray(good)
    bad[random.integers(len(bad))] ^= 1 << random.integers(8)
    path.write_bytes(bad)
    return good


def flips(root: Path, count: int, seed: int) -> Counter[str]:
    """Flip bits one at a time in any file of a store. Each is found, or does not show; and a reader that checks either
    stops or reads what was sealed."""
    kinds = defaultdict(list)
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name != ".lock"):
        kinds[path.relative_to(root).parts[0], path.name == "zarr.json"].append(path)
    random, before = np.random.default_rng(seed), read_all(root)
    counts = Counter[str]()
    for n in range(count):
        (kind, metadata), paths = list(kinds.items())[n % len(kinds)]
        path = paths[random.integers(len(paths))]
        good = flip(path, random)
        found = bool(list(verify(root)))
        try:
            same = read_all(root, check=True) == before
        except HeadraceError:
            same = None
        assert same is not False, f"a flipped bit in {path} was read as other data in spite of checking"
        assert found or (same and read_all(root) == before), f"a flipped bit in {path} changes what is read, unseen"
        of, met = "metadata" if metadata else "data", "found" if found else "harmless"
        counts[f"{of} in {kind}: {met}, with checking {'read as before' if same else 'refused'}"] += 1
        path.write_bytes(good)
    assert not list(verify(root))
    return counts


def test_flipped_bits_are_found_or_harmless(whole: Path) -> None:
    """In data, metadata and seals of parts and of what joined them, in the index and in the root."""
    counts = flips(whole, 75, seed=1)
    assert sum(counts[kind] for kind in counts if "found" in kind) > 60


@pytest.mark.soak
def test_two_thousand_flipped_bits(whole: Path) -> None:
    for kind, count in sorted(flips(whole, 1000, seed=2).items()):
        print(f"{count:5} {kind}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / "STORE")
    return tmp_path / "STORE"


def overwrite(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)


def data_of(root: Path, number: int, array: str) -> Path:
    return next(p for p in (root / layout.part_name(number) / array / "c").rglob("*") if p.is_file())


def test_verify_names_what_a_damaged_block_holds(root: Path) -> None:
    overwrite(data_of(root, 1, "wave"), 3 + (1 << 20))
    (problem,) = verify(root)
    assert (problem.part, problem.array, problem.drop) == (1, "wave", "part")
    assert problem.utterances == ("s1/ünï 3.wav",) and problem.what == "block 1 is not what was sealed"
    overwrite(data_of(root, 0, LOUDNESS.name), 4 * 30)
    joined_later, own = sorted(verify(root), key=lambda problem: str(problem.part))
    assert own == problem and joined_later.drop == "array" and len(joined_later.utterances) == 3


def test_quick_verification_finds_all_but_changed_numbers(root: Path) -> None:
    overwrite(data_of(root, 1, "wave"), 0)
    assert not list(verify(root, quick=True)) and len(list(verify(root))) == 1
    overwrite(data_of(root, 1, "text"), 9)
    os.truncate(data_of(root, 0, "mel"), 1000)
    overwrite(root / "parts" / "00000" / "phones" / "zarr.json", 50)
    os.remove(data_of(root, 1, LOUDNESS.name))
    found = {(problem.part, problem.array) for problem in verify(root, quick=True)}
    assert found == {(1, "text"), (0, "mel"), (0, "phones"), (1, LOUDNESS.name)}


def test_progress_ends_at_all_parts(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert not list(verify(root, watch=lambda done, parts: seen.append((done, parts))))
    assert seen == [(1, 2), (2, 2)]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "block": lambda root: overwrite(data_of(root, 1, "mel"), 1000),
    "seal": lambda root: overwrite(root / "parts" / "00001" / "zarr.json", 300),
    "no seal": lambda root: os.remove(root / "parts" / "00001" / "zarr.json"),
    "no data": lambda root: shutil.rmtree(root / "parts" / "00001" / "phones" / "c"),
    "names": lambda root: overwrite(data_of(root, 1, "id"), 12),
    "joined": lambda root: overwrite(data_of(root, 1, LOUDNESS.name), 0),
    "joined seal": lambda root: overwrite(root / "parts" / "00001" / LOUDNESS.name / "zarr.json", 200),
    "no joined": lambda root: shutil.rmtree(root / "parts" / "00001" / LOUDNESS.name),
    "index": lambda root: overwrite(data_of(root.parent / "STORE", 0, "../../index/frames"), 0),
    "no index": lambda root: shutil.rmtree(root / "index"),
    "both": lambda root: [DAMAGE[name](root) for name in ("joined", "block", "index")],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_repair_deletes_damaged_parts_only(root: Path, damage: str) -> None:
    before = everything(root)
    DAMAGE[damage](root)
    hurt = everything(root)
    said = repair(root, dry_run=True)
    assert everything(root) == hurt and not (root / ".lock").exists() and not (root / ".headrace-drafts").exists()
    done = repair(root)
    assert done == said and not done.unrepairable
    after = everything(root)
    of_joined = damage in ("joined", "joined seal", "no joined")
    gone = f"parts/00001/{LOUDNESS.name}/" if of_joined else "" if "index" in damage else "parts/00001/"
    kept = {name for name in before if not (gone and name.startswith(gone))}
    assert after.keys() == kept, "what was whole is there"
    changed = {name for name in kept if after[name] != before[name]}
    assert {name.split("/")[0] for name in changed} <= {"index", "zarr.json"}
    assert bool(done.withdrawn) == bool(gone) and (LOUDNESS.name in store.open(root).features) == (not gone)
    assert len(done.commands) == (0 if not gone else 1 if of_joined else 2)
    left = list(verify(root))
    assert [problem.what for problem in left] == (
        ["1 parts are not sealed yet, the first is 00001"] if gone == "parts/00001/" else []
    )
    assert len(read_all(root)[0])


class Killed(BaseException):
    pass


def killed_at(moment: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Let the `moment`th change of the file system from now on, and all after it, not happen. Returns the changes."""
    changes: list[str] = []

    def counted(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **kwargs: Any) -> Any:
            changes.append(name)
            if len(changes) > moment:
                raise Killed
            return change(*args, **kwargs)

        return act

    for owner, name in ((Path, "rename"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (shutil, "rmtree")):
        patch.setattr(owner, name, counted(name, getattr(owner, name)))
    patch.setattr(LocalStorage, "write", counted("write", LocalStorage.write))
    return changes


def test_a_repair_killed_at_any_moment_is_finished_by_the_next(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "fsync", lambda path: None)  # the power stays on
    DAMAGE["both"](root)
    overwrite(data_of(root, 0, LOUDNESS.name), 0)
    repair(shutil.copytree(root, tmp_path / "whole"))
    moment, killed = 0, True
    while killed:
        copy = shutil.copytree(root, tmp_path / "copy")
        with pytest.MonkeyPatch.context() as patch:
            changes = killed_at(moment, patch)
            with suppress(Killed):
                repair(copy)
        killed = len(changes) > moment
        repair(copy)
        assert everything(copy) == everything(tmp_path / "whole"), f"killed before change {moment}"
        shutil.rmtree(copy)
        moment += 4
    assert moment > 20


def test_a_store_with_nothing_intact_is_left_unchanged(root: Path) -> None:
    """As one looks that another version wrote."""
    for file in (root / "zarr.json", *root.glob("parts/0*/zarr.json")):
        file.write_bytes(file.read_bytes().replace(b'"crc32c": "', b'"checksum": "'))
    before = everything(root)
    result = call(store_command, "repair", root)
    assert result.exit_code == 1 and "build another store" in result.stderr and everything(root) == before


def test_inconsistencies_are_reported_and_nothing_is_deleted(tmp_path: Path) -> None:
    part = make_part(0, [5, 6])
    part.arrays["mel"][3, 7] = np.inf
    create_store(tmp_path, ATTRIBUTES | {"plan": {"parts": 1, "utterances": 2}})
    write_part(tmp_path, part)
    index.write(tmp_path, index.derive(tmp_path))
    before = everything(tmp_path)
    result = call(store_command, "repair", tmp_path, "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 1 and told["parts"] == [] and "not finite" in told["problems"][0]["what"]
    assert told["problems"][0]["utterances"] == ["s0/ünï 0.wav"] and everything(tmp_path) == before


READ_ONLY = """
import sys
from pathlib import Path
import numpy as np
from headrace import store
from headrace.store.integrity.repair import repair
from headrace.store.integrity.verify import verify

root, changes = sys.argv[1], []

def note(event, arguments):
    if event == "open":
        changing = set(arguments[1] or "r") & set("wax+") or arguments[2] & 3
    else:
        changing = event.split(".")[0] in ("os", "shutil") and event not in ("os.listdir", "os.scandir", "os.putenv")
    if changing and any(str(one).startswith(root) for one in arguments):
        changes.append((event, arguments))

sys.addaudithook(note)
for check in (False, True):
    opened = store.open(root, check=check)
    numbers = np.arange(len(opened))
    assert opened.find(opened.ids[3]) == 3 and len(opened.texts) == len(opened)
    opened.prefetch(opened.features, numbers)
    for name, spec in opened.features.items():
        opened.read(name, 3)
        rows = int(opened.lengths(spec.axis).max())
        batch = np.empty((len(numbers), rows, *spec.row_shape), spec.dtype)
        opened.read_into(name, opened.locate(spec.axis, numbers), batch)
assert not list(verify(Path(root))) and not list(verify(Path(root), quick=True))
assert not repair(Path(root), dry_run=True).problems
assert not changes, changes
"""


def states(root: Path) -> dict[Path, tuple[int, int, int]]:
    """Of every file and folder: size, and when it and its inode were changed."""
    stats = {path: path.stat() for path in (root, *root.rglob("*"))}
    return {path: (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats.items()}


def mounted_read_only(root: Path) -> list[str]:
    """What to run a command with so that it sees `root` on a read-only file system; nothing where that cannot be."""
    mounting = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && ! touch "$0/x" 2> /dev/null && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounting, str(root)]
    possible = (
        shutil.which("unshare") and not subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode
    )
    return prefix if possible else []


def test_reading_a_store_changes_nothing_and_tries_nothing(whole: Path) -> None:
    """Nor does it have to: it works where nothing can be written."""
    before = states(whole)
    command = [*mounted_read_only(whole), sys.executable, "-c", READ_ONLY, str(whole)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert states(whole) == before
