"""The order of syncs, seen from outside: what is renamed into place was flushed before, and its folder after."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.training_store import build

CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += 0$")
PATHS = re.compile(r'"([^"]*)"')
HANDLE = re.compile(r"^\d+<(.*)>$")


@cache
def cannot_trace() -> str:
    """Return why strace cannot be used here; empty if it can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"strace is not permitted here: {tried.stderr.strip()}"


@pytest.fixture(scope="module", autouse=True)
def _traceable() -> None:
    if reason := cannot_trace():
        pytest.skip(reason)


def traced(log: Path, *command: object) -> list[tuple[str, ...]]:
    """Run a command, and return its successful syncs and renames in order: ("fsync", path), ("rename", from, to)."""
    trace = "trace=fsync,fdatasync,rename,renameat,renameat2"
    program = ["strace", "-f", "-y", "-qq", "-s", "4096", "-e", trace, "-o", str(log), sys.executable, "-m"]
    ended = subprocess.run([*program, *map(str, command)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return list(_events(log.read_text()))


def _events(log: str) -> Iterator[tuple[str, ...]]:
    """Yield events; a call that was interrupted by another thread's is put together when it returns."""
    begun: dict[str, str] = {}
    for line in log.splitlines():
        number = line.split()[0]
        if line.endswith("<unfinished ...>"):
            begun[number] = line.removesuffix("<unfinished ...>").rstrip()
            continue
        if " resumed>" in line:
            line = begun.pop(number) + line.partition(" resumed>")[2]
        if not (call := CALL.match(line)):
            continue
        name, arguments = call.groups()
        if name.startswith("rename"):
            yield "rename", *PATHS.findall(arguments)
        elif handle := HANDLE.match(arguments):
            yield "fsync", handle[1]


def assert_order(events: list[tuple[str, ...]], root: Path, expected: list[str]) -> None:
    """Assert that every rename under a folder is of flushed files, and is followed by a flush of the folder it is in.

    Args:
        expected: patterns of names, relative to `root`, that must have been renamed into place.
    """
    placed = []
    for at, event in enumerate(events):
        if event[0] != "rename" or not event[2].startswith(str(root)) or _is_trash(event[2]):
            continue
        _, source, target = event
        flushed = {path for kind, path, *_ in events[:at] if kind == "fsync"}
        assert source in flushed, f"{target} was renamed before it was flushed"
        after = [path for kind, path, *_ in events[at:] if kind == "fsync"]
        assert str(Path(target).parent) in after, f"the folder of {target} was not flushed"
        placed.append(Path(target).relative_to(root).as_posix())
    for pattern in expected:
        assert any(re.fullmatch(pattern, name) for name in placed), (pattern, placed)


def _is_trash(path: str) -> bool:
    """Return whether what is renamed there is about to be deleted."""
    return Path(path).name.startswith(("gone-", "trash-"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("sync") / "store", frames=(20, 24, 30, 33), parts=1).path


def test_a_training_run(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    command = ("headrace.train", "run", store, "--out", out, "--stage", "gpt", "--preset", "tiny", "--max-steps", 1)
    events = traced(tmp_path / "log", *command)
    files = [r"config\.json", r"metrics\.jsonl", r"checkpoints/step-00000001\.pt", r"curves\.png"]
    assert_order(events, out, files)
    flushed = [path for kind, path, *_ in events if kind == "fsync"]
    assert flushed.index(str(tmp_path)) < flushed.index(str(out)), "the name of the run's folder is on disk first"
    checkpoint = next(at for at, event in enumerate(events) if event[-1].endswith("step-00000001.pt"))
    assert ("fsync", str(out / "metrics.jsonl")) in events[:checkpoint], "a checkpoint knows more than the metrics"
