"""Float recordings beyond full scale are clipped, and that is counted, told and selected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.cli.store import main
from headrace.featurize.audio.decode import FULL_SCALE, Level, count_clipped, to_int16
from headrace.store.selection import select
from tests.helpers.commands import build, call
from tests.helpers.corpora import buzz

RATE = 16_000


@pytest.mark.parametrize("level", ["none", "gpt-sovits"])
@pytest.mark.parametrize("peak", [0.0, 0.5, 1.0, 1.04, 1.06, 2.0])
def test_what_is_counted_is_what_is_clipped(level: Level, peak: float) -> None:
    wave = np.linspace(-peak, peak, 2001, dtype=np.float32)
    gain = 0.95 * 0.5 / peak + 0.5 if level == "gpt-sovits" and peak else 1.0
    beyond = int((np.abs(wave.astype(np.float64) * gain) > 1 + 1e-6).sum())
    assert count_clipped([wave[:700], wave[700:]], np.float32(peak), level) == beyond
    clipped = to_int16([wave], np.float32(peak), level)
    assert ((clipped == FULL_SCALE - 1) | (clipped == -FULL_SCALE)).sum() >= beyond
    assert (beyond > 0) == (peak > (1.05 if level == "gpt-sovits" else 1.0))


def test_peaks_beyond_full_scale_are_told_and_can_be_selected(tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "STORE"
    corpus.mkdir()
    for n, peak in enumerate((2.0, 0.5, 1.04)):
        wave = buzz(1.0 - 0.03 * n, RATE, n)
        soundfile.write(corpus / f"{n}.wav", wave / np.abs(wave).max() * peak, RATE, subtype="FLOAT")
        (corpus / f"{n}.txt").write_text("hello")
    survey = call(featurize, "scan", corpus, "--features", "wave")
    assert "clipped samples  in 1 of the 3 recordings that were decoded (0.wav)" in survey.stdout, survey.output
    built = build(corpus, out, "--features", "wave")
    assert "clipped samples  in 1 recording:" in built.stdout, built.output
    assert json.loads((out / "build.json").read_text())["clipped_samples"] == 1
    assert "clipped samples  in 1 recording:" in call(main, "info", out).stdout
    opened = store.open(out)
    counts = dict(zip(opened.ids.tolist(), opened.recording_counts("clipped_samples").tolist(), strict=True))
    assert counts["1.wav"] == counts["2.wav"] == 0 and counts["0.wav"] > 0
    assert select(opened, "clipped_samples == 0").mask.sum() == 2
