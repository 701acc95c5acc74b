"""Recordings nobody vouches for: what a header says, and the samples that are really there.

    WAV, FLAC, Ogg, MP3, AIFF, ...      libsndfile, once `containers` has found the file to be whole
    MP4, Matroska, ASF, ADTS, AMR, ...  ffmpeg, where it is installed

A reason never names the file, since whoever lists rejects does, and equal reasons can then be counted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from headrace.featurize.audio import containers, descriptors, ffmpeg
from headrace.featurize.audio.splice import spliced
from headrace.featurize.files.source import copied, local, opened
from headrace.store.errors import HeadraceError, Rejected
from headrace.store.schema import Utterance
from headrace.store.storage import StoragePath
from headrace.store.storage.s3 import S3Path

SEGMENT_BYTES = 1 << 18
"""Of a recording in a bucket that are read at once: a second or two, or one of the places where FLAC looks for it."""
BLOCK = 1 << 17
"""Samples of all channels that are decoded at once: with what is made from them they stay in the L2 cache."""
RATES = range(4_000, 768_001)
"""Sample rates, in Hz, at which there are recordings of speech; a header that says another lies."""
_MEANING = {
    1: "it has no header of a known format; convert it to WAV or FLAC",
    7: "no frame of it is whole",  # of an MP3; libsndfile's own words are of a file that does not exist
}
"""Of libsndfile's error numbers."""
_OF_THIS_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # and no fault of a file
_UNKNOWN_LENGTH = 2**62  # libsndfile's frame count of a stream whose header leaves it open
_LEAD = 1 << 14  # samples; an MP3's frames take from as many as ten before them, Opus needs 80 ms
_CODEC_DELAY_S = 0.3  # by so much ffmpeg's count of packets may exceed the samples that come of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What no recording may exceed, so that none can fill the memory or hold up the others."""

    longest_s: float = 3600.0
    """Length of an utterance. One of an hour takes half a gigabyte of memory while it is decoded."""
    patience_s: float = 120.0
    """Time to decode one, beyond its own length, before its decoder counts as hanging."""

    def allowance(self, utterance: Utterance) -> float:
        """Seconds that decoding it may take."""
        return self.patience_s + utterance.seconds


USUAL = Limits()


class _Sound(soundfile.SoundFile):
    """Read on from where it stands. soundfile would seek there after every read, and by that libmpg123 loses the bits
    that an MP3's frames borrow from those before them: it crackles."""

    def seekable(self) -> bool:
        return False


class Header(NamedTuple):
    """What a recording says of itself."""

    samples: int
    """To within a frame of the codec for what goes through ffmpeg; a guess for an MP3 that does not say."""
    sample_rate: int


def header(root: StoragePath, name: str, size: int, limits: Limits = USUAL) -> Header:
    """Read a recording's header; decodes nothing.

    Args:
        root: of the corpus.
        name: of the recording, relative to it.
        size: in bytes.
    Raises:
        Rejected: no audio, or no length.
    """
    if not size:
        raise Rejected("scan", "its header cannot be read: the file is empty")
    with opened(root, name, size) as file:
        demuxer = ffmpeg.demuxer(file.read(16))
        found = None if demuxer else _by_libsndfile(file.fileno() if isinstance(root, Path) else file)
    if found is None or not 0 < found.samples <= limits.longest_s * found.sample_rate:
        with local(root, name) as path, _regular_file(path) as descriptor:
            found = _measured(descriptor, path, size, demuxer)
    if not found.samples:
        raise Rejected("scan", "it holds no samples")
    if found.samples >= _UNKNOWN_LENGTH:
        raise Rejected("scan", "its header does not say how long it is: write it again to a file, not to a pipe")
    if found.sample_rate not in RATES:
        raise Rejected("scan", f"its header says {found.sample_rate} Hz: no speech is recorded at such a rate")
    return found


def _by_libsndfile(file: int | BinaryIO) -> Header:
    with _sound(file) as sound:
        return Header(sound.frames, sound.samplerate)


def _measured(descriptor: int, path: str | Path, size: int, demuxer: str) -> Header:
    """What the file itself says where its header says nothing, or too much to be believed."""
    if demuxer:
        return Header(*ffmpeg.length(descriptor, path, demuxer))
    with _sound(descriptor) as sound:
        header, format = Header(sound.frames, sound.samplerate), sound.format
    mended = containers.streams(spliced(descriptor, [range(size)]), size, format)
    samples = sum(_by_libsndfile(spliced(descriptor, pieces)).samples for pieces in mended)
    return header._replace(samples=samples) if mended else header


def blocks(root: StoragePath, utterance: Utterance, limits: Limits) -> Iterator[np.ndarray]:
    """Decode an utterance, piece by piece: (samples, channels), int16 or float32, in a buffer that is used again.

    Args:
        root: of the corpus; `utterance.audio` is relative to it. In a bucket only for a segment.
    Raises:
        Rejected: damaged, cut short, too long, or not the file that was scanned. What came before counts for nothing.
    """
    if isinstance(root, S3Path):
        yield from _segment(root, utterance, limits)
        return
    left = limits.longest_s * utterance.sample_rate
    path = root / utterance.audio
    with _regular_file(path) as file:
        before = os.fstat(file)
        if before.st_size != utterance.size:
            raise Rejected("decode", f"it has {before.st_size} bytes and had {utterance.size} when it was scanned")
        demuxer = ffmpeg.demuxer(descriptors.read_at(file, 16, 0))
        for block in _converted(file, path, demuxer, utterance, limits) if demuxer else _decoded(file, utterance):
            left -= len(block)
            if left < 0:
                raise Rejected("decode", too_long(limits))
            yield block
        after = os.fstat(file)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Rejected("decode", "it changed while it was read: run the same command again when it is finished")


