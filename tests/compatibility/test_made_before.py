"""A store and runs made by the code before its modules moved are read, verified, grown, gone on with and exported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace import store
from headrace.store import layout
from tests.compatibility.make_fixture import ADDED, BUILT, CHOICES, LAST, STEP, digest, exported

HERE = Path(__file__).parent
EXPECTED: dict[str, Any] = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
BY_ID = {utterance["id"]: utterance for utterance in EXPECTED["store"]["utterances"]}
WORDED = ("reading", "size")
"""What `store info` says in words, and may say in others."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    root = tmp_path_factory.mktemp("before")
    with tarfile.open(HERE / "fixture.tar.xz") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
        tar.extractall(root)
    return root


@pytest.fixture
def copied(unpacked: Path, tmp_path: Path) -> Path:
    """To be written to."""
    return shutil.copytree(unpacked, tmp_path / "copy")


READ_AS_THEN = """
from dataclasses import replace
from headrace.cli.featurize import main
from headrace.featurize.text import g2p
g2p.FRONTENDS["en"] = replace(g2p.FRONTENDS["en"], version=1)
main()
"""
"""`featurize`, as if the version that read the texts of the store was installed. Of its texts both read the same."""

DROP_AS_THEN = """
from headrace.cli.train import main
from headrace.train.models import layers
layers.lacks_kernel = lambda _: False
main()
"""
"""`train`, with torch's own dropout on the CPU, which draws other numbers: what the runs were made with."""


