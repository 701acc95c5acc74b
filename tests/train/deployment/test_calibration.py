"""What INT8 is calibrated on: utterances of a store, and one line where it has none that the weights can read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from headrace import store as stores
from headrace.store.errors import StoreError, UsageError
from headrace.store.reader import Store
from headrace.train.deployment import int8, onnx_export
from headrace.train.deployment.onnx_export import Networks, calibration_utterances
from headrace.train.inference.reference import reference_from_store
from headrace.train.models import sovits_config
from headrace.train.models.speech_reference import Reference
from tests.helpers.training_store import build
from tests.train.deployment import onnx_voices


def decoder_alone() -> Networks:
    return replace(onnx_voices.networks(), generator=None)


def silent(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stores.open(build(tmp_path_factory.mktemp("calibration") / "store", frames=[40, 45, 51, 60]).path)


def test_fewer_than_asked_for_are_told(store: Store) -> None:
    told: list[str] = []
    found = calibration_utterances(store.path, decoder_alone(), told.append)
    assert len(found) == 4 and told == [
        f"INT8 is calibrated on 4 utterances in place of 24: {store.path} has no more to choose from"
    ]
    calibration_utterances(store.path, decoder_alone(), told.append, count=4)
    assert len(told) == 1
    few = calibration_utterances(store.path, decoder_alone(), silent, count=2)
    assert [one.spec.shape[1] for one in few] == [40, 60], "they are spread over the store"


def test_a_store_without_texts_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    features = {name: spec for name, spec in store.features.items() if name != "phones"}
    monkeypatch.setattr(onnx_export.stores, "open", lambda _: SimpleNamespace(features=features))
    with pytest.raises(StoreError, match="holds no phones, and INT8 is calibrated on them: featurize add"):
        calibration_utterances(store.path, decoder_alone(), silent)


def test_utterances_of_no_length_are_not_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "frames", np.array([40, 0, 1, 60]))
    asked: list[str] = []
    read = reference_from_store
    monkeypatch.setattr(
        onnx_export,
        "reference_from_store",
        lambda path, name, *rest, **given: asked.append(name) or read(path, name, *rest, **given),
    )
    assert len(calibration_utterances(store.path, decoder_alone(), silent)) == 2 and asked == ["0", "3"]
    with pytest.raises(StoreError, match=r"Utterance utt1 of .* is too short for a voice"):
        read(store.path, "1", sovits_config.tiny(), prompt=True)
    monkeypatch.setattr(Store, "frames", np.zeros(4, int))
    with pytest.raises(UsageError, match="two at least, and the store has 0"):
        int8.split(calibration_utterances(store.path, decoder_alone(), silent))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.array([3, 64])}, "its codes are from 3 to 64, and the weights know those below 64"),
        ({"phones": np.array([-1, 2])}, "its phones are from -1 to 2"),
        ({"bert": np.full((5, 5), np.nan, np.float32)}, "its bert is not finite"),
        ({"bert": np.zeros((5, 7), np.float32)}, "its BERT features have 7 channels, and the weights read 5"),
        ({"speaker": np.array([np.inf], np.float32)}, "its speaker is not finite"),
        ({"spec": np.full((1025, 4), np.nan, np.float32)}, "its spec is not finite"),
    ],
)
def test_what_the_weights_cannot_read_is_one_line(
    change: dict[str, np.ndarray], message: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable = onnx_voices.reference()
    found: list[Reference] = [usable, replace(usable, **change), usable, usable]
    monkeypatch.setattr(onnx_export, "reference_from_store", lambda path, name, *_, **__: found[int(name)])
    with pytest.raises(StoreError) as caught:
        calibration_utterances(store.path, onnx_voices.networks(), silent)
    assert caught.value.message.startswith("INT8 cannot be calibrated on utterance utt1 of")
    assert message in caught.value.message and "\n" not in caught.value.message


def test_those_without_codes_or_phones_are_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    usable, none = onnx_voices.reference(), np.zeros(0, np.int64)
    found = [usable, replace(usable, codes=none), replace(usable, phones=none), usable]
    monkeypatch.setattr(onnx_export, "reference_from_store", lambda path, name, *_, **__: found[int(name)])
    assert calibration_utterances(Path(str(store.path)), onnx_voices.networks(), silent) == [usable, found[3]]
