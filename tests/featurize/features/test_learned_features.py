"""Features that learn something from the whole store first, and arrays that bring the lengths of an axis."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from rich.console import Console

from headrace import store
from headrace.cli import output, progress
from headrace.cli.featurize import main as featurize_command
from headrace.cli.store import main as store_command
from headrace.featurize.features import learned_state
from headrace.featurize.features.derived import Derived, LearningLog, Part
from headrace.featurize.pipeline import feature_registry
from headrace.featurize.pipeline.add_features import wall_seconds_by_stage
from headrace.featurize.scheduling import dask_cluster
from headrace.store import added_arrays
from headrace.store.integrity.checksummed_metadata import with_checksum
from headrace.store.integrity.verify import verify
from headrace.store.storage import StoragePath, local
from tests.helpers import training_store
from tests.helpers.commands import add, build, call, part_bytes
from tests.helpers.corpora import make_tree

SHORT = ("--part-hours", 0.001)


@dataclass(frozen=True, kw_only=True)
class Loudest(Derived):
    """Every frame's peak as a share of the loudest sample of the whole store."""

    power: int = 1

    name, needs, axis, dtype, learns = "loudest", ("wave",), "frames", "float32", True

    def learn(self, parts: Sequence[Part], log: LearningLog) -> dict[str, np.ndarray]:
        waves = (wave for part in log.each(parts, "parts heard") for wave in part.utterances("wave"))
        peak = max(int(abs(wave.astype(np.int32)).max()) for wave in waves)
        log(f"the loudest sample is {peak}")
        return {"peak": np.array(peak)}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for wave in part.utterances("wave"):
            share = abs(wave.astype(np.float32)).max(1) / np.float32(part.learned(self.name)["peak"])
            yield share**self.power


