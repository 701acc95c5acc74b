"""Storage of stores and corpora: folders of this machine, or prefixes of a bucket.

    path = parse_path("s3://bucket/store")
    names = storage_of(path).list_names(path)

A path of this machine is a plain `pathlib.Path`. `S3Path` has the methods of it that both need: `/`, `name`, `parent`,
`resolve`, `exists`, `read_bytes`. All other operations belong to the `Storage` of the path.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

from headrace.store.errors import UsageError
from headrace.store.storage.base import Storage
from headrace.store.storage.local import LocalStorage
from headrace.store.storage.regular_files import open_regular
from headrace.store.storage.s3 import S3Path, S3Storage
from headrace.store.storage.s3_settings import SCHEME

StoragePath: TypeAlias = Path | S3Path
P = TypeVar("P", bound=StoragePath)

_LOCAL: Storage[Path] = LocalStorage()
_S3: Storage[S3Path] = S3Storage()


def parse_path(location: str | os.PathLike[str] | S3Path) -> StoragePath:
    """Return the path that a string or URL names. Accesses nothing.

    Raises:
        UsageError: a URL of another kind than s3://BUCKET/PREFIX.
    """
    if isinstance(location, S3Path):
        return location
    text = os.fspath(location)
    if text.startswith(SCHEME):
        return S3Path.parse(text)
    if re.match(r"[a-z][a-z0-9+.-]*://", text):
        raise UsageError(f"{text} cannot be read or written: give a path, or {SCHEME}BUCKET/PREFIX.")
    return Path(text)


def read_file(path: StoragePath) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: there is nothing.
        OSError: it cannot be read, or is a folder, a pipe or a device.
    """
    if isinstance(path, S3Path):
        return path.read_bytes()
    with open_regular(path) as file:
        return file.read()


def storage_of(path: P) -> Storage[P]:
    """Return the operations on files for the kind of storage that a path belongs to."""
    return cast(Storage[P], _S3 if isinstance(path, S3Path) else _LOCAL)
