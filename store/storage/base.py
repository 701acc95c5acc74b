"""The operations that a store needs of whatever holds its files.

`local.py` implements them for folders of this machine, `s3.py` for S3-compatible object storage. Callers use
`storage_of(path)` and need not know which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

P = TypeVar("P")
S = TypeVar("S")
T = TypeVar("T")


class Storage(Protocol[P]):
    """File operations beyond those that the paths themselves have. P is the type of path.

    Implementations hold no state. All of them guarantee that a reader sees a new folder, and a new version of a file,
    completely or not at all.
    """

    @property
    def threads(self) -> int:
        """Return how many threads that read and compute checksums make good use of this storage."""
        ...

    def check_access(self, path: P) -> None:
        """Raise StorageError, within seconds, if the storage cannot be used at all."""
        ...

    def write_lock(self, root: P) -> AbstractContextManager[None]:
        """Hold the write lock of a store for as long as the `with` block lasts.

        Raises:
            StoreError: another process holds it.
        """
        ...

    def list_names(self, folder: P) -> list[str]:
        """Return the names of the files and folders directly in a folder; none if there is no such folder."""
        ...

    def list_groups(self, folder: P) -> list[str]:
        """Return the names of the folders directly in `folder` that are completely written."""
        ...

    def atomic_folder(self, root: P, name: str) -> AbstractContextManager[P]:
        """Yield a folder to write to; when the `with` block ends it appears as `name` in `root`, or not at all.

        The caller writes the folder's `zarr.json` last. If a folder `name` is already there, it stays: two writers of
        one folder are expected to write the same content.
        """
        ...

    def clear_temporary(self, root: P) -> None:
        """Delete every draft under `root`, even if another process is still writing it. The caller holds the lock."""
        ...

    def write(self, file: P, chunks: Iterable[bytes]) -> None:
        """Write a file chunk by chunk, and the folders that it needs.

        Args:
            chunks: iterated again if the upload has to be repeated.
        """
        ...

    def write_whole(self, file: P, chunks: Iterable[bytes]) -> None:
        """Create or replace a file outside of stores: readers see the old content or the new one.

        Args:
            chunks: iterated again if the upload has to be repeated.
        """
        ...

    def copy_to(self, file: P, target: Path) -> None:
        """Copy a file to one of this machine, which is replaced. Raises FileNotFoundError if there is none."""
        ...

    def write_atomic(self, root: P, name: str, data: bytes) -> None:
        """Create or replace the file `name` of `root`: readers see the old content or the new one."""
        ...

    def list_foreign(self, folder: P) -> list[str]:
        """Return what lies below the folder of a part, of an array or of the index and is not of a form that Headrace
        writes there: paths relative to `folder`, sorted; those of folders end with a slash."""
        ...

    def delete_folder(self, root: P, name: str) -> None:
        """Delete a folder of `root`, its `zarr.json` first or all at once, whenever this call ends.

        What `list_foreign` names in it stays.
        """
        ...

    def delete_file(self, root: P, name: str) -> None:
        """Delete the file `name` of `root`, if it is there."""
        ...

    def size(self, file: P) -> int:
        """Return the size of a file in bytes. Raises FileNotFoundError if there is none."""
        ...

    def read_tail(self, file: P, count: int) -> bytes:
        """Return the last `count` bytes of a file, or all of them if it is shorter.

        Raises:
            FileNotFoundError: there is no such file.
        """
        ...

    def read_ranges(self, file: P, bounds: Sequence[tuple[int, int]]) -> list[Any]:
        """Return the bytes from start to stop of each of `bounds`, as buffers."""
        ...

    def map(self, function: Callable[[S], T], items: Iterable[S]) -> list[T]:
        """Return `function(item)` for every item, in order; concurrently if each call waits for the network."""
        ...
