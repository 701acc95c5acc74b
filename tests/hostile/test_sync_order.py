"""The order of syncs, seen from outside: what gets a name is on disk before, and what comes later builds on it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.hostile.syncs import commands, trace
from tests.hostile.syncs.durability import Disk, in_order
from tests.hostile.syncs.trace import Event

PLACED = {
    "build": (
        *("parts/zarr.json", "zarr.json", "scan/zarr.json", "parts/00000", "parts/00002"),
        *("index", "rejects.jsonl", "build.json"),
    ),
    "add": ("parts/0000./energy", "zarr.json", "models/semantic.*", "parts/0000./semantic", "zarr.json", "add.json"),
    "repair": ("-index", "-parts/00002", "zarr.json", "index", "parts/zarr.json"),
    "import": ("parts/zarr.json", "zarr.json", "scan/zarr.json", "parts/00000", "index", "rejects.jsonl", "build.json"),
    "export-gpt-sovits": ("gpt-sovits",),
    "export-lhotse": ("lhotse",),
    "export-textgrid": ("textgrid",),
    "report": ("report.html",),
    "train": (
        *("config.json", "metrics.jsonl", "samples/step-00000001/.*wav", "samples/step-00000001/.*png"),
        *("checkpoints/step-00000001.pt", "curves.png"),
    ),
    "export-weights": ("voice.ckpt",),
}
"""By command, what gets its final name in which order: patterns of paths. `-` stands before what is taken away."""
FOLDERS = {"import": "IMPORTED/", "train": "new/RUN/"} | dict.fromkeys(("build", "add", "repair"), "STORE/")
METRICS = r"new/RUN/metrics\.jsonl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sync") / "work"


@pytest.fixture(scope="module")
def events(folder: Path) -> list[Event]:
    """What all the commands did."""
    if reason := trace.cannot_trace():
        pytest.skip(reason)
    folder.mkdir()
    return trace.traced(folder.parent / "log", folder, sys.executable, "-m", "tests.hostile.syncs.commands")


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_what_gets_its_name_is_on_disk_and_so_is_all_that_came_before(
    folder: Path, events: list[Event], name: str
) -> None:
    disk = Disk(str(folder), appended=(METRICS,))
    disk.replay(*trace.between(events, f"{name}-begins", f"{name}-ends"))
    assert not disk.faults
    below = FOLDERS.get(name, "")
    placed = [path.replace(below, "", 1) for path in disk.placed]
    assert not in_order(placed, PLACED[name]), placed


def test_a_checkpoint_never_knows_more_than_the_metrics(folder: Path, events: list[Event]) -> None:
    """metrics.jsonl is appended to, so it is not among what gets its name when it is complete."""
    start, found = trace.between(events, "train-begins", "train-ends")
    checkpoints = [at for at, event in enumerate(found) if event.target.endswith(".pt")]
    assert len(checkpoints) == 1
    for at in checkpoints:
        disk = Disk(str(folder), appended=(METRICS,))
        disk.replay(start, found[: at + 1])
        assert "new/RUN/metrics.jsonl" not in map(str, disk.pending())


LOG = """\
1 mkdir("/w/{unfinished}", 0700) = 0
1 openat(AT_FDCWD</w>, "{unfinished}/x", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3</w/{unfinished}/x>
1 write(3</w/{unfinished}/x>, ""..., 9) = 9
1 fsync(3</w/{unfinished}/x> <unfinished ...>
2 write(3</w/{unfinished}/x>, ""..., 9) = 9
1 <... fsync resumed>) = 0
1 fsync(3</w/{unfinished}/x>) = 0
1 rename("{unfinished}/x", "/w/a \\"\\303\\274") = 0
1 fsync(4</w>) = 0
1 mkdir("/w/a", 0700) = -1 EEXIST (File exists)
""".format(unfinished=".a.unfinished")


@pytest.mark.parametrize(
    ("left_out", "fault"),
    [
        (None, ""),
        (2, "was not on disk when"),  # something was written while the first sync ran
        (1, ""),
        (3, "is not on disk at the end"),
    ],
)
def test_the_check_sees_a_sync_that_is_missing(left_out: int | None, fault: str) -> None:
    lines = LOG.splitlines()
    syncs = [at for at, line in enumerate(lines) if "fsync" in line]
    numbers = {1: syncs[:2], 2: syncs[2:3], 3: syncs[3:], None: []}[left_out]
    kept = "\n".join(line for at, line in enumerate(lines) if at not in numbers)
    disk = Disk("/w")
    disk.replay(0, list(trace.events(kept, "/w")))
    assert disk.placed == ['a "ü']
    assert any(fault in found for found in disk.faults) if fault else not disk.faults
