"""A corpus that grew is built into the store that is there: what it has stays, what is new becomes further parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile

from headrace import store
from headrace.store import index
from headrace.store.errors import RunError
from headrace.store.integrity.repair import repair
from headrace.store.integrity.verify import verify
from headrace.store.lineage import utterances_before_growth
from headrace.store.writer import create_store
from headrace.train.config import RunConfig
from headrace.train.trainer import loop
from tests.helpers import training_store
from tests.helpers.commands import add, build, part_bytes
from tests.helpers.corpora import buzz, make_tree, sentence

PARTS = ("--part-hours", "0.002", "--features", "wave,mel,phones")


def more(corpus: Path, first: int, count: int) -> Path:
    """Further recordings, of any length, of a speaker that was there and of a new one."""
    for n in range(first, first + count):
        folder = corpus / f"speaker{n % 2 + 1}"
        folder.mkdir(exist_ok=True)
        soundfile.write(folder / f"new{n}.wav", buzz(0.4 + 0.17 * (n % 9), 16_000, 100 + n), 16_000)
        (folder / f"new{n}.txt").write_text(sentence(n, 5), encoding="utf-8")
    return corpus


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus and its store."""
    folder = tmp_path_factory.mktemp("grow")
    corpus = make_tree(folder / "corpus", 12)
    assert build(corpus, folder / "STORE", *PARTS).exit_code == 0
    return corpus, folder / "STORE"


