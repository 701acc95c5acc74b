"""The keys of a config.json of Hugging Face that a network is built from, with their types and bounds.

Nothing else of a config reaches transformers, which would take names of kernels, adapters and quantisers from it, and
download them.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headrace.store.errors import UsageError

MAX_CONFIG, MAX_VOCABULARY = 1 << 20, 1 << 26
"""Bytes of a config.json, and of a vocabulary."""
ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh")
DTYPES = ("float32", "float16", "bfloat16")
Check = tuple[str, Callable[[Any], bool]]


def _whole(least: int, most: int) -> Check:
    return f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most


def _list_of(least: int, most: int) -> Check:
    _, is_one = _whole(least, most)
    words = f"a list of up to 16 whole numbers from {least} to {most}"
    return words, lambda value: isinstance(value, list) and 0 < len(value) <= 16 and all(map(is_one, value))


def _one_of(*choices: str) -> Check:
    return " or ".join(choices), lambda value: isinstance(value, str) and value in choices


def _optional(check: Check) -> Check:
    return f"{check[0]}, or null", lambda value: value is None or check[1](value)


_BOOL: Check = ("true or false", lambda value: isinstance(value, bool))
_EPSILON: Check = ("a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
_TRANSFORMER: Mapping[str, Check] = {
    "hidden_size": _whole(1, 1 << 13),
    "num_hidden_layers": _whole(1, 128),
    "num_attention_heads": _whole(1, 256),
    "intermediate_size": _whole(1, 1 << 16),
    "hidden_act": _one_of(*ACTIVATIONS),
    "layer_norm_eps": _EPSILON,
}
_SPEECH: Mapping[str, Check] = {
    **_TRANSFORMER,
    "feat_extract_norm": _one_of("group", "layer"),
    "feat_extract_activation": _one_of(*ACTIVATIONS),
    "conv_dim": _list_of(1, 1 << 12),
    "conv_stride": _list_of(1, 1 << 8),
    "conv_kernel": _list_of(1, 1 << 10),
    "conv_bias": _BOOL,
    "num_conv_pos_embeddings": _whole(1, 1 << 10),
    "num_conv_pos_embedding_groups": _whole(1, 1 << 10),
    "do_stable_layer_norm": _BOOL,
}
KEYS: Mapping[str, Mapping[str, Check]] = {
    "hubert": {**_SPEECH, "feat_proj_layer_norm": _BOOL, "conv_pos_batch_norm": _BOOL},
    "wav2vec2": {**_SPEECH, "vocab_size": _whole(1, 1 << 20), "adapter_attn_dim": _optional(_whole(1, 1 << 13))},
    "bert": {
        **_TRANSFORMER,
        "vocab_size": _whole(1, 1 << 20),
        "max_position_embeddings": _whole(1, 1 << 16),
        "type_vocab_size": _whole(1, 1 << 10),
    },
}
"""What is read of the config of each `model_type`. A key that is missing has transformers' default."""


def read_json(path: Path, limit: int) -> Any:
    """Read a JSON file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or too large, or no regular file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size > limit:
        raise ValueError(f"it has {status.st_size:,} bytes, and {limit:,} are the most")
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def checked(config: Mapping[str, Any], kind: str, source: str) -> dict[str, Any]:
    """Return the keys of a config that a network of a kind is built from.

    Raises:
        UsageError: one has another type or is out of bounds; the message begins with `source`.
    """
    found = {key: config[key] for key in KEYS[kind] if key in config}
    for key, value in found.items():
        words, is_right = KEYS[kind][key]
        if not is_right(value):
            raise UsageError(f"{source}: config.json has {key}={_shown(value)}, and {words} is needed.")
    if len({len(found[key]) for key in ("conv_dim", "conv_stride", "conv_kernel") if key in found}) > 1:
        raise UsageError(f"{source}: conv_dim, conv_stride and conv_kernel of config.json have different lengths.")
    return found


def dtype_name(config: Mapping[str, Any], source: str) -> str | None:
    """Return the dtype that a config gives to the weights, None if it gives none. Raises UsageError."""
    name = config.get("dtype", config.get("torch_dtype"))
    words, is_right = _optional(_one_of(*DTYPES))
    if not is_right(name):
        raise UsageError(f"{source}: config.json has dtype={_shown(name)}, and {words} is needed.")
    return name


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
