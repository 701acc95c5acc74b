"""From files to samples: every format and rate, no aliases, upstream's level, and no trust in headers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from headrace.featurize.audio.decode import ChannelPowers, Level, decode, mono_blocks, to_int16, waveform
from headrace.featurize.audio.recording import BLOCK_SAMPLES, DEFAULT_LIMITS, Limits
from headrace.store.errors import Rejected
from headrace.store.schema import Utterance


def utterance(path: Path, **changes: object) -> Utterance:
    info = soundfile.info(path)
    fields: dict[str, object] = {
        "id": path.name, "audio": path.name, "start": 0, "stop": info.frames, "sample_rate": info.samplerate,
        "size": path.stat().st_size, "speaker": "s", "language": "en", "text": "hello",
    }  # fmt: skip
    return Utterance(**(fields | changes))  # type: ignore[arg-type]


def tone(hz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


def levelled(mono: np.ndarray, level: Level) -> np.ndarray:
    return to_int16([mono.copy()], np.abs(mono).max(initial=0), level)


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


@pytest.mark.parametrize(
    "rate, wanted", [(44_100, 32_000), (48_000, 32_000), (48_000, 24_000), (44_100, 22_050), (44_100, 16_000)]
)
@pytest.mark.parametrize("above", [0.03, 0.06, 0.12, 0.5, 0.95])
def test_aliases_lie_under_80_dB(tmp_path: Path, rate: int, wanted: int, above: float) -> None:
    """A tone above the new Nyquist frequency, by this share of the way to the old one, is gone."""
    path = tmp_path / "a.wav"
    hz = wanted / 2 + above * (rate - wanted) / 2
    soundfile.write(path, tone(hz, rate), rate, subtype="FLOAT")
    wave = waveform(tmp_path, utterance(path), wanted, "none")
    assert decibels(wave[2000:-2000]) < -9 - 80


@pytest.mark.parametrize("rate, hz", [(16_000, 7000), (22_050, 10_000), (24_000, 11_000)])
def test_images_lie_under_80_dB(tmp_path: Path, rate: int, hz: float) -> None:
    """A tone is nowhere else after its rate was raised."""
    soundfile.write(tmp_path / "a.wav", tone(hz, rate), rate, subtype="FLOAT")
    wave = waveform(tmp_path, utterance(tmp_path / "a.wav"), 32_000, "none")[4000:28_000]
    power = np.abs(np.fft.rfft(wave * np.blackman(len(wave)))) ** 2
    at = round(hz * len(wave) / 32_000)
    elsewhere = np.concatenate((power[: at - 5], power[at + 6 :]))
    assert 10 * np.log10(elsewhere.max() / power[at]) < -80


@pytest.mark.parametrize(
    "samples",
    [
        1,
        2,
        BLOCK_SAMPLES // 2 - 1,
        BLOCK_SAMPLES // 2,
        BLOCK_SAMPLES // 2 + 1,
        BLOCK_SAMPLES,
        3 * BLOCK_SAMPLES // 2 + 1,
    ],
)
@pytest.mark.parametrize("rate, channels", [(44_100, 2), (16_000, 1), (48_000, 3)])
def test_in_blocks_comes_the_same_as_in_one_piece(tmp_path: Path, samples: int, rate: int, channels: int) -> None:
    wave = np.random.default_rng(0).integers(-20_000, 20_000, (samples, channels)).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", wave, rate)
    mean = wave.sum(1).astype(np.float32) * np.float32(1 / (channels * 32768))
    whole = soxr.resample(mean, rate, 32_000, quality="HQ")
    for level in ("none", "gpt-sovits"):
        found = waveform(tmp_path, utterance(tmp_path / "a.flac"), 32_000, level)
        assert np.array_equal(found, levelled(whole, level))


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
    piece = waveform(tmp_path, utterance(tmp_path / "a.wav", id="a.wav#100-2000", start=100, stop=2000), 32_000, "none")
    assert np.array_equal(piece, samples[100:2000])


COMPRESSED = {
    "a.flac": {},
    "a.ogg": {},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "cbr.mp3": {"bitrate_mode": "CONSTANT"},
    "vbr.mp3": {"bitrate_mode": "VARIABLE", "compression_level": 0.6},
    "ms.wav": {"subtype": "MS_ADPCM"},
}


def write_noisy(path: Path, seconds: float, **how: object) -> np.ndarray:
    """A tone in noise; decoded in one piece: (samples,) float32."""
    wave = tone(440, 16_000, seconds) / 2
    wave += 0.05 * np.random.default_rng(0).normal(size=len(wave))
    with soundfile.SoundFile(path, "w", 16_000, 1, **how) as file:  # type: ignore[arg-type]
        for start in range(0, len(wave), 4096):
            file.write(wave[start : start + 4096])
    return soundfile.read(path, dtype="float32")[0]


@pytest.mark.parametrize("name", COMPRESSED)
def test_blocks_and_segments_are_pieces_of_the_whole(tmp_path: Path, name: str) -> None:
    """Decoders carry state from frame to frame, and libmpg123 loses it when it is asked to seek."""
    whole = write_noisy(tmp_path / name, 10.0, **COMPRESSED[name]) * 32768
    blocks = waveform(tmp_path, utterance(tmp_path / name), 16_000, "none")
    assert len(blocks) == len(whole) and np.abs(blocks - whole).max() <= 1
    for start, stop in ((0, 5000), (12_345, 154_321), (70_000, 79_000)):
        item = utterance(tmp_path / name, id=f"{name}#{start}-{stop}", start=start, stop=stop)
        assert np.abs(waveform(tmp_path, item, 16_000, "none") - whole[start:stop]).max() <= 1


@pytest.mark.parametrize("rate", [8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_is_as_long_with_its_length_as_without(tmp_path: Path, rate: int, channels: int, mode: str) -> None:
    """The information frame, which holds the length and no sound, is taken away, or says 20 frames."""
    wave = np.repeat(tone(440, rate, 2.0)[:, None], channels, 1)
    kinds = {"subtype": "MPEG_LAYER_III", "bitrate_mode": mode, "compression_level": 0.6}
    soundfile.write(tmp_path / "a.mp3", wave, rate, **kinds)
    good = (tmp_path / "a.mp3").read_bytes()
    whole = waveform(tmp_path, utterance(tmp_path / "a.mp3"), rate, "none")
    assert len(whole) == 2 * rate
    place = max(good.find(b"Xing"), good.find(b"Info"))
    (tmp_path / "a.mp3").write_bytes(good[: place + 8] + (20).to_bytes(4, "big") + good[place + 12 :])
    assert np.array_equal(waveform(tmp_path, utterance(tmp_path / "a.mp3"), rate, "none"), whole)
    (tmp_path / "a.mp3").write_bytes(good[good.index(good[:2], place) :])
    bare = waveform(tmp_path, utterance(tmp_path / "a.mp3"), rate, "none")
    assert 0 <= len(bare) - len(whole) < 4 * 1152, "of which the encoder's delay and padding are a part now"


def test_level_is_upstreams_sample_for_sample(golden: Path) -> None:
    fixture = np.load(golden / "features_audio.npz")
    assert np.array_equal(levelled(fixture["norm_in"], "gpt-sovits"), fixture["norm_wav32_int16"])


def test_level_clips_and_leaves_silence_alone() -> None:
    assert not levelled(np.zeros(10, np.float32), "gpt-sovits").any()
    loud = levelled(np.array([2.1, -2.1], np.float32), "gpt-sovits")
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
        soundfile.write(path, tone(300, 16_000, 2.0), 16_000, subtype="FLOAT")
    return described


@pytest.mark.parametrize(
    "name, how, reason",
    [
        ("a.wav", "nan", "NaN or infinite"),
        ("a.wav", "loud", "peaks at 5.0"),
        ("a.wav", "cut", "bytes and had"),
        ("a.flac", "noise", "cannot be decoded|cut short"),
        ("a.wav", "empty", "bytes and had"),
        ("a.wav", "gone", "no such file"),
        ("a.wav", "swapped", "is at 16000 Hz, when scanned at 32000"),
    ],
)
def test_files_that_changed_since_the_scan_are_rejected(tmp_path: Path, name: str, how: str, reason: str) -> None:
    described = spoil(tmp_path / name, how)
    with pytest.raises(Rejected, match=reason) as caught:
        waveform(tmp_path, described, 32_000, "gpt-sovits")
    assert caught.value.stage == "decode"


FIRST_USES = """
import gc, os, sys, threading
from headrace.featurize.audio.libsndfile import soundfile