@dataclass(frozen=True, kw_only=True)
class Halves(Derived):
    """Half as many tokens as an utterance has frames."""

    name, needs, axis, dtype = "tokens_n", ("wave",), "utterance", "int32"

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for wave in part.utterances("wave"):
            yield np.array([len(wave) // 2], np.int32)


@dataclass(frozen=True, kw_only=True)
class Tokens(Derived):
    """A number for every second frame."""

    name, needs, axis, dtype = "tokens", ("loudest", "tokens_n"), "tokens", "int16"

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for share, count in zip(part.utterances("loudest"), part.utterances("tokens_n"), strict=True):
            yield (100 * share[: 2 * count[0] : 2]).astype(np.int16)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Loudest, Halves, Tokens):
        monkeypatch.setitem(feature_registry.DERIVED_FEATURES, kind.name, kind)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of waves, in three parts."""
    folder = tmp_path_factory.mktemp("plain")
    assert build(make_tree(folder / "corpus", 9), folder / "STORE", "--features", "wave", *SHORT).exit_code == 0
    return folder / "STORE"


@pytest.fixture
def root(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "STORE")


def model(root: Path) -> Path:
    return root / "models" / "loudest.safetensors"


def test_it_is_learned_once_from_all_parts_and_stands_in_the_fingerprint(root: Path, tmp_path: Path) -> None:
    result = add(root, "loudest")
    assert result.exit_code == 0 and "the loudest sample is" in result.stderr
    opened = store.open(root)
    assert max(opened.read("loudest", n).max() for n in range(len(opened))) == 1
    before, seen = part_bytes(root), model(root).stat().st_mtime_ns
    shutil.rmtree(root / "parts" / "00001" / "loudest")
    again = add(root, "loudest")
    assert again.exit_code == 0 and "loudest sample" not in again.stderr
    assert part_bytes(root) == before and model(root).stat().st_mtime_ns == seen and not list(verify(root))
    other = training_store.build(tmp_path / "OTHER", frames=(30, 31), parts=1).path
    assert add(other, "loudest").exit_code == 0
    assert store.open(other).features["loudest"].fingerprint != opened.features["loudest"].fingerprint


def test_learning_is_a_stage_with_progress_and_a_line_in_the_summary(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0)
    result = add(root, "tokens")
    assert "loudest learns: 1/3 parts heard, about 0.0 s left\n" in result.stderr
    assert "loudest learns: 3/3 parts heard\n" in result.stderr
    took = r"took .*: learning loudest .* \(\d+%\), loudest .* \(\d+%\), tokens_n .* \(\d+%\), tokens .* \(\d+%\)"
    assert re.search(took, " ".join(result.stdout.split()))
    told = json.loads((root / "add.json").read_text())
    assert list(told["wall_seconds_by_stage"]) == ["learning loudest", "loudest", "tokens_n", "tokens"]
    assert told["wall_seconds_by_stage"]["learning loudest"] == told["added"]["loudest"]["learn_seconds"] > 0
    assert told["wall_seconds_by_stage"]["loudest"] >= told["added"]["loudest"]["seconds"]
    again = json.loads(add(root, "loudest", "--json").stdout)
    assert list(again["wall_seconds_by_stage"]) == ["loudest"], "nothing was learned"
    built = build(make_tree(tmp_path / "corpus", 3), tmp_path / "T", "--features", "wave,loudest", "--json")
    assert list(json.loads(built.stdout)["wall_seconds_by_stage"]) == ["scan and parts", "learning loudest", "loudest"]
    assert "learns" not in built.stderr


def test_learning_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(output, "console", lambda: console)
    with progress.BuildProgress(quiet=False) as shown:
        shown.learning("align", 0, 80, "0/22 rounds")
        shown.learning("align", 40, 80, "16/22 rounds, the log-likelihood of a frame is -61.20")
        shown.workers(2)  # that start meanwhile do not change what is shown
    assert "align learns: 16/22 rounds, the log-likelihood of a frame is -61.20" in screen.getvalue()
    assert "parts" not in screen.getvalue() and "━" in screen.getvalue()


def test_each_feature_has_its_own_time_of_learning(root: Path) -> None:
    """A stopwatch that ran on gave the second feature the time of the first too."""
    added = [("a", {"learn_seconds": 5.0, "wall_seconds": 1.0}), ("b", {"wall_seconds": 2.0})]
    assert wall_seconds_by_stage(dict(added)) == {"learning a": 5.0, "a": 1.0, "b": 2.0}


def test_what_needs_it_is_made_after_it_and_brings_lengths_of_its_own(root: Path) -> None:
    assert add(root, "tokens").exit_code == 0
    opened = store.open(root)
    assert list(opened.features)[-3:] == ["loudest", "tokens_n", "tokens"] and not list(verify(root))
    assert opened.features["tokens"].recipe["loudest"] == opened.features["loudest"].fingerprint
    assert opened.lengths("tokens").tolist() == (opened.frames // 2).tolist()
    share = opened.read("loudest", 7)
    assert opened.read("tokens", 7).tolist() == (100 * share[: len(share) // 2 * 2 : 2]).astype(np.int16).tolist()
    assert store.open(root, check=True).read("tokens", 3).tolist() == opened.read("tokens", 3).tolist()


def test_other_options_than_it_was_learned_for_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert add(root, "loudest").exit_code == 0
    for folder in root.glob("parts/*/loudest"):
        shutil.rmtree(folder)
    document = json.loads((root / "zarr.json").read_text())
    features = document["attributes"]["features"]
    document["attributes"]["features"] = [spec for spec in features if spec["name"] != "loudest"]
    (root / "zarr.json").write_bytes(with_checksum(document))
    monkeypatch.setattr(Loudest.__init__, "__kwdefaults__", {"power": 2})
    refused = add(root, "loudest")
    assert refused.exit_code == 1 and "power=1" in refused.stderr and "featurize drop" in refused.stderr
    model(root).unlink()
    assert add(root, "loudest").exit_code == 0 and not list(verify(root))


def drop(root: StoragePath, names: str) -> Result:
    return call(featurize_command, "drop", root, names)


def test_a_dropped_feature_is_made_again_or_by_another_recipe(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = part_bytes(root)
    assert add(root, "loudest").exit_code == 0
    added = part_bytes(root)
    assert drop(root, "loudest").exit_code == 0
    assert part_bytes(root) == before and not model(root).exists() and not list(verify(root))
    assert "loudest" not in store.open(root).features
    assert add(root, "loudest").exit_code == 0 and part_bytes(root) == added
    assert drop(root, "loudest").exit_code == 0
    monkeypatch.setattr(Loudest.__init__, "__kwdefaults__", {"power": 2})
    assert add(root, "loudest").exit_code == 0
    assert store.open(root).features["loudest"].recipe["power"] == 2 and not list(verify(root))


def test_a_drop_that_was_killed_is_continued_and_confuses_nobody(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after each deletion in turn, of folders of arrays and of the model."""
    before = part_bytes(root)
    for stop in range(4):
        with monkeypatch.context() as patch:
            assert add(root, "loudest").exit_code == 0
            left, stopped = stop, False
            for name in ("delete_folder", "delete_file"):
                whole = getattr(local.LocalStorage, name)

                def deleting(*words: object, whole: Callable[..., None] = whole) -> None:
                    nonlocal left, stopped
                    if left == 0:
                        stopped = True
                        raise KeyboardInterrupt
                    left -= 1
                    whole(*words)

                patch.setattr(local.LocalStorage, name, deleting)
            assert drop(root, "loudest").exit_code != 0 and stopped
        assert "loudest" not in store.open(root).features and not list(verify(root))
        with monkeypatch.context() as patch:
            patch.setattr(Loudest.__init__, "__kwdefaults__", {"power": 2})
            refused = add(root, "loudest")
            assert refused.exit_code == 1 and "run featurize drop" in refused.stderr
        assert drop(root, "loudest").exit_code == 0 and part_bytes(root) == before and not model(root).exists()


def test_what_is_made_from_it_goes_with_it(root: Path) -> None:
    """Also where only some parts have it, since an addition was killed: a later one would have other inputs."""
    assert add(root, "tokens").exit_code == 0
    refused = drop(root, "loudest")
    assert refused.exit_code == 2 and f"featurize drop {root} loudest,tokens" in refused.stderr
    added_arrays.withdraw(root, ["tokens"])
    shutil.rmtree(root / "parts" / "00000" / "tokens")
    assert f"featurize drop {root} loudest,tokens" in drop(root, "loudest").stderr
    assert drop(root, "loudest,tokens").exit_code == 0
    assert [*store.open(root).features] == ["wave", "tokens_n"] and not list(verify(root))


@pytest.mark.parametrize(
    ("names", "message"),
    [("wave", "built with wave"), ("id", "built with id"), ("../x", "no added feature '../x'"), (",", "No feature")],
)
def test_what_cannot_be_dropped_is_refused(root: Path, names: str, message: str) -> None:
    before = part_bytes(root)
    refused = drop(root, names)
    assert refused.exit_code == 2 and message in refused.stderr and part_bytes(root) == before


@pytest.mark.parametrize("others", [("zarr.json", "c"), ("notes",)])
def test_an_array_of_someone_else_is_not_dropped(root: Path, others: tuple[str, ...]) -> None:
    folder = root / "parts" / "00001" / "mine"
    folder.mkdir()
    for name in others:
        (folder / name).write_text("{}")
    refused = drop(root, "mine")
    assert refused.exit_code == 2 and "no added feature 'mine'" in refused.stderr
    assert {file.name for file in folder.iterdir()} == {*others}


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A list of two stores, of one part each."""
    for number, name in enumerate("AB"):
        training_store.build(tmp_path / name, (20 + number, 30), parts=1)
    (tmp_path / "all.txt").write_text("A\nB\n")
    return tmp_path / "all.txt"


def test_an_array_that_parts_were_sealed_with_is_not_added(several: Path, tmp_path: Path) -> None:
    """It was made, not published, and its folder then called unsealed: whoever removed it had damaged the part."""
    before = part_bytes(tmp_path / "A")
    for stores in (several, tmp_path / "A"):
        refused = add(stores, "tokens")
        assert refused.exit_code == 1 and "were made with tokens_n (asked for: tokens)" in refused.stderr
    assert part_bytes(tmp_path / "A") == before and not model(tmp_path / "A").exists()


def test_it_is_learned_once_from_several_stores(several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when one store has the model and the other has not, it continues with that model.

    Workers are started once, not for every store and every feature.
    """
    start, started = dask_cluster.executor, list[int]()

    def counted(count: int, *words: object) -> object:
        started.append(count)
        return start(count, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(dask_cluster, "executor", counted)
    whole = learned_state.copy

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(learned_state, "copy", killed)
    assert add(several, "loudest").exit_code != 0
    monkeypatch.setattr(learned_state, "copy", whole)
    added = add(several, "loudest", "--json")
    assert added.exit_code == 0 and len(json.loads(added.stdout)["stores"]) == 2 and started == [1]
    assert model(tmp_path / "A").read_bytes() == model(tmp_path / "B").read_bytes()
    joined = store.open(several)
    assert "loudest" in joined.features and not [*verify(tmp_path / "A"), *verify(tmp_path / "B")]
    assert max(joined.read("loudest", n).max() for n in range(4)) == 1
    assert drop(several, "loudest").exit_code == 0 and not model(tmp_path / "B").exists()


def test_what_one_store_learned_alone_is_no_model_of_several(several: Path, tmp_path: Path) -> None:
    assert add(tmp_path / "B", "loudest").exit_code == 0
    refused = add(several, "loudest")
    assert refused.exit_code == 1 and f"{tmp_path / 'B'} learned loudest otherwise" in refused.stderr
    assert not model(tmp_path / "A").exists()
    assert drop(tmp_path / "B", "loudest").exit_code == 0 and add(several, "loudest").exit_code == 0


def test_a_lost_or_changed_model_is_found_and_can_be_learned_again(root: Path) -> None:
    assert add(root, "loudest").exit_code == 0
    good, before = model(root).read_bytes(), part_bytes(root)
    shutil.rmtree(root / "parts" / "00002" / "loudest")
    for bad in (good[:-1] + b"\7", good[:40], b"", None):
        model(root).write_bytes(bad) if bad is not None else model(root).unlink()
        assert call(store_command, "verify", root).exit_code == 1
        if bad is not None:
            refused = add(root, "loudest")
            assert refused.exit_code == 1 and "Traceback" not in refused.stderr
    assert add(root, "loudest").exit_code == 0
    assert model(root).read_bytes() == good and part_bytes(root) == before and not list(verify(root))


def test_a_store_that_grows_keeps_what_was_learned(tmp_path: Path) -> None:
    corpus, root = make_tree(tmp_path / "corpus", 5), tmp_path / "STORE"
    words = ("--features", "wave,loudest", *SHORT)
    assert build(corpus, root, *words).exit_code == 0
    learned, before = model(root).read_bytes(), part_bytes(root)
    make_tree(tmp_path / "corpus" / "more", 3, seconds=1.5)
    assert build(corpus, root, *words).exit_code == 0
    assert model(root).read_bytes() == learned and not list(verify(root))
    after = part_bytes(root)
    assert len(store.open(root)) == 8 and before.items() <= after.items()
