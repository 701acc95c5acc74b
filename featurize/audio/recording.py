"""Read headers and samples of untrusted recordings.

    WAV, FLAC, Ogg, MP3, AIFF, ...      libsndfile, after `containers` has checked that the file is complete
    MP4, Matroska, ASF, ADTS, AMR, ...  ffmpeg, if it is installed

The reason of a reject does not name the file. The reject does that, and equal reasons can be counted.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from headrace.featurize.audio import containers, descriptors, ffmpeg
from headrace.featurize.audio.libsndfile import soundfile
from headrace.featurize.audio.patched_file import open_patched
from headrace.featurize.files.archives.reading import open_member
from headrace.featurize.files.source import local_file, local_folder, open_file
from headrace.store.errors import Rejected, rejected_file
from headrace.store.schema import Member, Utterance
from headrace.store.storage import StoragePath
from headrace.store.storage.s3 import S3Path

SEGMENT_BYTES = 1 << 18
"""Bytes that one request reads of a segment in a bucket: a second or two of audio, or one step of FLAC's seeking."""
BLOCK_SAMPLES = 1 << 17
"""Samples of all channels that are decoded at once. They and what is computed from them fit into the L2 cache."""
SAMPLE_RATES = range(4_000, 768_001)
"""Sample rates, in Hz, that a recording of speech can have."""
_LIBSNDFILE_REASONS = {
    1: "it has no header of a known format; convert it to WAV or FLAC",
    7: "no frame of it is whole",  # of an MP3; libsndfile's own message says that the file does not exist
}
"""Reasons by libsndfile's error number, where its own message is misleading."""
_UNKNOWN_LENGTH = 2**62  # libsndfile's frame count of a stream whose header gives no length
_PREROLL_SAMPLES = 1 << 14  # an MP3's frame depends on up to ten frames before it, Opus needs 80 ms
_MAX_SAMPLES_PER_S = 384_000
_CODEC_DELAY_S = 0.3  # by which ffmpeg's packet count may exceed the decoded samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on a recording, so that none can exhaust the memory or block the others."""

    max_duration_s: float = 3600.0
    """Duration of an utterance. Decoding one of an hour takes half a gigabyte of memory."""
    min_peak_db: float = -60.0
    """Peak of the mean of all channels, in dB of full scale: of softer ones, levelling would make noise."""
    hang_timeout_s: float = 120.0
    """Time that decoding may take beyond the utterance's own duration before the decoder counts as hanging."""

    @property
    def max_samples(self) -> int:
        """Samples of all channels that are decoded for one utterance: those of two at 192 kHz."""
        return int(min(self.max_duration_s * _MAX_SAMPLES_PER_S, _UNKNOWN_LENGTH))

    def decode_timeout_s(self, utterance: Utterance) -> float:
        """Return the seconds that decoding `utterance` may take."""
        return self.hang_timeout_s + utterance.seconds


DEFAULT_LIMITS = Limits()


class _SequentialSoundFile(soundfile.SoundFile):
    """A sound file that is read without seeking.

    soundfile seeks to the current position after every read. libmpg123 then loses its bit reservoir, the bits that an
    MP3's frames take from those before them, and the result crackles.
    """

    def seekable(self) -> bool:
        return False


class Header(NamedTuple):
    """Length and sample rate that a recording's header declares."""

    samples: int
    """Per channel. To within a frame of the codec if ffmpeg reads it; an estimate for an MP3 that declares none."""
    sample_rate: int
    channels: int = 1
    """1 if ffmpeg reads the recording."""


def read_header(
    root: StoragePath,
    name: str,
    size: int,
    limits: Limits = DEFAULT_LIMITS,
    member: Member | None = None,
    content: bytes | None = None,
) -> Header:
    """Read a recording's header without decoding it.

    Args:
        root: of the corpus.
        name: of the recording, relative to `root`.
        size: of the file, in bytes.
        limits: a longer recording is measured instead of trusting its header.
        member: where it lies, if it is in an archive.
        content: of the file, if it is at hand.
    Raises:
        Rejected: the file is not audio, has no samples, or does not declare a usable length or sample rate.
    """
    if not size:
        raise Rejected("scan", "its header cannot be read: the file is empty")
    is_local = member is None and isinstance(root, Path)
    with _opened(root, name, size, member, content) as file:
        demuxer = ffmpeg.demuxer(file.read(16))
        header = None if demuxer else _libsndfile_header(file.fileno() if is_local else file)
    if header is None or not 0 < header.samples <= limits.max_duration_s * header.sample_rate:
        with local_file(root, name, member, size) as path, _regular_file(path) as descriptor:
            header = _measured_header(descriptor, path, size, demuxer)
    check_header(header, limits)
    return header


