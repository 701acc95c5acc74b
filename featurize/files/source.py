"""Access the files of a corpus, in a folder of this machine or under a prefix in a bucket.

Names are POSIX paths relative to the corpus. In a folder of this machine they may be absolute if that is permitted.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from headrace.featurize.files import folders
from headrace.featurize.files.archives import reading
from headrace.featurize.files.archives.first_pass import FirstPass
from headrace.featurize.files.folders import FOLLOW_HINT, Listing
from headrace.featurize.files.range_file import open_ranges
from headrace.store.errors import CorpusError, Rejected, UsageError, rejected_file
from headrace.store.schema import Member
from headrace.store.storage import StoragePath, storage_of
from headrace.store.storage.s3 import S3Path
from headrace.store.storage.s3_settings import SCHEME
from headrace.store.storage.temporary import temporary_folder

HEADER_BYTES = 1 << 16
"""Enough for the header of nearly every recording."""
MAX_LINE_BYTES = 1 << 26
"""Longest line of a corpus: one utterance with an alignment of hours. A small file may unpack to any length."""
NO_SUCH_FILE = "there is no such file"
"""Reason to reject a recording that is not there."""
CONCURRENT_DOWNLOADS = 8
"""Keep the decoders busy: a recording takes two or three times as long to download as to decode."""


class Source(Protocol):
    """The files of a corpus."""

    root: StoragePath
    """Of the corpus. Where an archive is the corpus, it is a path in that one, and no file."""
    files_root: StoragePath
    """What the names of files are relative to; they differ from those in `root` where an archive is the corpus."""
    threads: int
    """Number of threads that may query it at once. Over a network every query waits for a round trip or two."""

    def relative(self, path: str) -> str:
        """Return a path as utterance ids contain it: normalised, and relative to the corpus unless it lies outside."""
        ...

    def size(self, name: str) -> int:
        """Return the size of a regular file in bytes.

        Raises:
            Rejected: stage "scan"; it is not a regular file, or lies outside of the corpus.
        """
        ...

    def modified(self, name: str) -> int:
        """Return when a file was last modified, in nanoseconds, or another number that tells its versions apart; 0 if
        neither is known."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of this name."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, of files and folders, in no order; none if it is not there or lies outside."""
        ...

    def walk(self) -> Iterator[Listing]:
        """Yield every folder with the names of its files, like `folders.walk`."""
        ...

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open a file, to be read from its beginning to its end.

        Raises:
            OSError: it cannot be read, or is a pipe or a device, which may have no end.
            Rejected: it is in an archive, and damaged there.
        """
        ...

    def local_file(self, name: str) -> AbstractContextManager[Path]:
        """Give the path of a file on this machine, which may be a temporary copy."""
        ...

    def member(self, name: str) -> Member | None:
        """Return where a file lies if it is in an archive."""
        ...

    def first_pass(self, name: str) -> FirstPass | None:
        """Return what is kept of the archive that a file is in; None if it is in none."""
        ...


def find(path: StoragePath, *, follow_outside: bool = False, audio: StoragePath | None = None) -> tuple[Source, str]:
    """Return the corpus at `path` and, if `path` is a file in it, the name of that file, else an empty string.

    Args:
        path: a folder, a prefix in a bucket, or a file in one of them.
        follow_outside: whether paths and links may lead out of a folder.
        audio: another folder that recordings may lie in.
    Raises:
        UsageError: `path` does not exist, or `audio` is no folder of this machine or of the corpus in a bucket.
        StorageError: the bucket cannot be accessed.
    """
    storage_of(path).check_access(path)
    folder = root_of(path)
    file = path.name if folder != path.resolve() else ""
    source: Source = Bucket(folder) if isinstance(folder, S3Path) else Folder(folder, follow_outside, audio)
    exists = os.path.exists(path) if isinstance(path, Path) else source.exists(file)
    if not exists:
        raise UsageError(f"There is no {path}: give a folder of recordings and transcripts, or a .list file")
    return source, file


def root_of(path: StoragePath) -> StoragePath:
    """Return the corpus folder of `path`, which is the folder itself or a file in it."""
    is_file = bool(path.key) and path.exists() if isinstance(path, S3Path) else not path.is_dir()
    return (path.parent if is_file else path).resolve()


