"""Read members of archives, in any process that sees the corpus: an utterance says where its recording lies."""

from __future__ import annotations

import io
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from headrace.featurize.files.archives import table_members, tar_members, zip_members
from headrace.featurize.files.range_file import RangeFile, ReadAt, open_ranges
from headrace.store.errors import Rejected, rejected_file
from headrace.store.schema import Member
from headrace.store.storage import StoragePath
from headrace.store.storage.s3 import S3Path

_PIECE = 1 << 20
_IN_MEMORY = 1 << 23
"""Bytes of an unpacked member that are held in memory; more are in a temporary file."""
_HEADERS, _REQUESTED = 1 << 16, 1 << 22
"""Bytes of an archive in a bucket that are requested at once: for the header of a recording, and for its content."""
_TABLES = ("parquet", "arrow")
_REPLACED = "the archive that it is in was replaced since it was scanned: run the same command again"


@contextmanager
def open_member(root: StoragePath, member: Member, size: int) -> Iterator[BinaryIO]:
    """Open a member for reading. Only what is read of it is read of the archive, unless it is compressed.

    Args:
        root: of the corpus.
        size: of the member in bytes, unpacked.
    Raises:
        Rejected: stage "decode"; it cannot be read, or is not what was scanned.
    """
    if member.kind in _TABLES:
        yield io.BytesIO(_row(root, member, size))
        return
    with _opened(root, member.archive, _HEADERS) as read_at:
        start, is_deflated = _content(read_at, member)
        if not is_deflated:
            with open_ranges(lambda count, at: read_at(count, start + at), size) as ranges:
                yield ranges
            return
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as unpacked:
            for piece in _inflated(read_at, start, member.place[1], size):
                unpacked.write(piece)
            unpacked.seek(0)
            yield unpacked  # type: ignore[misc]


def read_member(root: StoragePath, member: Member, size: int) -> Iterator[bytes]:
    """Yield the content of a member in pieces. Arguments and errors are those of `open_member`."""
    if member.kind in _TABLES:
        yield _row(root, member, size)
        return
    with _opened(root, member.archive, min(size + _HEADERS, _REQUESTED)) as read_at:
        start, is_deflated = _content(read_at, member)
        pieces = _inflated(read_at, start, member.place[1], size) if is_deflated else _stored(read_at, start, size)
        crc = 0
        for piece in pieces:
            crc = zlib.crc32(piece, crc) if member.kind == "zip" else 0
            yield piece
    if member.kind == "zip" and crc != member.check:
        raise Rejected("decode", "its content is not what its archive says (CRC-32): the archive is damaged")


def open_table(root: StoragePath, name: str) -> Any:
    """Open a Parquet or Arrow file for Arrow. Raises OSError if it cannot be read."""
    pa, path = table_members.arrow(), root / name
    if isinstance(path, Path):
        return pa.memory_map(str(path)) if name.lower().endswith(".arrow") else pa.OSFile(str(path))
    window = RangeFile(_Requests(path, _REQUESTED).read_at, _size(path))
    return pa.PythonFile(io.BufferedReader(window), mode="r")


def _row(root: StoragePath, member: Member, size: int) -> bytes:
    return table_members.read_row(root, lambda: open_table(root, member.archive), member, size)


@contextmanager
def _opened(root: StoragePath, archive: str, requested: int) -> Iterator[ReadAt]:
    """Open an archive, of which so many bytes are requested at once if it is in a bucket."""
    path = root / archive
    if not isinstance(path, Path):
        yield _Requests(path, requested).read_at
        return
    try:
        file = io.FileIO(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)))
    except OSError as error:
        raise rejected_file(error, "decode", f"its archive cannot be read: {error.strerror}") from None
    with file:

        def read_at(count: int, position: int) -> bytes:
            try:
                file.seek(position)
                return file.read(count)
            except OSError as error:
                raise rejected_file(error, "decode", f"its archive cannot be read: {error.strerror}") from None

        yield read_at


def _content(read_at: ReadAt, member: Member) -> tuple[int, bool]:
    """Return where the content of a member begins, and whether it is deflated."""
    if member.kind == "zip":
        return zip_members.find_content(read_at, member)
    start, _ = member.place
    header = read_at(tar_members.BLOCK, start - tar_members.BLOCK)
    if google_crc32c.value(header) != member.check:
        raise Rejected("decode", _REPLACED)
    return start, False


def _stored(read_at: ReadAt, start: int, size: int) -> Iterator[bytes]:
    stop = start + size
    while start < stop:
        piece = read_at(min(_PIECE, stop - start), start)
        if not piece:
            raise Rejected("decode", "its archive ends within it: the archive is cut short")
        start += len(piece)
        yield piece


def _inflated(read_at: ReadAt, start: int, compressed: int, size: int) -> Iterator[bytes]:
    """Yield exactly `size` bytes. Never more than _PIECE are held, whatever they were compressed to."""
    inflater, left = zlib.decompressobj(-zlib.MAX_WBITS), size
    try:
        for packed in _stored(read_at, start, compressed):
            while packed and not inflater.eof:
                piece = inflater.decompress(packed, min(_PIECE, left + 1))
                packed, left = inflater.unconsumed_tail, left - len(piece)
                if left < 0:
                    raise Rejected("decode", f"it unpacks to more than the {size} bytes that its archive says")
                yield piece
    except zlib.error as error:
        raise Rejected("decode", f"it cannot be unpacked ({error}): the archive is damaged") from None
    if left:
        raise Rejected("decode", f"it unpacks to {size - left} of {size} bytes: the archive is damaged")


class _Requests:
    """Reads an object in a bucket by large ranges, of which the last is held."""

    def __init__(self, path: S3Path, requested: int) -> None:
        self._path, self._requested = path, requested
        self._start, self._held = 0, b""

    def read_at(self, count: int, position: int) -> bytes:
        if not self._start <= position <= position + count <= self._start + len(self._held):
            stop = min(position + max(count, self._requested), _size(self._path))
            self._start, self._held = position, b""
            if position < stop:
                self._held = bytes(self._path.read_ranges([(position, stop)])[0])
        return self._held[position - self._start : position - self._start + count]


@lru_cache(maxsize=1024)
def _size(path: S3Path) -> int:
    """Return the size of an object, which is asked for once in a process."""
    return path.size()
