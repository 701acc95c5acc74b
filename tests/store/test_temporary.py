"""Temporary folders of killed processes are deleted by the next command, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.store.storage.temporary import remove_abandoned, temporary_folder

pytest.importorskip("fcntl", reason="locks of files that end with their process are POSIX's")
SCRIPT = """
import sys, time
from headrace.store.storage.temporary import temporary_folder
with temporary_folder(sys.argv[1]) as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").touch()
    print(folder, flush=True)
    time.sleep(60)
"""


def killed(where: Path) -> Path:
    """Return the folder of a process that was killed."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(where)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    remove_abandoned(str(where))
    assert (folder / "deep" / "file").exists(), "it is in use"
    process.kill()
    process.communicate()
    return folder


def test_what_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    folder = killed(tmp_path)
    assert folder.exists()
    remove_abandoned(str(tmp_path))
    assert not list(tmp_path.iterdir())
    remove_abandoned(str(tmp_path / "nothing"))


def test_nothing_else_is_deleted(tmp_path: Path) -> None:
    where = tmp_path / "tmp"
    where.mkdir()
    other = killed(where)
    other.rename(where / "headrace-my-projects")  # of a person: it only looks like one of ours
    linked = killed(where)
    linked.rename(tmp_path / "there")
    linked.symlink_to(tmp_path / "there")
    unlocked = where / "headrace-abcdefgh"
    (unlocked / "file").mkdir(parents=True)
    behind = where / "headrace-behind__"
    behind.mkdir()
    (behind / ".in-use").symlink_to(tmp_path / "there" / ".in-use")
    remaining = {where / "headrace-my-projects", linked, unlocked, behind}
    if not os.getuid():
        of_another = killed(where)
        os.chown(of_another, 65534, 65534)
        remaining.add(of_another)
    with temporary_folder(str(where)) as used:
        remove_abandoned(str(where))
        assert set(where.iterdir()) == remaining | {used} and used.stat().st_mode & 0o777 == 0o700
    assert set(where.iterdir()) == remaining and (tmp_path / "there" / "deep" / "file").exists()


def test_a_folder_in_use_is_never_deleted(tmp_path: Path) -> None:
    def use(_: int) -> bool:
        with temporary_folder(str(tmp_path)) as folder:
            (folder / "file").touch()
            remove_abandoned(str(tmp_path))
            return (folder / "file").exists()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(200)))
    assert not list(tmp_path.iterdir())