def call(root: Path, program: str, *words: object) -> str:
    """One of the three commands, in `root`. What it printed."""
    command = [sys.executable, "-m", f"headrace.{program}", *map(str, words)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def problems(root: Path) -> list[Any]:
    return list(json.loads(call(root, "store", "verify", "store", "--json"))["problems"])


def unworded(info: dict[str, Any]) -> dict[str, Any]:
    features = [{key: value for key, value in feature.items() if key not in WORDED} for feature in info["features"]]
    return {key: value for key, value in info.items() if key not in WORDED} | {"features": features}


def part_bytes(root: Path) -> dict[str, bytes]:
    """Of every file of the parts, and of what features learned."""
    files = [*sorted((root / "parts").rglob("*")), *sorted((root / "models").rglob("*"))]
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("check", [False, True])
def test_the_store_has_the_same_numbers(unpacked: Path, check: bool) -> None:
    corpus = store.open(unpacked / "store", check=check)
    assert corpus.complete and corpus.ids.tolist() == [*BY_ID]
    for number, expected in enumerate(BY_ID.values()):
        assert {
            "id": corpus.ids[number],
            "speaker": corpus.speakers[number],
            "language": corpus.languages[number],
            "text": corpus.texts[number],
            "frames": corpus.frames[number],
            "phones_n": corpus.phones_n[number],
            "arrays": {name: digest(corpus.read(name, number)) for name in corpus.features},
        } == expected


def test_the_store_verifies(unpacked: Path) -> None:
    verified = json.loads(call(unpacked, "store", "verify", "store", "--json"))
    assert verified.pop("foreign") == []
    assert [verified.pop(key) for key in ("stored", "rejected", "listed")] == [8, 2, None], "it has no record of a scan"
    assert verified == EXPECTED["store"]["verify"]
    assert EXPECTED["store"]["verify"]["problems"] == []
    info = json.loads(call(unpacked, "store", "info", "store", "--json"))
    assert info.pop("listed") is None and sum(kind["count"] for kind in info.pop("reject_kinds")) == info["rejects"]
    assert sum(info.pop("alignments").values()) == info["utterances"]
    assert not any(info.pop(name) for name in layout.RECORDING_COUNTS)
    assert unworded(info) == unworded(EXPECTED["store"]["info"])


def test_further_features_join_and_those_there_are_skipped(copied: Path) -> None:
    root, before = copied / "store", part_bytes(copied / "store")
    names = f"content,semantic,align,{ADDED},confidence,level"
    call(copied, "featurize", "add", "store", names, "--codes", 24, "--workers", 1)
    assert before.items() <= part_bytes(root).items()
    corpus = store.open(root)
    assert [*corpus.features] == [*next(iter(BY_ID.values()))["arrays"], "confidence", "level"]
    for name in ("confidence", "level"):
        values = corpus.per_utterance(name, np.float32)
        assert len(values) == len(BY_ID) and np.isfinite(values).all() and (values < 0).all()
    assert problems(copied) == []


def test_the_store_grows_with_its_corpus(copied: Path) -> None:
    """The further recording is a copy of one that is there: of it the same numbers are computed as then."""
    root, before = copied / "store", part_bytes(copied / "store")
    (copied / "corpus" / "carl").mkdir()
    for suffix in (".wav", ".txt"):
        shutil.copy(copied / "corpus" / f"ben/004{suffix}", copied / "corpus" / f"carl/001{suffix}")
    features = f"{BUILT},{ADDED}"
    words = [str(word) for word in ("build", "corpus", "--out", "store", "--features", features, *CHOICES)]
    refused = subprocess.run([sys.executable, "-m", "headrace.featurize", *words], cwd=copied, capture_output=True)
    assert refused.returncode == 1 and b"were read by another version" in refused.stderr
    assert part_bytes(root) == before
    subprocess.run([sys.executable, "-c", READ_AS_THEN, *words], cwd=copied, check=True, capture_output=True)
    assert before.items() <= part_bytes(root).items()
    corpus = store.open(root)
    assert corpus.ids.tolist() == [*BY_ID, "carl/001.wav"]
    then, now = corpus.find("ben/004.wav"), corpus.find("carl/001.wav")
    assert corpus.texts[now] == corpus.texts[then]
    assert corpus.features.keys() == BY_ID["ben/004.wav"]["arrays"].keys()
    for name, spec in corpus.features.items():
        a, b = corpus.read(name, then), corpus.read(name, now)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if spec.dtype.startswith("int"):
            assert np.array_equal(a, b), name
        else:
            np.testing.assert_allclose(b.astype(float), a.astype(float), rtol=5e-3, atol=5e-3, err_msg=name)
    rejects = [json.loads(line) for line in (root / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [reject["id"] for reject in rejects] == [reject["id"] for reject in EXPECTED["store"]["rejects"]]
    assert problems(copied) == []


@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_a_run_goes_on_with_the_same_losses(copied: Path, stage: str) -> None:
    """Losses of validations are those after one update more: there another CPU's last bits have grown."""
    before = (copied / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    words = ("run", "store", "--out", stage, "--resume", "--max-steps", str(LAST[stage]))
    subprocess.run([sys.executable, "-c", DROP_AS_THEN, *words], cwd=copied, check=True, capture_output=True)
    after = (copied / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert after[: len(before)] == before
    records = [json.loads(line) for line in after[len(before) :]]
    expected = EXPECTED["runs"][stage]
    assert [record["step"] for record in expected] == [*range(STEP + 1, LAST[stage] + 1), LAST[stage]]
    for now, then in zip(records, expected, strict=True):
        tolerance = 1e-5 if then["split"] == "train" else 1e-4
        assert {key: now.get(key) for key in then} == {
            key: pytest.approx(value, rel=tolerance) if isinstance(value, float) else value
            for key, value in then.items()
        }
    assert (copied / stage / "checkpoints" / f"step-{LAST[stage]:08d}.pt").exists()


@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_a_run_is_exported_with_the_same_weights(unpacked: Path, tmp_path: Path, stage: str) -> None:
    said = call(unpacked, "train", "export", f"export/{stage}", "--out", tmp_path / "weights.pth")
    expected = EXPECTED["exports"][stage]
    assert said.strip().endswith(f": {expected['version']}")
    assert {"version": expected["version"], **exported(tmp_path / "weights.pth")} == expected
