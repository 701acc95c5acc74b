"""Where a corpus lies: a folder of this machine, or a prefix in a bucket. What is there, and what of it may be taken.

Names are POSIX paths relative to the corpus; in a folder of this machine they may be absolute too, with leave to.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from headrace.featurize.files import folders
from headrace.featurize.files.folders import HOW_TO_FOLLOW, Listing
from headrace.store.errors import HeadraceError, Rejected, UsageError
from headrace.store.storage import StoragePath, storage_of
from headrace.store.storage.s3 import SCHEME, S3Path

HEADER_BYTES = 1 << 16
"""Hold the header of nearly every recording."""
DOWNLOADS_AT_ONCE = 8
"""That keep one decoder busy: a copy from a bucket takes two or three times as long to come as to decode."""


class Source(Protocol):
    """The files of a corpus."""

    root: StoragePath
    threads: int
    """That may ask it at once: over a network every question waits for a round trip or two."""

    def relative(self, path: str) -> str:
        """A path as it goes into identities: normalised, relative to the corpus unless it lies outside."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a regular file. Raises Rejected("scan") where it is none, or lies outside of the corpus."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        ...

    def walk(self) -> Iterator[Listing]:
        """Every folder with the names of its files, as `folders.walk`."""
        ...


def find(path: StoragePath, *, follow_outside: bool = False) -> tuple[Source, str]:
    """The corpus at `path`, and, where `path` is a file in it, the name of that file.

    Raises:
        UsageError: there is nothing.
        StorageError: the bucket cannot be used.
    """
    storage_of(path).check_access(path)
    folder = root_of(path)
    file = path.name if folder != path.resolve() else ""
    source: Source = Bucket(folder) if isinstance(folder, S3Path) else Folder(folder, follow_outside)
    there = os.path.exists(path) if isinstance(path, Path) else source.exists(file)
    if not there:
        raise UsageError(f"There is no {path}: give a folder of recordings and transcripts, or a .list file")
    return source, file


def root_of(path: StoragePath) -> StoragePath:
    """The folder of a corpus that is given as itself or as a file in it."""
    is_file = bool(path.key) and path.exists() if isinstance(path, S3Path) else not path.is_dir()
    return (path.parent if is_file else path).resolve()


