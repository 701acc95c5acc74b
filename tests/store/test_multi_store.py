"""Several stores are one: the same as each for itself, one after the other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headrace import store
from headrace.cli.store import main as store_command
from headrace.cli.train import main as train_command
from headrace.store import index
from headrace.store.errors import NotAStore, RecipeMismatch, StoreError
from headrace.store.reader import Store
from headrace.store.schema import FeatureSpec
from headrace.store.writer import create_store, write_part
from headrace.train.config_sections import DataConfig
from headrace.train.data.stream import Stream, StreamConfig
from headrace.train.data.training_data import open_training_data
from tests.helpers import training_store
from tests.helpers.commands import call
from tests.helpers.parts import ATTRIBUTES, add_loudness, make_part


def make(root: Path, number: int, frames: list[int], **attributes: object) -> Path:
    """A store of one part, whose utterances are called s<number>/..."""
    create_store(root, ATTRIBUTES | {"plan": {"parts": number + 1, "utterances": len(frames)}} | attributes)
    for before in range(number):
        write_part(root, make_part(before, []))
    write_part(root, make_part(number, frames))
    index.write(root, index.derive(root))
    return root


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    frames = [5, 9, 200], [7, 9, 9, 1000], [80]
    return [make(tmp_path / name, number, frames[number]) for number, name in enumerate("ABC")]


def listed(folder: Path, roots: list[Path]) -> Path:
    """A text file beside them."""
    file = folder / "all.txt"
    file.write_text("# what there is\n\n" + "\n".join(os.path.relpath(root, folder) for root in roots) + "\n")
    return file


@pytest.fixture(params=["list", "file"])
def joined(request: pytest.FixtureRequest, tmp_path: Path, roots: list[Path]) -> Store:
    return store.open(roots if request.param == "list" else listed(tmp_path, roots))


def test_a_multi_store_holds_the_utterances_of_each_store(joined: Store, roots: list[Path]) -> None:
    alone = [store.open(root) for root in roots]
    assert len(joined) == sum(map(len, alone)) == 8 and joined.complete and len(joined.parts) == 1 + 2 + 3
    for of in ("ids", "speakers", "languages", "texts", "frames", "phones_n"):
        assert getattr(joined, of).tolist() == [value for one in alone for value in getattr(one, of).tolist()]
    assert joined.hours == pytest.approx(sum(one.hours for one in alone))
    number = 0
    for one in alone:
        for n in range(len(one)):
            assert joined.find(one.ids[n]) == number
            for feature in joined.features:
                assert np.array_equal(joined.read(feature, number), one.read(feature, n))
            number += 1


def test_batches_across_stores(joined: Store) -> None:
    numbers = np.array([6, 0, 3, 7, 2, 4])
    out = np.full((6, 1000, 128), 7, np.float16)
    joined.read_into("mel", joined.locate("frames", numbers), out)
    for row, number in zip(out, numbers, strict=True):
        assert np.array_equal(row[: joined.frames[number]], joined.read("mel", number))
        assert not row[joined.frames[number] :].any()
    with Stream(joined, ["mel", "phones"], np.arange(8), StreamConfig(batch_frames=2000)) as stream:
        seen = []
        while stream.position.epoch == 0:
            seen += next(stream).numbers.tolist()
    assert sorted(seen) == list(range(8))


def test_the_fingerprint_is_of_all_of_them_in_their_order(roots: list[Path]) -> None:
    whole = store.open(roots).fingerprint
    assert whole == store.open(roots).fingerprint != store.open(roots[::-1]).fingerprint
    assert len({whole, *(store.open(root).fingerprint for root in roots), store.open(roots[:2]).fingerprint}) == 5
    assert store.open(roots[:1]).fingerprint == store.open(roots[0]).fingerprint


def test_reading_is_mapped_and_checked_as_in_one_store(joined: Store, roots: list[Path]) -> None:
    assert not joined.read("mel", 6).flags.owndata
    shard = roots[1] / "parts" / "00001" / "mel" / "c" / "0" / "0"
    shard.write_bytes(b"\1" + shard.read_bytes()[1:])
    checked = store.open(roots, check=True)
    assert len(checked.read("mel", 2)) == 200
    with pytest.raises(StoreError, match="B/parts/00001/mel"):
        checked.read("mel", 3)


def test_features_that_not_all_have_are_left_out(roots: list[Path]) -> None:
    add_loudness(roots[0], "none")
    assert "loudness" in store.open(roots[0]).features and "loudness" not in store.open(roots).features
    add_loudness(roots[1], "none")
    both = store.open(roots[:2])
    assert all(len(both.read("loudness", n)) == both.frames[n] for n in range(len(both)))
    assert both.fingerprint != both.fingerprint_of(["mel"]) == store.open(roots[:2]).fingerprint_of(["mel"])


def test_what_each_store_learned_is_left_out_with_what_is_made_from_it(tmp_path: Path) -> None:
    def learned(number: int, model: str) -> Path:
        specs = json.loads(json.dumps(ATTRIBUTES["features"]))
        by_name = {spec["name"]: spec for spec in specs}
        by_name["mel"]["recipe"]["learned"] = model
        by_name["speaker_vector"]["recipe"] = {"mel": model}
        return make(tmp_path / f"{number}{model}", number, [7], features=specs)

    one, same, another = learned(0, "a"), learned(1, "a"), learned(2, "b")
    assert {"mel", "speaker_vector"} <= set(store.open([one, same]).features)
    assert {"mel", "speaker_vector"}.isdisjoint(store.open([one, another]).features)
    assert "wave" in store.open([one, another]).features


def other(change: str) -> dict[str, object]:
    specs = json.loads(json.dumps(ATTRIBUTES["features"]))
    if change == "recipe":
        specs[1]["recipe"]["n_fft"] = 1024
        return {"features": specs}
    return {"sample_rate": 16_000}


@pytest.mark.parametrize("change, said", [("recipe", "n_fft=1024"), ("rate", "sample_rate=16000")])
def test_stores_made_otherwise_are_refused_with_the_difference(
    tmp_path: Path, roots: list[Path], change: str, said: str
) -> None:
    odd = make(tmp_path / "odd", 3, [7], **other(change))
    with pytest.raises(RecipeMismatch, match="odd has another") as caught:
        store.open([*roots, odd])
    ours, theirs = caught.value.details
    assert said in theirs and said.split("=")[0] in ours and "hop" not in theirs


def test_an_utterance_may_not_come_twice(tmp_path: Path, roots: list[Path]) -> None:
    copy = make(tmp_path / "copy", 0, [5, 9, 201])
    with pytest.raises(StoreError, match=r"2 utterances are in more than one of .*first is s0/ünï 0\.wav"):
        _ = store.open([*roots, copy]).ids
    same_names = make(tmp_path / "names", 0, [6, 10, 201])
    assert len(store.open([*roots, same_names]).ids) == 11, "other recordings of the same name"


def test_recordings_of_one_name_and_length_are_named_after_their_stores(tmp_path: Path) -> None:
    """Four corpora with wavs/0001.wav, of which two are of the same length."""
    for name, tone in (("fr", 1), ("a/de", 2), ("b/de", 3)):
        root = training_store.build(tmp_path / name, (20, 24 + tone), parts=1).path
        shard = root / "parts" / "00000" / "wave" / "c" / "0" / "0"
        shard.write_bytes(bytes([tone]) + shard.read_bytes()[1:])
    joined = store.open([tmp_path / "fr", tmp_path / "a" / "de", tmp_path / "b" / "de"])
    assert joined.ids[2] == "a/de/utt0" and joined.ids[5] == "b/de/utt1" and len(set(joined.ids)) == 6
    assert joined.find("b/de/utt1") == 5 and joined.own_ids.tolist() == 3 * ["utt0", "utt1"]
    split = open_training_data(listed(tmp_path, [tmp_path / "fr"]), lambda _: {}, DataConfig())
    alone = open_training_data(tmp_path / "fr", lambda _: {}, DataConfig())
    assert split.validation.tolist() == alone.validation.tolist()
    with pytest.raises(StoreError, match="1 utterances are in more than one of"):
        shutil.copytree(tmp_path / "a" / "de", tmp_path / "copy")
        shard = tmp_path / "copy" / "parts" / "00000" / "wave" / "c" / "0" / "0"
        shard.write_bytes(bytes([9]) + shard.read_bytes()[1:])
        _ = store.open([tmp_path / "a" / "de", tmp_path / "copy"]).ids


def test_symbol_tables_of_which_one_begins_the_other_are_joined(tmp_path: Path) -> None:
    def with_table(name: str, number: int, table: str) -> Path:
        specs = json.loads(json.dumps(ATTRIBUTES["features"]))
        by_name = {spec["name"]: spec for spec in specs}
        by_name["phones"]["recipe"] |= {"symbols": table}
        by_name["speaker_vector"]["recipe"] = {"phones": FeatureSpec.from_json(by_name["phones"]).fingerprint}
        return make(tmp_path / name, number, [7], features=specs)

    en, de = with_table("en", 0, "gpt-sovits-v2"), with_table("de", 1, "headrace-ipa")
    for roots in ([en, de], [de, en]):
        joined = store.open(roots)
        assert joined.features["phones"].recipe["symbols"] == "headrace-ipa" and "speaker_vector" in joined.features
    with pytest.raises(RecipeMismatch, match="another phones"):
        store.open([en, with_table("odd", 2, "of-my-own")])


@pytest.mark.parametrize(
    "where, error, said",
    [
        (lambda roots: [], StoreError, "names no store"),
        (lambda roots: [roots[0], roots[0]], StoreError, "is named twice"),
        (lambda roots: [roots[0], roots[0].parent], NotAStore, "is not a Headrace store"),
        (lambda roots: listed(roots[0].parent, []), StoreError, "names no store"),
        (
            lambda roots: roots[0] / "parts" / "00000" / "mel" / "c" / "0" / "0",
            StoreError,
            "neither a store nor a list",
        ),
    ],
)
def test_errors_are_reported(
    roots: list[Path], where: Callable[[list[Path]], object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        store.open(where(roots))  # type: ignore[arg-type]


def test_commands_accept_a_list_of_stores(tmp_path: Path, roots: list[Path]) -> None:
    info = json.loads(call(store_command, "info", listed(tmp_path, roots), "--json").stdout)
    assert info["utterances"] == 8 and info["parts"] == info["parts_planned"] == 6 and info["complete"]
    assert "8 utterances" in call(store_command, "info", listed(tmp_path, roots)).stdout
    refused = call(store_command, "verify", listed(tmp_path, roots))
    assert refused.exit_code == 1 and "is not a Headrace store" in refused.stderr


def test_a_model_trains_on_several_stores(tmp_path: Path) -> None:
    training_store.build(tmp_path / "A", training_store.FRAMES[:8])
    training_store.build(tmp_path / "B", [n + 1 for n in training_store.FRAMES[:6]])
    file = tmp_path / "both.txt"
    file.write_text("A\nB\n")
    words = ("--out", tmp_path / "RUN", "--preset", "tiny", "--max-steps", 1, "--batch-frames", 200, "--device", "cpu")
    done = call(train_command, "run", file, *words, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 1
