"""Recordings of which a channel is dead are counted, told and selected, wherever they are looked at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.cli.store import main
from headrace.store.selection import select
from tests.helpers.commands import build, call
from tests.helpers.corpora import buzz

RATE = 16_000


def make_corpus(root: Path, dead: list[bool], seed: int = 0) -> Path:
    """Return a corpus of stereo recordings, of some of which the second channel is silent; the first is the longest."""
    root.mkdir(exist_ok=True)
    for n, silent in enumerate(dead, seed):
        wave = buzz(1.0 - 0.03 * n, RATE, n)
        soundfile.write(root / f"{n}.wav", np.stack([wave, wave * (not silent)], 1), RATE)
        (root / f"{n}.txt").write_text("hello")
    return root


def test_a_dead_channel_is_told_and_can_be_selected(tmp_path: Path) -> None:
    corpus, out = make_corpus(tmp_path / "corpus", [True, False, True]), tmp_path / "STORE"
    survey = call(featurize, "scan", corpus, "--features", "wave")
    assert "dead channels  in 2 of the 3 recordings that were decoded" in survey.stdout, survey.output
    assert json.loads(call(featurize, "scan", corpus, "--features", "wave", "--json").stdout)["estimate"][
        "dead_channels"
    ] == ["0.wav", "2.wav"]
    built = build(corpus, out, "--features", "wave")
    assert "dead channels  in 2 recordings" in built.stdout, built.output
    assert "dead channels  in 2 recordings" in call(main, "info", out).stdout
    opened = store.open(out)
    assert opened.ids.tolist() == ["2.wav", "1.wav", "0.wav"]
    assert opened.recording_counts("dead_channels").tolist() == [1, 0, 1]
    assert select(opened, "dead_channels == 0").mask.tolist() == [False, True, False]
    report = json.loads(call(main, "report", out, "--out", tmp_path / "r.html", "--mos", 0, "--json").stdout)
    assert {"where": "dead_channels <= 0", "out": 2} in [
        {"where": one["where"], "out": one["out"]["utterances"]} for one in report["filters"] if "out" in one
    ]
    assert report["lists"]["Dead channels: most of them"] == 3


def test_without_one_nothing_is_said_and_the_seal_is_as_before(tmp_path: Path) -> None:
    corpus, out = make_corpus(tmp_path / "corpus", [False]), tmp_path / "STORE"
    assert "dead channels" not in build(corpus, out, "--features", "wave").output
    assert "dead_channels" not in (out / "parts/00000/zarr.json").read_text()
    assert "dead" not in call(main, "info", out).stdout
    make_corpus(corpus, [True], seed=1)
    assert build(corpus, out, "--features", "wave").exit_code == 0
    counts = store.open(out).recording_counts("dead_channels").tolist()
    assert counts == [0, 1], "a store that grows has both kinds of seals"
