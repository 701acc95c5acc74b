"""Recordings of every kind, and files that are not what they say: each with what must become of it.

`make_lies` lays them out as a corpus, a folder of files with a .txt beside each.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from headrace.featurize.audio.decode import Decoded
from headrace.store.errors import Rejected
from headrace.store.schema import Utterance
from tests.helpers.corpora import buzz

RATE = 16_000
SECONDS = 0.4
HOURS_6 = 6 * 3600
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffdb0043") + bytes(range(256)) * 4 + b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a recording: stored with this length, or rejected at this stage for such a reason."""

    seconds: float = 0.0
    stage: str = ""
    reason: str = ""
    """A regular expression."""


Content = tuple[bytes, Outcome]
STORED = Outcome(SECONDS)


def at_scan(reason: str) -> Outcome:
    return Outcome(stage="scan", reason=reason)


def at_decode(reason: str) -> Outcome:
    return Outcome(stage="decode", reason=reason)


def broken(reason: str) -> Outcome:
    """At either stage: where a header says nothing, the scan looks further."""
    return Outcome(stage="scan|decode", reason=reason)


CUT = broken("cut short")


def audio(
    format: str, subtype: str, *, rate: int = RATE, seconds: float = SECONDS, channels: int = 1, **how: object
) -> bytes:
    """A good recording."""
    wave = np.repeat(buzz(seconds, rate, channels)[:, None], channels, 1)
    return encoded(wave, format, subtype, rate, **how)


def encoded(wave: np.ndarray, format: str, subtype: str, rate: int = RATE, **how: object) -> bytes:
    file = io.BytesIO()
    channels = 1 if wave.ndim == 1 else wave.shape[1]
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=format, **how) as sound:  # type: ignore[arg-type]
        for start in range(0, len(wave), 4096):  # libsndfile's Vorbis writer breaks on big blocks
            sound.write(wave[start : start + 4096])
    return file.getvalue()


