"""The compiled kernel: frames in lanes, cached code, other processors. test_dsp checks the numbers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from tests.helpers.signals import RECIPES, narrow, voice

ROOT = Path(__file__).parents[3]


def test_a_frame_does_not_depend_on_its_place_nor_on_its_neighbours() -> None:
    """Bit for bit: eight frames share registers, at either end of a signal other code fills them."""
    recipe = SpectralRecipe()
    spectral, wave = Spectral(recipe), torch.from_numpy(voice(recipe))
    whole = spectral.features(wave)[0][20:60]
    for skipped in range(1, 17):
        assert torch.equal(spectral.features(wave[skipped * 640 :])[0][20 - skipped : 60 - skipped], whole)
    loud = wave.clone()
    loud[70 * 640 :] = 1.0
    assert torch.equal(spectral.features(loud)[0][20:60], whole)
    assert torch.equal(spectral.features(wave[: 65 * 640])[0][20:60], whole)


def test_int16_samples_are_taken_as_they_are() -> None:
    recipe = SpectralRecipe()
    wave = torch.from_numpy(narrow(recipe)[: 40 * 640 + 100])
    features = Spectral(recipe).features((wave * 32768).short())
    for made, expected in zip(features, Spectral(recipe).features(wave), strict=True):
        assert torch.equal(made, expected)


def test_threads_do_not_change_a_bit() -> None:
    recipe = RECIPES["whisper-16k"]
    spectral, waves = Spectral(recipe), [torch.from_numpy(voice(recipe)[n:]) for n in range(0, 3200, 100)]
    alone = [spectral.features(wave) for wave in waves]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(spectral.features, waves))
    for (mel, mfcc), (mel_1, mfcc_1) in zip(alone, together, strict=True):
        assert torch.equal(mel, mel_1) and torch.equal(mfcc, mfcc_1)


def test_what_is_not_a_number_stays_in_its_frames() -> None:
    recipe = SpectralRecipe()
    wave = torch.from_numpy(voice(recipe)[: 40 * 640])
    clean, _ = Spectral(recipe).features(wave)
    wave[20 * 640] = torch.nan
    mel, mfcc = Spectral(recipe).features(wave)
    touched = torch.isnan(mel).any(1)
    assert touched.nonzero().ravel().tolist() == [18, 19, 20, 21]
    assert torch.isnan(mel[touched]).all() and torch.equal(mel[~touched], clean[~touched])
    assert torch.isnan(mfcc).all(), "the peak of the utterance, which sets its floor, is not known"


EXACT = """
from headrace.featurize.spectral import cpu_kernel
from headrace.featurize.spectral.dsp import SpectralRecipe
from tests.helpers.signals import assert_exact, voice
assert_exact(voice(SpectralRecipe(), 1.0), SpectralRecipe())
print(sum(cpu_kernel._compute_mel.stats.cache_hits.values()))
"""


def start(script: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | environment, cwd=ROOT, text=True, stdout=subprocess.PIPE
    )


@pytest.mark.soak
def test_processes_may_compile_at_once_and_later_ones_need_not(tmp_path: Path) -> None:
    first = [start(EXACT, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(3)]
    assert [process.wait() for process in first] == [0, 0, 0]
    assert start(EXACT, NUMBA_CACHE_DIR=str(tmp_path)).communicate()[0] == "1\n"


@pytest.mark.soak
def test_nowhere_to_keep_compiled_code_is_no_obstacle() -> None:
    nowhere = "from numba.core.caching import CacheImpl; CacheImpl._locator_classes = []"
    assert start(nowhere + EXACT).communicate()[0] == "0\n"


@pytest.mark.soak
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of this family")
@pytest.mark.parametrize(("name", "features"), [("haswell", "+avx2,+fma"), ("x86-64", "")])
def test_narrower_registers_are_as_exact(name: str, features: str, tmp_path: Path) -> None:
    process = start(EXACT, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features, NUMBA_CACHE_DIR=str(tmp_path))
    assert process.wait() == 0


def test_training_does_not_import_the_kernel() -> None:
    script = """
import sys
import torch
import headrace.train.trainer.run
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
spectral = Spectral(SpectralRecipe())
spectral.log_mel(spectral.magnitude(torch.zeros(6400)))
print("headrace.featurize.spectral.cpu_kernel" in sys.modules)
"""
    assert start(script).communicate()[0] == "False\n"
