"""The names in a store: which ones a store can have, and which files are of a form that Headrace writes.

Names that are read from a store's metadata are checked before they become part of a path. What has another name than
these is somebody else's: it is reported, and left where it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from headrace.store.errors import DamagedStore

DRAFTS = ".headrace-drafts"
"""Folder for what is not finished. Only Headrace makes it, and nothing in it counts."""
LOCK_FILE = ".lock"
ROOT_NAMES = frozenset(
    (
        "zarr.json",
        "parts",
        "index",
        "models",
        "scan",
        "rejects.jsonl",
        "build.json",
        "add.json",
        "modified.json",
        LOCK_FILE,
        DRAFTS,
    )
)
"""Everything that Headrace writes directly into a store."""
MAX_NAME_LENGTH = 100

_NAME = re.compile(rf"[a-z0-9_]{{1,{MAX_NAME_LENGTH}}}")
_PART = re.compile(r"[0-9]{5}|[1-9][0-9]{5,9}")
_OWN_FILE = re.compile(rf"(?:{_NAME.pattern}/)?(?:zarr\.json|c(?:/[0-9]+)+)")
_OWN_FOLDER = re.compile(rf"{_NAME.pattern}(?:/c(?:/[0-9]+)*)?|c(?:/[0-9]+)*")


def is_name(name: object) -> bool:
    """Return whether this can be the name of a feature, a column or a model."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_names(names: Iterable[object], where: object) -> None:
    """Check names that were read from a file, before they become part of a path.

    Args:
        where: they were read.
    Raises:
        DamagedStore: one of them is no name.
    """
    for name in names:
        if not is_name(name):
            raise DamagedStore(
                f"{where} names {shown(name)}, and names consist of at most {MAX_NAME_LENGTH} of a-z, 0-9 and _: "
                "Headrace did not write this, do not use it."
            )


def shown(name: object) -> str:
    """Return a name as it is printed: in quotes, without control characters, and not too long."""
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:76]}..."


def part_number(name: str) -> int | None:
    """Return the number of the part whose folder has this name; None if it is no name of a part."""
    number = int(name) if _PART.fullmatch(name) else -1
    return number if 0 <= number < 2**31 else None


def is_litter(name: str) -> bool:
    """Return whether a name is of what file browsers put into folders. Such a folder still counts as empty."""
    return name in (".DS_Store", "Thumbs.db", "desktop.ini") or name.startswith("._")


def is_own_file(path: str) -> bool:
    """Return whether a file in the folder of a part, of an array or of the index is of a form that Headrace writes.

    Args:
        path: relative to that folder, with slashes.
    """
    return _OWN_FILE.fullmatch(path) is not None


def is_own_folder(path: str) -> bool:
    """Return whether a folder, as in `is_own_file`, can be one of an array."""
    return _OWN_FOLDER.fullmatch(path) is not None
