"""Recordings that libsndfile does not know, through the ffmpeg that is installed, if one is.

What a file is, its first bytes say, and ffmpeg is told: it neither guesses nor follows references to other files or
hosts, as a playlist under another name would have it do.
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

import soundfile

from headrace.featurize.audio import descriptors
from headrace.store.errors import Rejected

_FIRST_BYTES = (
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
"""Addresses in memory, which differ from run to run, and numbers in hexadecimal, which mean nothing to a user."""
SCAN_S = 60.0
"""So long may ffmpeg take to count a file's packets, before it counts as hanging."""


def demuxer(head: bytes) -> str:
    """ffmpeg's name for the container that begins with these 16 bytes, empty where it is none for ffmpeg."""
    return next((name for at, magic, name in _FIRST_BYTES if head[at:].startswith(magic)), "")


def length(descriptor: int, path: str | Path, demuxer: str) -> tuple[int, int]:
    """Samples, within a frame of the codec or two, and sample rate. Reads the whole file and decodes nothing.

    Args:
        descriptor, path: of the same file; the path is used where a process cannot inherit a descriptor.
    Raises:
        Rejected: no ffmpeg here, or it finds fault with the file.
    """
    rate, tick, end = 0, Fraction(0), 0
    with _running(descriptor, path, demuxer, SCAN_S, "-c", "copy", "-f", "framecrc") as output:
        for line in output:
            name, _, value = line.decode().partition(":")
            if name == "#tb 0":
                tick = Fraction(value.strip())
            elif name == "#sample_rate 0":
                rate = int(value)
            elif not name.startswith("#"):
                _, _, shown_at, duration, *_ = name.split(",")
                end = max(end, int(shown_at) + int(duration))
    return round(end * tick * rate), rate


@contextmanager
def stream(
    descriptor: int, path: str | Path, demuxer: str, segment: tuple[int, int] | None, timeout: float
) -> Iterator[soundfile.SoundFile]:
    """Its samples, to be read to their end; whether that was their true end shows when this context is left.

    Args:
        descriptor, path: as in `length`.
        segment: first sample and one past the last; None for all of it. All before it is decoded too, since what
            ffmpeg seeks to is off by up to 1000 samples.
        timeout: in seconds.
    Raises:
        Rejected: no ffmpeg here, or it finds fault with the file.
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
def program() -> str | None:
    """Where it is. Looked up once."""
    return shutil.which("ffmpeg")


@contextmanager
def _running(descriptor: int, path: str | Path, demuxer: str, timeout: float, *how: str) -> Iterator[IO[bytes]]:
    """What ffmpeg writes to its standard output."""
    found = program()
    if found is None:
        raise Rejected("decode", "only ffmpeg reads it, and none is installed here: install it, or convert to FLAC")
    quietly = ("-nostdin", "-v", "error", "-xerror", "-threads", "1", "-protocol_whitelist", "file")
    source, inherited = (f"/dev/fd/{descriptor}", (descriptor,)) if descriptors.SHARED else (path, ())
    words = (*quietly, "-f", demuxer, "-i", f"file:{source}", "-map", "0:a:0", *how, "pipe:1")
    timed_out = threading.Event()
    with (
        TemporaryFile() as said,
        subprocess.Popen(
            [found, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, pass_fds=inherited
        ) as process,
    ):
        assert process.stdout is not None

        def end() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(timeout, end)
        timer.start()
        try:
            yield process.stdout
            process.stdout.close()
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
        said.seek(0)
        complaint = said.readline(1000).decode(errors="replace")
    if code and timed_out.is_set():
        raise Rejected("decode", f"ffmpeg takes more than {timeout:.0f} s to read it")
    if code or complaint:
        raise Rejected("decode", f"ffmpeg finds fault with it: {_NOISE.sub('', complaint).strip()}")
