"""Storage in folders of this machine: what appears there is complete, and on disk.

Works on POSIX and Windows. Windows can neither open a folder nor flush it; there the order of renames is left to the
file system.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from headrace.store.errors import HeadraceError, StoreError
from headrace.store.names import LOCK_FILE, ROOT_NAMES, is_own_file, is_own_folder, part_number
from headrace.store.storage import drafts
from headrace.store.storage.regular_files import open_regular

S = TypeVar("S")
T = TypeVar("T")

DRAFT_FILE = re.compile(r"\.headrace-[0-9a-f]{32}\.tmp")
"""Names of the drafts of `atomic_file`. Nothing else has such a name."""
MARKER = ".unfinished"
"""File of a folder that is being written. It is gone from a folder that `clear_temporary` took from its writer."""


class LocalStorage:
    """Implements `headrace.store.storage.base.Storage` for `pathlib.Path`."""

    @property
    def threads(self) -> int:
        """Return the number of CPU cores: checksums leave the interpreter to other threads."""
        return os.cpu_count() or 1

    def check_access(self, path: Path) -> None:
        """Do nothing: a folder of this machine answers at once when it is read."""

    @contextmanager
    def write_lock(self, root: Path) -> Iterator[None]:
        """Hold the write lock of a store. It ends with the process, however that ends.

        Raises:
            StoreError: a link is where a folder or part of the store belongs; or another process holds the lock.
        """
        make_folder(root)
        for name in _own_links(root):
            drafts.inside(root, name)
        with folder_lock(root):
            yield

    def list_names(self, folder: Path) -> list[str]:
        """Return the names of the files and folders directly in a folder; none if there is no such folder."""
        return os.listdir(folder) if folder.is_dir() else []

    def list_groups(self, folder: Path) -> list[str]:
        """Return the names of all folders in a folder: what is there has been renamed into place, so it is complete."""
        return [entry.name for entry in os.scandir(folder) if entry.is_dir()] if folder.is_dir() else []

    def list_foreign(self, folder: Path) -> list[str]:
        """Return what lies below a folder of the store and is not of a form that Headrace writes; links are listed."""
        return sorted(_foreign(folder, "")) if folder.is_dir() else []

    @contextmanager
    def atomic_folder(self, root: Path, name: str) -> Iterator[Path]:
        """Yield a draft below `root`; at the end, flush it to disk and rename it to `name`.

        If a folder `name` is already there, it stays and the new one is deleted, unless all in it is foreign.

        Raises:
            StoreError: `name` leads out of the root, or to a link; or something else is in the way.
            FileNotFoundError: `clear_temporary` took the folder away while it was written.
        """
        target = drafts.inside(root, name)
        with _in_the_way(target):
            draft = drafts.make_folder(root, name)
        (draft / MARKER).touch()
        try:
            yield draft
            (draft / MARKER).unlink()
            with _in_the_way(target):
                _commit_folder(draft, target)
        finally:
            drafts.discard(draft)

    def clear_temporary(self, root: Path) -> None:
        """Delete every draft under `root`: a writer on another machine may not know that its command has ended."""
        drafts.clear(root)

    def write(self, file: Path, chunks: Iterable[bytes]) -> None:
        """Write a file chunk by chunk, and the folders that it needs."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            opened.writelines(chunks)

    def write_whole(self, file: Path, chunks: Iterable[bytes]) -> None:
        """Create or replace a file, and the folders that it needs: readers see the old content or the new one."""
        make_folder(file.parent)
        with atomic_file(file) as opened:
            opened.writelines(chunks)

    def copy_to(self, file: Path, target: Path) -> None:
        """Copy a file."""
        with open_regular(file) as source, target.open("wb") as copied:
            shutil.copyfileobj(source, copied)

    def write_atomic(self, root: Path, name: str, data: bytes) -> None:
        """Create or replace the file `name` of `root`: readers see the old content or the new one."""
        target = drafts.inside(root, name)
        with _in_the_way(target):
            draft = drafts.make_file(root, name)
        try:
            self.write(draft, [data])
            with _in_the_way(target):
                make_folder(target.parent)
                commit_file(draft, target)
        finally:
            drafts.discard(draft)

    def delete_folder(self, root: Path, name: str) -> None:
        """Delete a folder of `root`: it is renamed away first, so it disappears at once.

        If something foreign lies in it, only what is not foreign is deleted, the folder's `zarr.json` first.
        """
        target = drafts.inside(root, name)
        if not target.is_dir():
            return
        if self.list_foreign(target):
            _delete_own(target)
            return
        trash = drafts.unused(root, name)
        with suppress(FileNotFoundError):
            target.rename(trash)
            fsync(target.parent)
        drafts.discard(trash)

    def delete_file(self, root: Path, name: str) -> None:
        """Delete the file `name` of `root`, if it is there."""
        target = drafts.inside(root, name)
        with suppress(FileNotFoundError):
            target.unlink()
            fsync(target.parent)

    def size(self, file: Path) -> int:
        """Return the size of a file in bytes. Raises FileNotFoundError if there is none."""
        return file.stat().st_size

    def read_tail(self, file: Path, count: int) -> bytes:
        """Return the last `count` bytes of a file, or all of them if it is shorter."""
        with open_regular(file) as opened:
            opened.seek(-min(count, os.fstat(opened.fileno()).st_size), os.SEEK_END)
            return opened.read()

    def read_ranges(self, file: Path, bounds: Sequence[tuple[int, int]]) -> list[Any]:
        """Return the bytes from start to stop of each of `bounds`."""
        found: list[Any] = []
        with open_regular(file) as opened:
            for start, stop in bounds:
                opened.seek(start)
                found.append(opened.read(stop - start))
        return found

    def map(self, function: Callable[[S], T], items: Iterable[S]) -> list[T]:
        """Return `function(item)` for every item, in order, one after the other."""
        return [function(item) for item in items]