def check_header(header: Header, limits: Limits) -> None:
    """Raise Rejected if a recording has no samples, or a rate or length that none can have."""
    if not header.samples:
        raise Rejected("scan", "it holds no samples")
    if header.samples >= _UNKNOWN_LENGTH:
        raise Rejected("scan", "its header does not say how long it is: write it again to a file, not to a pipe")
    if header.sample_rate not in SAMPLE_RATES:
        raise Rejected("scan", f"its header says {header.sample_rate} Hz: no speech is recorded at such a rate")
    if min(header.samples, limits.max_duration_s * header.sample_rate) * header.channels > limits.max_samples:
        raise Rejected("scan", _too_many_reason(limits))


def _opened(
    root: StoragePath, name: str, size: int, member: Member | None, content: bytes | None
) -> AbstractContextManager[BinaryIO]:
    if content is not None:
        return io.BytesIO(content)
    return open_member(root, member, size) if member else open_file(root, name, size)


def _libsndfile_header(file: int | BinaryIO) -> Header:
    with _open_sound(file) as sound:
        return Header(sound.frames, sound.samplerate, sound.channels)


def _measured_header(descriptor: int, path: str | Path, size: int, demuxer: str) -> Header:
    """Measure the length from the file's content where the header gives none or an implausible one."""
    if demuxer:
        return Header(*ffmpeg.probe_length(descriptor, path, demuxer))
    with _open_sound(descriptor) as sound:
        header, format = Header(sound.frames, sound.samplerate, sound.channels), sound.format
    streams = containers.repaired_streams(open_patched(descriptor, [range(size)]), size, format)
    samples = sum(_libsndfile_header(open_patched(descriptor, pieces)).samples for pieces in streams)
    return header._replace(samples=samples) if streams else header


def decode_blocks(root: StoragePath, utterance: Utterance, limits: Limits) -> Iterator[np.ndarray]:
    """Decode an utterance block by block.

    Args:
        root: of the corpus; `utterance.audio` is relative to it. A bucket only for a segment.
        utterance: to decode.
        limits: maximum duration and decoding time.
    Yields:
        (samples, channels) int16 or float32, in a buffer that is reused for the next block.
    Raises:
        Rejected: damaged, truncated, too long, or not the file that was scanned. Blocks yielded before are invalid.
    """
    if isinstance(root, S3Path):
        yield from _segment_blocks(root, utterance, limits)
        return
    remaining, samples = limits.max_duration_s * utterance.sample_rate, limits.max_samples
    path = root / utterance.audio
    with _regular_file(path) as file:
        before = os.fstat(file)
        if before.st_size != utterance.size:
            raise Rejected("decode", f"it has {before.st_size} bytes and had {utterance.size} when it was scanned")
        demuxer = ffmpeg.demuxer(descriptors.read_at(file, 16, 0))
        if demuxer:
            blocks = _blocks_by_ffmpeg(file, path, demuxer, utterance, limits)
        else:
            blocks = _blocks_by_libsndfile(file, utterance)
        for block in blocks:
            remaining -= len(block)
            samples -= block.size
            if remaining < 0:
                raise Rejected("decode", too_long_reason(limits))
            if samples < 0:
                raise Rejected("decode", _too_many_reason(limits))
            yield block
        after = os.fstat(file)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Rejected("decode", "it changed while it was read: run the same command again when it is finished")


def _segment_blocks(root: S3Path, utterance: Utterance, limits: Limits) -> Iterator[np.ndarray]:
    """Decode a segment of a recording in a bucket. libsndfile reads only the byte ranges that it needs."""
    with open_file(root, utterance.audio, utterance.size, SEGMENT_BYTES) as ranges:
        if not ffmpeg.demuxer(ranges.read(16)):
            with _open_sound(ranges) as sound:
                yield from _read_blocks(sound, utterance, utterance.start, utterance.stop - utterance.start)
            return
    with local_folder(root, utterance.audio) as folder:
        yield from decode_blocks(folder, utterance, limits)


