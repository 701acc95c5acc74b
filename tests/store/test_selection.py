"""Selecting utterances by a condition: which are selected, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headrace import store
from headrace.store import added_arrays
from headrace.store.errors import UsageError
from headrace.store.schema import FeatureSpec
from headrace.store.selection import select
from headrace.train.config_sections import DataConfig
from headrace.train.data.training_data import open_training_data
from tests.helpers.training_store import FRAMES, build


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("where") / "store").path


def test_a_selection_reports_excluded_utterances(corpus):
    data = open_training_data(corpus, lambda _: {}, DataConfig(where="frames < 80 and id != 'utt3' and 'la' in text"))
    kept = [n for n, frames in enumerate(FRAMES) if frames < 80 and n != 3]
    assert sorted([*data.training, *data.validation]) == kept
    told = data.to_json()
    assert told["in"]["utterances"] == len(kept)
    assert told["in"]["hours"] == pytest.approx(sum(FRAMES[n] for n in kept) / 50 / 3600, abs=1e-6)
    assert told["in"]["utterances"] + told["out"]["utterances"] == len(FRAMES)
    assert [(reason["clause"], reason["utterances"]) for reason in told["reasons"]] == [
        ("frames < 80", 5),
        ("id != 'utt3'", 1),
        ("'la' in text", 0),
    ]
    assert told["training"]["utterances"] + told["validation"]["utterances"] == told["in"]["utterances"]
    assert any("not frames < 80: 5 utterances (0.1 min)" in line for line in data.lines())


def test_every_column_of_a_store_can_be_used(corpus):
    wanted = (
        "duration < 1.5 and frames < 75 and phones > 1 and phones_n > 1 and aligned and "
        "characters == 2 and text == 'la' and speaker == 's' and language == 'en' and id != ''"
    )
    holds = select(store.open(corpus), wanted).mask
    assert np.flatnonzero(holds).tolist() == [n for n, frames in enumerate(FRAMES) if 20 <= frames < 75]


def test_a_feature_of_one_number_an_utterance_is_a_column(tmp_path):
    root = build(tmp_path / "store").path
    spec = FeatureSpec(name="loudness", axis="utterance", dtype="float32", channels=None)
    for part in range(2):
        values = np.arange(10, dtype=np.float32) / 2 + 5 * part
        added_arrays.write(root, part, spec, values, {}, "none")
    added_arrays.publish(root, spec, range(2))
    assert np.flatnonzero(select(store.open(root), "3 <= loudness < 6").mask).tolist() == [6, 7, 8, 9, 10, 11]


def test_nothing_selected_is_an_error(corpus):
    with pytest.raises(UsageError, match="meets the condition") as caught:
        open_training_data(corpus, lambda _: {}, DataConfig(where="frames > 1000 and aligned"))
    assert caught.value.details == (
        "not frames > 1000: 20 utterances (0.4 min)",
        "not aligned: 0 utterances (0.0 min)",
    )
