"""Each key of a config.json that a network is built from: what is just within its bounds, and what is just beyond."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from headrace.featurize.features import network_config
from headrace.featurize.features.network_config import ACTIVATIONS, checked, dtype_name, read_json
from headrace.store.errors import UsageError

WHOLE = {
    ("hubert", "hidden_size"): 1 << 13,
    ("hubert", "num_hidden_layers"): 128,
    ("hubert", "num_attention_heads"): 256,
    ("hubert", "intermediate_size"): 1 << 16,
    ("hubert", "num_conv_pos_embeddings"): 1 << 10,
    ("hubert", "num_conv_pos_embedding_groups"): 1 << 10,
    ("wav2vec2", "vocab_size"): 1 << 20,
    ("wav2vec2", "adapter_attn_dim"): 1 << 13,
    ("bert", "vocab_size"): 1 << 20,
    ("bert", "max_position_embeddings"): 1 << 16,
    ("bert", "type_vocab_size"): 1 << 10,
}
"""Keys of whole numbers from 1 to this one."""
LISTS = {"conv_dim": 1 << 12, "conv_stride": 1 << 8, "conv_kernel": 1 << 10}
SWITCHES = [("hubert", key) for key in ("conv_bias", "do_stable_layer_norm", "feat_proj_layer_norm")] + [
    ("wav2vec2", "conv_bias"),
    ("hubert", "conv_pos_batch_norm"),
]
CHOICES = {
    ("bert", "hidden_act"): ACTIVATIONS,
    ("hubert", "feat_extract_activation"): ACTIVATIONS,
    ("wav2vec2", "feat_extract_norm"): ("group", "layer"),
}
INSIDE = [
    *((*key, value) for key, most in WHOLE.items() for value in (1, most)),
    ("wav2vec2", "adapter_attn_dim", None),
    *(("hubert", key, value) for key, most in LISTS.items() for value in ([1], [most], [1] * 16)),
    *(("bert", "layer_norm_eps", value) for value in (0, 1, 0.0, 1.0, 1e-5)),
    *((*key, value) for key in SWITCHES for value in (True, False)),
    *((*key, value) for key, choices in CHOICES.items() for value in choices),
]
BEYOND = [
    *((*key, value) for key, most in WHOLE.items() for value in (0, most + 1, True, 1.0, "1", [1])),
    *((*key, None) for key in WHOLE if key[1] != "adapter_attn_dim"),
    *(("hubert", key, value) for key, most in LISTS.items() for value in ([], [0], [most + 1], [1] * 17, [1, True], 1)),
    *(("bert", "layer_norm_eps", value) for value in (-1e-9, 1.001, float("nan"), True, "0", None)),
    *((*key, value) for key in SWITCHES for value in (0, 1, "true", None)),
    *((*key, value) for key in CHOICES for value in ("", "evil", ["gelu"], None)),
]


@pytest.mark.parametrize(("kind", "key", "value"), INSIDE)
def test_what_is_within_bounds_is_taken(kind: str, key: str, value: Any) -> None:
    assert checked({key: value, "auto_map": "evil"}, kind, "--hubert x") == {key: value}


@pytest.mark.parametrize(("kind", "key", "value"), BEYOND)
def test_what_is_not_is_refused_by_its_name(kind: str, key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^--hubert x: config.json has {key}=.*, and .* is needed\.$"):
        checked({key: value}, kind, "--hubert x")


def test_lists_of_convolutions_have_one_length() -> None:
    for lengths in ((2, 2, 2), (2, 2, 0), (0, 3, 0), (0, 0, 0)):
        config = {key: [1] * length for key, length in zip(LISTS, lengths, strict=True) if length}
        assert checked(config, "wav2vec2", "") == config
    for lengths in ((2, 2, 1), (2, 1, 2), (0, 1, 2)):
        with pytest.raises(UsageError, match="different lengths"):
            checked({key: [1] * n for key, n in zip(LISTS, lengths, strict=True) if n}, "wav2vec2", "")


def test_a_long_value_is_shown_in_part() -> None:
    for length, shown in ((58, '"' + "x" * 58 + '", and'), (59, '"' + "x" * 59 + "..., and")):
        with pytest.raises(UsageError) as caught:
            checked({"hidden_act": "x" * length}, "bert", "")
        assert f"hidden_act={shown}" in caught.value.message


def test_the_dtype_has_two_names_of_which_the_new_one_counts() -> None:
    assert dtype_name({}, "") is None and dtype_name({"torch_dtype": "bfloat16"}, "") == "bfloat16"
    assert dtype_name({"dtype": "float16", "torch_dtype": "float32"}, "") == "float16"
    assert dtype_name({"dtype": None, "torch_dtype": "float8"}, "") is None
    for config in ({"dtype": "float8"}, {"torch_dtype": 16}, {"dtype": ["float32"]}):
        with pytest.raises(UsageError, match=r"^x: config.json has dtype=.* or null is needed"):
            dtype_name(config, "x")


def test_files_of_json_have_a_most_size_and_are_files(tmp_path: Path) -> None:
    assert (network_config.MAX_CONFIG, network_config.MAX_VOCABULARY) == (1 << 20, 1 << 26)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"a": 1}))
    assert read_json(file, file.stat().st_size) == {"a": 1}
    with pytest.raises(ValueError, match="it has 8 bytes, and 7 are the most"):
        read_json(file, file.stat().st_size - 1)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="too deeply"):
        read_json(file, 1 << 20)
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ValueError, match="no regular file"):
            read_json(tmp_path / name, 1 << 20)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing", 1)
