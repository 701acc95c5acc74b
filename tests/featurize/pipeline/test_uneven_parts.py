"""Parts may hold no utterance, one, only such as cannot be aligned, or those of one language: everything works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.cli.store import main as store_command
from headrace.featurize.features import speaker_vector
from headrace.featurize.features.derived import F0, Part
from headrace.featurize.pipeline.feature_rows import compute_rows
from headrace.featurize.quality import dnsmos
from headrace.store import index, layout
from headrace.store.integrity.verify import verify
from headrace.store.schema import FeatureSpec
from tests.helpers import networks
from tests.helpers.commands import add, build, call, scheduler
from tests.helpers.corpora import buzz

RATE = 16_000
TEXTS = {
    "good": ("en", "seven rivers run"),
    "chinese": ("zh", "你好。"),
    "too long": ("en", "the quick brown fox jumps over a lazy dog while seven rivers run down to water " * 3),
    "unreadable": ("en", "☃"),
    "undecodable": ("en", "hello"),
}
PREPARED = "f0,energy,level,snr,silence,clipped,bandwidth,dc_offset,reverberation,repeated"
LEARNED = "semantic,align,confidence"
NETWORKS = "content,bert,speaker_vector,mos"
UNEVEN = ["undecodable", "good", "unreadable", "chinese", "too long"]
"""Parts without an utterance are the first and one in between; a store that grew ends with some."""


def make_corpus(root: Path, kinds: Sequence[str], seed: int = 0) -> Path:
    """Return a corpus with an utterance of each kind, each longer than the one before."""
    root.mkdir(exist_ok=True)
    lines = []
    for number, kind in enumerate(kinds, seed):
        name, (language, text) = f"{number}.wav", TEXTS[kind]
        soundfile.write(root / name, buzz(0.5 + 0.02 * number, RATE, number), RATE)
        if kind == "undecodable":
            (root / name).write_bytes((root / name).read_bytes()[:-4000])
        lines.append(f"{name}|speaker{number % 2}|{language}|{text}\n")
    with (root / "corpus.list").open("a", encoding="utf-8") as file:
        file.writelines(lines)
    return root


def build_each_apart(corpus: Path, out: Path, features: str, *options: object) -> Path:
    """Build a store with a part for each utterance."""
    result = build(corpus, out, "--features", features, "--part-hours", 0.5 / 3600, *options)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def networks_of_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """Return options that name small random networks; one of their size stands for DNSMOS."""
    networks.hubert(tmp_path / "hubert")
    networks.bert(tmp_path / "bert")
    (tmp_path / "mos.onnx").write_bytes(b"weights")
    monkeypatch.setattr(dnsmos, "model_file", lambda: tmp_path / "mos.onnx")
    monkeypatch.setattr(dnsmos, "first_window_mos", lambda wave, rate: float(len(wave)))
    monkeypatch.setattr(speaker_vector, "_resemblyzer_file", lambda: tmp_path / "mos.onnx")
    monkeypatch.setattr(speaker_vector, "_ge2e", lambda digest, device: speaker_vector.GE2E())
    return ("--hubert", tmp_path / "hubert", "--bert", tmp_path / "bert")


@pytest.mark.parametrize("kinds", [["good"], UNEVEN], ids=["one", "uneven"])
def test_everything_works_on_uneven_parts(
    tmp_path: Path, networks_of_stores: tuple[object, ...], kinds: list[str]
) -> None:
    features = f"wave,mel,mfcc,phones,{PREPARED},{LEARNED},{NETWORKS}"
    options = ("--codes", 8, *networks_of_stores)
    out = build_each_apart(make_corpus(tmp_path / "corpus", kinds), tmp_path / "STORE", features, *options)
    kept = [kind for kind in kinds if not kind.startswith("un")]
    seals = index.read_seals(out, layout.sealed_parts(out))
    assert sorted(seal["utterances"] for seal in seals) == sorted(int(kind in kept) for kind in kinds)
    opened = store.open(out)
    assert not list(verify(out)) and len(opened) == len(kept)
    for name, spec in opened.features.items():
        lengths = opened.lengths(spec.axis)
        assert [len(opened.read(name, n)) for n in range(len(opened))] == lengths.tolist(), name
    assert [bool((opened.read("align", n) >= 0).all()) for n in range(len(opened))] == [k != "too long" for k in kept]
    _export_all(out, tmp_path)
    assert json.loads(call(store_command, "info", out, "--json").stdout)["rejects"] == len(kinds) - len(kept)
    report = call(store_command, "report", out, "--out", tmp_path / "report.html", "--mos", 0)
    assert report.exit_code == 0, report.output


def _export_all(out: Path, folder: Path) -> None:
    """Export to each format; to upstream's without the speaker vectors of a network that upstream does not have."""
    for kind in ("lhotse", "textgrid"):
        result = call(store_command, "export", out, "--to", kind, "--out", folder / kind)
        assert result.exit_code == 0, result.output
    upstream = (store_command, "export", out, "--to", "gpt-sovits", "--out", folder / "gpt-sovits")
    refused = call(*upstream)
    assert refused.exit_code == 1 and f"run featurize drop {out} speaker_vector, and add it again" in refused.stderr
    assert call(featurize, "drop", out, "speaker_vector").exit_code == 0 and not list(verify(out))
    assert call(*upstream).exit_code == 0
    again = call(store_command, "import", upstream[-1], "--out", folder / "AGAIN", "--scheduler", scheduler())
    assert again.exit_code == 0, again.output
    opened, back = store.open(out), store.open(folder / "AGAIN")
    order = [back.ids.tolist().index(id) for id in opened.ids.tolist()]
    for name in ("wave", "phones", "content", "semantic"):
        assert all(np.array_equal(opened.read(name, n), back.read(name, order[n])) for n in range(len(opened))), name
    assert len(back) == len(opened)