def too_long_reason(limits: Limits) -> str:
    """Return the reason to reject a recording that is longer than `limits` permit."""
    return f"it is longer than {limits.max_duration_s:.0f} s: cut it at silences, or allow more with --max-duration"


def _too_many_reason(limits: Limits) -> str:
    return f"it has more than {limits.max_samples:,} samples in all channels: lower its sample rate, or mix it down"


def _blocks_by_libsndfile(file: int, utterance: Utterance) -> Iterator[np.ndarray]:
    streams: containers.Streams = ()
    with _open_sound(file) as sound:
        if not is_whole_recording(utterance):
            yield from _read_blocks(sound, utterance, utterance.start, utterance.stop - utterance.start)
            return
        streams = containers.repaired_streams(open_patched(file, [range(utterance.size)]), utterance.size, sound.format)
        if not streams:
            yield from _read_blocks(sound, utterance, 0, sound.frames)
    for pieces in streams:
        with _open_sound(open_patched(file, pieces)) as sound:
            yield from _read_blocks(sound, utterance, 0, sound.frames)


def _blocks_by_ffmpeg(
    file: int, path: Path, demuxer: str, utterance: Utterance, limits: Limits
) -> Iterator[np.ndarray]:
    segment = None if is_whole_recording(utterance) else (utterance.start, utterance.stop)
    missing = utterance.stop - utterance.start
    with ffmpeg.open_stream(file, path, demuxer, segment, limits.decode_timeout_s(utterance) / 2) as sound:
        for block in _read_blocks(sound, utterance, 0, None):
            missing -= len(block)
            yield block
    if missing > _CODEC_DELAY_S * utterance.sample_rate:
        raise Rejected("decode", f"it ends {missing} samples before its header says: the file is cut short")


def is_whole_recording(utterance: Utterance) -> bool:
    """Return whether an utterance is its whole recording and not a segment of it."""
    return utterance.id == utterance.audio


def _read_blocks(
    sound: soundfile.SoundFile, utterance: Utterance, start: int, samples: int | None
) -> Iterator[np.ndarray]:
    """Yield exactly `samples` samples from `start` on, or all if `samples` is None."""
    if sound.samplerate != utterance.sample_rate:
        raise Rejected("decode", f"it is at {sound.samplerate} Hz, when scanned at {utterance.sample_rate}")
    # libsndfile converts 16 bits to float32 in six times NumPy's time, but for FLAC at no cost.
    dtype = np.int16 if sound.subtype == "PCM_16" and sound.format != "FLAC" else np.float32
    buffer = np.empty((max(1, BLOCK_SAMPLES // sound.channels), sound.channels), dtype)
    done = 0
    try:
        _seek_to(sound, start, buffer)
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


def _seek_to(sound: soundfile.SoundFile, start: int, buffer: np.ndarray) -> None:
    """Seek to a sample. MP3, Vorbis and Opus are decoded from earlier frames on, on which the first one depends."""
    if start:
        lead = min(start, _PREROLL_SAMPLES, len(buffer)) if sound.format in ("MP3", "OGG") else 0
        sound.seek(start - lead)
        sound.read(lead, out=buffer[:lead])


@contextmanager
def _regular_file(path: str | Path) -> Iterator[int]:
    """Open a regular file and give its descriptor. Does not block on a FIFO."""
    descriptor = -1
    try:
        descriptor = descriptors.open_file(path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Rejected("decode", "it is not a regular file")
        yield descriptor
    except FileNotFoundError:
        raise Rejected("decode", "there is no such file") from None
    except OSError as error:
        raise rejected_file(error, "decode", f"it cannot be read: {error.strerror}") from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _open_sound(file: int | BinaryIO) -> _SequentialSoundFile:
    """Open a recording with libsndfile from its start. `file` stays open; a file object costs 20 us more."""
    try:
        if isinstance(file, int):
            os.lseek(file, 0, os.SEEK_SET)
            return _SequentialSoundFile(file if descriptors.SHARED else open(file, "rb", closefd=False), closefd=False)
        file.seek(0)
        return _SequentialSoundFile(file)
    except soundfile.LibsndfileError as error:
        reason = _LIBSNDFILE_REASONS.get(error.code, error.error_string)
        raise Rejected("decode", f"its header cannot be read: {reason}") from None
