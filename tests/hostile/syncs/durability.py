"""What would be on disk if the machine stopped: a model of files, folders and syncs, and the rules that it is held to.

A file is on disk up to its last flush. A name is in a folder on disk as of the last flush of that folder. What is
renamed keeps what it has of its own; the two folders have to be flushed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from tests.hostile.syncs.trace import Event

UNFINISHED = re.compile(
    r"\.headrace-drafts|\.headrace-[0-9a-f]{32}\.tmp|\..+\.unfinished|\.[0-9a-f]{32}\.unfinished|\.lock"
)
"""Names that do not count: drafts, what is about to be deleted among them, and locks."""
DATA = ""
"""Stands for the content of a file among the names in a folder."""


class Node:
    """A file or a folder."""

    def __init__(self) -> None:
        self.names: dict[str, Node] = {}
        self.changed: dict[str, int] = {}
        """Name in the folder, or DATA, to the number of the event that changed it."""
        self.synced = -1
        """Number of the event before which the last flush began."""

    def find(self, parts: Sequence[str]) -> Node:
        """Return what is at a path below; what was there before is taken as on disk."""
        node = self
        for part in parts:
            node = node.names.setdefault(part, Node())
        return node

    def pending(self, path: PurePosixPath) -> Iterator[PurePosixPath]:
        """Yield the paths of what may not be on disk, in this and below."""
        for name, at in self.changed.items():
            if at >= self.synced and not UNFINISHED.fullmatch(name):
                yield path / name if name else path
        for name, node in self.names.items():
            if not UNFINISHED.fullmatch(name):
                yield from node.pending(path / name)


class Disk:
    """The folder that a command works in, and what was placed there under a final name.

    Args:
        root: absolute path of the folder.
        appended: patterns of files, relative to it, that are written under their own name.
    """

    def __init__(self, root: str, appended: Iterable[str] = ()) -> None:
        self.placed: list[str] = []
        """Paths relative to the root, in the order in which they got their final names; `-PATH` lost it."""
        self.faults: list[str] = []
        self._root, self._appended = PurePosixPath(root), [re.compile(pattern) for pattern in appended]
        self._top, self._count = Node(), 0

    def replay(self, start: int, events: Sequence[Event]) -> None:
        """Follow the events of a command, and note what breaks a rule.

        Args:
            start: number of the first event.
        """
        for self._count, event in enumerate(events, start):
            path = self._relative(event.path)
            target = self._relative(event.target) if event.target else None
            if event.kind == "rename":
                self._rename(path, target)
            elif path is not None:
                getattr(self, f"_{event.kind}")(path, event)
        self._count += 1
        self.faults += [f"{path} is not on disk at the end" for path in self.pending() if not self._is_appended(path)]

    def pending(self) -> list[PurePosixPath]:
        """Return what may not be on disk now, relative to the root."""
        return list(self._top.pending(PurePosixPath()))

    def _relative(self, path: str) -> PurePosixPath | None:
        found = PurePosixPath(path)
        return found.relative_to(self._root) if found.is_relative_to(self._root) else None

    def _create(self, path: PurePosixPath, event: Event) -> None:
        folder = self._top.find(path.parts[:-1])
        if path.parts and path.name not in folder.names:
            folder.changed[path.name] = self._count
            folder.names[path.name] = Node()

    def _write(self, path: PurePosixPath, event: Event) -> None:
        if not _is_unfinished(path) and not self._is_appended(path):
            self.faults.append(f"{path} is written under its own name")
        self._top.find(path.parts).changed[DATA] = self._count

    def _sync(self, path: PurePosixPath, event: Event) -> None:
        self._top.find(path.parts).synced = event.begun

    def _remove(self, path: PurePosixPath, event: Event) -> None:
        self._note(path, "-")
        folder = self._top.find(path.parts[:-1])
        folder.names.pop(path.name, None)
        folder.changed[path.name] = self._count

    def _rename(self, source: PurePosixPath | None, target: PurePosixPath | None) -> None:
        node = Node()
        if source is not None:
            self._note(source, "-")
            folder = self._top.find(source.parts[:-1])
            node = folder.names.pop(source.name, node)
            folder.changed[source.name] = self._count
        if target is None:
            return
        if not _is_unfinished(target):
            self.faults += [f"{path} was not on disk when {target} got its name" for path in node.pending(target)]
            if source is None:
                self.faults.append(f"{target} came from another folder")
        self._note(target, "")
        folder = self._top.find(target.parts[:-1])
        folder.names[target.name] = node
        folder.changed[target.name] = self._count

    def _note(self, path: PurePosixPath, sign: str) -> None:
        """Note that something gets or loses its final name. All that came before must be on disk, in its folder too.

        Parts are independent of each other: several are made at the same time.
        """
        if _is_unfinished(path):
            return
        for earlier in self.pending():
            if not self._is_appended(earlier) and not (_in_part(earlier) and _in_part(path)):
                self.faults.append(f"{earlier} was not on disk when {sign}{path} changed")
        self.placed.append(f"{sign}{path}")

    def _is_appended(self, path: PurePosixPath) -> bool:
        return any(pattern.fullmatch(str(path)) for pattern in self._appended)


def _is_unfinished(path: PurePosixPath) -> bool:
    return any(UNFINISHED.fullmatch(part) for part in path.parts)


def _in_part(path: PurePosixPath) -> bool:
    return re.search(r"(^|/)parts/\d+(/|$)", str(path)) is not None


def in_order(placed: Sequence[str], patterns: Sequence[str]) -> str:
    """Return the first pattern that no path matches after those of the patterns before; empty if there is none."""
    rest = iter(placed)
    for pattern in patterns:
        if not any(re.fullmatch(pattern, path) for path in rest):
            return pattern
    return ""
