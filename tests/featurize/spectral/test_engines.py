"""Engines agree: the same frames, the same numbers, whatever else is in the batch and however long it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace import store
from headrace.featurize.pipeline.presets import PRESETS
from headrace.featurize.spectral import cuda_engine, engine, whitening
from headrace.featurize.spectral.dsp import SpectralRecipe, window
from headrace.featurize.spectral.engine import Engine, Spectra
from headrace.store.errors import Rejected, UsageError
from tests.helpers.commands import build
from tests.helpers.corpora import make_tree
from tests.helpers.signals import narrow, voice

Waves = list[tuple[str, np.ndarray]]

CUDA = (
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
)
ENGINES = [
    pytest.param(lambda recipe: cuda_engine.BatchedEngine(recipe, "cpu", np.float32), id="torch batched, cpu"),
    pytest.param(lambda recipe: engine.load("dali", "cpu", recipe, np.float32), id="dali cpu"),
    pytest.param(lambda recipe: engine.load("torch", "cuda", recipe, np.float32), id="torch cuda", marks=CUDA),
    pytest.param(lambda recipe: engine.load("dali", "cuda", recipe, np.float32), id="dali cuda", marks=CUDA),
]
Make = Callable[[SpectralRecipe], Engine]


def made(recipe: SpectralRecipe) -> Waves:
    """Sounds of many kinds and lengths, the shortest that can be among them; (T * hop,) int16."""
    rate, hop = recipe.sample_rate, recipe.hop
    time = np.arange(400 * hop) / rate
    sounds = {
        "voice": voice(recipe),
        "narrow": narrow(recipe),
        "tone": 0.9 * np.sin(2 * np.pi * 3000 * time),
        "noise": 0.3 * np.random.default_rng(0).normal(size=len(time)),
        "square": np.sign(np.sin(2 * np.pi * 100 * time)),
        "clicks": np.where(np.arange(len(time)) % 5000 == 0, 0.9, 0),
        "silence": np.zeros(len(time)),
    }
    whole = {name: np.clip(np.rint(x * 32768), -32768, 32767).astype(np.int16) for name, x in sounds.items()}
    lengths = zip(whole, (100, 101, 33, 64, 65, 17, 9), strict=True)
    cut = [(name, whole[name][: frames * hop]) for name, frames in lengths]
    short = [(f"{n} frames", whole["voice"][5000:][: n * hop]) for n in range(recipe.min_frames, 5)]
    return cut + short


def features(engine: Engine, waves: Waves) -> dict[str, Spectra]:
    found = list(engine.spectra(iter(waves)))
    assert [key for key, _ in found] == [key for key, _ in waves], "in the order given"
    return {key: spectra for key, spectra in found if isinstance(spectra, Spectra)}


def equal(a: Spectra, b: Spectra) -> bool:
    return np.array_equal(a.mel, b.mel) and np.array_equal(a.mfcc, b.mfcc)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("make", ENGINES)
def test_engines_agree(make: Make, name: str) -> None:
    """Before the cast to float16. DALI's transform of 400 points rounds twice as much as its larger ones."""
    recipe = PRESETS[name].spectral
    waves = made(recipe)
    expected = features(engine.load("torch", "cpu", recipe, np.float32), waves)
    found = features(make(recipe), waves)
    assert {key: len(wave) // recipe.hop for key, wave in waves} == {key: len(s.mel) for key, s in found.items()}
    mel = np.concatenate([np.abs(found[key].mel - expected[key].mel).ravel() for key in found])
    mfcc = np.concatenate([np.abs(found[key].mfcc - expected[key].mfcc).ravel() for key in found])
    worst = 1e-3 if recipe.n_fft == 400 else 5e-4
    assert mel.max() <= worst and np.quantile(mel, 0.999) <= 5e-5 and mfcc.max() <= 1e-3


@pytest.mark.parametrize("make", ENGINES)
def test_an_utterances_numbers_do_not_depend_on_its_batch(make: Make) -> None:
    recipe = PRESETS["gpt-sovits-v2"].spectral
    waves, engine = made(recipe), make(recipe)
    together = features(engine, waves)
    backwards = features(engine, waves[::-1])
    alone = {key: spectra for one in waves for key, spectra in features(engine, [one]).items()}
    assert all(equal(together[key], other[key]) for other in (backwards, alone) for key in together)


def test_batches_blocks_and_chunks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = PRESETS["whisper-16k"].spectral
    whole = features(cuda_engine.BatchedEngine(recipe, "cpu", np.float32), made(recipe))
    for name, size in (("CHUNK_FRAMES", 7), ("BLOCK_SAMPLES", 1000), ("BATCH_SAMPLES", 20_000)):
        monkeypatch.setattr(cuda_engine, name, size)
    cut = features(cuda_engine.BatchedEngine(recipe, "cpu", np.float32), made(recipe))
    for key, spectra in whole.items():
        assert np.allclose(cut[key].mel, spectra.mel, atol=1e-5) and np.allclose(cut[key].mfcc, spectra.mfcc, atol=1e-3)


def test_batches_that_do_not_fit_into_memory_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that holds two utterances at a time, in batches that are submitted and in results that wait."""
    recipe = PRESETS["whisper-16k"].spectral
    whole = features(cuda_engine.BatchedEngine(recipe, "cpu", np.float32), made(recipe))
    compute, sizes = cuda_engine.BatchedEngine.submit, []

    def small(self: cuda_engine.BatchedEngine, keys: list[str], *rest: object) -> object:
        sizes.append(len(keys))
        if len(keys) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(self, keys, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cuda_engine.BatchedEngine, "submit", small)
    monkeypatch.setattr(cuda_engine, "BATCH_SAMPLES", 70_000)
    room = 2
    halved = features(cuda_engine.BatchedEngine(recipe, "cpu", np.float32), made(recipe))
    assert halved.keys() == whole.keys() and max(sizes) > room
    assert all(np.allclose(halved[key].mel, whole[key].mel, atol=1e-5) for key in whole)
    room = 0
    with pytest.raises(torch.OutOfMemoryError):
        features(cuda_engine.BatchedEngine(recipe, "cpu", np.float32), made(recipe))


@pytest.mark.parametrize("make", ENGINES)
def test_a_result_comes_before_the_last_wave_is_asked_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = PRESETS["whisper-16k"].spectral
    monkeypatch.setattr(cuda_engine, "BATCH_SAMPLES", 50_000)
    asked = []

    def decoded() -> Iterator[tuple[int, np.ndarray]]:
        for number in range(100):
            asked.append(number)
            yield number, np.full(100 * recipe.hop, number, np.int16)

    ready = make(recipe).spectra(decoded())
    assert next(ready)[0] == 0 and len(asked) < 100
    assert [key for key, _ in ready] == list(range(1, 100))


@pytest.mark.parametrize("make", ENGINES)
def test_who_stops_listening_leaves_nothing_behind(make: Make) -> None:
    recipe = PRESETS["whisper-16k"].spectral
    engine, waves = make(recipe), made(recipe)
    expected = features(engine, waves)
    for taken in (0, 1, 3):
        cut_off = engine.spectra(iter(waves * 40))
        for _ in range(taken):
            next(cut_off)
        cut_off.close()  # type: ignore[attr-defined]
        assert all(equal(spectra, expected[key]) for key, spectra in features(engine, waves).items())


@pytest.mark.parametrize("make", ENGINES)
def test_nothing_in_nothing_out(make: Make) -> None:
    assert not features(make(PRESETS["whisper-16k"].spectral), [])


def test_a_spectrum_that_is_not_finite_costs_its_utterance_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = PRESETS["gpt-sovits-v2"].spectral
    batched, waves = cuda_engine.BatchedEngine(recipe, "cpu"), made(recipe)
    good = features(batched, waves)
    transform = batched._bands

    def struck(stream: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        mel, loudness = transform(stream, frames)
        loudness[150, 3] = torch.nan  # in a frame of the second utterance
        return mel, loudness

    monkeypatch.setattr(batched, "_bands", struck)
    found = dict(batched.spectra(waves))
    lost = [key for key, spectra in found.items() if isinstance(spectra, Rejected)]
    assert lost == ["narrow"] and found["narrow"].stage == "features"  # type: ignore[union-attr]
    assert all(equal(found[key], good[key]) for key in good if key != "narrow")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("how", ["in place", "in tensors"])
def test_whitened_frames_with_their_gain_have_the_power_of_the_frames(name: str, how: str) -> None:
    recipe = PRESETS[name].spectral
    n, hann, unit = recipe.n_fft, window(recipe), whitening.cosines_and_sines(recipe.n_fft)
    for key, wave in made(recipe):
        cut = np.lib.stride_tricks.sliding_window_view(np.pad(wave, recipe.padding, mode="reflect"), n)[:: recipe.hop]
        white, gain = np.empty(cut.shape, np.float32), np.empty((len(cut), n // 2 + 1), np.float32)
        if how == "in place":
            whitening.whiten_in_place(cut, hann, unit, white, gain)
        else:
            white, gain = (x.numpy() for x in whitening.whiten_tensors(*map(torch.from_numpy, (cut * hann, unit))))
        power = np.abs(np.fft.rfft(cut * hann)) ** 2
        found = np.abs(np.fft.rfft(white.astype(np.float64))) ** 2 * gain
        # Power that is 1e-9 of the frame's own is the least that these rounded frames can hold.
        assert (np.abs(found - power) <= 2e-3 * power + 1e-9 * power.max(1, keepdims=True)).all(), key


def test_dali_and_torch_build_the_same_store(tmp_path: Path) -> None:
    corpus = make_tree(tmp_path / "corpus", 6)
    for name in ("torch", "dali"):
        assert build(corpus, tmp_path / name, "--engine", name, "--device", "cpu").exit_code == 0
    ours, theirs = store.open(tmp_path / "torch"), store.open(tmp_path / "dali")
    assert list(ours.ids) == list(theirs.ids)
    assert json.loads((tmp_path / "dali" / "build.json").read_text())["engine"] == "dali"
    for number in range(len(ours)):
        assert np.array_equal(ours.read("wave", number), theirs.read("wave", number))
        for feature, step in (("mel", 2**-7), ("mfcc", 2**-2)):  # one step of float16, where a value lies on its edge
            values = (opened.read(feature, number).astype(np.float32) for opened in (ours, theirs))
            assert np.abs(np.subtract(*values)).max() <= step


def test_the_choice_is_told_with_its_reason() -> None:
    there = torch.cuda.is_available()
    choice = engine.choose("auto", "auto")
    assert (choice.engine, choice.device) == ("torch", "cuda" if there else "cpu")
    assert "float64" in choice.reason and f"; {'a' if there else 'no'} CUDA device is there" in choice.reason
    assert engine.choose("dali", "cpu") == engine.Choice(
        engine="dali", device="cpu", reason="dali was asked for; cpu was asked for"
    )


def test_an_engine_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="use --device cpu"):
        engine.choose("auto", "cuda")
    monkeypatch.delitem(sys.modules, "headrace.featurize.spectral.dali", raising=False)
    monkeypatch.delattr("headrace.featurize.spectral.dali", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(UsageError, match=r"NVIDIA DALI cannot be loaded .*use --engine torch"):
        engine.choose("dali", "cpu")


HOUR = """
import resource, sys
import numpy as np
from headrace.featurize.spectral import cuda_engine, engine, whitening
from headrace.featurize.pipeline.presets import PRESETS

recipe = PRESETS["gpt-sovits-v2"].spectral
name = sys.argv[1]
made = cuda_engine.BatchedEngine(recipe, "cpu") if name == "batched" else engine.load(name, "cpu", recipe)
second = np.random.default_rng(0).integers(-9000, 9000, 100 * recipe.hop).astype(np.int16)
list(made.spectra([(0, second)]))
wave = np.tile(second, 1800)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
((_, spectra),) = made.spectra([(0, wave)])
assert spectra.mel.shape == (180_000, 128)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.soak
@pytest.mark.parametrize("name, megabytes", [("torch", 1200), ("dali", 600), ("batched", 1200)])
def test_an_hour_in_one_piece_stays_small(name: str, megabytes: int) -> None:
    """The wave is 230 MB, its features are 53; DALI fed the hour as it is takes 3 GB and keeps them."""
    command = [sys.executable, "-c", HOUR, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < megabytes
