"""`train sample` with an exported voice, in processes in which torch cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import soundfile
import torch

from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.featurize.spectral.recipe import magnitude
from headrace.train.inference.reference import text_to_phones
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.speech_reference import Reference
from headrace.train.models.text_to_speech import text_to_semantic
from tests.train.deployment import onnx_voices
from tests.train.deployment.onnx_voices import SOVITS

pytestmark = pytest.mark.slow
TEXT = "Hello world."
SEED = 3


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process in which `import torch` fails, as where it is not installed."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def sample(machine: dict[str, str], folder: Path, *words: object) -> CompletedProcess[bytes]:
    command = [sys.executable, "-m", "headrace.train", "sample", "--voice", onnx_voices.exported(), "--seed", SEED]
    return subprocess.run([*map(str, (*command, *words))], cwd=folder, env=machine, capture_output=True, check=False)


def test_there_is_no_torch(machine: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", "import torch"], env=machine, capture_output=True, check=False)
    assert done.returncode == 1 and b"ModuleNotFoundError: No module named 'torch'" in done.stderr


@torch.no_grad()
def torch_says(heard: Reference, text: str) -> np.ndarray:
    """Return what torch makes of a text, where nothing is drawn but the noise, which is NumPy's."""
    decoder, generator = onnx_voices.networks().decoder, onnx_voices.networks().generator
    assert decoder is not None and generator is not None and heard.speaker is not None
    phones = torch.from_numpy(text_to_phones(text, "en", SOVITS.symbols))
    codes = text_to_semantic(decoder, phones, heard, SamplingConfig(top_k=1))
    assert 10 < len(codes) < 1500, "it comes to an end"
    random = np.random.default_rng(SEED)
    random.random(len(codes) + 1)  # one of each code and of the end
    noise_ZM = random.standard_normal((SOVITS.inter_channels, 2 * len(codes)), np.float32)
    wave = generator.decode(
        codes[None],
        phones[None],
        torch.tensor([len(phones)]),
        torch.from_numpy(heard.spec)[None],
        torch.tensor([heard.spec.shape[1]]),
        noise_BCT=torch.from_numpy(noise_ZM)[None],
        speaker_BV=torch.from_numpy(heard.speaker)[None],
    )
    return wave[0, 0].clamp(-1, 1 - 2**-15).numpy()


def test_it_says_what_torch_says(machine: dict[str, str], tmp_path: Path) -> None:
    done = sample(machine, tmp_path, "--runtime", "onnx", "--text", TEXT, "--top-k", 1, "--out", "speech.wav")
    assert done.returncode == 0, done.stderr.decode()
    wave, rate = soundfile.read(tmp_path / "speech.wav", dtype="float32")
    expected = torch_says(onnx_voices.reference(), TEXT)
    assert rate == 32_000 and abs(expected).max() > 1e-3
    np.testing.assert_allclose(wave, expected, atol=1e-4)


def test_a_recording_and_its_transcript_are_the_reference(machine: dict[str, str], tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, 100_000).astype(np.int16)
    soundfile.write(tmp_path / "r.wav", samples, 32_000)
    np.save(tmp_path / "v.npy", onnx_voices.reference().speaker)
    prompt = ("--reference-text", "One two.", "--reference-semantic", "5 6 7")
    voice = ("--reference", "r.wav", "--speaker-vector", "v.npy", *prompt)
    done = sample(machine, tmp_path, "--text", TEXT, "--top-k", 1, "--out", "speech.wav", *voice)
    assert done.returncode == 0, done.stderr.decode()
    heard = Reference(
        spec=Spectral(SpectralRecipe()).magnitude(torch.from_numpy(samples / np.float32(32768))).mT.numpy(),
        phones=text_to_phones("One two.", "en", SOVITS.symbols),
        codes=np.array([5, 6, 7]),
        speaker=onnx_voices.reference().speaker,
    )
    wave = soundfile.read(tmp_path / "speech.wav", dtype="float32")[0]
    np.testing.assert_allclose(wave, torch_says(heard, TEXT), atol=1e-4)


def test_sentences_are_streamed_as_they_are_written(machine: dict[str, str], tmp_path: Path) -> None:
    words = ("--text", "Hello world. It is a fine day.", "--speed", 1.2, "--top-p", 0.9, "--temperature", 0.8)
    words += ("--attempts", 1)
    assert sample(machine, tmp_path, *words, "--out", "speech.wav").returncode == 0
    done = sample(machine, tmp_path, *words, "--stream")
    assert done.returncode == 0 and done.stderr.startswith(b"first sound after ")
    samples, _ = soundfile.read(tmp_path / "speech.wav", dtype="int16")
    np.testing.assert_array_equal(np.frombuffer(done.stdout, "<i2"), samples)


def test_what_needs_torch_is_one_line(machine: dict[str, str], tmp_path: Path) -> None:
    done = sample(machine, tmp_path, "--runtime", "torch", "--text", TEXT, "--out", "speech.wav")
    message = done.stderr.decode()
    assert done.returncode == 1 and message.count("\n") == 1 and "No module named 'torch'" in message


@pytest.mark.parametrize("seconds", [0.1, 3.0])
def test_the_spectrogram_is_that_of_torch(seconds: float) -> None:
    recipe, random = SpectralRecipe(), np.random.default_rng(1)
    for loudness in (1e-3, 1.0):
        wave_S = (loudness * random.uniform(-1, 1, int(seconds * 32_000))).astype(np.float32)
        found = magnitude(wave_S, recipe)
        expected = Spectral(recipe).magnitude(torch.from_numpy(wave_S)).numpy()
        assert found.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_what_is_installed_without_torch_is_of_the_versions_of_the_package() -> None:
    root = Path(__file__).parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    allowed = {*project["dependencies"], *project["optional-dependencies"]["onnx"]}
    lines = (root / "deploy/onnx/requirements.txt").read_text().splitlines()
    needed = [line for line in lines if not line.startswith("#")]
    assert len(needed) > 5 and set(needed) <= allowed and not any("torch" in line for line in needed)
