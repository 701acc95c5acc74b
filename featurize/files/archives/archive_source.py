"""Read a corpus in archives as if they were folders: `shard-000.tar/a.flac` is the member `a.flac` of a tar."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from headrace.featurize.files import folders, source
from headrace.featurize.files.archives import reading, tar_members, zip_members
from headrace.featurize.files.archives.first_pass import FirstPass
from headrace.featurize.files.archives.members import Listed
from headrace.featurize.files.archives.members import Listing as Members
from headrace.featurize.files.source import NO_SUCH_FILE, Source
from headrace.store.errors import Rejected, rejected_file
from headrace.store.schema import Member, Reject
from headrace.store.storage import StoragePath

SUFFIXES = (".tar", ".zip")
_REMEMBERED = 8
"""Archives whose lists of members are held at a time."""
_COLLECTED_BYTES = 1 << 20
"""Smallest range that is read of an archive in a bucket to list its members."""


def is_archive(name: str) -> bool:
    """Return whether a file is an archive, by its suffix."""
    return folders.suffix(name) in SUFFIXES


class _Contents:
    """The members of an archive by name, and its folders."""

    def __init__(self, archive: str, members: Members, first_pass: FirstPass | None = None) -> None:
        self.first_pass = first_pass
        self.files: dict[str, Listed] = {}
        self.rejects: list[Reject] = []
        for item in members:
            if isinstance(item, Reject):
                self.rejects.append(item)
            elif item.name in self.files:
                name = f"{archive}/{item.name}"
                self.rejects.append(Reject(name, "scan", f"{name} for the second time in its archive: keep one"))
            else:
                self.files[item.name] = item
        self.folders: dict[str, tuple[list[str], list[str]]] = {"": ([], [])}
        for name in self.files:
            folder, _, file = name.rpartition("/")
            self._add_folder(folder)
            self.folders[folder][0].append(file)

    def _add_folder(self, folder: str) -> None:
        while folder not in self.folders:
            self.folders[folder] = [], []
            parent, _, name = folder.rpartition("/")
            self.folders.setdefault(parent, ([], []))
            self.folders[parent][1].append(name)
            folder = parent if parent not in self.folders else ""

    def walk(self, folder: str) -> Iterator[tuple[str, list[str]]]:
        """Yield a folder, and those below it, each with the sorted names of its files."""
        pending = [folder]
        while pending:
            folder = pending.pop()
            files, below = self.folders.get(folder, ([], []))
            yield folder, sorted(files)
            pending += [folders.join(folder, name) for name in sorted(below, reverse=True)]


class ArchiveSource:
    """The files of a corpus, and the members of the archives in it."""

    def __init__(self, files: Source, archive: str = "") -> None:
        """
        Args:
            files: of the corpus.
            archive: the one that is the whole corpus. Names are then relative to the only folder in it, if it has one.
        """
        self.root: StoragePath = files.root
        self.files_root: StoragePath = files.files_root
        self.threads = files.threads
        self._files, self._prefix = files, archive
        self._contents = lru_cache(maxsize=_REMEMBERED)(self._list)
        if archive:
            self._prefix = f"{archive}/{self._only_folder(archive)}".rstrip("/")
            self.root = files.root / self._prefix

    def _only_folder(self, archive: str) -> str:
        """Return the folder, however deep, that all members lie in and that holds more than one folder."""
        folder = ""
        while True:
            files, below = self._contents(archive).folders[folder]
            if files or len(below) != 1:
                return folder
            folder = folders.join(folder, below[0])

    def relative(self, path: str) -> str:
        if not self._prefix:
            return self._files.relative(path)
        name = posixpath.normpath(path)
        return self._files.relative(path) if name.startswith(("/", "../")) or "://" in path else name

    def size(self, name: str) -> int:
        archive, inner = self._split(name)
        if not archive:
            return self._files.size(name)
        found = self._listed(archive, inner)
        if not found:
            is_folder = inner in self._contents(archive).folders
            raise Rejected("scan", "it is not a regular file" if is_folder else NO_SUCH_FILE)
        return found.size

    def modified(self, name: str) -> int:
        return self._files.modified(self._split(name)[0] or name)

    def exists(self, name: str) -> bool:
        archive, inner = self._split(name)
        if not archive:
            return self._files.exists(name)
        contents = self._contents(archive)
        return inner in contents.files or inner in contents.folders

    def names(self, folder: str) -> list[str]:
        archive, inner = self._split(folder)
        if not archive:
            return self._files.names(folder)
        files, below = self._contents(archive).folders.get(inner, ([], []))
        return [*files, *below]

    def walk(self) -> Iterator[folders.Listing]:
        if self._prefix:
            yield from self._walk_archive(*self._split(""), "")
            return
        for item in self._files.walk():
            if isinstance(item, Reject):
                yield item
                continue
            folder, names = item
            yield folder, [name for name in names if not is_archive(name)]
            for archive in (folders.join(folder, name) for name in names if is_archive(name)):
                yield from self._walk_archive(archive, "", archive)

    def _walk_archive(self, archive: str, inner: str, where: str) -> Iterator[folders.Listing]:
        """Yield the folders in an archive below one of them, named below `where`, and what cannot be read of it."""
        contents = self._contents(archive)
        for folder, names in contents.walk(inner):
            below = folder[len(inner) :].lstrip("/")
            yield folders.join(where, below) if below else where, names
        yield from contents.rejects

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        archive, inner = self._split(name)
        return self._open_member(archive, inner) if archive else self._files.open(name)

    @contextmanager
    def _open_member(self, archive: str, inner: str) -> Iterator[BinaryIO]:
        found = self._listed(archive, inner)
        if not found:
            raise FileNotFoundError(2, NO_SUCH_FILE)
        with reading.open_member(self.files_root, found.member, found.size) as file:
            yield file

    def local_file(self, name: str) -> AbstractContextManager[Path]:
        archive, inner = self._split(name)
        found = self._listed(archive, inner) if archive else None
        if found:
            return source.local_file(self.files_root, found.name, found.member, found.size)
        return self._files.local_file(name)

    def member(self, name: str) -> Member | None:
        archive, inner = self._split(name)
        found = self._listed(archive, inner) if archive else None
        return found.member if found else None

    def first_pass(self, name: str) -> FirstPass | None:
        archive, _ = self._split(name)
        return self._contents(archive).first_pass if archive else None

    def _listed(self, archive: str, inner: str) -> Listed | None:
        return self._contents(archive).files.get(inner)

    def _split(self, name: str) -> tuple[str, str]:
        """Return the archive that a name leads into, and the name in it; an empty string if it leads into none."""
        if name.startswith("/") or "://" in name:
            return "", name
        full = folders.join(self._prefix, name) if name else self._prefix
        parts = full.split("/")
        for count, part in enumerate(parts, 1):
            if is_archive(part):
                archive = "/".join(parts[:count])
                if self._is_file(archive):
                    return archive, "/".join(parts[count:])
        return "", name

    def _is_file(self, archive: str) -> bool:
        try:
            return self._files.size(archive) >= 0
        except Rejected as error:
            return error.reason != "it is not a regular file" and self._files.exists(archive)

    def _list(self, archive: str) -> _Contents:
        try:
            size, modified = self._files.size(archive), self._files.modified(archive)
        except Rejected as error:
            return _Contents(archive, iter([Reject(archive, "scan", error.reason)]))
        first_pass = FirstPass(self.files_root, archive, size, modified)
        return _Contents(archive, self._members(archive, size, first_pass), first_pass)

    def _members(self, archive: str, size: int, first_pass: FirstPass) -> Members:
        try:
            yield from first_pass.members(lambda: self._read_members(archive, size))
        except Rejected as error:
            yield Reject(archive, "scan", error.reason)
        except OSError as error:
            reject = rejected_file(error, "scan", f"it cannot be read: {error.strerror}")
            if not isinstance(reject, Rejected):
                raise reject from None
            yield Reject(archive, "scan", reject.reason)

    def _read_members(self, archive: str, size: int) -> Members:
        list_members = zip_members.list_members if folders.suffix(archive) == ".zip" else tar_members.list_members
        with source.open_file(self.files_root, archive, size, _COLLECTED_BYTES) as file:
            yield from list_members(file, archive, size)
