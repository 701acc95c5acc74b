"""Places: folders and files of this machine, or the same in a bucket, and what both can do beyond reading.

A place on this machine is a plain `pathlib.Path`. One in a bucket answers to the same names as far as the store uses
them: `/`, `name`, `parent`, `exists`, `read_bytes`. The functions here do for both what `Path` cannot:
above all to let a folder appear at once, or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from headrace.store.errors import StoreError, UsageError
from headrace.store.storage.s3 import SCHEME, S3Path

Place = Path | S3Path
S = TypeVar("S")
T = TypeVar("T")

REQUESTS_AT_ONCE = 32
"""To a bucket, where each takes some 30 ms of waiting."""


def at(where: str | os.PathLike[str] | S3Path) -> Place:
    """The place that a path or a URL names. Touches nothing.

    Raises:
        UsageError: a URL of another kind than s3://BUCKET/PREFIX.
    """
    if isinstance(where, S3Path):
        return where
    text = os.fspath(where)
    if re.match(r"[a-z][a-z0-9+.-]*://", text) and not text.startswith(SCHEME):
        raise UsageError(f"{text} is no place that can be read or written: give a path, or {SCHEME}BUCKET/PREFIX.")
    return S3Path.parse(text) if text.startswith(SCHEME) else Path(text)


def check(place: Place) -> None:
    """Raise StorageError, within seconds, where a bucket cannot be used at all."""
    if isinstance(place, S3Path):
        place.check()


@contextmanager
def only_writer(root: Place) -> Iterator[None]:
    """Hold the lock of a store: two commands that write it at once would do everything twice.

    A bucket has no lock that ends with its holder. Nothing depends on it: two builds write the same bytes.

    Raises:
        StoreError: another one holds it.
    """
    if not isinstance(root, Path):
        yield
        return
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(f"Another command is writing {root}: wait until it is done.") from None
        yield


def names(place: Place) -> list[str]:
    """What lies directly in a folder; nothing where there is none."""
    if isinstance(place, S3Path):
        return place.names()
    return os.listdir(place) if place.is_dir() else []


def committed(folder: Place) -> list[str]:
    """Names of the folders in `folder` that are there whole."""
    if isinstance(folder, S3Path):
        found = (key.partition("/") for key, _ in folder.objects())
        return [name for name, _, rest in found if rest == "zarr.json"]
    return names(folder)


@contextmanager
def drafted(root: Place, name: str) -> Iterator[Place]:
    """Where to write a folder that shall appear as `name` in `root` at once, when the `with` block ends, or not at all.

    Its `zarr.json` must be written last. On this machine the draft lies in `root`/tmp, is forced to disk and renamed:
    whoever comes second finds the place taken and gives way. A bucket knows no renaming: there the draft is its own
    target, which counts for nothing until its `zarr.json` is there, and whoever comes second writes the same bytes.
    """
    if isinstance(root, S3Path):
        yield root / name
        return
    draft = root / "tmp" / f"{name.replace('/', '-')}-{uuid.uuid4().hex}"
    draft.mkdir(parents=True)
    begun = os.open(draft, os.O_RDONLY)
    try:
        yield draft
        if not os.path.samestat(os.fstat(begun), os.stat(draft)):  # `clear_drafts` took it, and then it was written on
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(draft))
        _commit_folder(draft, root / name)
    finally:
        os.close(begun)
        shutil.rmtree(draft, ignore_errors=True)


def clear_drafts(root: Place) -> None:
    """Take all drafts away, whoever still writes them: a worker far off may not know that its command is gone.

    Each goes by being renamed. Deleted file by file, it could be committed by its writer with half of it missing.
    """
    if isinstance(root, S3Path):
        return
    folder = root / "tmp"
    for name in names(folder):
        gone = folder / f"gone-{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):  # committed just now
            (folder / name).rename(gone)
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with suppress(OSError):  # another draft, begun just now
        folder.rmdir()


def write(file: Place, chunks: Iterable[bytes]) -> None:
    """Write a file of a draft, chunk by chunk. A bucket may have to go through them more than once."""
    if isinstance(file, S3Path):
        file.write(chunks)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        opened.writelines(chunks)


def replace(root: Place, name: str, data: bytes) -> None:
    """Make or replace the file `name` of `root`: it is there whole, or as it was before."""
    if isinstance(root, S3Path):
        (root / name).write([data])
        return
    target = root / name
    draft = root / "tmp" / f"{target.name}-{uuid.uuid4().hex}"
    write(draft, [data])
    target.parent.mkdir(exist_ok=True)
    commit_file(draft, target)


def commit_file(draft: Path, target: Path) -> None:
    """Force a file to disk and rename it into place."""
    _sync(draft)
    draft.replace(target)
    _sync(target.parent)


def size(file: Place) -> int:
    """Of a file, in bytes. Raises FileNotFoundError where there is none."""
    return file.size() if isinstance(file, S3Path) else file.stat().st_size


def discard(root: Place, name: str) -> None:
    """Take a folder of `root` away: it is gone at once, whenever this ends."""
    if isinstance(root, S3Path):
        (root / name).remove()
        return
    gone = root / "tmp" / f"gone-{uuid.uuid4().hex}"
    gone.parent.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):
        (root / name).rename(gone)
        _sync((root / name).parent)
        shutil.rmtree(gone)


def remove(folder: Place) -> None:
    """Take a folder away, its `zarr.json` first: what is half gone reads as nothing."""
    if isinstance(folder, S3Path):
        folder.remove()
    else:
        (folder / "zarr.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def read_tail(file: Place, count: int) -> bytes:
    """The last `count` bytes of a file, or all where it has fewer."""
    if isinstance(file, S3Path):
        return file.read_tail(count)
    with file.open("rb") as opened:
        opened.seek(-min(count, os.fstat(opened.fileno()).st_size), os.SEEK_END)
        return opened.read()


def read_ranges(file: Place, bounds: Sequence[tuple[int, int]]) -> list[Any]:
    """The bytes from start to stop of each of `bounds`, as buffers."""
    if isinstance(file, S3Path):
        return file.read_ranges(bounds)
    with file.open("rb") as opened:
        return [os.pread(opened.fileno(), stop - start, start) for start, stop in bounds]


def each(place: Place, function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """`map` over what lies in `place`, in order; by many threads where every item waits for a bucket."""
    if isinstance(place, Path):
        return [function(item) for item in items]
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)


def _commit_folder(draft: Path, target: Path) -> None:
    """Force a folder to disk and rename it into place, or give way where the place is taken."""
    for folder, _, files in os.walk(draft):
        for name in files:
            _sync(Path(folder, name))
        _sync(Path(folder))
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