def put(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def flip(data: bytes, bit: int) -> bytes:
    return put(data, bit // 8, bytes([data[bit // 8] ^ 1 << bit % 8]))


def wav_files() -> dict[str, Content]:
    kinds = {
        "u8": ("WAV", "PCM_U8"), "s16": ("WAV", "PCM_16"), "s24": ("WAV", "PCM_24"), "s32": ("WAV", "PCM_32"),
        "f32": ("WAV", "FLOAT"), "f64": ("WAV", "DOUBLE"), "a-law": ("WAV", "ALAW"), "mu-law": ("WAV", "ULAW"),
        "extensible": ("WAVEX", "PCM_16"), "rf64": ("RF64", "PCM_16"), "rifx": ("WAV", "PCM_16"),
    }  # fmt: skip
    files = {
        f"{name}.wav": (audio(*kind, **({"endian": "BIG"} if name == "rifx" else {})), STORED)
        for name, kind in kinds.items()
    }
    padded = Outcome(SECONDS + 0.03)  # to whole blocks
    files |= {"ima.wav": (audio("WAV", "IMA_ADPCM"), padded), "ms.wav": (audio("WAV", "MS_ADPCM"), padded)}
    files["rifx.wav"] = audio("WAV", "PCM_16", endian="BIG"), STORED
    good = audio("WAV", "PCM_16")
    assert good[36:40] == b"data"
    bytes_of_samples = len(good) - 44
    return files | {
        "odd-byte.wav": (good + b"\0", STORED),
        "odd-size.wav": (put(good, 40, struct.pack("<I", bytes_of_samples - 1)), STORED),
        "tagged.wav": (good + b"TAG" + b"title".ljust(125, b"\0"), STORED),
        "more-chunks.wav": (good + b"LIST\x04\0\0\0INFOid3 \x04\0\0\0abcd", STORED),
        "riff-size.wav": (put(good, 4, struct.pack("<I", 7)), STORED),
        "counts-itself.wav": (put(good, 40, struct.pack("<I", len(good))), STORED),
        "piped.wav": (put(good, 40, b"\xff" * 4), STORED),
        "piped-sox.wav": (put(good, 40, struct.pack("<I", 0x7FFFF000)), STORED),
        "never-closed.wav": (put(good, 40, bytes(4)), STORED),
        "size-too-small.wav": (put(good, 40, struct.pack("<I", 2000)), at_decode("length in its header is wrong")),
        "cut.wav": (good[: len(good) // 2], CUT),
        "cut-rf64.wav": (audio("RF64", "PCM_16")[:-5000], CUT),
        "cut-header.wav": (good[:30], at_scan("header cannot be read")),
        "no-samples.wav": (put(good[:44], 40, bytes(4)), at_scan("no samples")),
        "one-sample.wav": (encoded(np.ones(1) / 2, "WAV", "PCM_16"), Outcome(stage="features", reason="too short")),
        "short.wav": (audio("WAV", "PCM_16", seconds=0.01), Outcome(stage="features", reason="too short")),
        "mp3-inside.wav": (put(good, 20, b"\x55\0"), Outcome(stage="scan|decode", reason="MPEG|header")),
        "1-hertz.wav": (put(good, 24, struct.pack("<I", 1)), at_scan("1 Hz: no speech")),
        "6-hours.wav": (put(good[:44], 40, struct.pack("<I", 2 * RATE * HOURS_6)), at_scan("longer than 3600 s")),
    }  # fmt: skip


def flac_files() -> dict[str, Content]:
    good = audio("FLAC", "PCM_16")
    middle = len(good) // 2

    def counting(samples: int) -> bytes:
        return put(good, 21, bytes([good[21] & 0xF0 | samples >> 32]) + struct.pack(">I", samples & 0xFFFFFFFF))

    return {
        "s16.flac": (good, STORED),
        "s24.flac": (audio("FLAC", "PCM_24"), STORED),
        "cut.flac": (good[:middle], at_decode("cut short")),
        "noise.flac": (put(good, middle, bytes(range(256))), at_decode("cannot be decoded")),
        "flipped.flac": (flip(good, 8 * middle), at_decode("cannot be decoded")),
        "too-many.flac": (counting(100_000), at_decode("header counts wrongly")),
        "too-few.flac": (counting(2000), at_decode("header counts wrongly")),
        "unknown.flac": (counting(0), at_scan("does not say how long")),
        "bomb.flac": (counting(2**36 - 1), at_scan("longer than 3600 s")),
    }


def ogg_files() -> dict[str, Content]:
    vorbis, opus = audio("OGG", "VORBIS"), audio("OGG", "OPUS")
    later = audio("OGG", "VORBIS", seconds=0.3, channels=2)
    other = audio("OGG", "VORBIS", rate=8000)
    last_page = vorbis.rindex(b"OggS")
    return {
        "vorbis.ogg": (vorbis, STORED),
        "opus.opus": (opus, STORED),
        "chained.ogg": (vorbis + later, Outcome(SECONDS + 0.3)),
        "chained.opus": (opus + opus, Outcome(2 * SECONDS)),
        "chained-rates.ogg": (vorbis + other, at_decode("at 8000 Hz")),
        "cut.ogg": (vorbis[: last_page + 40], CUT),
        "no-last-page.ogg": (vorbis[:last_page], CUT),
        "cut.opus": (opus[:-9], broken("cut short|malformed")),
        "damaged.ogg": (flip(vorbis, 8 * (last_page + 60)), broken("page at byte .* is damaged")),
    }


def mp3_files() -> dict[str, Content]:
    how = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    good = audio("MP3", "MPEG_LAYER_III", seconds=1.0, **how)
    place = good.index(b"Xing")
    counted = int.from_bytes(good[place + 8 : place + 12], "big")
    bare = good[good.index(good[:2], place) :]  # without the first frame, which holds no sound
    id3 = b"ID3\3\0\0\0\0\0\x0aTIT2" + bytes(6)
    second = Outcome(1.0)
    return {
        "plain.mp3": (good, second),
        "id3.mp3": (id3 + good + b"TAG" + bytes(125), second),
        "xing-too-few.mp3": (put(good, place + 8, struct.pack(">I", 3)), second),
        "xing-too-many.mp3": (put(good, place + 8, struct.pack(">I", 10 * counted)), second),
        "xing-6-hours.mp3": (put(good, place + 8, struct.pack(">I", 10**6)), second),
        "no-xing.mp3": (bare, Outcome(1.05)),
        "cut.mp3": (good[: len(good) // 2], CUT),
        "cut-no-xing.mp3": (bare[:-20], CUT),
        "damaged.mp3": (put(good, len(good) // 2, bytes(3000)), at_decode("holds something else")),
    }


def others() -> dict[str, Content]:
    files = {
        "aiff.aiff": (audio("AIFF", "PCM_16"), STORED),
        "cut.aiff": (audio("AIFF", "PCM_16")[:-4000], CUT),
        "image.wav": (JPEG, at_scan("header cannot be read")),
        "noise.mp3": (
            bytes(np.random.default_rng(0).integers(0, 256, 3000, np.uint8)),
            at_scan("header cannot be read"),
        ),
        "empty.wav": (b"", at_scan("empty")),
        "text.ogg": (b"no sound at all\n" * 50, at_scan("header cannot be read")),
    }
    if ffmpeg() is None:
        return files | {"a.m4a": (b"\0\0\0\x1cftypM4A " + bytes(100), at_scan("ffmpeg .* none is installed"))}
    m4a, webm = converted("ipod"), converted("webm")
    return files | {
        "a.m4a": (m4a, STORED),
        "a.webm": (webm, STORED),
        "cut.m4a": (m4a[:-1000], at_scan("ffmpeg finds fault")),
        "cut.webm": (webm[:-500], at_scan("ffmpeg finds fault")),
        "playlist.m4a": (b"\0\0\0\x1cftypM4A \n#EXTM3U\nfile:///etc/hostname\n", at_scan("ffmpeg finds fault")),
    }


def values() -> dict[str, Content]:
    wave = buzz(SECONDS, RATE, 0)

    def changed(place: int, value: float) -> bytes:
        return encoded(np.where(np.arange(len(wave)) == place, value, wave), "WAV", "FLOAT")

    bad = at_decode("NaN or infinite")
    return {
        "nan-first.wav": (changed(0, np.nan), bad),
        "nan-last.wav": (changed(len(wave) - 1, np.nan), bad),
        "infinite.wav": (changed(500, -np.inf), bad),
        "huge.wav": (encoded(np.full(6400, 1e300), "WAV", "DOUBLE"), bad),
        "over-full-scale.wav": (encoded(wave * 5, "WAV", "FLOAT"), STORED),
        "far-too-loud.wav": (encoded(wave * 100, "WAV", "FLOAT"), at_decode("peaks at .*: scale it down")),
        "silence.wav": (encoded(wave * 0, "WAV", "PCM_16"), STORED),
        "dc.wav": (encoded(wave * 0 + 0.25, "WAV", "PCM_16"), STORED),
    }


def shapes() -> dict[str, Content]:
    rates = (8000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000)
    files = {f"{n}-channels.wav": (audio("WAV", "PCM_16", channels=n), STORED) for n in range(1, 9)}
    files |= {f"{n}-channels.flac": (audio("FLAC", "PCM_16", channels=n), STORED) for n in range(1, 9)}
    return files | {f"{rate}-hertz.wav": (audio("WAV", "PCM_16", rate=rate), STORED) for rate in rates}


NAMES = ("日本語", "العربية", "\N{GRINNING FACE}", "new\nline", "tab\tand 'quotes\"", "-dash", "100%#1-2", "n" * 245)


def contents() -> dict[str, Content]:
    """By path relative to the corpus."""
    good = audio("WAV", "PCM_16")
    files = {f"names/{name}.wav": (good, STORED) for name in NAMES}
    for makers in (wav_files, flac_files, ogg_files, mp3_files, others, values, shapes):
        files |= {f"{makers.__name__}/{name}": content for name, content in makers().items()}
    return files | {"/".join(["deep"] * 60) + "/a.wav": (good, STORED)}


def make_lies(root: Path) -> dict[str, Outcome]:
    """Lay everything out, and tell what must become of each recording, by id."""
    outcomes = {}
    for name, (content, outcome) in contents().items():
        path = with_text(root / name)
        path.write_bytes(content)
        outcomes[name] = outcome
    os.truncate(root / "wav_files/6-hours.wav", 44 + 2 * RATE * HOURS_6)
    return outcomes | _no_files(root)


def with_text(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".txt").write_text("Hello there.", encoding="utf-8")
    return path


def _no_files(root: Path) -> dict[str, Outcome]:
    """What stands in a folder and is no recording."""
    with_text(root / "odd/folder.wav").mkdir()
    with_text(root / "odd/dangling.wav").symlink_to("nowhere.wav")
    with_text(root / "odd/ring.wav").symlink_to("ring.wav")
    with_text(root / "odd/outside.wav").symlink_to("/etc/hostname")
    with_text(root / "odd/device.wav").symlink_to("/dev/zero")
    os.mkfifo(with_text(root / "odd/fifo.wav"))
    _make_socket(with_text(root / "odd/socket.wav"))
    outcomes = {
        "odd/folder.txt": at_scan("text without audio"),
        "odd/dangling.wav": at_scan("no such file"),
        "odd/ring.wav": at_scan("symbolic links"),
        "odd/outside.wav": at_scan("outside of the corpus"),
        "odd/device.wav": at_scan("outside of the corpus"),
        "odd/fifo.wav": at_scan("not a regular file"),
        "odd/socket.wav": at_scan("not a regular file"),
    }
    shutil.copy(root / "wav_files/s16.wav", with_text(root / "odd/twin.wav"))
    os.link(root / "wav_files/s16.wav", with_text(root / "odd/twin-by-link.wav"))
    outcomes |= {"odd/twin.wav": STORED, "odd/twin-by-link.wav": STORED}
    if os.geteuid():  # nothing is forbidden to root
        shutil.copy(root / "wav_files/s16.wav", with_text(root / "odd/forbidden.wav"))
        (root / "odd/forbidden.wav").chmod(0)
        outcomes["odd/forbidden.wav"] = at_scan("Permission denied")
    return outcomes


def _make_socket(path: Path) -> None:
    """Under a short name first: a socket's path has at most 107 bytes."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


@cache
def ffmpeg() -> str | None:
    """The one that is installed, or the one that comes with imageio-ffmpeg."""
    found = shutil.which("ffmpeg")
    if found is None:
        try:
            from imageio_ffmpeg import get_ffmpeg_exe
        except ImportError:
            return None
        found = get_ffmpeg_exe()
    return found


def converted(format: str) -> bytes:
    """A good recording in a container of ffmpeg's."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"headrace-{os.getpid()}.{format}"
    command = [str(ffmpeg()), "-nostdin", "-y", "-v", "error", "-i", "pipe:0", "-f", format, str(folder)]
    try:
        subprocess.run(command, input=audio("WAV", "PCM_16"), check=True, stdin=None)
        return folder.read_bytes()
    finally:
        folder.unlink(missing_ok=True)


def damaged(count: int) -> dict[str, bytes]:
    """So many truncations and so many single flipped bits of good recordings of all formats."""
    random = np.random.default_rng(0)
    good = {
        "s16.wav": audio("WAV", "PCM_16"),
        "f32.wav": audio("WAV", "FLOAT"),
        "ms.wav": audio("WAV", "MS_ADPCM"),
        "s16.flac": audio("FLAC", "PCM_16"),
        "s24.flac": audio("FLAC", "PCM_24"),
        "vorbis.ogg": audio("OGG", "VORBIS"),
        "opus.opus": audio("OGG", "OPUS"),
        "vbr.mp3": audio("MP3", "MPEG_LAYER_III"),
        "aiff.aiff": audio("AIFF", "PCM_16"),
    }
    names = list(good)
    files: dict[str, bytes] = {}
    for n in range(count):
        name = names[n % len(names)]
        data = good[name]
        files[f"cut/{n:03d}-{name}"] = data[: int(random.integers(0, len(data)))]
        # Half of the flips hit the first kilobyte, where the headers are.
        files[f"flipped/{n:03d}-{name}"] = flip(data, int(random.integers(0, 8 * (len(data) if n % 2 else 1024))))
    return files


def described(name: str, samples: int = 10, rate: int = 32_000, size: int = 0) -> Utterance:
    """A whole recording."""
    return Utterance(
        id=name, audio=name, start=0, stop=samples, sample_rate=rate, size=size,
        speaker="s", language="en", text="hello",
    )  # fmt: skip


def crashing_decoder(root: object, utterance: Utterance, rate: int, level: str, limits: object) -> Decoded:
    """Does what the recording's name says."""
    if "crash" in utterance.id:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in utterance.id:
        time.sleep(600)
    if "killed" in utterance.id:
        os.kill(os.getpid(), signal.SIGKILL)
    if "fail" in utterance.id:
        sys.exit(9)
    if "bad" in utterance.id:
        raise Rejected("decode", "ein schlechter Ton: ♪")
    return Decoded(np.full(utterance.stop, len(utterance.id), np.int16))