class Folder:
    """A corpus in a folder of this machine. Links and paths may lead out of it only if that is permitted."""

    threads = 16

    def __init__(self, root: Path, follow_outside: bool = False, audio: StoragePath | None = None) -> None:
        self.root: StoragePath = root
        self.files_root: StoragePath = root
        self._root = root.as_posix()
        self._permitted_roots = (self._root, *([audio.resolve().as_posix()] if isinstance(audio, Path) else ()))
        self._follow_outside = follow_outside
        self._is_folder_inside = lru_cache(maxsize=1 << 16)(self._leads_inside)

    def relative(self, path: str) -> str:
        full = folders.as_posix(os.path.normpath(os.path.join(self._root, path)))
        return full.removeprefix(self._root.rstrip("/") + "/")

    def size(self, name: str) -> int:
        try:
            status = os.stat(self._permitted(name))
        except FileNotFoundError:
            raise Rejected("scan", NO_SUCH_FILE) from None
        except OSError as error:
            raise rejected_file(error, "scan", f"it cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            raise Rejected("scan", "it is not a regular file")
        return status.st_size

    def modified(self, name: str) -> int:
        try:
            return os.stat(os.path.join(self._root, name)).st_mtime_ns
        except (OSError, ValueError):
            return 0

    def exists(self, name: str) -> bool:
        return os.path.exists(os.path.join(self._root, name))

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self._permitted(os.path.join(folder, "")))
        except (OSError, Rejected):
            return []

    def walk(self) -> Iterator[Listing]:
        return folders.walk(Path(self._root), follow_outside=self._follow_outside)

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        return open_whole(self.root, name)

    def local_file(self, name: str) -> AbstractContextManager[Path]:
        return local_file(self.root, name)

    def member(self, name: str) -> Member | None:
        return None

    def first_pass(self, name: str) -> FirstPass | None:
        return None

    def _permitted(self, path: str) -> str:
        """Return the full path. Raise Rejected if it leads out of the corpus, directly or through links."""
        if "\0" in path:
            raise Rejected("scan", "its path holds a null byte")
        full = os.path.join(self._root, path)
        if self._follow_outside:
            return full
        inside = self._is_folder_inside(os.path.dirname(full))
        if not inside or (os.path.islink(full) and not self._leads_inside(full)):
            raise Rejected("scan", f"{path} lies outside of the corpus folder; {FOLLOW_HINT}")
        return full

    def _leads_inside(self, path: str) -> bool:
        target = folders.as_posix(os.path.realpath(path))
        return any(folders.is_inside(target, root) for root in self._permitted_roots)


class Bucket:
    """A corpus in a bucket. It is listed once: one request returns a thousand names and sizes."""

    threads = 64

    def __init__(self, root: S3Path) -> None:
        self.root: StoragePath = root
        self.files_root: StoragePath = root
        self._files: dict[str, list[str]] = {}
        self._folders: dict[str, list[str]] = {}
        self._sizes: dict[str, int] = {}
        self._tags: dict[str, str] = {}
        for key, size, tag in root.tagged_objects():
            if key:
                self._sizes[key], self._tags[key] = size, tag
        for key in self._sizes:
            self._add(key)

    def _add(self, key: str) -> None:
        folder, _, name = key.rpartition("/")
        self._add_folder(folder)
        self._files[folder].append(name)

    def _add_folder(self, folder: str) -> None:
        """Register a folder and its parents."""
        if folder in self._files:
            return
        self._files[folder], self._folders[folder] = [], []
        if folder:
            parent, _, name = folder.rpartition("/")
            self._add_folder(parent)
            self._folders[parent].append(name)

    def relative(self, path: str) -> str:
        name = path.removeprefix(f"{self.root}/")
        return name if name.startswith(SCHEME) else posixpath.normpath(name)

    def size(self, name: str) -> int:
        if name.startswith(("/", "../", SCHEME)):
            raise Rejected("scan", f"{name} lies outside of {self.root}: copy it there")
        if name in self._files:
            raise Rejected("scan", "it is not a regular file")
        if name not in self._sizes:
            raise Rejected("scan", NO_SUCH_FILE)
        return self._sizes[name]

    def modified(self, name: str) -> int:
        tag = self._tags.get(name, "")
        return int.from_bytes(hashlib.blake2b(tag.encode(), digest_size=7).digest()) if tag else 0

    def exists(self, name: str) -> bool:
        return name in self._sizes or name in self._files

    def names(self, folder: str) -> list[str]:
        return [*self._files.get(folder, ()), *self._folders.get(folder, ())]

    def walk(self) -> Iterator[Listing]:
        pending = [""]
        while pending:
            folder = pending.pop()
            names = sorted(name for name in self._files.get(folder, ()) if name[0] != ".")
            # Some tools create an object of size 0 for a folder, too.
            yield folder, [name for name in names if folders.join(folder, name) not in self._files]
            subfolders = sorted(name for name in self._folders.get(folder, ()) if name[0] != ".")
            pending += [folders.join(folder, name) for name in reversed(subfolders)]

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        return open_whole(self.root, name)

    def local_file(self, name: str) -> AbstractContextManager[Path]:
        return local_file(self.root, name)

    def member(self, name: str) -> Member | None:
        return None

    def first_pass(self, name: str) -> FirstPass | None:
        return None


