"""The fuzzer itself: it finds what it is for, names the mutation, and survives it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.store.errors import HeadraceError
from tests.helpers.fuzzing import Failure, find_failures, fuzz, mutate, snapshot

SEED = b'{"id": "a", "start": 0.25, "words": ["one", "two"]}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "neighbour.txt").write_text("not yours")
    return tmp_path / "corpus"


def failures_of(attack: Callable[[], object], folder: Path, **bounds: float) -> list[Failure]:
    """Run an attack at every mutation but the seed itself."""

    def attempt(data: bytes) -> None:
        if data != SEED:
            attack()

    return find_failures(attempt, [SEED], folder=folder, count=2, **bounds)  # type: ignore[arg-type]


def crash() -> None:
    ctypes.string_at(0)


def loop() -> None:
    while True:
        pass


def hang() -> None:
    time.sleep(600)


def hog() -> None:
    bytearray(1 << 30)


def hog_politely() -> None:
    try:
        bytearray(1 << 30)
    except MemoryError:
        raise HeadraceError("It is too large.") from None


def leave() -> None:
    os._exit(0)


@pytest.mark.parametrize(
    ("attack", "what"),
    [
        (lambda: int("x"), "ValueError at test_fuzzing.py:"),
        (exit, "SystemExit at "),
        (crash, "killed by SIGSEGV"),
        (os.abort, "killed by SIGABRT"),
        (loop, "more than 0.1 s of CPU time"),
        (hang, "not done after 0.5 s"),
        (hog, "MemoryError at test_fuzzing.py:"),
        (hog_politely, "too much memory"),
        (leave, "it ends the process"),
    ],
)
def test_finds_what_gets_through(folder: Path, attack: Callable[[], object], what: str) -> None:
    found = failures_of(attack, folder, seconds=0.1, memory=1 << 28)
    assert [failure.number for failure in found] == [0]
    assert what in found[0].what


@pytest.mark.parametrize(
    "attack",
    [
        lambda: Path("../evil").write_text(""),
        lambda: Path("../neighbour.txt").write_text("not thine"),
        lambda: Path("../neighbour.txt").unlink(),
        lambda: Path("../neighbour.txt").chmod(0o600),
        lambda: Path("..", "corpus-2").mkdir(),
        lambda: subprocess.run(["sh", "-c", "echo > ../evil; kill -SEGV $PPID"], check=False),
    ],
)
def test_finds_changed_files(folder: Path, attack: Callable[[], object]) -> None:
    found = failures_of(attack, folder)
    assert any("files beside its folder" in failure.what and str(folder.parent) in failure.what for failure in found)


def test_allows_results_errors_for_people_and_files_in_the_folder(folder: Path) -> None:
    def attempt(data: bytes) -> None:
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / "file").write_bytes(data)
        if data != SEED:
            raise HeadraceError("It is damaged.")

    fuzz(attempt, [SEED], folder=folder, count=600)


def test_names_a_mutation_of_a_later_batch_and_goes_on(folder: Path) -> None:
    rare = {number: mutate([SEED], number) for number in (7, 300, 301, 599)}

    def attempt(data: bytes) -> None:
        if data in rare.values():
            os.abort() if data == rare[300] else int("x")

    found = find_failures(attempt, [SEED], folder=folder, count=600)
    assert {failure.number: failure.what[:10] for failure in found} == {7: "ValueError", 300: "the proces"}
    with pytest.raises(pytest.fail.Exception, match=r"(?s)mutation 7: ValueError.*int\(\"x\"\).*mutation 300: the pro"):
        fuzz(attempt, [SEED], folder=folder, count=600)


def test_seeds_must_be_valid(folder: Path) -> None:
    with pytest.raises(HeadraceError):
        fuzz(refuse, [SEED], folder=folder, count=1)


def refuse(data: bytes) -> None:
    raise HeadraceError(f"{data!r} is damaged.")


def test_mutations_depend_on_their_number_alone() -> None:
    tokens = [b"MonoCut"]
    first = [mutate([SEED, b"other"], number, tokens) for number in range(500)]
    assert first == [mutate([SEED, b"other"], number, tokens) for number in range(500)]
    assert len(set(first)) > 400 and any(b"MonoCut" in data for data in first)
    assert [mutate([b""], number) for number in range(200)]  # an empty file is a seed as well


def test_is_quick(folder: Path) -> None:
    start = time.process_time() + sum(os.times()[2:4])
    fuzz(len, [SEED], folder=folder, count=2000)
    assert time.process_time() + sum(os.times()[2:4]) - start < 4


def test_snapshot_sees_what_is_within_links_no_further(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to("/")
    assert {Path(name).name for name in snapshot(tmp_path)} == {"a", "b", "link"}
