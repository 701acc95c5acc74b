"""Recordings that are small and decode to hours, and mutations of every format through both decoders."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headrace.featurize.audio.decode import decode
from headrace.featurize.audio.decode_pool import decode_utterances
from headrace.featurize.audio.recording import Limits, decode_blocks
from headrace.featurize.audio.subprocess_decoder import DecoderProcess
from headrace.featurize.corpus import scanner
from headrace.store.errors import Rejected
from headrace.store.schema import Reject, Utterance
from tests.helpers import malformed_files
from tests.helpers.fuzzing import FUZZ_COUNTS, fuzz, mutate

LIMITS = Limits(max_duration_s=30.0, hang_timeout_s=20.0)


def silence(path: Path, rate: int, channels: int, seconds: int) -> None:
    malformed_files.with_text(path)
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16", format="FLAC") as file:
        for _ in range(seconds):
            file.write(np.zeros((rate, channels), np.int16))


@pytest.mark.parametrize("rate, channels", [(655_350, 1), (96_000, 8)])
def test_hours_of_silence_in_a_small_file_are_refused_by_the_header(tmp_path: Path, rate: int, channels: int) -> None:
    """With a limit of 30 s; the work is bounded by it, whatever the rate and the channels."""
    silence(tmp_path / "a.flac", rate, channels, 25)
    began = time.process_time()
    (reject,) = scanner.scan(tmp_path, "tree", limits=LIMITS)
    assert isinstance(reject, Reject) and reject.stage == "scan"
    assert "more than 11,520,000 samples in all channels" in reject.reason
    assert time.process_time() - began < 1 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20


def test_channels_that_no_header_told_are_counted_while_decoding(tmp_path: Path) -> None:
    silence(tmp_path / "a.flac", 96_000, 8, 25)
    size = (tmp_path / "a.flac").stat().st_size
    blocks = decode_blocks(tmp_path, malformed_files.described("a.flac", 25 * 96_000, 96_000, size), LIMITS)
    with pytest.raises(Rejected, match="samples in all channels"):
        for _ in blocks:
            pass


SEEDS = {
    "a.wav": [
        malformed_files.audio("WAV", "PCM_16", seconds=0.05),
        malformed_files.audio("WAV", "MS_ADPCM", seconds=0.05),
    ],
    "a.flac": [malformed_files.audio("FLAC", "PCM_16", seconds=0.05)],
    "a.ogg": [malformed_files.audio("OGG", "VORBIS", seconds=0.05), malformed_files.audio("OGG", "OPUS", seconds=0.05)],
    "a.mp3": [malformed_files.audio("MP3", "MPEG_LAYER_III", seconds=0.05)],
    "a.aiff": [malformed_files.audio("AIFF", "PCM_16", seconds=0.05)],
}


def decode_all(folder: Path) -> None:
    """Scan a corpus, and decode what is not rejected. No wave is longer than the limit."""
    found = [item for item in scanner.scan(folder, "tree", limits=LIMITS) if isinstance(item, Utterance)]
    options = {"isolated": False, "threads": 1, "limits": LIMITS}
    for _, made in decode_utterances(folder, found, 32_000, "none", **options):  # type: ignore[arg-type]
        assert isinstance(made, Rejected) or len(made.wave) <= 31 * 32_000


@pytest.mark.parametrize("count", FUZZ_COUNTS)
@pytest.mark.parametrize("name", SEEDS)
def test_mutations_of_recordings_are_decoded_or_rejected(tmp_path: Path, name: str, count: int) -> None:
    folder = tmp_path / "corpus"
    path = malformed_files.with_text(folder / name)

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        decode_all(folder)

    fuzz(attempt, SEEDS[name], folder=folder, count=count)


@pytest.mark.skipif(malformed_files.ffmpeg() is None, reason="needs ffmpeg")
@pytest.mark.parametrize("count", [5, pytest.param(1_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("format", ["mp4", "webm", "adts"])
def test_mutations_through_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, count: int) -> None:
    """Each mutation takes a process of ffmpeg at the scan, and another one if it is decoded."""
    monkeypatch.setenv("PATH", f"{Path(str(malformed_files.ffmpeg())).parent}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "corpus"
    path = malformed_files.with_text(folder / f"a.{format}")

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        decode_all(folder)

    fuzz(attempt, [malformed_files.converted(format)], folder=folder, count=count)


def test_mutations_through_the_process_that_decodes_alone(tmp_path: Path) -> None:
    child = DecoderProcess(decode, 32_000, "none", LIMITS)
    try:
        for number in range(60):
            name = list(SEEDS)[number % len(SEEDS)]
            path = malformed_files.with_text(tmp_path / name)
            path.write_bytes(mutate(SEEDS[name], number))
            utterance = malformed_files.described(name, 800, malformed_files.RATE, path.stat().st_size)
            made = child.decode(tmp_path, utterance)
            assert isinstance(made, Rejected) or len(made.wave) <= 31 * 32_000
    finally:
        child.close()
