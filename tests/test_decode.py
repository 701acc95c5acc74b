"""From files to samples: every format and rate, no aliases, upstream's level, and no trust in headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from featurize.decode import to_int16, waveform
from store.errors import Rejected
from store.schema import Utterance


def utterance(path: Path, **changes: object) -> Utterance:
    info = soundfile.info(path)
    fields: dict[str, object] = {
        "id": path.name, "audio": path.name, "start": 0, "stop": info.frames, "sample_rate": info.samplerate,
        "size": path.stat().st_size, "speaker": "s", "language": "en", "text": "hello",
    }  # fmt: skip
    return Utterance(**(fields | changes))  # type: ignore[arg-type]


def tone(hz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


def decibels(x: np.ndarray) -> float:
    return 10 * np.log10(np.mean(np.square(x.astype(np.float64) / 32768)) + 1e-20)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("name, subtype", [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16")])
def test_a_tone_survives_every_format_and_rate(tmp_path: Path, rate: int, name: str, subtype: str) -> None:
    path = tmp_path / f"a.{name}"
    soundfile.write(path, tone(1000, rate), rate, subtype=subtype)
    wave = waveform(tmp_path, utterance(path), 32_000, "none")
    assert wave.dtype == np.int16 and abs(len(wave) - 32_000) <= 1
    spectrum = np.abs(np.fft.rfft(wave[:32_000] * np.hanning(len(wave[:32_000]))))
    assert abs(int(spectrum.argmax()) - 1000) <= 1 and abs(decibels(wave) - -9.03) < 0.05


@pytest.mark.parametrize("hz", [16_500, 17_000, 18_000, 20_000, 21_500])
def test_aliases_lie_under_80_dB(tmp_path: Path, hz: float) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(hz, 44_100), 44_100, subtype="FLOAT")
    wave = waveform(tmp_path, utterance(path), 32_000, "none")
    assert decibels(wave[2000:-2000]) < -9 - 80


def test_channels_are_averaged_without_overflow(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    left = np.full(8000, 32_767, np.int16)
    soundfile.write(path, np.stack((left, left, left, -left, left, left), 1), 32_000, subtype="PCM_16")
    wave = waveform(tmp_path, utterance(path), 32_000, "none")
    assert np.abs(wave - 32_767 * 4 / 6).max() <= 1


def test_int16_goes_through_untouched(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 9000, np.int16)
    soundfile.write(tmp_path / "a.flac", samples, 32_000)
    assert np.array_equal(waveform(tmp_path, utterance(tmp_path / "a.flac"), 32_000, "none"), samples)


def test_a_segment_is_its_samples(tmp_path: Path) -> None:
    samples = np.arange(9000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 32_000)
    piece = waveform(tmp_path, utterance(tmp_path / "a.wav", start=100, stop=2000), 32_000, "none")
    assert np.array_equal(piece, samples[100:2000])


def test_level_is_upstreams_sample_for_sample(golden: Path) -> None:
    fixture = np.load(golden / "features_audio.npz")
    assert np.array_equal(to_int16(fixture["norm_in"], "gpt-sovits"), fixture["norm_wav32_int16"])


def test_level_clips_and_leaves_silence_alone() -> None:
    assert not to_int16(np.zeros(10, np.float32), "gpt-sovits").any()
    loud = to_int16(np.array([2.1, -2.1], np.float32), "gpt-sovits")
    assert loud.tolist() == [32_767, -32_768]


def spoil(path: Path, how: str) -> Utterance:
    """Write a good recording, describe it, then break it."""
    wave = tone(300, 32_000).astype(np.float32)
    if how == "nan":
        wave[500] = np.nan
    if how == "loud":
        wave *= 10
    soundfile.write(path, wave, 32_000, subtype="FLOAT" if path.suffix == ".wav" else "PCM_16")
    described = utterance(path)
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    if how == "noise":
        path.write_bytes(data[:300] + bytes(np.random.default_rng(0).integers(0, 256, 4000, np.uint8)) + data[4300:])
    if how == "empty":
        path.write_bytes(b"")
    if how == "gone":
        path.unlink()
    if how == "swapped":
        soundfile.write(path, tone(300, 16_000), 16_000)
    return described


@pytest.mark.parametrize(
    "name, how, reason",
    [
        ("a.wav", "nan", "NaN or infinite"),
        ("a.wav", "loud", "peaks at 5.0"),
        ("a.wav", "cut", "cut short"),
        ("a.flac", "cut", "cannot be decoded|cut short"),
        ("a.flac", "noise", "cannot be decoded|cut short"),
        ("a.wav", "empty", "cannot be decoded"),
        ("a.wav", "gone", "cannot be decoded"),
        ("a.wav", "swapped", "is at 16000 Hz and was at 32000"),
    ],
)
def test_files_that_lie_are_rejected_by_name(tmp_path: Path, name: str, how: str, reason: str) -> None:
    described = spoil(tmp_path / name, how)
    with pytest.raises(Rejected, match=reason) as caught:
        waveform(tmp_path, described, 32_000, "gpt-sovits")
    assert caught.value.stage == "decode" and name in caught.value.reason