@pytest.fixture
def corpus(small: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(small[0], tmp_path / "corpus")


@pytest.fixture
def root(small: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(small[1], tmp_path / "STORE")


def contents(root: Path) -> dict[str, bytes]:
    opened = store.open(root)
    return {
        name: opened.read("wave", n).tobytes() + opened.read("mel", n).tobytes() for n, name in enumerate(opened.ids)
    }


def test_what_is_new_becomes_further_parts(corpus: Path, root: Path, tmp_path: Path) -> None:
    before, ids = part_bytes(root), store.open(root).ids.tolist()
    (more(corpus, 0, 6) / "speaker1" / "bad.wav").write_bytes(b"no audio")
    (corpus / "speaker1" / "bad.txt").write_text("some words", encoding="utf-8")
    result = build(corpus, root, *PARTS)
    assert result.exit_code == 0 and "grows: 12 utterances to 18" in result.stderr
    after = part_bytes(root)
    assert {name: after[name] for name in before} == before and not list(verify(root))
    opened = store.open(root)
    assert opened.complete and opened.ids[:12].tolist() == ids and len(opened) == 18
    assert "speaker1/bad.wav" in (root / "rejects.jsonl").read_text(encoding="utf-8")
    assert build(corpus, tmp_path / "anew", *PARTS).exit_code == 0
    assert contents(root) == contents(tmp_path / "anew"), "the same as all at once, in other parts"
    again = json.loads(build(corpus, root, *PARTS, "--json").stdout)
    assert again["parts_built"] == 0 and part_bytes(root) == after


def test_it_grows_any_number_of_times_and_each_time_is_remembered(corpus: Path, root: Path) -> None:
    prints = []
    for first in (0, 3, 6):
        opened = store.open(root)
        prints.append((opened.fingerprint, len(opened)))
        assert build(more(corpus, first, 3), root, *PARTS).exit_code == 0
    opened = store.open(root)
    assert len(opened) == 21 and not list(verify(root))
    for fingerprint, count in prints:
        assert utterances_before_growth(opened, fingerprint, opened.features) == count
    assert utterances_before_growth(opened, "something else", opened.features) is None


def test_killed_while_it_grows_it_ends_in_the_same_bytes(
    corpus: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shutil.copytree(root, root.parent / "whole")
    assert build(more(corpus, 0, 12), whole, *PARTS).exit_code == 0
    kills = 0
    while not kills or not store.open(root).complete:
        with monkeypatch.context() as patch:
            killed_after_a_part(patch)
            assert build(corpus, root, *PARTS).exit_code == 1
        kills += 1
    assert build(corpus, root, *PARTS).exit_code == 0
    assert kills > 1 and part_bytes(root) == part_bytes(whole) and not list(verify(root))


def killed_after_a_part(patch: pytest.MonkeyPatch) -> None:
    """One part is sealed, and the command ends."""
    from headrace.cli.progress import BuildProgress

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    patch.setattr(BuildProgress, "part_done", stop)


def test_what_is_dropped_from_a_grown_store_is_made_again(corpus: Path, root: Path) -> None:
    assert build(more(corpus, 0, 6), root, *PARTS).exit_code == 0
    held = contents(root)
    for number in (1, len(store.open(root).parts) - 1):
        shutil.rmtree(root / "parts" / f"{number:05d}" / "mel")
    done = repair(root)
    assert len(done.parts) == 2 and "featurize build" in done.commands[0]
    assert build(corpus, root, *PARTS).exit_code == 0
    assert contents(root) == held and not list(verify(root))


def test_a_feature_that_joined_joins_the_new_parts(corpus: Path, root: Path) -> None:
    assert add(root, "energy").exit_code == 0
    result = build(more(corpus, 0, 3), root, *PARTS)
    assert result.exit_code == 0 and f"featurize add {root} energy" in result.stderr
    assert "energy" not in store.open(root).features and not list(verify(root))
    made = json.loads(add(root, "energy", "--json").stdout)["added"]["energy"]
    assert 0 < made["parts_built"] < made["parts"] and not list(verify(root))
    opened = store.open(root)
    assert all(len(opened.read("energy", n)) == opened.frames[n] for n in range(len(opened)))


@pytest.mark.parametrize("change", ["text", "gone", "recording"])
def test_a_corpus_that_changed_otherwise_is_refused(corpus: Path, root: Path, change: str) -> None:
    before = part_bytes(root)
    more(corpus, 0, 3)
    if change == "text":
        (corpus / "speaker0" / "000.txt").write_text("other words", encoding="utf-8")
    elif change == "recording":
        soundfile.write(corpus / "speaker0" / "000.wav", buzz(2, 32_000, 7), 32_000)
    else:
        (corpus / "speaker0" / "000.wav").unlink()
    result = build(corpus, root, *PARTS)
    assert result.exit_code == 1 and "otherwise than by growing" in result.stderr and part_bytes(root) == before
    expected = "are gone" if change == "gone" else "have another text"
    assert expected in result.stderr


def test_a_damaged_root_is_made_anew_for_the_parts_that_are_there(corpus: Path, root: Path) -> None:
    good, before = (root / "zarr.json").read_bytes(), part_bytes(root)
    (root / "zarr.json").write_bytes(good.replace(b"32000", b"32001"))
    (problem,) = verify(root)
    done = repair(root)
    assert problem.drop == "root" and done.unrepairable == (problem,) and "featurize build CORPUS" in done.commands[0]
    assert "--features wave,mel,phones" in done.commands[0] and part_bytes(root) == before
    wrong = build(corpus, root, *PARTS[:2], "--features", "wave")
    assert wrong.exit_code == 1 and list(verify(root)) == [problem]
    assert build(corpus, root, *PARTS).exit_code == 0
    assert (root / "zarr.json").read_bytes() == good and part_bytes(root) == before and not list(verify(root))


def test_a_run_on_a_store_that_grew_is_told_so(tmp_path: Path) -> None:
    root, config = tmp_path / "STORE", {"preset": "tiny", "batch_frames": 200, "device": "cpu"}
    attributes = training_store.build(root, training_store.FRAMES[:9], parts=3).attributes
    later = shutil.move(root / "parts" / "00002", tmp_path / "later")
    replant(root, attributes | {"plan": {"parts": 2, "utterances": 6, "grown": []}})
    loop.start(RunConfig.from_options(store=root, out=tmp_path / "RUN", max_steps=1, **config), training_store.Silent())
    shutil.move(later, root / "parts" / "00002")
    replant(root, attributes | {"plan": {"parts": 3, "utterances": 9, "grown": [[[0, 2]]]}})
    with pytest.raises(RunError, match="STORE grew since this run was trained on it, from 6 utterances to 9"):
        loop.resume(tmp_path / "RUN", {"store": root, "max_steps": 2}, training_store.Silent())


def replant(root: Path, attributes: dict[str, Any]) -> None:
    """Another root for the parts that are there."""
    create_store(root, attributes)
    index.write(root, index.derive(root))