class Folder:
    """A corpus folder of this machine. Left through links and paths only with leave to."""

    threads = 16

    def __init__(self, root: Path, follow_outside: bool = False) -> None:
        self.root: StoragePath = root
        self._root = root.as_posix()
        self._follow_outside = follow_outside
        self._is_folder_inside = lru_cache(maxsize=1 << 16)(self._leads_inside)

    def relative(self, path: str) -> str:
        full = folders.as_posix(os.path.normpath(os.path.join(self._root, path)))
        return full.removeprefix(self._root.rstrip("/") + "/")

    def size(self, name: str) -> int:
        try:
            status = os.stat(self._permitted(name))
        except FileNotFoundError:
            raise Rejected("scan", "there is no such file") from None
        except OSError as error:
            raise Rejected("scan", f"it cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            raise Rejected("scan", "it is not a regular file")
        return status.st_size

    def exists(self, name: str) -> bool:
        return os.path.exists(os.path.join(self._root, name))

    def walk(self) -> Iterator[Listing]:
        return folders.walk(Path(self._root), follow_outside=self._follow_outside)

    def _permitted(self, path: str) -> str:
        """The full path, once it is clear that it does not lead out of the corpus, through links neither."""
        if "\0" in path:
            raise Rejected("scan", "its path holds a null byte")
        full = os.path.join(self._root, path)
        if self._follow_outside:
            return full
        inside = self._is_folder_inside(os.path.dirname(full))
        if not inside or (os.path.islink(full) and not self._leads_inside(full)):
            raise Rejected("scan", f"{path} lies outside of the corpus folder; {HOW_TO_FOLLOW}")
        return full

    def _leads_inside(self, path: str) -> bool:
        return folders.is_inside(folders.as_posix(os.path.realpath(path)), self._root)


class Bucket:
    """A corpus in a bucket. Listed once: one request brings a thousand names and sizes."""

    threads = 64

    def __init__(self, root: S3Path) -> None:
        self.root: StoragePath = root
        self._files: dict[str, list[str]] = {}
        self._folders: dict[str, list[str]] = {}
        self._sizes = {key: size for key, size in root.objects() if key}
        for key in self._sizes:
            self._add(key)

    def _add(self, key: str) -> None:
        folder, _, name = key.rpartition("/")
        self._enter(folder)
        self._files[folder].append(name)

    def _enter(self, folder: str) -> None:
        """Make a folder known, and those that it lies in."""
        if folder in self._files:
            return
        self._files[folder], self._folders[folder] = [], []
        if folder:
            above, _, name = folder.rpartition("/")
            self._enter(above)
            self._folders[above].append(name)

    def relative(self, path: str) -> str:
        name = path.removeprefix(f"{self.root}/")
        return name if name.startswith(SCHEME) else posixpath.normpath(name)

    def size(self, name: str) -> int:
        if name.startswith(("/", "../", SCHEME)):
            raise Rejected("scan", f"{name} lies outside of {self.root}: copy it there")
        if name in self._files:
            raise Rejected("scan", "it is not a regular file")
        if name not in self._sizes:
            raise Rejected("scan", "there is no such file")
        return self._sizes[name]

    def exists(self, name: str) -> bool:
        return name in self._sizes or name in self._files

    def walk(self) -> Iterator[Listing]:
        pending = [""]
        while pending:
            folder = pending.pop()
            inside = self._files  # some tools make an object of size 0 for a folder too
            names = sorted(self._files.get(folder, ()))
            yield folder, [n for n in names if n[0] != "." and folders.join(folder, n) not in inside]
            below = sorted(name for name in self._folders.get(folder, ()) if name[0] != ".")
            pending += [folders.join(folder, name) for name in reversed(below)]


@contextmanager
def copied(root: StoragePath, name: str) -> Iterator[Path]:
    """A folder of this machine that holds a file of a corpus under its name: the corpus itself, or one with a copy of
    that file, for as long as the `with` block lasts.

    Raises:
        Rejected: stage "decode"; it is not in the bucket any more.
    """
    if isinstance(root, Path):
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        copy = Path(folder, name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            (root / name).download(copy)
        except FileNotFoundError:
            raise Rejected("decode", "it is not in the bucket any more") from None
        yield Path(folder)


@contextmanager
def local(root: StoragePath, name: str) -> Iterator[Path]:
    """The file itself of this machine: of a corpus in a bucket a copy, as `copied`."""
    with copied(root, name) as folder:
        yield folder / name


@contextmanager
def opened(root: StoragePath, name: str, size: int, block: int = HEADER_BYTES) -> Iterator[BinaryIO]:
    """A file of a corpus, open for reading; in a bucket by ranges, for whoever needs little of it.

    Args:
        size: in bytes, as listed.
        block: bytes that one range has at least.
    Raises:
        StorageError: once the `with` block ends, also where a library has made something else of it.
    """
    if isinstance(root, Path):
        with open(root / name, "rb") as file:
            yield file
        return
    ranges = _Ranges(root / name, size)
    try:
        yield io.BufferedReader(ranges, block)
    finally:
        if ranges.trouble:
            raise ranges.trouble


class _Ranges(io.RawIOBase):
    """An object read by ranges."""

    def __init__(self, file: S3Path, size: int) -> None:
        self.trouble: HeadraceError | OSError | None = None
        """What a read ran into. C libraries that read through callbacks swallow it, and see the end of the file."""
        self._file, self._size, self._position = file, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        try:
            (data,) = self._file.read_ranges([(self._position, stop)])
        except (HeadraceError, OSError) as error:
            self.trouble = error
            return 0
        count = len(data)
        buffer[:count] = data
        self._position += count
        return count