def test_uneven_parts_grow_and_join(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", UNEVEN)
    out = build_each_apart(corpus, tmp_path / "STORE", "wave,mel,phones")
    make_corpus(corpus, ["unreadable", "undecodable"], seed=20)
    build_each_apart(corpus, out, "wave,mel,phones")  # grows by parts that hold nothing
    assert len(store.open(out)) == 3 and not list(verify(out))
    make_corpus(corpus, ["good", "unreadable"], seed=30)
    build_each_apart(corpus, out, "wave,mel,phones")
    assert add(out, "energy").exit_code == 0 and not list(verify(out))
    other = make_corpus(tmp_path / "other", ["undecodable", "too long", "chinese"], seed=40)
    build_each_apart(other, tmp_path / "OTHER", "wave,mel,phones")
    joined = store.open([out, tmp_path / "OTHER"])
    assert len(joined) == 6 and len({len(joined.read("mel", n)) for n in range(6)}) > 1
    assert "energy" not in joined.features
    shutil.rmtree(out / "index")
    assert len(store.open(out)) == 4, "the index is derived from parts that hold nothing too"


def test_learning_from_a_store_without_any_utterance_ends_in_a_line(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", ["unreadable", "undecodable"])
    features = ("--features", "wave,mfcc,phones")
    assert build(corpus, tmp_path / "STORE", *features).exit_code == 1
    for name in ("semantic", "align", "repeated"):
        result = add(tmp_path / "STORE", name)
        assert result.exit_code == 1 and "holds none: rejects.jsonl says why" in result.stderr
    assert add(tmp_path / "STORE", "f0,energy,content").exit_code == 0


def test_a_feature_is_not_asked_for_the_rows_of_no_utterance() -> None:
    """No network, nor a feature of one's own, has to know that there are such parts."""

    class Strict(F0):
        def rows(self, part: Part) -> None:  # type: ignore[override]
            raise AssertionError("asked")

    spec = FeatureSpec(name="f0", axis="frames", dtype="float32", channels=7)
    part = Part({"f0": spec}, lambda name: (), strings=lambda name: ())
    rows, failed, made_of = compute_rows(Strict(), lambda numbers: part)
    assert rows.shape == (0, 7) and rows.dtype == np.float32 and not failed and made_of is part