@contextmanager
def folder_lock(
    folder: Path,
    error: type[HeadraceError] = StoreError,
    what: Path | None = None,
    *,
    busy: type[HeadraceError] | None = None,
    wait_s: float = 0.0,
) -> Iterator[None]:
    """Hold the lock of a folder for as long as the context lasts. It ends with the process, however that ends.

    Args:
        what: is written under this lock, for messages; the folder by default.
        wait_s: seconds to wait for another process that holds it.
    Raises:
        busy: another process holds it; `error` by default.
        error: files cannot be locked there.
    """
    from filelock import FileLock, Timeout  # takes 10 ms: readers need not pay for it

    lock = FileLock(folder / LOCK_FILE, timeout=wait_s)
    try:
        lock.acquire()
    except Timeout:
        raise (busy or error)(f"Another command is writing {what or folder}: wait until it is done.") from None
    except OSError as fault:
        raise error(f"Cannot lock {folder} ({fault}): choose a folder where files can be locked.") from fault
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic_file(target: Path) -> Iterator[IO[bytes]]:
    """Yield a new file to write to; when the context ends it is flushed to disk and replaces `target`.

    Its name until then is new each time, so two writers never share a draft. If the context fails, nothing changes.
    """
    draft = target.parent / f".headrace-{uuid.uuid4().hex}.tmp"
    try:
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
        fsync(target.parent)
    finally:
        draft.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, and flush their names to disk, unless they are there."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        fsync(path.parent)


def clear_drafts(folder: Path) -> None:
    """Delete the drafts that killed writers of `atomic_file` left directly in a folder.

    Call it only while no other process writes there.
    """
    if not folder.is_dir():
        return
    for entry in list(os.scandir(folder)):
        if DRAFT_FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            Path(entry.path).unlink(missing_ok=True)


def commit_file(draft: Path, target: Path) -> None:
    """Flush a file to disk and rename it to `target`, replacing what is there."""
    fsync(draft)
    draft.replace(target)
    fsync(target.parent)


@contextmanager
def _in_the_way(target: Path) -> Iterator[None]:
    """Turn the errors of a folder where a file belongs in a store, or the other way round, into one that names it."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        path = error.filename2 or error.filename or target
        raise StoreError(
            f"{path} is in the way ({error.strerror}): something else belongs there in a store. Move it away, and run "
            "the same command again."
        ) from error


def _commit_folder(draft: Path, target: Path) -> None:
    """Flush a folder to disk and rename it to `target`, unless a complete one is there already.

    Foreign files in the way of the folder stay. What is written goes beside them, the `zarr.json` last.
    """
    for folder, _, files in os.walk(draft):
        for name in files:
            fsync(Path(folder, name))
        fsync(Path(folder))
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        names = sorted(os.listdir(draft), key="zarr.json".__eq__)
        there = [name for name in names if os.path.lexists(target / name)]
        if not there:
            for name in names:
                (draft / name).rename(target / name)
            fsync(target)
        elif (metadata := target / "zarr.json").exists() and not metadata.is_file():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(metadata)) from error
    fsync(target.parent)


def _own_links(root: Path) -> Iterator[str]:
    """Yield the links that have the name of a part, or of anything else that Headrace writes into a store."""
    yield from (name for name in sorted(ROOT_NAMES) if drafts.is_link(root / name))
    for name in drafts.names_in(root / "parts"):
        if part_number(name) is not None and drafts.is_link(root / "parts" / name):
            yield f"parts/{name}"


def _foreign(folder: Path, below: str) -> Iterator[str]:
    """Yield the paths of foreign files, links and folders, relative to the folder at which the listing began."""
    for entry in list(os.scandir(folder)):
        path = f"{below}{entry.name}"
        if entry.is_dir(follow_symlinks=False) and not drafts.is_link(Path(entry.path)):
            if is_own_folder(path):
                yield from _foreign(Path(entry.path), f"{path}/")
            else:
                yield f"{path}/"
        elif not (entry.is_file(follow_symlinks=False) and is_own_file(path)):
            yield path


def _delete_own(folder: Path) -> None:
    """Delete the files in a folder that are of a form that Headrace writes, and the folders that are then empty."""
    foreign = set(_foreign(folder, ""))
    if not foreign & {"zarr.json", "zarr.json/"}:
        (folder / "zarr.json").unlink(missing_ok=True)
    for parent, folders, files in os.walk(folder, topdown=False):
        below = Path(parent).relative_to(folder)
        if any(f"{above.as_posix()}/" in foreign for above in (below, *below.parents)):
            continue
        for name in files:
            if (below / name).as_posix() not in foreign:
                Path(parent, name).unlink(missing_ok=True)
        for name in folders:
            if f"{(below / name).as_posix()}/" not in foreign:
                with suppress(OSError):  # something foreign lies in it, or it is a link
                    Path(parent, name).rmdir()
    with suppress(OSError):
        folder.rmdir()


def fsync(path: Path) -> None:
    """Flush a file to disk; on POSIX also a folder, which makes renames in it durable."""
    windows = os.name == "nt"
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)  # Windows flushes only what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
