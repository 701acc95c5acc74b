"""Check that a recording is complete: compare what its container declares with the bytes of the file.

libsndfile does not report a WAV or an Ogg that is cut short: it reads what is left. The checks here use only headers
and checksums:

    WAV, RF64, AIFF   chunk sizes                   truncated: rejected; size left open by a pipe: read to the end
    FLAC              number of the last frame      differs from the header's sample count: rejected
    Ogg               CRC of every page, last page  damaged or truncated: rejected; chained streams: read in turn
    MP3               every frame                   damaged or truncated: rejected; wrong length: corrected
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import BinaryIO, TypeAlias

from headrace.featurize.audio import mpeg
from headrace.store.errors import Rejected

Streams: TypeAlias = Sequence[Sequence[range | bytes]]
"""Streams to decode in turn. Each is a sequence of byte ranges of the file and of bytes that replace some of them."""

_SIZE_TOLERANCE = 64  # bytes; some writers include their own header in the size
_FLAC_MAX_FRAME_BYTES = 1 << 18  # searched for the last frame if the header does not give a maximum frame size
_FLAC_MAX_TAG_BYTES = 4096  # that may follow the last frame
_FLAC_MAX_FRAME_NUMBER = 0x10FFFE  # the largest that Python's UTF-8 codec encodes; 28 hours
_OGG_FIRST_PAGE, _OGG_LAST_PAGE = 2, 4  # bits of a page's flags
_BIT_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def repaired_streams(file: BinaryIO, size: int, format: str) -> Streams:
    """Return the streams to decode in a file that libsndfile would misread.

    Args:
        file: the recording, positioned at its start.
        size: of the file, in bytes.
        format: libsndfile's name of the format.
    Returns:
        The streams, or an empty sequence if libsndfile reads the file correctly as it is.
    Raises:
        Rejected: the file is truncated or damaged.
    """
    if format in ("WAV", "WAVEX", "RF64", "AIFF"):
        return _riff(file, size)
    if format == "FLAC":
        return _flac(file, size)
    if format == "OGG":
        return _ogg(file)
    if format == "MP3":
        pieces = mpeg.with_correct_frame_count(file, size)
        return [pieces] if pieces else []
    return []


def _riff(file: BinaryIO, size: int) -> Streams:
    """Check RIFF (Multimedia Programming Interface 1.0), RF64 (EBU Tech 3306), or AIFF, which is structured alike."""
    magic = file.read(4)
    byte_order = ">" if magic in (b"RIFX", b"FORM") else "<"
    length_64 = 0
    for name, start, length in _chunks(file, 12, size, byte_order):
        if name == b"ds64":
            length_64 = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"fmt " and file.read(2) in (b"\x50\0", b"\x55\0"):
            raise Rejected("decode", "it is MPEG audio in a WAV: convert it to FLAC")
        elif name in (b"data", b"SSND"):
            length = length_64 if length_64 and length == 0xFFFFFFFF else length
            return _check_data_chunk(file, start, length, size, byte_order)
    return []


def _chunks(file: BinaryIO, position: int, size: int, byte_order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and length of every chunk from `position` on, with the file positioned at the chunk's start."""
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(byte_order + "4sI", file.read(8))
        yield name, position + 8, length
        position += 8 + length + length % 2


def _check_data_chunk(file: BinaryIO, start: int, length: int, size: int, byte_order: str) -> Streams:
    """Check that the chunk of samples is complete and that only other chunks follow it."""
    available = size - start
    if length == 0 and available:
        return [[range(start - 4), b"\xff" * 4, range(start, size)]]
    if 0x7FFFF000 <= length <= 0x80000000 or length >= 0xFFFFF000:
        return []  # placeholders of programs that write to a pipe and do not know the length
    if length > available + _SIZE_TOLERANCE:
        raise Rejected("decode", f"it has {available} of {length} bytes of samples: the file is cut short")
    for name, body, _ in _chunks(file, start + length + length % 2, size, byte_order):
        if not (name.isascii() and name.decode().isprintable()):
            mpeg.check_tail(file, body - 8, "the length in its header is wrong")
            break
    return []


def _flac(file: BinaryIO, size: int) -> Streams:
    """Check that the last frame has the number that follows from the header's sample count (RFC 9639).

    Only files whose blocks have one size number their frames; others are not checked.
    """
    header = file.read(42)
    min_block, max_block = struct.unpack(">HH", header[8:12])
    max_frame_bytes = int.from_bytes(header[15:18], "big") or _FLAC_MAX_FRAME_BYTES
    total = int.from_bytes(header[18:26], "big") & (1 << 36) - 1
    if header[:4] != b"fLaC" or min_block != max_block or not 0 < total <= _FLAC_MAX_FRAME_NUMBER * max_block:
        return []
    number = (total - 1) // max_block
    file.seek(max(0, size - max_frame_bytes - _FLAC_MAX_TAG_BYTES))
    tail = file.read()
    last = _find_flac_frame(tail, number)
    if last < 0 or _find_flac_frame(tail[last:], number + 1) >= 0:
        raise Rejected("decode", f"it does not end with sample {total}: it is cut short, or its header counts wrongly")
    return []


def _find_flac_frame(data: bytes, number: int) -> int:
    """Return where the frame with this number begins, or -1. The number is coded as in UTF-8 (section 9.1)."""
    coded_number = chr(number).encode("utf-8", "surrogatepass")
    for match in re.finditer(b"\xff\xf8.." + re.escape(coded_number), data, re.DOTALL):
        start, end = match.start(), match.end()
        end += {6: 1, 7: 2}.get(data[start + 2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(data[start + 2] & 15, 0)
        if _crc8(data[start : end + 1]) == 0:
            return start
    return -1


def _crc8(data: bytes) -> int:
    """Return the CRC with polynomial x^8 + x^2 + x + 1. It is 0 for data followed by its own CRC."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 0x80 else 0)
    return crc


def _ogg(file: BinaryIO) -> Streams:
    """Check every page (RFC 3533, section 6), and find chained streams, of which libsndfile reads only the first."""
    stream_starts: list[int] = []
    position, flags = 0, 0
    while header := file.read(27):
        page = header + file.read(header[-1]) if len(header) == 27 else header
        page += file.read(sum(page[27:]))
        _check_page(page, position)
        if page[5] & _OGG_FIRST_PAGE and not flags & _OGG_FIRST_PAGE:
            stream_starts.append(position)
        flags = page[5]
        position += len(page)
    if not flags & _OGG_LAST_PAGE:
        raise Rejected("decode", "its last page is missing: the file is cut short")
    if len(stream_starts) < 2:
        return []
    return [[range(start, stop)] for start, stop in pairwise([*stream_starts, position])]


def _check_page(page: bytes, position: int) -> None:
    """Raise Rejected if an Ogg page is incomplete or does not match its CRC."""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise Rejected("decode", f"it ends within the page at byte {position}: the file is cut short")
    # Ogg's CRC processes bits in the opposite order to zlib's, and inverts neither its initial value nor its result.
    crc = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(_BIT_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    if page[:4] != b"OggS" or crc != int.from_bytes(page[22:26].translate(_BIT_REVERSED), "big"):
        raise Rejected("decode", f"its page at byte {position} is damaged: encode it again from its source")
