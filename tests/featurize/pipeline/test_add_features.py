"""`featurize add`: features join sealed parts, whatever happens on the way, and nothing that was there changes."""

from __future__ import annotations

import errno
import fcntl
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.cli.store import main as store_command
from headrace.featurize.features.derived import F0, Derived, Part, sealed_part
from headrace.featurize.pipeline import feature_registry
from headrace.store.errors import DamagedStore
from headrace.store.integrity.checksummed_metadata import with_checksum
from headrace.store.integrity.verify import verify
from headrace.train.config import RunConfig
from headrace.train.trainer import loop
from tests.helpers import training_store
from tests.helpers.commands import add, build, call, part_bytes
from tests.helpers.corpora import make_tree

PARTS = 4


def everything(root: Path) -> dict[str, bytes]:
    """All that a store holds, but for the account of what was done."""
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    return {name: data for name, data in files.items() if name not in (".lock", "add.json")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of wave, mfcc and phones."""
    return training_store.build(tmp_path_factory.mktemp("plain") / "STORE", parts=PARTS).path


@pytest.fixture(scope="module")
def added(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with F0 and energy."""
    root = shutil.copytree(plain, tmp_path_factory.mktemp("added") / "STORE")
    assert add(root, "f0,energy").exit_code == 0
    return root


@pytest.fixture
def root(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "STORE")


def test_every_utterance_has_what_was_added(plain: Path, added: Path) -> None:
    opened = store.open(added)
    assert list(opened.features) == [*store.open(plain).features, "f0", "energy"] and not list(verify(added))
    for number in range(len(opened)):
        wave = opened.read("wave", number)
        for name in ("f0", "energy"):
            of = Part(opened.features, {"wave": [wave]}.__getitem__)
            assert np.array_equal(opened.read(name, number), next(feature_registry.DERIVED_FEATURES[name]().rows(of)))
            assert len(opened.read(name, number)) == opened.frames[number]
    assert abs(np.median(opened.read("f0", 19)) - 290) < 1, "the tone of utterance 19"
    account = json.loads((added / "add.json").read_text())["added"]
    assert account["f0"]["parts_built"] == PARTS and account["f0"]["hours_per_second"] > 0


def test_nothing_that_was_there_changes_but_the_list_of_features(plain: Path, added: Path) -> None:
    before, after = everything(plain), everything(added)
    assert {name for name in before if before[name] != after[name]} == {"zarr.json"}
    new = {name.split("/")[2] for name in after.keys() - before.keys()}
    assert new == {"f0", "energy"} and not (added / "tmp").exists()


def test_zarr_alone_reads_it_and_is_told_what_it_is(added: Path) -> None:
    group = zarr.open_group(added / "parts" / "00001", mode="r")
    offsets = np.concatenate(([0], np.cumsum(group["frames"][:])))
    assert np.array_equal(group["f0"][offsets[2] : offsets[3]], store.open(added).read("f0", 5 + 2))
    assert group["f0"].attrs["seal"]["recipe"]["floor"] == 75.0


def test_adding_twice_does_nothing(added: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in added.rglob("*") if p.is_file() and p.name not in ("add.json", ".lock")}
    result = add(added, "energy,f0", "--json")
    assert result.exit_code == 0 and result.stderr == ""
    assert [account["parts_built"] for account in json.loads(result.stdout)["added"].values()] == [0, 0]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_any_number_of_workers_writes_the_same_bytes(root: Path, added: Path) -> None:
    assert call(featurize, "add", root, "f0,energy", "--workers", 2).exit_code == 0
    assert everything(root) == everything(added)


def test_one_feature_after_the_other_is_the_same_as_both(root: Path, added: Path) -> None:
    assert add(root, "f0").exit_code == 0 and add(root, "energy").exit_code == 0
    assert everything(root) == everything(added)


def test_another_recipe_is_refused_field_by_field(added: Path) -> None:
    before = everything(added)
    result = add(added, "energy,f0", "--f0-floor", 50)
    assert result.exit_code == 1 and "f0 made with floor=75.0, and floor=50.0 was asked for" in result.stderr
    marked = [line.split() for line in result.stderr.splitlines() if line.endswith("differs")]
    assert marked == [["floor", "75.0", "50.0", "differs"]]
    assert any(line.split() == ["ceiling", "600.0", "600.0"] for line in result.stderr.splitlines())
    assert everything(added) == before


def test_what_was_begun_is_finished_by_the_same_options_alone(root: Path) -> None:
    add(root, "f0", "--f0-floor", 60)
    unfinished(root, "f0")
    refused = add(root, "f0")
    assert refused.exit_code == 1 and "finish that with the same options" in refused.stderr
    assert add(root, "f0", "--f0-floor", 60).exit_code == 0 and not list(verify(root))


def unfinished(root: Path, name: str) -> None:
    """As if killed before the last part."""
    document = json.loads((root / "zarr.json").read_text())
    features = document["attributes"]["features"]
    document["attributes"]["features"] = [spec for spec in features if spec["name"] != name]
    (root / "zarr.json").write_bytes(with_checksum(document))
    shutil.rmtree(root / "parts" / f"{PARTS - 1:05d}" / name)


def test_between_two_parts_readers_see_the_store_as_it_was(plain: Path, root: Path, added: Path) -> None:
    before = store.open(root)
    assert add(root, "energy,f0").exit_code == 0
    assert np.array_equal(before.read("wave", 3), store.open(plain).read("wave", 3)) and "f0" not in before.features
    unfinished(root, "f0")
    opened = store.open(root)
    assert list(opened.features) == [*store.open(plain).features, "energy"] and not list(verify(root))
    assert add(root, "f0").exit_code == 0
    assert part_bytes(root) == part_bytes(added)


def test_a_full_disk_is_one_line_and_the_same_command_completes(
    root: Path, added: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("headrace.store.storage.local.os.fsync", full)
        result = add(root, "f0,energy")
    assert result.exit_code == 1 and "No space left" in result.stderr and "f0" not in store.open(root).features
    assert add(root, "f0,energy").exit_code == 0 and everything(root) == everything(added)


@pytest.mark.parametrize(
    "features, words, code, line",
    [
        ("mel", (), 2, "mel cannot be added; choose from f0, energy"),
        (",", (), 2, "choose from f0, energy"),
        ("energy", ("--f0-floor", 50), 2, "floor of f0 was given, but f0 was not asked for"),
        ("f0", ("--f0-floor", 700), 2, "f0 from 700 to 600 Hz"),
    ],
)
def test_mistakes_end_in_one_line(plain: Path, features: str, words: tuple[object, ...], code: int, line: str) -> None:
    result = add(plain, features, *words)
    assert result.exit_code == code and line in result.stderr and result.stderr.count("Error") == 1


def test_stores_that_cannot_be_added_to_are_refused(root: Path, tmp_path: Path) -> None:
    assert add(tmp_path, "f0").exit_code == 1 and "is not a Headrace store" in add(tmp_path, "f0").stderr
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Another command is writing" in add(root, "f0").stderr
    shutil.rmtree(root / "parts" / "00002")
    assert "is not complete: run featurize build again" in add(root, "f0").stderr


def test_without_waveforms_there_is_no_f0(tmp_path: Path) -> None:
    corpus = make_tree(tmp_path / "corpus", 3)
    assert build(corpus, tmp_path / "S", "--features", "mel").exit_code == 0
    assert "f0 is made from wave, and there is only mel" in add(tmp_path / "S", "f0").stderr
    assert build(corpus, tmp_path / "T", "--features", "mel,f0").exit_code == 0
    assert list(store.open(tmp_path / "T").features) == ["wave", "mel", "f0"], "a build brings along what is needed"


def test_a_build_with_f0_is_a_build_and_an_add(tmp_path: Path) -> None:
    corpus = make_tree(tmp_path / "corpus", 8)
    words = ("--part-hours", 0.001, "--compression", "zstd")
    assert build(corpus, tmp_path / "A", *words, "--features", "wave,mel").exit_code == 0
    assert add(tmp_path / "A", "f0,energy").exit_code == 0
    whole = build(corpus, tmp_path / "B", *words, "--features", "wave,energy,mel,f0", "--json")
    assert set(json.loads(whole.stdout)["added"]) == {"f0", "energy"}
    assert part_bytes(tmp_path / "A") == part_bytes(tmp_path / "B") and not list(verify(tmp_path / "B"))
    again = build(corpus, tmp_path / "A", *words, "--features", "wave,mel", "--json")
    assert json.loads(again.stdout)["parts_built"] == 0 and part_bytes(tmp_path / "A") == part_bytes(tmp_path / "B")
    shutil.rmtree(tmp_path / "A" / "parts" / "00001")
    assert build(corpus, tmp_path / "A", *words, "--features", "wave,mel").exit_code == 0
    where = [problem.where for problem in verify(tmp_path / "A")]
    assert where == ["part 00001 f0", "part 00001 energy"]
    with pytest.raises(DamagedStore, match="run store verify"):
        store.open(tmp_path / "A").read("f0", 4)
    assert add(tmp_path / "A", "f0,energy").exit_code == 0
    assert part_bytes(tmp_path / "A") == part_bytes(tmp_path / "B") and not list(verify(tmp_path / "A"))


def test_scan_counts_what_is_to_be_added(tmp_path: Path) -> None:
    corpus = make_tree(tmp_path / "corpus", 3)
    plain, more = (
        json.loads(call(featurize, "scan", corpus, "--features", names, "--json").stdout)
        for names in ("wave,mel", "wave,mel,f0,energy")
    )
    frames = plain["hours"] * 3600 * 50
    assert abs(more["estimate"]["store_bytes"] - plain["estimate"]["store_bytes"] - 8 * frames) < 2


def test_flipped_bits_are_found_or_harmless(tmp_path: Path) -> None:
    root = training_store.build(tmp_path / "STORE", frames=(20, 24), parts=1).path
    assert add(root, "f0,energy").exit_code == 0
    random = np.random.default_rng(0)
    files = sorted(p for name in ("f0", "energy") for p in root.glob(f"parts/*/{name}/**/*") if p.is_file())
    whole, found = values(root), 0
    for _ in range(80):
        path = files[random.integers(len(files))]
        good = path.read_bytes()
        bad = bytearray(good)
        bad[random.integers(len(bad))] ^= 1 << random.integers(8)
        path.write_bytes(bytes(bad))
        if list(verify(root)):
            found += 1
        else:
            assert values(root) == whole, f"a flipped bit in {path} changed what is read, unseen"
        path.write_bytes(good)
    assert found > 40 and not list(verify(root))


def values(root: Path) -> list[bytes]:
    opened = store.open(root)
    return [opened.read(name, n).tobytes() for name in ("f0", "energy") for n in range(len(opened))]


def test_verify_names_the_part_and_the_array(added: Path, tmp_path: Path) -> None:
    root = shutil.copytree(added, tmp_path / "STORE")
    shard = root / "parts" / "00001" / "f0" / "c" / "0"
    shard.write_bytes(b"\1" + shard.read_bytes()[1:])
    (problem,) = verify(root)
    assert (problem.where, problem.what) == ("part 00001 f0 utt5 to utt9", "block 0 is not what was sealed")
    result = call(store_command, "verify", root)
    assert result.exit_code == 1 and "part 00001 f0 utt5 to utt9: block 0" in result.stdout


def test_an_array_of_another_part_is_not_taken_for_ours(added: Path, tmp_path: Path) -> None:
    """Two parts of one size, so that nothing but its seal can tell."""
    root = training_store.build(tmp_path / "STORE", frames=(20, 21, 20, 21), parts=2).path
    assert add(root, "f0").exit_code == 0
    shutil.rmtree(root / "parts" / "00001" / "f0")
    shutil.copytree(root / "parts" / "00000" / "f0", root / "parts" / "00001" / "f0")
    (problem,) = verify(root)
    assert problem.where == "part 00001 f0" and "was not made from the wave that is there" in problem.what
    assert "was made from other inputs: run featurize drop" in add(root, "f0").stderr


def test_fingerprints_tell_what_is_read(plain: Path, added: Path, root: Path) -> None:
    before, after = store.open(plain), store.open(added)
    read = ("wave", "mfcc", "phones")
    assert before.fingerprint_of(read) == after.fingerprint_of(read) == before.fingerprint
    assert len({after.fingerprint_of(names) for names in ((*read, "f0"), (*read, "energy"), read)}) == 3
    assert after.fingerprint == after.fingerprint_of(after.features) != before.fingerprint
    add(root, "f0", "--f0-floor", 60)
    assert store.open(root).fingerprint_of([*read, "f0"]) != after.fingerprint_of([*read, "f0"])


def test_a_training_run_goes_on_after_features_joined_its_store(root: Path, tmp_path: Path) -> None:
    options = {"preset": "tiny", "batch_frames": 200, "max_utterances": 2, "validate_every": 0}
    loop.start(
        RunConfig.from_options(store=root, out=tmp_path / "run", max_steps=1, **options), training_store.Silent()
    )
    assert add(root, "f0").exit_code == 0
    assert loop.resume(tmp_path / "run", {"max_steps": 2}, training_store.Silent())["steps"] == 2


def crossings() -> type[Derived]:
    """Return the feature that docs/extending.md shows, from the text of the page."""
    page = (Path(__file__).parents[3] / "docs" / "extending.md").read_text(encoding="utf-8")
    (shown,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Crossings" in block]
    module = types.ModuleType("crossings")
    sys.modules[module.__name__] = module  # where dataclasses look a class's annotations up
    exec(compile(shown, "docs/extending.md", "exec"), module.__dict__)
    made: type[Derived] = module.__dict__["Crossings"]
    return made


@dataclass(frozen=True, kw_only=True)
class Busiest(Derived):
    """The frame of an utterance with the most of them."""

    name, needs, axis, dtype = "busiest", ("crossings", "f0"), "utterance", "int32"

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for crossings in part.utterances("crossings"):
            yield np.array([crossings.argmax()], np.int32)


def test_a_feature_of_ones_own_and_what_it_needs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (crossings(), Busiest):
        monkeypatch.setitem(feature_registry.DERIVED_FEATURES, kind.name, kind)
    assert add(root, "busiest,f0", "--f0-floor", 60).exit_code == 0
    opened = store.open(root)
    assert list(opened.features)[-3:] == ["crossings", "f0", "busiest"] and not list(verify(root))
    assert opened.features["f0"].recipe["floor"] == 60
    for number in (0, 7, 19):
        wave = opened.read("wave", number)
        counts = [np.count_nonzero(np.sign(frame[1:]) != np.sign(frame[:-1])) for frame in wave]
        assert opened.read("crossings", number).tolist() == counts
        assert opened.read("busiest", number).tolist() == [int(np.argmax(counts))]


KILLED_AT_A_SYNC = """
import os, signal, sys
from headrace.store.storage import local
from tests.helpers.commands import add

left, sync = int(sys.argv[2]), local.fsync

def counted(path):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)

local.fsync = counted
sys.exit(add(sys.argv[1], "f0,energy").exit_code)
"""


@pytest.mark.parametrize("moment", [3, 29, 43])
def test_killed_between_two_writes_it_is_finished_to_the_same_bytes(root: Path, added: Path, moment: int) -> None:
    """Within the first array; of two features; between the last one's last array and its announcement."""
    kill_at(root, moment)
    assert "energy" not in store.open(root).features and not list(verify(root))
    assert ("f0" in store.open(root).features) == (moment > 22)
    assert add(root, "f0,energy").exit_code == 0
    assert everything(root) == everything(added)


def kill_at(root: Path, moment: int) -> None:
    """Every write ends with so many syncs: five for an array, two for the root."""
    command = [sys.executable, "-c", KILLED_AT_A_SYNC, str(root), str(moment)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@pytest.mark.soak
def test_killed_at_every_sync(plain: Path, added: Path, tmp_path: Path) -> None:
    for moment in range(1, 47):
        root = shutil.copytree(plain, tmp_path / str(moment))
        kill_at(root, moment)
        store.open(root).read("wave", 0)
        assert add(root, "f0,energy").exit_code == 0
        assert everything(root) == everything(added)


@pytest.mark.soak
def test_killed_ten_times_at_random_with_two_workers(tmp_path: Path) -> None:
    frames = tuple(range(100, 700, 3))
    root = training_store.build(tmp_path / "STORE", frames=frames, parts=40).path
    whole = shutil.copytree(root, tmp_path / "WHOLE")
    begun = time.monotonic()
    assert call(featurize, "add", whole, "f0,energy", "--workers", 2).exit_code == 0
    took, random, killed = time.monotonic() - begun, np.random.default_rng(0), 0
    script = "if __name__ == '__main__':\n    from headrace.cli.featurize import main; main()"
    for moment in random.uniform(0.2, 1.1, 10) * took:
        command = [sys.executable, "-c", script, "add", str(root), "f0,energy", "--workers", "2"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        store.open(root).read("wave", 0)
    assert killed >= 3 and add(root, "f0,energy").exit_code == 0
    assert everything(root) == everything(whole) and not list(verify(root))


def test_a_part_reads_like_its_store(added: Path) -> None:
    opened = store.open(added)
    part = sealed_part(added, 1, opened.features)
    for name in ("wave", "phones", "f0"):
        rows = list(part.utterances(name))
        assert len(rows) == 5 and all(np.array_equal(row, opened.read(name, 5 + n)) for n, row in enumerate(rows))
    assert isinstance(feature_registry.create_features(["f0"], {})[0], F0)
