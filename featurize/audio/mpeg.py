"""MPEG audio, layer III: how many frames are there? ISO/IEC 11172-3 and 13818-3, section 2.4.

An MP3 has no header of its own. How long it is stands in an information frame that most encoders put first ("Xing" or
"Info"), and decoders believe it: one that counts wrongly has them stop early, and where there is none they guess, from
the bit rate of the first frame. So the frames are counted, four bytes each, and the information is put right.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from headrace.store.errors import Rejected

MPEG_1 = 3
"""The two bits for the version in a frame's header; 2 is MPEG-2, 0 MPEG-2.5."""
_LAYER_III = 1
_RATES = (44_100, 48_000, 32_000)
_KBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_LARGEST = 14  # index of the bit rate
_MONO = 3
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
_HAS_FRAMES, _HAS_BYTES = 1, 2  # what the information holds
_MISCOUNT = 256  # bytes; some encoders count an ID3 tag in
_SEARCHED = 1 << 16  # bytes, for the first frame, after an ID3 tag


class Frame(NamedTuple):
    """What the four bytes of a frame's header say."""

    size: int
    """In bytes, the header included."""
    information: int
    """Where the information would begin, from the start of the frame."""


@lru_cache(maxsize=1024)
def _frame(header: bytes) -> Frame | None:
    """None where this is no header of layer III."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bit_rate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer != _LAYER_III or bit_rate in (0, 15) or rate == 3:
        return None
    mono = header[3] >> 6 == _MONO
    if version == MPEG_1:
        bits_per_second, sample_rate, side = _KBITS_1[bit_rate] * 1000, _RATES[rate], 17 if mono else 32
    else:
        bits_per_second, side = _KBITS_2[bit_rate] * 1000, 9 if mono else 17
        sample_rate = _RATES[rate] // (2 if version == 2 else 4)
    samples = 1152 if version == MPEG_1 else 576
    return Frame(samples // 8 * bits_per_second // sample_rate + (header[2] >> 1 & 1), 4 + side)


class Walk(NamedTuple):
    """The frames of a file, from its first to its last whole one."""

    start: int
    """Byte at which the first begins."""
    stop: int
    """One past the last byte of the last."""
    frames: int


def mended(file: BinaryIO, size: int) -> Sequence[range | bytes]:
    """The file's pieces with right information at their head; empty where it is right as it stands.

    Raises:
        Rejected: cut short or damaged, or not of layer III.
    """
    walk = _walk(file)
    file.seek(walk.start)
    first = file.read(4)
    found = _frame(first)
    if found is None:
        raise Rejected("decode", "it is MPEG audio, but no MP3 that can be read: convert it to FLAC")
    place = walk.start + found.information
    file.seek(place)
    name, has, counted, long = file.read(4), file.read(4)[-1:], _number(file), _number(file)
    informed = name in (b"Xing", b"Info") and has and has[0] & _HAS_FRAMES
    if walk.stop > size:
        raise Rejected("decode", "it ends within a frame: the file is cut short")
    if informed and counted == walk.frames - 1:
        return []
    if informed and has[0] & _HAS_BYTES and walk.start + long > size + _MISCOUNT:
        raise Rejected("decode", f"it should have {long} bytes of audio: the file is cut short")
    check_tail(file, walk.stop, "it is damaged there, encode it again from its source")
    if informed:
        return [range(place + 8), (walk.frames - 1).to_bytes(4, "big"), range(place + 12, walk.stop)]
    return [_information(first, walk.frames), range(walk.start, walk.stop)]


def _number(file: BinaryIO) -> int:
    return int.from_bytes(file.read(4), "big")


def _walk(file: BinaryIO) -> Walk:
    start = position = _first(file)
    frames = 0
    file.seek(position)
    while found := _frame(file.read(4)):
        position += found.size
        frames += 1
        file.seek(position)
    return Walk(start, position, frames)


def _first(file: BinaryIO) -> int:
    """Byte of the first header that another one follows where its frame ends."""
    start = _after_id3(file)
    file.seek(start)
    data = file.read(_SEARCHED)
    at = data.find(b"\xff")
    while at >= 0:
        found = _frame(data[at : at + 4])
        if found and (_frame(data[at + found.size :][:4]) or len(data) <= at + found.size):
            return start + at
        at = data.find(b"\xff", at + 1)
    return start


def _after_id3(file: BinaryIO) -> int:
    """ID3v2, 3.1: ten bytes, four of which give the size of the rest in seven bits each."""
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def check_tail(file: BinaryIO, position: int, otherwise: str) -> None:
    """See that after the end of the audio, at `position`, come tags, zeros, or nothing."""
    file.seek(position)
    tail = file.read(1 << 16)
    if any(tail) and not tail.startswith(_TAGS):
        raise Rejected("decode", f"from byte {position} on it holds something else: {otherwise}")


def _information(first: bytes, count: int) -> bytes:
    """An information frame for as many frames as these; of the highest bit rate, so that it is large enough."""
    header = bytes((0xFF, first[1] | 1, _LARGEST << 4 | first[2] & 0x0C, first[3]))
    found = _frame(header)
    assert found, "the first header was valid, and a higher bit rate does not change that"
    size, place = found
    return (header.ljust(place, b"\0") + b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")).ljust(size, b"\0")