def read():
    soundfile.info(os.open(sys.argv[1], os.O_RDONLY))
    with open(sys.argv[1], "rb") as file:
        soundfile.info(file)

def read_meanwhile(phase, info):
    gc.callbacks.clear()
    gc.disable()
    other = threading.Thread(target=read)
    other.start()
    other.join(0.05)  # soundfile opens one file at a time

gc.collect()
gc.freeze()
status, allocations = 0, 1
while status == 0:
    if not (child := os.fork()):
        gc.collect()
        gc.callbacks.append(read_meanwhile)
        gc.set_threshold(allocations)
        read()
        os._exit(bool(gc.callbacks))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    allocations += 1
print(status, allocations)
"""
"""Read headers, and let another thread read some during a collection of garbage, which comes after any number of
allocations. What a library has begun to prepare for the first then meets the second."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork of a process that has read no recording")
def test_the_first_recordings_are_read_at_once(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(400), 16_000)
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USES, tmp_path / "a.wav"], capture_output=True, text=True, check=False
    )
    status, allocations = map(int, done.stdout.split())
    assert status == 1 and allocations > 10, f"{done.stdout} {done.stderr}"  # 1: there is no such collection


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize(
    "others, dead",
    [
        ([], 0),
        (["speech"], 0),
        (["speech", "20 dB softer"], 0),
        (["silent"], 1),
        (["constant"], 1),
        (["silent", "speech", "noise floor", "constant"], 3),
    ],
)
def test_dead_channels_are_counted(tmp_path: Path, subtype: str, others: list[str], dead: int) -> None:
    random = np.random.default_rng(0)
    speech = tone(300, 16_000, 3 * BLOCK_SAMPLES / 16_000)
    kinds = {
        "speech": speech + 0.2,
        "20 dB softer": speech / 10,
        "silent": 0 * speech,
        "constant": 0 * speech + 0.7,
        "noise floor": random.normal(0, 1e-3, len(speech)),
    }
    # The first block of the recording is silent in all channels.
    wave = np.stack([speech, *(kinds[kind] for kind in others)], 1) * (np.arange(len(speech)) > BLOCK_SAMPLES)[:, None]
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype=subtype)
    found = decode(tmp_path, utterance(tmp_path / "a.wav"), 16_000, "none")
    assert found.dead_channels == dead
    mean = wave.mean(1) * 32768
    assert np.abs(found.wave - mean).max() <= 2, "the waveform stays the mean of all channels"


