"""List the files of a corpus folder in sorted order. Links out of the folder are followed only if that is permitted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from headrace.store.schema import Reject

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".wma", ".webm", ".aiff", ".aif")
"""Suffixes of recordings, in lower case. If several recordings of LJSpeech have one name, the first suffix is used."""
FOLLOW_HINT = "--follow-outside includes it in the corpus"

Listing = tuple[str, list[str]] | Reject
"""A folder, relative to the corpus, with the names of its files; or a reject of a folder or file."""


def walk(root: Path, *, follow_outside: bool) -> Iterator[Listing]:
    """Yield every folder below `root`, relative to `root`, with the names of its files, sorted.

    Names that begin with a dot are skipped (macOS puts `._a.wav` beside `a.wav`), and so are links to folders within
    `root`, which are listed under their own names. Only one listing is held in memory.

    Args:
        root: a resolved path.
        follow_outside: whether links that lead out of `root` are followed.
    """
    pending, visited_targets = [""], set[str]()
    while pending:
        folder = pending.pop()
        files: list[str] = []
        folders: list[str] = []
        for item in _listing(root, folder, follow_outside):
            if isinstance(item, Reject):
                yield item
            elif not _is_folder(item):
                files.append(item.name)
            elif _should_enter(item, root, visited_targets):
                folders.append(join(folder, item.name))
        yield folder, files
        pending += reversed(folders)


def recordings(listings: Iterable[Listing]) -> Iterator[str | Reject]:
    """Yield the paths of all audio files, relative to the corpus, and pass rejects on."""
    for item in listings:
        if isinstance(item, Reject):
            yield item
        else:
            yield from (join(item[0], name) for name in item[1] if suffix(name) in AUDIO_SUFFIXES)


def _listing(root: Path, folder: str, follow_outside: bool) -> Iterator[os.DirEntry[str] | Reject]:
    try:
        with os.scandir(root / folder) as listing:
            items = sorted((item for item in listing if item.name[0] != "."), key=lambda item: item.name)
    except OSError as error:
        yield Reject(folder or ".", "scan", f"this folder cannot be listed: {error.strerror}")
        return
    for item in items:
        path = join(folder, item.name)
        if not path.isprintable() and _escaped_if_not_utf8(path):
            yield Reject(_escaped_if_not_utf8(path), "scan", "its name is not UTF-8: rename it")
        elif not follow_outside and _is_folder(item) and not is_inside(_target(item), root.as_posix()):
            yield Reject(path, "scan", f"this link leads out of the corpus; {FOLLOW_HINT}")
        else:
            yield item


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def _target(item: os.DirEntry[str]) -> str:
    return as_posix(os.path.realpath(item) if item.is_symlink() else item.path)


def _should_enter(item: os.DirEntry[str], root: Path, visited_targets: set[str]) -> bool:
    """Return whether a folder is not listed under another name. Targets outside of `root` are recorded: no cycles."""
    if not item.is_symlink():
        return True
    target = _target(item)
    is_new = not is_inside(target, root.as_posix()) and target not in visited_targets
    visited_targets.add(target)
    return is_new


def _escaped_if_not_utf8(path: str) -> str:
    """Return `path` with its undecodable bytes escaped, or an empty string if it has none."""
    escaped = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "" if escaped == path else escaped


def as_posix(path: str) -> str:
    """Return a path of this machine with slashes, as names in a corpus are written on every system."""
    return path.replace(os.sep, "/")


def is_inside(path: str, root: str) -> bool:
    """Return whether `path` is `root` or lies below it. Both are resolved POSIX paths."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def join(folder: str, name: str) -> str:
    """Return the path of `name` in `folder`, relative to the corpus; its root folder is an empty string."""
    return f"{folder}/{name}" if folder else name


def suffix(path: str) -> str:
    """Return the suffix of a path, with its dot, in lower case."""
    return os.path.splitext(path)[1].lower()
