"""What lies in a corpus folder: its files, sorted, without ever leaving it unasked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from headrace.store.schema import Reject

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".wma", ".webm", ".aiff", ".aif")
"""Suffixes of recordings, in any case. Of several recordings of one name LJSpeech's is the first in this order."""
HOW_TO_FOLLOW = "--follow-outside takes what is there into the corpus"

Listing = tuple[str, list[str]] | Reject
"""A folder, relative to the corpus, and the names of its files; or why there is none."""


def walk(root: Path, *, follow_outside: bool) -> Iterator[Listing]:
    """Every folder from `root` down, relative to `root`, with the names of its files; sorted.

    What begins with a dot is left out (macOS puts `._a.wav` beside `a.wav`), and so are links to folders within
    `root`, which come under their own names. `root` must be resolved. Holds one listing at a time.
    """
    pending, linked = [""], set[str]()
    while pending:
        folder = pending.pop()
        files: list[str] = []
        folders: list[str] = []
        for item in _listing(root, folder, follow_outside):
            if isinstance(item, Reject):
                yield item
            elif not _is_folder(item):
                files.append(item.name)
            elif _is_to_enter(item, root, linked):
                folders.append(join(folder, item.name))
        yield folder, files
        pending += reversed(folders)


def recordings(listings: Iterable[Listing]) -> Iterator[str | Reject]:
    """Paths, relative to the corpus, of all audio files."""
    for item in listings:
        if isinstance(item, Reject):
            yield item
        else:
            yield from (join(item[0], name) for name in item[1] if suffix(name) in AUDIO)


def _listing(root: Path, folder: str, follow_outside: bool) -> Iterator[os.DirEntry[str] | Reject]:
    try:
        with os.scandir(root / folder) as listing:
            found = sorted((item for item in listing if item.name[0] != "."), key=lambda item: item.name)
    except OSError as error:
        yield Reject(folder or ".", "scan", f"this folder cannot be listed: {error.strerror}")
        return
    for item in found:
        path = join(folder, item.name)
        if not path.isprintable() and _not_utf8(path):
            yield Reject(_not_utf8(path), "scan", "its name is not UTF-8: rename it")
        elif not follow_outside and _is_folder(item) and not is_inside(_target(item), root.as_posix()):
            yield Reject(path, "scan", f"this link leads out of the corpus; {HOW_TO_FOLLOW}")
        else:
            yield item


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _target(item: os.DirEntry[str]) -> str:
    return as_posix(os.path.realpath(item) if item.is_symlink() else item.path)


def _is_to_enter(item: os.DirEntry[str], root: Path, linked: set[str]) -> bool:
    """Whether this folder comes under no other name. Links out are remembered in `linked`: they may form rings."""
    if not item.is_symlink():
        return True
    target = _target(item)
    new = not is_inside(target, root.as_posix()) and target not in linked
    linked.add(target)
    return new


def _not_utf8(path: str) -> str:
    """`path` with its undecodable bytes spelled out, empty where it has none."""
    readable = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "" if readable == path else readable


def as_posix(path: str) -> str:
    """Return a path of this machine with slashes, as names of a corpus are written on every system."""
    return path.replace(os.sep, "/")


def is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
