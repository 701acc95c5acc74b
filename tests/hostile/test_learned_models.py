"""Models in a store that contradict themselves, under a digest that the store confirms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from headrace.featurize.features import learned_state
from headrace.featurize.features.derived import Part
from headrace.featurize.features.semantic_tokens import KmeansTokens
from headrace.featurize.forced_alignment import cepstra, hmm_aligner
from headrace.featurize.forced_alignment.hmm_aligner import SYMBOLS
from headrace.featurize.quality.repeated_texts import RepeatedText
from headrace.store import learned_models
from headrace.store.errors import StoreError
from headrace.store.schema import FeatureSpec
from tests.helpers.fuzzing import FUZZ_COUNTS, fuzz

SPEC = FeatureSpec(name="align", axis="phones", dtype="int32", channels=2, recipe={"method": "hmm-gmm"})
MIXTURES = (6, 2, cepstra.CHANNELS)
PHONES: dict[str, np.ndarray] = {
    "means": np.zeros(MIXTURES, np.float32),
    "variances": np.ones(MIXTURES, np.float32),
    "weights": np.full((6, 2), 0.5, np.float32),
    "stay": np.full(6, 0.5, np.float32),
    "class_of": np.ones(len(SYMBOLS), np.int16),
    "speaker ada": np.ones((2, cepstra.CHANNELS), np.float32),
}


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("means", None),
        ("means", np.zeros((6, 2, 5), np.float32)),
        ("means", np.zeros(MIXTURES, np.int32)),
        ("means", np.full(MIXTURES, np.nan, np.float32)),
        ("variances", np.ones((6, 3, cepstra.CHANNELS), np.float32)),
        ("weights", np.float32(1)),
        ("stay", np.full(7, 0.5, np.float32)),
        ("class_of", np.full(len(SYMBOLS), 2, np.int16)),
        ("class_of", np.full(len(SYMBOLS), -3, np.int16)),
        ("class_of", np.ones(len(SYMBOLS) - 1, np.int16)),
        ("class_of", np.ones(len(SYMBOLS), np.float32)),
        ("speaker ada", np.ones((2, 3), np.float32)),
    ],
)
def test_phone_models_that_contradict_themselves_do_not_reach_compiled_code(name: str, array: Any) -> None:
    hmm_aligner._check_learned(PHONES)
    changed = {key: value for key, value in (PHONES | {name: array}).items() if value is not None}
    with pytest.raises(StoreError, match=r"models/align\.safetensors, (is damaged|contradicts itself)"):
        hmm_aligner._check_learned(changed)


def test_cluster_centres_and_texts_of_other_shapes_are_refused() -> None:
    specs = {"content": replace(SPEC, name="content", channels=4)}
    for means in (np.zeros((3, 4), np.float32), np.zeros(8, np.float32), np.full((3, 8), np.inf, np.float32)):
        part = Part(specs, utterances=lambda _: [], learned=lambda _, means=means: {"means": means})
        with pytest.raises(StoreError, match="What semantic learned"):
            list(KmeansTokens().rows(part))
    for texts in (np.zeros(2, np.uint64), np.zeros(3, np.int64), np.zeros((3, 1), np.uint64)):
        learned = {"texts": texts, "firsts": np.zeros(3, np.uint64)}
        part = Part(specs, utterances=lambda _: [], learned=lambda _, learned=learned: learned)
        with pytest.raises(StoreError, match="What repeated learned"):
            list(RepeatedText().rows(part))


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_mutations_of_a_model(tmp_path: Path, count: int) -> None:
    root = tmp_path / "STORE"
    (root / "models").mkdir(parents=True)
    learned_state.write(root, SPEC, PHONES)
    file = root / learned_models.model_file("align")
    small = save({"class_of": PHONES["class_of"][:3]}, metadata={"spec": json.dumps(SPEC.to_json())})

    def attempt(mutated: bytes) -> None:
        file.write_bytes(mutated)
        spec = replace(SPEC, recipe={learned_models.MODEL_DIGEST: learned_models.model_digest(mutated)})
        arrays = learned_state.read(root, spec)
        try:
            learned_state.learned_for(root, "align")
        finally:
            learned_state.check(arrays, "align", class_of=("i", "N"))

    tokens = [b'"F8_E8M0"', b'"BF16"', b"[0,6]", b"[9223372036854775807,2]", b'"I16"', b'"C64"']
    fuzz(attempt, [file.read_bytes(), small], folder=root, count=count, tokens=tokens)
