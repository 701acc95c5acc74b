"""Count the frames of an MP3 (MPEG audio layer III: ISO/IEC 11172-3 and 13818-3, section 2.4).

An MP3 has no file header. Most encoders begin with a frame that gives the number of frames ("Xing" or "Info"), and
decoders trust it: they stop early if the number is too small, and estimate the length from the first frame's bit rate
if there is no such frame. So all frame headers are read, four bytes each, and the number is corrected.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from headrace.store.errors import Rejected

MPEG_1 = 3
"""Version bits of a frame header: 3 is MPEG-1, 2 MPEG-2, 0 MPEG-2.5."""
_LAYER_III = 1
_SAMPLE_RATES = (44_100, 48_000, 32_000)
_KBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MAX_BIT_RATE = 14  # index into the tables above
_MONO = 3
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
_HAS_FRAMES, _HAS_BYTES = 1, 2  # flags of a Xing frame
_SIZE_TOLERANCE = 256  # bytes; some encoders include an ID3 tag
_SEARCH_BYTES = 1 << 16  # after an ID3 tag, for the first frame


class FrameHeader(NamedTuple):
    """A frame, as its four-byte header describes it."""

    size: int
    """In bytes, including the header."""
    xing_offset: int
    """From the start of the frame to where a "Xing" or "Info" field begins if the frame has one."""


@lru_cache(maxsize=1024)
def _parse_header(header: bytes) -> FrameHeader | None:
    """Parse the four bytes of a frame header. Return None if they are not a header of layer III."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bit_rate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer != _LAYER_III or bit_rate in (0, 15) or rate == 3:
        return None
    mono = header[3] >> 6 == _MONO
    if version == MPEG_1:
        bits_per_second, sample_rate, side_info = _KBITS_1[bit_rate] * 1000, _SAMPLE_RATES[rate], 17 if mono else 32
    else:
        bits_per_second, side_info = _KBITS_2[bit_rate] * 1000, 9 if mono else 17
        sample_rate = _SAMPLE_RATES[rate] // (2 if version == 2 else 4)
    samples = 1152 if version == MPEG_1 else 576
    return FrameHeader(samples // 8 * bits_per_second // sample_rate + (header[2] >> 1 & 1), 4 + side_info)


class FrameScan(NamedTuple):
    """The consecutive frames of a file."""

    start: int
    """Byte at which the first frame begins."""
    stop: int
    """One past the last byte of the last frame."""
    frames: int
    """How many there are, including a Xing frame."""


def with_correct_frame_count(file: BinaryIO, size: int) -> Sequence[range | bytes]:
    """Return the pieces of an MP3 with a Xing frame that counts its frames correctly.

    Args:
        file: the recording.
        size: of the file, in bytes.
    Returns:
        Byte ranges of the file and replacement bytes, or an empty sequence if the file is correct as it is.
    Raises:
        Rejected: the file is truncated, damaged, or not of layer III.
    """
    scan = _scan_frames(file)
    file.seek(scan.start)
    header_bytes = file.read(4)
    header = _parse_header(header_bytes)
    if header is None:
        raise Rejected("decode", "it is MPEG audio, but not a readable MP3: convert it to FLAC")
    xing = scan.start + header.xing_offset
    file.seek(xing)
    name, flags, frame_count, byte_count = file.read(4), file.read(4)[-1:], _read_uint32(file), _read_uint32(file)
    has_count = name in (b"Xing", b"Info") and flags and flags[0] & _HAS_FRAMES
    if scan.stop > size:
        raise Rejected("decode", "it ends within a frame: the file is cut short")
    if has_count and frame_count == scan.frames - 1:
        return []
    if has_count and flags[0] & _HAS_BYTES and scan.start + byte_count > size + _SIZE_TOLERANCE:
        raise Rejected("decode", f"it should have {byte_count} bytes of audio: the file is cut short")
    check_tail(file, scan.stop, "it is damaged there, encode it again from its source")
    if has_count:
        return [range(xing + 8), (scan.frames - 1).to_bytes(4, "big"), range(xing + 12, scan.stop)]
    return [_xing_frame(header_bytes, scan.frames), range(scan.start, scan.stop)]


def _read_uint32(file: BinaryIO) -> int:
    return int.from_bytes(file.read(4), "big")


def _scan_frames(file: BinaryIO) -> FrameScan:
    start = position = _first_frame(file)
    frames = 0
    file.seek(position)
    while header := _parse_header(file.read(4)):
        position += header.size
        frames += 1
        file.seek(position)
    return FrameScan(start, position, frames)


def _first_frame(file: BinaryIO) -> int:
    """Return the position of the first header whose frame is followed by another header, or by the end of the data."""
    start = _after_id3(file)
    file.seek(start)
    data = file.read(_SEARCH_BYTES)
    offset = data.find(b"\xff")
    while offset >= 0:
        header = _parse_header(data[offset : offset + 4])
        if header and (_parse_header(data[offset + header.size :][:4]) or len(data) <= offset + header.size):
            return start + offset
        offset = data.find(b"\xff", offset + 1)
    return start


def _after_id3(file: BinaryIO) -> int:
    """Return where an ID3v2 tag ends (section 3.1: a ten-byte header; four bytes of seven bits each give the size)."""
    tag = file.read(10)
    if tag[:3] != b"ID3" or len(tag) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))


def check_tail(file: BinaryIO, position: int, advice: str) -> None:
    """Raise Rejected, with `advice`, if anything but tags or zeros follows the audio that ends at `position`."""
    file.seek(position)
    tail = file.read(1 << 16)
    if any(tail) and not tail.startswith(_TAGS):
        raise Rejected("decode", f"from byte {position} on it holds something else: {advice}")


def _xing_frame(first_header: bytes, count: int) -> bytes:
    """Return a Xing frame for `count` frames. It has the highest bit rate, so that it is large enough."""
    header_bytes = bytes((0xFF, first_header[1] | 1, _MAX_BIT_RATE << 4 | first_header[2] & 0x0C, first_header[3]))
    header = _parse_header(header_bytes)
    assert header, "the first header was valid, and a higher bit rate does not change that"
    padded_header = header_bytes.ljust(header.xing_offset, b"\0")
    return (padded_header + b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")).ljust(header.size, b"\0")
