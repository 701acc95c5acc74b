"""File names made of ids: every file system can hold them, and none of them takes two for the same.

An id may hold anything. Characters that file names or lists cannot hold are written as %XX. An id whose name is too
long, reserved, or differs from another's only by case or Unicode form gets a name with a digest:
`beginning~digest.suffix`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

MAX_BYTES = 240
"""Longest name; suffixes such as .TextGrid follow."""
MAX_PATH_BYTES = 1000
"""Longest path of several names."""
ESCAPED = {*'"%*/:<>?\\|', *map(chr, range(32)), "\x7f"}
"""What a name cannot hold on Windows, or a list between tabs or bars."""
_ESCAPE = re.compile("[" + re.escape("".join(sorted(ESCAPED))) + "]")
_UNESCAPE = re.compile("%(" + "|".join(f"{ord(char):02X}" for char in sorted(ESCAPED)) + ")")
_TRIMMED = " .'\u202a"
"""Characters that Windows, or a reader of lists, removes from the end of a name."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(\.|$)", re.IGNORECASE)
"""Names of devices of Windows, whatever suffix they have."""
_WITH_DIGEST = re.compile(r"~[0-9a-f]{24}(\.[0-9a-z]{1,8})?$")
_SUFFIX = re.compile(r"\.[0-9A-Za-z]{1,8}$")


def escape(id: str) -> str:
    """Return an id with the characters that names cannot hold as %XX."""
    return _ESCAPE.sub(lambda match: f"%{ord(match[0]):02X}", id)


def unescape(name: str) -> str:
    """Return the id that `escape` made this name of."""
    return _UNESCAPE.sub(lambda match: chr(int(match[1], 16)), name)


def portable_name(id: str) -> str:
    """Return the escaped id, or a name with a digest where no file can be called like that."""
    name = escape(id)
    return name if _is_portable(name) else name_with_digest(id, id)


def name_with_digest(name: str, id: str) -> str:
    """Return the beginning of a name and its suffix, with a digest of an id between them."""
    escaped = "".join(escape(name).splitlines())
    suffix = match[0] if (match := _SUFFIX.search(escaped)) else ""
    stem = escaped.removesuffix(suffix).encode("utf-8", "ignore")[: MAX_BYTES // 2].decode("utf-8", "ignore")
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return f"{stem.strip().rstrip(_TRIMMED)}~{digest}{suffix}"


def file_names(ids: Sequence[str]) -> list[str]:
    """Return a name for each id: `portable_name`, or one with a digest where file systems would take two for the same.

    Args:
        ids: different from one another.
    """
    return _made_unique(list(map(portable_name, ids)), map(name_with_digest, ids, ids))


def portable_path(path: str) -> str:
    """Return a relative POSIX path of portable names, which leads nowhere else."""
    *folders, last = path.split("/")
    names = [portable_name(folder) for folder in folders if folder not in ("", ".", "..")]
    found = "/".join((*names, portable_name(last)))
    return found if len(found.encode()) <= MAX_PATH_BYTES else name_with_digest(last, path)


def path_with_digest(path: str, id: str) -> str:
    """Return a portable path whose last name has a digest of an id."""
    folder, slash, _ = portable_path(path).rpartition("/")
    return folder + slash + name_with_digest(path.rpartition("/")[2], id)


def file_paths(paths: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Return a portable path for each path, or one with a digest where file systems would take two for the same.

    Args:
        paths: POSIX paths of files; some may be equal.
        ids: to which they belong, different from one another.
    """
    return _made_unique(list(map(portable_path, paths)), map(path_with_digest, paths, ids))


def _made_unique(names: list[str], others: Iterable[str]) -> list[str]:
    """Return each name, or what `others` has in its place if a file system could confuse it with another name."""
    keys = [_folded(name) for name in names]
    counts = Counter(keys)
    counts.update({key[:end] for key in keys for end, char in enumerate(key) if char == "/"})
    return [name if counts[key] == 1 else other for name, key, other in zip(names, keys, others, strict=True)]


def _folded(name: str) -> str:
    """Return a name as the least attentive file system compares it: without case and Unicode form."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _is_portable(name: str) -> bool:
    """Return whether an escaped name can be that of a file anywhere, and is none that has a digest."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # half a character
        return False
    trimmed = name.strip().rstrip(_TRIMMED)
    usual = 0 < size <= MAX_BYTES and name.splitlines() == [trimmed] and not _RESERVED.match(name)
    return usual and not _WITH_DIGEST.search(_folded(name))
