"""What archives have in common: the names of their members, and the limits on them.

An archive comes from anybody. A member whose name leads out of the archive, a link, and what is longer than a recording
can be are not read, and are told as rejects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from headrace.store.errors import Rejected
from headrace.store.schema import Member, Reject

MAX_MEMBER_BYTES = 1 << 31
"""Size of a member, unpacked: a recording of an hour takes 2 GB at 192 kHz in three channels."""
MAX_NAME = 1024
"""Characters of a name."""


class Listed(NamedTuple):
    """A member of an archive."""

    name: str
    size: int
    """In bytes, unpacked."""
    member: Member


Listing = Iterator[Listed | Reject]
"""The members of an archive in their order, and a reject for each that cannot be read."""


def checked_name(name: str) -> str:
    """Return a member's name, without `./` before it; an empty string if it is of no interest, as `._a.wav` is.

    Raises:
        Rejected: it leads out of the archive, or cannot be the name of a file.
    """
    parts = name.split("/")
    while parts and parts[0] == ".":
        del parts[0]
    if any(part.startswith(".") and part != ".." for part in parts):
        return ""
    if not parts or ".." in parts or "" in parts or "\0" in name or len(name) > MAX_NAME:
        raise Rejected("scan", "its name in the archive is no path below it: pack the archive again")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Rejected("scan", "its name in the archive is not UTF-8: pack the archive again") from None
    return "/".join(parts)


def check_size(size: int) -> None:
    """Raise Rejected if a member is larger than any recording."""
    if size > MAX_MEMBER_BYTES:
        raise Rejected("scan", f"it has {size:,} bytes: nothing in an archive has more than {MAX_MEMBER_BYTES:,}")
