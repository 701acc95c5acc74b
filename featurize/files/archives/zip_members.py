"""List the members of a zip by its central directory, and find the content of one."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

from headrace.featurize.files.archives.members import Listed, Listing, check_size, checked_name
from headrace.store.errors import Rejected
from headrace.store.schema import Member, Reject

_MAX_DIRECTORY_BYTES = 1 << 26
"""Of a central directory: that of half a million recordings."""
_ENCRYPTED = 1
_LOCAL_HEADER = struct.Struct("<4s2x2H16x2H")
"""Magic number, flags, method, and lengths of the name and of what follows it (APPNOTE.TXT, 4.3.7)."""
_MAGIC = b"PK\3\4"
METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


def list_members(file: BinaryIO, archive: str, size: int) -> Listing:
    """Yield the members of a zip in the order of their contents, and a reject for each that cannot be read.

    Args:
        file: the zip. Only its central directory is read.
        archive: its name.
        size: in bytes.
    """
    try:
        infos = zipfile.ZipFile(_Directory(file)).infolist()
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
        ValueError,
        LookupError,
        struct.error,
    ) as error:
        reason = f"its list of members cannot be read ({error}): the archive is cut short or damaged"
        yield Reject(archive, "scan", reason)
        return
    for info in sorted(infos, key=lambda info: info.header_offset):
        yield from _listed(archive, size, info)


def _listed(archive: str, size: int, info: zipfile.ZipInfo) -> Listing:
    if info.filename.endswith("/"):
        return
    name = ""
    try:
        name = checked_name(info.filename)
        if not name:
            return
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise Rejected("scan", "it is a link or a device in its archive: pack what it stands for")
        if info.flag_bits & _ENCRYPTED:
            raise Rejected("scan", "it is encrypted: pack the archive without a password")
        if info.compress_type not in METHODS:
            raise Rejected("scan", f"it is compressed by method {info.compress_type}: store it, or deflate it")
        check_size(info.file_size)
        if info.header_offset < 0 or info.header_offset + info.compress_size > size:
            raise Rejected("scan", "its archive ends within it: the archive is cut short")
        place = info.header_offset, info.compress_size
        yield Listed(name, info.file_size, Member(archive=archive, kind="zip", place=place, check=info.CRC))
    except Rejected as error:
        yield Reject(f"{archive}/{name or info.filename[:200]}", "scan", error.reason)


def find_content(read_at: Callable[[int, int], bytes], member: Member) -> tuple[int, bool]:
    """Return where the content of a member begins, and whether it is deflated.

    Args:
        read_at: returns so many bytes from a position on.
    Raises:
        Rejected: stage "decode"; its local header is not there any more.
    """
    header = read_at(_LOCAL_HEADER.size, member.place[0])
    if len(header) == _LOCAL_HEADER.size:
        magic, flags, method, name, extra = _LOCAL_HEADER.unpack(header)
        if magic == _MAGIC and method in METHODS and not flags & _ENCRYPTED:
            return member.place[0] + len(header) + name + extra, method == zipfile.ZIP_DEFLATED
    raise Rejected("decode", "it does not begin where the archive says: the archive is damaged, or was replaced")


class _Directory:
    """A file of which zipfile reads no more than a central directory can have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MAX_DIRECTORY_BYTES:
            position = self._file.tell()
            left = self._file.seek(0, 2) - position
            self._file.seek(position)
            if min(left, count if count >= 0 else left) > _MAX_DIRECTORY_BYTES:
                raise zipfile.BadZipFile(f"it has more than {_MAX_DIRECTORY_BYTES >> 20} MB")
        return self._file.read(count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