def test_channels_are_heard_where_there_are_several_and_someone_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChannelPowers, "add", lambda *_: pytest.fail("heard"))
    for channels in (1, 2):
        soundfile.write(tmp_path / "a.wav", np.ones((100, channels)) / 8, 16_000)
        assert sum(map(len, mono_blocks(tmp_path, utterance(tmp_path / "a.wav"), DEFAULT_LIMITS))) == 100
        if channels == 1:
            assert decode(tmp_path, utterance(tmp_path / "a.wav"), 16_000, "none").dead_channels == 0


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize(
    ("second", "is_rejected"), [(-1.0, True), (-0.9, True), (-0.75, False), (0.0, False), (1.0, False), (-0.1, False)]
)
def test_channels_that_cancel_each_other_are_rejected(
    tmp_path: Path, subtype: str, second: float, is_rejected: bool
) -> None:
    speech = tone(300, 16_000, 1.0)
    soundfile.write(tmp_path / "a.wav", np.stack([speech, second * speech], 1), 16_000, subtype=subtype)
    described = utterance(tmp_path / "a.wav")
    if not is_rejected:
        decode(tmp_path, described, 16_000, "none")
        return
    for level in ("none", "gpt-sovits"):
        with pytest.raises(Rejected, match="cancel each other"):
            decode(tmp_path, described, 16_000, level)


@pytest.mark.parametrize(
    ("peak_db", "min_peak_db", "reason"),
    [
        (-59.5, -60, ""),
        (-60.5, -60, "peaks at -6[01] dB of full scale: record it louder than -60 dB"),
        (-60.5, -61, ""),
        (-30.0, -20, "peaks at -30 dB"),
        (-np.inf, -60, ""),
    ],
)
def test_recordings_softer_than_the_limit_are_rejected_before_they_are_levelled(
    tmp_path: Path, peak_db: float, min_peak_db: float, reason: str
) -> None:
    loudest = tone(300, 16_000, 1.0)
    wave = loudest / np.abs(loudest).max() * 10 ** (peak_db / 20)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    described, limits = utterance(tmp_path / "a.wav"), Limits(min_peak_db=min_peak_db)
    if not reason:
        decode(tmp_path, described, 16_000, "gpt-sovits", limits)
        return
    with pytest.raises(Rejected, match=reason):
        decode(tmp_path, described, 16_000, "gpt-sovits", limits)


def test_a_silent_recording_has_no_dead_channel() -> None:
    powers = ChannelPowers()
    powers.add(np.zeros((1000, 2), np.float32))
    assert (powers.dead, powers.cancelled_db) == (0, 0.0)
