"""Write files and folders outside stores: what appears is complete and on disk, and nothing is lost if that fails.

    with output_file(Path("report.html")) as draft:
        draft.write_text(page)

Work that takes long begins with `check_output_file`, so that it is not done for a place where nothing can be written.

A draft lies in the folder `.NAME.unfinished` beside its target, on the same file system, under a random name. The
folder is locked while its command runs, so a second command that writes to the same target is refused. What a killed
command left there is deleted by the next one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from headrace.store.errors import StoreError, UsageError
from headrace.store.names import LOCK_FILE, ROOT_NAMES
from headrace.store.storage.local import commit_file, folder_lock, fsync, make_folder
from headrace.store.storage.temporary import temporary_folder
from headrace.store.writer import write_error

MAX_NAME_BYTES = 255
"""Longest name of a file on the usual file systems."""
_DRAFT = re.compile(r"draft-[0-9a-f]{32}")
_SYNC_THREADS = 16
"""Files that are flushed at the same time: file systems commit them together."""


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write into. When the `with` block ends, it appears as `out`, on disk, or not at all.

    Args:
        out: a folder that does not exist, or is empty.
    Raises:
        UsageError: there is something at `out`.
        StoreError: another command is writing it, or it cannot be written.
    """
    target = _resolve(out)
    _check_empty(out, target)
    with _locked_draft(out, target, parents=True) as draft:
        yield draft
        _sync_tree(draft)
        _check_empty(out, target)
        with suppress(FileNotFoundError):
            target.rmdir()  # Windows renames nothing onto a folder
        draft.rename(target)
        fsync(target.parent)


@contextmanager
def output_file(out: Path, name: str = "", *, parents: bool = False) -> Iterator[Path]:
    """Yield a path to write to. When the `with` block ends, that file replaces `out`, on disk, or nothing changes.

    A link is followed. A device or a pipe, such as /dev/stdout, gets the bytes of the finished file.

    Args:
        name: of the file while it is written; that of `out` by default.
        parents: make the folders that `out` needs.
    Raises:
        UsageError: `out` is a folder, or lies in a store.
        StoreError: another command is writing it, or it cannot be written.
    """
    if _is_stream(out):
        _check_writable(out, out)
        with temporary_folder() as folder:
            draft = folder / (name or out.name)
            yield draft
            try:
                with draft.open("rb") as finished, out.open("wb") as stream:
                    shutil.copyfileobj(finished, stream)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise write_error(error, str(out)) from error
        return
    with _file_draft(out, name, parents=parents) as (target, draft):
        yield draft
        with suppress(FileNotFoundError):
            shutil.copymode(target, draft)
        commit_file(draft, target)


def check_output_file(out: Path) -> None:
    """Raise what `output_file` would raise before it writes to a file: UsageError or StoreError."""
    if _is_stream(out):
        _check_writable(out, out)
    else:
        with _file_draft(out):
            pass


def check_output_folder(out: Path) -> None:
    """Raise StoreError if nothing can be written into a folder; if it does not exist, into the one to make it in."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise write_error(NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)), str(out))
    _check_writable(there, out)


def _check_writable(path: Path, out: Path) -> None:
    """Raise StoreError about the output `out` if this user may not write to a path."""
    if not os.access(path, os.W_OK):
        raise write_error(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), str(out))


@contextmanager
def _file_draft(out: Path, name: str = "", *, parents: bool = False) -> Iterator[tuple[Path, Path]]:
    """Yield the file that an output really is, and a path for its draft. Arguments and errors are of `output_file`."""
    target = _resolve(out)
    if target.is_dir():
        raise UsageError(f"{out} is a folder: name a file in it.")
    with _locked_draft(out, target, parents=parents) as folder:
        if target.exists():
            _check_writable(target, out)
        yield target, folder / (name or target.name)


def _resolve(out: Path) -> Path:
    """Return the path that an output really has, links followed.

    Raises:
        UsageError: it is a file of a store.
    """
    target = Path(os.path.realpath(out))
    for folder, inside in zip(target.parents, [target, *target.parents], strict=False):
        if inside.name in ROOT_NAMES and (folder / "zarr.json").exists():
            raise UsageError(f"--out {out} would damage the store {folder}: name a place outside of it.")
    return target


def _check_empty(out: Path, target: Path) -> None:
    """Raise UsageError unless a folder can be put at `target` without losing anything."""
    if target.is_mount() or target == Path.cwd():
        raise UsageError(f"--out {out} cannot be replaced by a finished folder: name a new folder in it.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"--out {out} is there already: name a new or an empty folder.")


def _is_stream(path: Path) -> bool:
    """Return whether a path exists and can only be written to, such as a device or a pipe."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def _locked_draft(out: Path, target: Path, *, parents: bool) -> Iterator[Path]:
    """Yield an empty folder beside `target`, and hold the lock of `target`. The folder is deleted at the end."""
    mark = f".{target.name}.unfinished"
    if len(os.fsencode(mark)) > MAX_NAME_BYTES:
        mark = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}.unfinished"
    work = target.parent / mark
    try:
        if parents:
            make_folder(target.parent)
        with _locked_folder(work, out):
            for left in work.iterdir():  # by a command that was killed
                if _DRAFT.fullmatch(left.name) and not left.is_symlink():
                    shutil.rmtree(left)
            draft = work / f"draft-{uuid.uuid4().hex}"
            draft.mkdir()
            try:
                yield draft
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        failed = Path(error.filename) if isinstance(error.filename, str) else target
        if target.is_relative_to(failed) or failed.is_relative_to(target) or failed.is_relative_to(work):
            raise write_error(error, str(out)) from error
        raise  # it is about a file that is read


@contextmanager
def _locked_folder(work: Path, out: Path) -> Iterator[None]:
    """Make the folder `work` and hold its lock. At the end both are gone; the lock also ends with the process.

    Raises:
        StoreError: another process holds it, or files cannot be locked there.
    """
    file = work / LOCK_FILE
    with ExitStack() as lock:
        while not _try_lock(lock, file, out):
            lock.close()
        try:
            yield
        finally:
            if os.name == "nt":
                lock.close()  # no file is removed there that is open
            with suppress(OSError):  # a file of somebody else is in it, or the next command is already starting
                file.unlink()
                work.rmdir()


def _try_lock(lock: ExitStack, file: Path, out: Path) -> bool:
    """Lock a file, and return whether that holds: its last owner may have removed it in the meantime."""
    with suppress(FileExistsError):
        file.parent.mkdir()
    if file.parent.is_symlink():
        raise StoreError(f"{file.parent} is a link, which Headrace never makes: remove it to write {out}.")
    try:
        file.touch()
        before = file.stat()
        lock.enter_context(folder_lock(file.parent, what=out))
        return os.path.samestat(before, file.stat())
    except FileNotFoundError:
        return False
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError | FileExistsError):  # the folder went, or came and went
            return False
        raise


def _sync_tree(root: Path) -> None:
    """Flush a folder to disk, with all that is in it."""
    folders, files = [], []
    for folder, _, names in os.walk(root):
        folders.append(Path(folder))
        files += [Path(folder, name) for name in names]
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(fsync, files))
    for one in reversed(folders):
        fsync(one)
