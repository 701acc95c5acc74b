"""Temporary folders that vanish with their process: at once if it ends, at the start of the next command if it is
killed.

Each holds a lock on a file in it for as long as it is used. Where the lock is free, nobody uses the folder any more.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where what a killed process left stays
    fcntl = None  # type: ignore[assignment]

PREFIX = "headrace-"
_NAME = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")
"""Of the folders that `tempfile` makes with this prefix."""
_LOCK, _UNLOCKED = ".in-use", ".new"


@contextmanager
def temporary_folder(where: str | None = None) -> Iterator[Path]:
    """Make a folder that only this user can enter, for the duration of a `with` block.

    Args:
        where: folder to make it in; that for temporary files by default.
    """
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=where, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / _UNLOCKED).open("wb") as lock:
            if fcntl:
                with suppress(OSError):  # a file system without locks: it has another name then, and is left alone
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    (folder / _UNLOCKED).rename(folder / _LOCK)  # it never has this name without being locked
            yield folder


def remove_abandoned(where: str) -> None:
    """Delete the folders of processes of this user that were killed.

    Args:
        where: the folders are directly in it. It may be shared with other users if it has the sticky bit.
    """
    if not fcntl:
        return
    with suppress(OSError), os.scandir(where) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):  # in use, or gone meanwhile
                    _remove(entry)


def _remove(entry: os.DirEntry[str]) -> None:
    """Delete a folder. Raises OSError if it is somebody else's, or in use."""
    if entry.stat(follow_symlinks=False).st_uid != os.getuid():
        return
    lock = os.open(os.path.join(entry.path, _LOCK), os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(entry.path, ignore_errors=True)
    finally:
        os.close(lock)
