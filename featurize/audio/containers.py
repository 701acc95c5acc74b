"""Is a recording whole? What its container says of itself, held against the bytes that are there.

libsndfile mends in silence: of a WAV or an Ogg that is cut short it takes what is left for the whole. What is found
here, from headers and checksums alone:

    WAV, RF64, AIFF   sizes of the chunks             shorter: rejected; left open, as by a pipe: up to the end
    FLAC              number of the last frame        not the one that the header counts to: rejected
    Ogg               CRC of every page, the last     damaged, cut short: rejected; chained streams: one after another
    MP3               every frame                     damaged, cut short: rejected; a wrong length: put right
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, TypeAlias

from headrace.featurize.audio import mpeg
from headrace.store.errors import Rejected

Streams: TypeAlias = Sequence[Sequence[range | bytes]]
"""Files to decode one after the other, each as pieces of the file and bytes to stand between them."""

_MISCOUNT = 64  # bytes; some writers count their own header in
_FLAC_FRAME = 1 << 18  # bytes to search for the last frame, where the header does not say how large frames are
_FLAC_TAGS = 4096  # bytes that may follow it
_FLAC_NUMBERED = 0x10FFFE  # as far as Python's UTF-8 goes; 28 hours
_OGG_FIRST, _OGG_LAST = 2, 4  # bits of a page's flags
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def streams(file: BinaryIO, size: int, format: str) -> Streams:
    """What to decode in a file that libsndfile would misread; empty where it may read the file as it is.

    Args:
        file: at its start.
        size: in bytes.
        format: by libsndfile's name for it.
    Raises:
        Rejected: cut short or damaged.
    """
    if format in ("WAV", "WAVEX", "RF64", "AIFF"):
        return _riff(file, size)
    if format == "FLAC":
        return _flac(file, size)
    if format == "OGG":
        return _ogg(file)
    if format == "MP3":
        pieces = mpeg.mended(file, size)
        return [pieces] if pieces else []
    return []


def _riff(file: BinaryIO, size: int) -> Streams:
    """RIFF (Multimedia Programming Interface 1.0), its RF64 (EBU Tech 3306), and AIFF, which is of the same build."""
    kind = file.read(4)
    order = ">" if kind in (b"RIFX", b"FORM") else "<"
    wide = 0
    for name, start, length in _chunks(file, 12, size, order):
        if name == b"ds64":
            wide = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"fmt " and file.read(2) in (b"\x50\0", b"\x55\0"):
            raise Rejected("decode", "it is MPEG audio in a WAV: convert it to FLAC")
        elif name in (b"data", b"SSND"):
            length = wide if wide and length == 0xFFFFFFFF else length
            return _samples(file, start, length, size, order)
    return []


def _chunks(file: BinaryIO, position: int, size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of every chunk from `position` on; the file is at its start."""
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(order + "4sI", file.read(8))
        yield name, position + 8, length
        position += 8 + length + length % 2


def _samples(file: BinaryIO, start: int, length: int, size: int, order: str) -> Streams:
    left = size - start
    if length == 0 and left:
        return [[range(start - 4), b"\xff" * 4, range(start, size)]]
    if 0x7FFFF000 <= length <= 0x80000000 or length >= 0xFFFFF000:
        return []  # what writers to a pipe put for a length that they cannot know
    if length > left + _MISCOUNT:
        raise Rejected("decode", f"{left} of {length} bytes of samples are there: the file is cut short")
    for name, body, _ in _chunks(file, start + length + length % 2, size, order):
        if not (name.isascii() and name.decode().isprintable()):
            mpeg.check_tail(file, body - 8, "the length in its header is wrong")
            break
    return []


def _flac(file: BinaryIO, size: int) -> Streams:
    """RFC 9639: frames of one size are numbered; the last must be the one that the header's sample count leads to."""
    head = file.read(42)
    smallest, largest = struct.unpack(">HH", head[8:12])
    frame_bytes = int.from_bytes(head[15:18], "big") or _FLAC_FRAME
    total = int.from_bytes(head[18:26], "big") & (1 << 36) - 1
    if head[:4] != b"fLaC" or smallest != largest or not 0 < total <= _FLAC_NUMBERED * largest:
        return []
    number = (total - 1) // largest
    file.seek(max(0, size - frame_bytes - _FLAC_TAGS))
    end = file.read()
    last = _flac_frame(end, number)
    if last < 0 or _flac_frame(end[last:], number + 1) >= 0:
        raise Rejected("decode", f"it does not end with sample {total}: it is cut short, or its header counts wrongly")
    return []


def _flac_frame(data: bytes, number: int) -> int:
    """Where the frame of that number begins (9.1: its number is coded as UTF-8 codes a character), -1 if nowhere."""
    coded = chr(number).encode("utf-8", "surrogatepass")
    for found in re.finditer(b"\xff\xf8.." + re.escape(coded), data, re.DOTALL):
        at, more = found.start(), found.end()
        more += {6: 1, 7: 2}.get(data[at + 2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(data[at + 2] & 15, 0)
        if _crc8(data[at : more + 1]) == 0:
            return at
    return -1


def _crc8(data: bytes) -> int:
    """Of x^8 + x^2 + x + 1; 0 where the last byte is that of those before it."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 0x80 else 0)
    return crc


def _ogg(file: BinaryIO) -> Streams:
    """RFC 3533, 6. Streams may follow one another, each with a header of its own; libsndfile reads the first."""
    links: list[int] = []
    position, flags = 0, 0
    while header := file.read(27):
        page = header + file.read(header[-1]) if len(header) == 27 else header
        page += file.read(sum(page[27:]))
        _check_page(page, position)
        if page[5] & _OGG_FIRST and not flags & _OGG_FIRST:
            links.append(position)
        flags = page[5]
        position += len(page)
    if not flags & _OGG_LAST:
        raise Rejected("decode", "its last page is missing: the file is cut short")
    return [[range(*link)] for link in zip(links, [*links[1:], position], strict=True)] if len(links) > 1 else []


def _check_page(page: bytes, position: int) -> None:
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise Rejected("decode", f"it ends within the page at byte {position}: the file is cut short")
    # Ogg's CRC takes bits from the other end than zlib's, and neither inverts its start nor its result.
    crc = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    if page[:4] != b"OggS" or crc != int.from_bytes(page[22:26].translate(_REVERSED), "big"):
        raise Rejected("decode", f"its page at byte {position} is damaged: encode it again from its source")
