"""Unfinished files and folders of a store on this machine: each has a name of its own, in a folder that only we make.

    FOLDER/.headrace-drafts/NAME-32 random hexadecimal digits

What a killed command left there is deleted by the next one that holds the same lock. Anything else that lies there, or
lies elsewhere under any name, is not ours and stays.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from headrace.store.errors import StoreError
from headrace.store.names import DRAFTS, shown

FORMER = "tmp"
"""Folder of the same kind in stores that earlier versions wrote."""
MAX_NAME_LENGTH = 120
_RANDOM = "[0-9a-f]{32}"
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")


def make_folder(folder: Path, name: str) -> Path:
    """Make an empty draft of a folder.

    Args:
        folder: the draft is made below it, and can be renamed to anything in it.
        name: of what is written, for a person.
    Raises:
        StoreError: a link is where drafts belong.
    """
    return _make(folder, name, Path.mkdir)


def make_file(folder: Path, name: str) -> Path:
    """Make an empty draft of a file. Arguments and errors are those of `make_folder`."""
    return _make(folder, name, lambda draft: draft.touch(exist_ok=False))


def unused(folder: Path, name: str) -> Path:
    """Return a path among the drafts at which nothing is, to rename something to that is to be deleted."""
    draft = make_file(folder, name)
    draft.unlink()
    return draft


def discard(draft: Path) -> None:
    """Delete a draft if it is still there, and the folder of the drafts if it was the last one."""
    if is_link(draft) or not draft.is_dir():
        draft.unlink(missing_ok=True)
    else:
        shutil.rmtree(draft, ignore_errors=True)
    with suppress(OSError):  # there are others
        draft.parent.rmdir()


def clear(folder: Path, name: str = "") -> None:
    """Delete the drafts below a folder, also those that a process still writes. The caller holds the lock.

    Each is renamed before it is deleted. Deleted file by file, a folder could be committed by its writer with half of
    it missing.

    Args:
        name: of the drafts to delete, as it was given when they were made; empty for all.
    """
    for drafts in (folder / DRAFTS, folder / FORMER):
        found = [] if is_link(drafts) else [one for one in names_in(drafts) if is_draft(drafts / one, name)]
        for one in found:
            trash = drafts / f"gone-{uuid.uuid4().hex}"
            with suppress(FileNotFoundError):  # its writer has just committed it
                (drafts / one).rename(trash)
                discard(trash)
        if drafts.name == DRAFTS and not is_link(drafts):
            with suppress(OSError):  # it is not there, or holds other things
                drafts.rmdir()


def is_draft(path: Path, name: str = "") -> bool:
    """Return whether something among the drafts is one, by its name: of ours, with a random part. A link is none."""
    pattern = f"{re.escape(_plain(name)) if name else _PLAIN.pattern}-{_RANDOM}"
    return re.fullmatch(pattern, path.name) is not None and not is_link(path)


def inside(root: Path, name: str) -> Path:
    """Return the path of something in a store that is to be written or deleted.

    Args:
        name: relative to the root, with slashes.
    Raises:
        StoreError: it would lie outside of the root, or behind a link.
    """
    path = root
    for one in name.split("/"):
        if not _PLAIN.fullmatch(one) or set(one) == {"."}:
            raise StoreError(f"{shown(name)} is no name of anything in {root}: nothing is written or deleted there.")
        path = path / one
        if is_link(path):
            raise StoreError(
                f"{path} is a link, and nothing behind links in a store is written or deleted: put what it leads to "
                f"in its place, or make {root} itself the link."
            )
    return path


def is_link(path: Path) -> bool:
    """Return whether a path is a symbolic link, or a junction of Windows."""
    return path.is_symlink() or getattr(os.path, "isjunction", lambda path: False)(path)


def names_in(folder: Path) -> list[str]:
    """Return the names of the files and folders directly in a folder; none if there is no such folder."""
    return os.listdir(folder) if folder.is_dir() else []


def _make(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    for _ in range(100):
        drafts = inside(folder, DRAFTS)
        drafts.mkdir(parents=True, exist_ok=True)
        draft = drafts / f"{_plain(name)}-{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):  # another writer has just removed the folder, empty as it was
            make(draft)
            return draft
    raise StoreError(f"{folder / DRAFTS} is removed again and again: leave it alone while it is written.")


def _plain(name: str) -> str:
    """Return a name without slashes and other special characters, short enough for any file system."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:MAX_NAME_LENGTH].lstrip(".") or "draft"
