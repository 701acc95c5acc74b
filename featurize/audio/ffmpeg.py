"""Decode recordings that libsndfile does not support with the installed ffmpeg, if there is one.

The first bytes of a file decide its format, and ffmpeg is given that format: it does not guess, and it follows no
references to other files or hosts, which a disguised playlist would make it do.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from headrace.featurize.audio import descriptors
from headrace.featurize.audio.libsndfile import soundfile
from headrace.store.errors import Rejected

_MAGIC_BYTES = (
    (4, b"ftyp", "mov"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"#!AMR", "amr"),
    (0, b"wvpk", "wv"),
    (0, b"MAC ", "ape"),
    (0, b"\xff\xf1", "aac"),
    (0, b"\xff\xf9", "aac"),
)
_NOISE = re.compile(r"^(\[[^]]*\] )+|\s*\(?\b0x[0-9a-fA-F]+\b\)?")
"""Memory addresses, which differ from run to run, and hexadecimal numbers, which mean nothing to a user."""
PROBE_TIMEOUT_S = 60.0
"""Seconds that ffmpeg may take to count a file's packets before it counts as hanging."""


def demuxer(first_bytes: bytes) -> str:
    """Return ffmpeg's name of the container that begins with these 16 bytes, empty if it is not one for ffmpeg."""
    return next((name for offset, magic, name in _MAGIC_BYTES if first_bytes[offset:].startswith(magic)), "")


def probe_length(descriptor: int, path: str | Path, demuxer: str) -> tuple[int, int]:
    """Return the number of samples, to within two frames of the codec, and the sample rate.

    Reads the whole file and decodes nothing.

    Args:
        descriptor, path: of the same file. The path is used on systems where a process cannot inherit a descriptor.
        demuxer: ffmpeg's name of the container.
    Raises:
        Rejected: ffmpeg is not installed, or it reports an error in the file.
    """
    rate, time_base, end = 0, Fraction(0), 0
    with _running(descriptor, path, demuxer, PROBE_TIMEOUT_S, "-c", "copy", "-f", "framecrc") as output:
        for line in output:
            name, _, value = line.decode().partition(":")
            if name == "#tb 0":
                time_base = Fraction(value.strip())
            elif name == "#sample_rate 0":
                rate = int(value)
            elif not name.startswith("#"):
                _, _, presentation_time, duration, *_ = name.split(",")
                end = max(end, int(presentation_time) + int(duration))
    return round(end * time_base * rate), rate


@contextmanager
def open_stream(
    descriptor: int, path: str | Path, demuxer: str, segment: tuple[int, int] | None, timeout: float
) -> Iterator[soundfile.SoundFile]:
    """Open the decoded samples, to be read to their end. Errors of ffmpeg are raised when the context is left.

    Args:
        descriptor, path: as in `probe_length`.
        demuxer: ffmpeg's name of the container.
        segment: first sample and one past the last; None for the whole recording. Everything before a segment is
            decoded too, since ffmpeg's seeking is off by up to 1000 samples.
        timeout: in seconds.
    Raises:
        Rejected: ffmpeg is not installed, or it reports an error in the file.
    """
    sound = None
    cut = ("-af", f"atrim=start_sample={segment[0]}:end_sample={segment[1]}") if segment else ()
    with _running(descriptor, path, demuxer, timeout, *cut, "-c:a", "pcm_f32be", "-f", "au") as output:
        with suppress(soundfile.LibsndfileError):
            source = output.fileno() if descriptors.SHARED else io.BytesIO(output.read())
            sound = soundfile.SoundFile(source, closefd=False)
        if sound is not None:
            with sound:
                yield sound
    if sound is None:
        raise Rejected("decode", "ffmpeg finds no audio in it")


@cache
def executable() -> str | None:
    """Return the path of ffmpeg, or None. It is looked up once per process."""
    return shutil.which("ffmpeg")


@contextmanager
def _running(descriptor: int, path: str | Path, demuxer: str, timeout: float, *options: str) -> Iterator[IO[bytes]]:
    """Run ffmpeg and give its standard output. Raise Rejected when the context is left if ffmpeg reported an error."""
    program = executable()
    if program is None:
        raise Rejected("decode", "only ffmpeg reads it, and none is installed here: install it, or convert to FLAC")
    quiet = ("-nostdin", "-v", "error", "-xerror", "-threads", "1", "-protocol_whitelist", "file")
    source, inherited = (f"/dev/fd/{descriptor}", (descriptor,)) if descriptors.SHARED else (path, ())
    arguments = (*quiet, "-f", demuxer, "-i", f"file:{source}", "-map", "0:a:0", *options, "pipe:1")
    timed_out = threading.Event()
    with (
        TemporaryFile() as errors,
        subprocess.Popen(
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, pass_fds=inherited
        ) as process,
    ):
        assert process.stdout is not None

        def kill() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(timeout, kill)
        timer.start()
        try:
            yield process.stdout
            process.stdout.close()
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
        errors.seek(0)
        message = errors.readline(1000).decode(errors="replace")
    if code and timed_out.is_set():
        raise Rejected("decode", f"ffmpeg takes more than {timeout:.0f} s to read it")
    if code or message:
        raise Rejected("decode", f"ffmpeg finds fault with it: {_NOISE.sub('', message).strip()}")