def _segment(root: S3Path, utterance: Utterance, limits: Limits) -> Iterator[np.ndarray]:
    """By ranges where libsndfile reads it: of a long recording that is little."""
    with opened(root, utterance.audio, utterance.size, SEGMENT_BYTES) as ranges:
        if not ffmpeg.demuxer(ranges.read(16)):
            with _sound(ranges) as sound:
                yield from _read(sound, utterance, utterance.start, utterance.stop - utterance.start)
            return
    with copied(root, utterance.audio) as here:
        yield from blocks(here, utterance, limits)


def too_long(limits: Limits) -> str:
    return f"it is longer than {limits.longest_s:.0f} s: cut it at silences, or allow more with --max-duration"


def _decoded(file: int, utterance: Utterance) -> Iterator[np.ndarray]:
    mended: containers.Streams = ()
    with _sound(file) as sound:
        if not is_whole(utterance):
            yield from _read(sound, utterance, utterance.start, utterance.stop - utterance.start)
            return
        mended = containers.streams(spliced(file, [range(utterance.size)]), utterance.size, sound.format)
        if not mended:
            yield from _read(sound, utterance, 0, sound.frames)
    for pieces in mended:
        with _sound(spliced(file, pieces)) as sound:
            yield from _read(sound, utterance, 0, sound.frames)


def _converted(file: int, path: Path, demuxer: str, utterance: Utterance, limits: Limits) -> Iterator[np.ndarray]:
    segment = None if is_whole(utterance) else (utterance.start, utterance.stop)
    missing = utterance.stop - utterance.start
    with ffmpeg.stream(file, path, demuxer, segment, limits.allowance(utterance) / 2) as sound:
        for block in _read(sound, utterance, 0, None):
            missing -= len(block)
            yield block
    if missing > _CODEC_DELAY_S * utterance.sample_rate:
        raise Rejected("decode", f"it ends {missing} samples before its header says: the file is cut short")


def is_whole(utterance: Utterance) -> bool:
    """Whether it is all of its recording, and not a segment."""
    return utterance.id == utterance.audio


def _read(sound: soundfile.SoundFile, utterance: Utterance, start: int, samples: int | None) -> Iterator[np.ndarray]:
    """Exactly so many samples, or all there are."""
    if sound.samplerate != utterance.sample_rate:
        raise Rejected("decode", f"it is at {sound.samplerate} Hz, when scanned at {utterance.sample_rate}")
    # Of 16 bits libsndfile makes float32 in six times NumPy's time, but for FLAC in none.
    dtype = np.int16 if sound.subtype == "PCM_16" and sound.format != "FLAC" else np.float32
    buffer = np.empty((max(1, BLOCK // sound.channels), sound.channels), dtype)
    done = 0
    try:
        _skip_to(sound, start, buffer)
        while samples is None or done < samples:
            block = sound.read(len(buffer) if samples is None else min(len(buffer), samples - done), out=buffer)
            if not len(block):
                break
            done += len(block)
            yield block
    except soundfile.LibsndfileError as error:
        raise Rejected("decode", f"it cannot be decoded: {error.error_string}") from None
    if samples is not None and done < samples:
        raise Rejected("decode", f"it ends after {done} of {samples} samples: the file is cut short")


def _skip_to(sound: soundfile.SoundFile, start: int, buffer: np.ndarray) -> None:
    """Of MP3, Vorbis and Opus by way of frames before: the first that are decoded lack what they take from those."""
    if start:
        lead = min(start, _LEAD, len(buffer)) if sound.format in ("MP3", "OGG") else 0
        sound.seek(start - lead)
        sound.read(lead, out=buffer[:lead])


@contextmanager
def _regular_file(path: str | Path) -> Iterator[int]:
    """The descriptor of a file that is one. A FIFO is not waited for."""
    descriptor = -1
    try:
        descriptor = descriptors.open_file(path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Rejected("decode", "it is not a regular file")
        yield descriptor
    except FileNotFoundError:
        raise Rejected("decode", "there is no such file") from None
    except OSError as error:
        if error.errno in _OF_THIS_PROCESS:
            raise HeadraceError(f"{path} cannot be opened on this machine: {error.strerror}.") from error
        raise Rejected("decode", f"it cannot be read: {error.strerror}") from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _sound(file: int | BinaryIO) -> _Sound:
    """A descriptor, or a file at 20 us more, to libsndfile, from its start. It stays open."""
    try:
        if isinstance(file, int):
            os.lseek(file, 0, os.SEEK_SET)
            return _Sound(file if descriptors.SHARED else open(file, "rb", closefd=False), closefd=False)
        file.seek(0)
        return _Sound(file)
    except soundfile.LibsndfileError as error:
        raise Rejected("decode", f"its header cannot be read: {_MEANING.get(error.code, error.error_string)}") from None
