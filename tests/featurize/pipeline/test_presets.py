"""Presets are upstream's numbers; recipes of one's own are numbers too, and their mistakes are told in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from headrace.featurize.audio import decode
from headrace.featurize.pipeline.presets import PRESETS, Preset, feature_specs, get_preset, read_recipe
from headrace.featurize.spectral.dsp import Spectral
from headrace.store.errors import UsageError
from headrace.store.schema import Utterance


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_mel_is_upstreams(golden: Path, version: str) -> None:
    fixture = np.load(golden / "features_audio.npz")
    preset = PRESETS[f"gpt-sovits-{version}"]
    hop = preset.spectral.hop
    wave = torch.from_numpy(fixture["wave"][: len(fixture["wave"]) // hop * hop])
    mel = Spectral(preset.spectral).features(wave)[0].numpy().T
    whole = slice(None, -3)  # our utterances end with a whole hop, so the last frames are reflected elsewhere
    assert mel.shape == fixture[f"mel_{version}"].shape and preset.level == "gpt-sovits"
    assert np.abs(mel - fixture[f"mel_{version}"])[:, whole].max() <= 1e-4
    assert np.abs((mel + 12) / 14 * 2 - 1 - fixture[f"mel_{version}_norm"])[:, whole].max() <= 1e-4


@pytest.mark.parametrize("name", ["gpt-sovits-v2", "gpt-sovits-v4"])
def test_wave_is_upstreams_sample_for_sample_at_32_kHz(golden: Path, tmp_path: Path, name: str) -> None:
    fixture, preset = np.load(golden / "features_audio.npz"), PRESETS[name]
    soundfile.write(tmp_path / "a.wav", fixture["norm_in"], 32_000, subtype="FLOAT")
    recording = Utterance(
        id="a.wav", audio="a.wav", start=0, stop=len(fixture["norm_in"]), sample_rate=32_000,
        size=(tmp_path / "a.wav").stat().st_size, speaker="s", language="en", text="",
    )  # fmt: skip
    wave = decode.waveform(tmp_path, recording, preset.spectral.sample_rate, preset.level)
    assert np.array_equal(wave, fixture["norm_wav32_int16"])


def read(tmp_path: Path, text: str, name: str = "my.toml") -> Preset:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def prints(preset: Preset) -> list[str]:
    return [spec.fingerprint for spec in feature_specs(preset, ("wave", "mel", "mfcc"))]


def test_a_recipe_is_its_numbers_and_not_its_file(tmp_path: Path) -> None:
    v2 = PRESETS["gpt-sovits-v2"]
    spelled_out = "\n".join(f"{key} = {value!r}" for key, value in v2.recipe.items())
    whole_numbers = 'extends = "gpt-sovits-v2"\nfmin = 0\nfmax = 16000'
    for n, text in enumerate((spelled_out, whole_numbers, 'extends = "gpt-sovits-v2"')):
        assert prints(read(tmp_path, text, f"{n}.toml")) == prints(v2)


def test_a_recipe_says_what_differs_from_the_preset_it_extends(tmp_path: Path) -> None:
    own = read(tmp_path, 'extends = "hifigan-22k"\nn_mels = 64\nwin = 800\nlevel = "gpt-sovits"')
    base = PRESETS["hifigan-22k"].spectral
    assert (own.spectral.n_mels, own.spectral.win, own.spectral.hop) == (64, 800, base.hop)
    assert own.level == "gpt-sovits" and not set(prints(own)) & set(prints(PRESETS["hifigan-22k"]))


@pytest.mark.parametrize(
    "text, line",
    [
        ("n_mels = 80", "sample_rate, n_fft, win, hop, fmin, fmax, n_mfcc, level missing"),
        ("bands = 80", "bands is no key of a recipe; there are extends, sample_rate, n_fft"),
        ("[spectral]\nn_mels = 80", "spectral is no key"),
        ('extends = "v9"', "no preset 'v9'; choose from gpt-sovits-v2"),
        ("extends = 3", "extends=3: extends must be a string"),
        ("{base}hop = 160.0", "hop=160.0: hop must be a whole number"),
        ("{base}hop = true", "hop=True: hop must be a whole number"),
        ('{base}fmax = "8000"', "fmax='8000': fmax must be a number"),
        ("{base}hop = 0", "hop=0, n_fft=2048: hop must be even, from 2 to n_fft samples"),
        ("{base}hop = 641", "hop=641, n_fft=2048: hop must be even"),
        ("{base}hop = 4096", "hop=4096, n_fft=2048: hop must be even, from 2 to n_fft"),
        ("{base}n_fft = 1023", "n_fft=1023: n_fft must be even"),
        ("{base}n_fft = 1024", "win=2048, n_fft=1024: win must be from 1 to n_fft"),
        ("{base}fmax = 17000", "fmax=17000.0, sample_rate=32000: fmax must be at most half"),
        ("{base}fmin = 17000", "fmin=17000.0, fmax=16000.0: fmin must be at least 0 Hz and below fmax"),
        ("{base}fmax = nan", "fmax=nan"),
        ("{base}fmax = inf", "fmax=inf"),
        ("{base}sample_rate = 1", "sample_rate=1: sample_rate must be from 1000 to 768000 Hz"),
        ("{base}n_mels = 5000", "n_mels=5000, n_fft=2048: n_mels must be from 1"),
        ("{base}n_mels = 800", "of the bands would lie between two bins"),
        ("{base}n_mfcc = 129", "n_mfcc=129, n_mels=128: n_mfcc must be from 1 to n_mels"),
        ('{base}level = "loud"', "level='loud': level must be one of none, gpt-sovits"),
        ("n_mels =", "is not TOML"),
        ("n_mels = 1\nn_mels = 2", "is not TOML"),
    ],
)
def test_a_mistake_is_one_line_with_key_given_and_expected(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text.format(base='extends = "gpt-sovits-v2"\n'))
    said = str(caught.value)
    assert line in said and "my.toml" in said and "\n" not in said


def test_a_recipe_that_cannot_be_read_is_a_usage_mistake(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.toml", tmp_path, tmp_path / "binary.toml"):
        with pytest.raises(UsageError, match=path.name):
            read_recipe(path)
    with pytest.raises(UsageError, match="no preset 'v9'"):
        get_preset("v9")
