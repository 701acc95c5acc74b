"""List the members of a tar without reading their contents.

What is damaged costs the members that it lies in: the next header is searched for, and the bytes before it are told.
Of `tarfile` only the parser of one header is used: its reader believes the sizes in headers, and holds what they say.
"""

from __future__ import annotations

import tarfile
from typing import BinaryIO

import google_crc32c

from headrace.featurize.files.archives.members import Listed, Listing, check_size, checked_name
from headrace.store.errors import Rejected
from headrace.store.schema import Member, Reject

BLOCK = tarfile.BLOCKSIZE
_MAX_EXTENDED_BYTES = 1 << 16
"""Of the extended header of a member, which has its long name."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_PAX, _LONG_NAME = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.GNUTYPE_LONGNAME
_SKIPPED = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)
_WITHOUT_CONTENT = (
    tarfile.DIRTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)


def list_members(file: BinaryIO, archive: str, size: int) -> Listing:
    """Yield the members of a tar in their order, and a reject for what cannot be read of it.

    Args:
        file: the tar, at its start. Only headers are read.
        archive: its name.
        size: in bytes.
    """
    if kind := _COMPRESSED.get(file.read(2)):
        reason = f"it is compressed by {kind}: uncompress it to a .tar, which is read as it is"
        yield Reject(archive, "scan", reason)
        return
    position, damaged_from, extended = 0, -1, dict[str, str]()
    while position < size:
        file.seek(position)
        block = file.read(BLOCK)
        header = _parse(block)
        if header is None:
            if damaged_from < 0 and block.strip(b"\0"):
                damaged_from = position
            position += BLOCK
            continue
        if damaged_from >= 0:
            yield _damage(archive, damaged_from, position)
        damaged_from, start = -1, position + BLOCK
        length = int(extended.pop("size", header.size))
        position = start + (0 if header.type in _WITHOUT_CONTENT else -(-length // BLOCK) * BLOCK)
        if header.type in (*_PAX, _LONG_NAME):
            extended |= _extended(file, header)
        elif header.type not in _SKIPPED:
            header.name, header.size = extended.get("path", header.name), length
            extended = {}
            yield from _listed(
                archive,
                size,
                header,
                Member(archive=archive, kind="tar", place=(start, length), check=int(google_crc32c.value(block))),
            )
    if damaged_from >= 0:
        yield _damage(archive, damaged_from, size)


def _parse(block: bytes) -> tarfile.TarInfo | None:
    """Return the header that a block is; None if it is none."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError):
        return None
    return header if header.size >= 0 else None


def _extended(file: BinaryIO, header: tarfile.TarInfo) -> dict[str, str]:
    """Return the path and the size that an extended header gives, in the form of POSIX or of GNU."""
    if header.size > _MAX_EXTENDED_BYTES:
        return {}
    content = file.read(header.size)
    if header.type == _LONG_NAME:
        return {"path": content.partition(b"\0")[0].decode(errors="surrogateescape")}
    found: dict[str, str] = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not (length.isdigit() and len(length) < 6 and 0 < int(length) <= len(content)):
            break
        key, _, value = content[len(length) + 1 : int(length)].removesuffix(b"\n").partition(b"=")
        if key == b"path" or (key == b"size" and value.isdigit() and len(value) < 19):
            found[key.decode()] = value.decode(errors="surrogateescape")
        content = content[int(length) :]
    return found


def _listed(archive: str, size: int, header: tarfile.TarInfo, member: Member) -> Listing:
    if header.isdir():
        return
    name = ""
    try:
        name = checked_name(header.name)
        if not name:
            return
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            raise Rejected("scan", "it is a link, a device or a sparse file in its archive: pack what it stands for")
        check_size(header.size)
        if sum(member.place) > size:
            raise Rejected("scan", "its archive ends within it: the archive is cut short")
        yield Listed(name, header.size, member)
    except Rejected as error:
        yield Reject(f"{archive}/{name or header.name[:200]}", "scan", error.reason)


def _damage(archive: str, start: int, stop: int) -> Reject:
    reason = f"bytes {start:,} to {stop:,} of it are no member of a tar: what was there is lost, the others are read"
    return Reject(f"{archive}#{start}-{stop}", "scan", reason)