@contextmanager
def local_folder(root: StoragePath, name: str, member: Member | None = None, size: int = 0) -> Iterator[Path]:
    """Give a folder of this machine that holds a file of a corpus under its name.

    For a corpus in a bucket, or a member of an archive, it is a temporary folder with a copy of that file, which exists
    as long as the context.

    Args:
        member, size: of a file in an archive; its size is in bytes.
    Raises:
        Rejected: stage "decode"; the file is not in the bucket or the archive any more, or no file here can have its
            name.
    """
    if member:
        with _unpacked(root, name, member, size) as folder:
            yield folder
        return
    if isinstance(root, Path):
        yield root
        return
    with temporary_folder() as folder:
        copy = folder / name
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            (root / name).download(copy)
        except FileNotFoundError:
            raise Rejected("decode", "it is not in the bucket any more") from None
        except OSError as error:
            raise rejected_file(error, "decode", f"it cannot be copied from the bucket: {error.strerror}") from None
        yield folder


@contextmanager
def _unpacked(root: StoragePath, name: str, member: Member, size: int) -> Iterator[Path]:
    with temporary_folder() as folder:
        copy = folder / name
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("xb", buffering=0) as file:
                for piece in reading.read_member(root, member, size):
                    file.write(piece)
        except OSError as error:
            raise rejected_file(error, "decode", f"it cannot be copied from its archive: {error.strerror}") from None
        yield folder


@contextmanager
def local_file(root: StoragePath, name: str, member: Member | None = None, size: int = 0) -> Iterator[Path]:
    """Give the path of a file of a corpus on this machine, with a temporary copy as in `local_folder`."""
    with local_folder(root, name, member, size) as folder:
        yield folder / name


@contextmanager
def open_file(root: StoragePath, name: str, size: int, block: int = HEADER_BYTES) -> Iterator[BinaryIO]:
    """Open a file of a corpus for reading. In a bucket only the byte ranges that are read are requested.

    Args:
        root: of the corpus.
        name: of the file.
        size: in bytes, as listed.
        block: smallest size of a requested range, in bytes.
    Raises:
        StorageError: a request failed. Raised when the context is left, even if a library replaced the error.
    """
    if isinstance(root, Path):
        with open(root / name, "rb") as file:
            yield file
        return
    path = root / name
    with open_ranges(lambda count, at: bytes(path.read_ranges([(at, at + count)])[0]), size, block) as ranges:
        yield ranges


@contextmanager
def open_whole(root: StoragePath, name: str) -> Iterator[BinaryIO]:
    """Open a file of a corpus that is read from its beginning to its end.

    Raises:
        OSError: it cannot be read, or is a pipe or a device, which may have no end.
    """
    path = root / name
    if not isinstance(path, Path):
        yield io.BytesIO(path.read_bytes())
        return
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    with open(path, "rb") as file:
        yield file


def read_lines(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Yield the lines of a file, each with its newline.

    Raises:
        CorpusError: a line has more than MAX_LINE_BYTES. The file is named `name` in the message.
    """
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise CorpusError(f"{name} has a line of more than {MAX_LINE_BYTES >> 20} MB: give each utterance a line.")
        yield line
