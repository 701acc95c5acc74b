"""Folders of networks whose config asks for code, for downloads or for memory, and whose vocabularies do not fit."""

from __future__ import annotations

import inspect
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import HubertConfig

from headrace.featurize.features import bert, huggingface, network_config, weight_files
from headrace.featurize.forced_alignment.ctc_network import CtcNetwork, normalises
from headrace.store.errors import UsageError
from tests.helpers import networks
from tests.helpers.fuzzing import FUZZ_COUNTS, fuzz

CODE: dict[str, Any] = {
    "attn_implementation": "evil/kernel",
    "_attn_implementation": "evil/kernel",
    "_attn_implementation_internal": "evil/kernel",
    "auto_map": {"AutoModel": "evil/repo--modeling.Evil"},
    "quantization_config": {"quant_method": "gptq", "bits": 4},
    "_name_or_path": "evil/repo",
    "base_model_name_or_path": "evil/repo",
    "adapters": {"a": "evil/repo"},
    "_commit_hash": "0" * 40,
    "use_kernels": True,
    "fusion_config": {"patch_embeddings": True},
    "transformers_weights": "evil.bin",
    "return_dict": False,
    "output_attentions": True,
}


@pytest.fixture(scope="module")
def hubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks") / "hubert"
    networks.hubert(folder)
    return folder


@pytest.fixture
def folder(hubert: Path, tmp_path: Path) -> Path:
    """A folder whose config.json a test may write."""
    (tmp_path / "hubert").mkdir()
    (tmp_path / "hubert" / "model.safetensors").symlink_to(hubert / "model.safetensors")
    return write_config(tmp_path / "hubert", networks.config_of(hubert))


def write_config(folder: Path, config: Any) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def load(folder: Path) -> Any:
    files = huggingface.inspect_folder(folder, "hubert", "--hubert").files
    load_again = inspect.unwrap(huggingface.load_network)
    return load_again("HubertModel", folder, "hubert", "--hubert", weight_files.digest(files), "cpu", "fp32")


def forbid(what: str) -> Callable[..., Any]:
    return lambda *_, **__: pytest.fail(f"{what} was reached")


def stay_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", forbid("a name server"))
    monkeypatch.setattr(socket.socket, "connect", forbid("the network"))


def test_a_config_names_no_code_and_reaches_no_network(
    hubert: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stay_offline(monkeypatch)
    want = load(hubert).state_dict()
    made = load(write_config(folder, networks.config_of(folder) | CODE))
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in want.items())
    assert made.config._attn_implementation == "sdpa" and not hasattr(made.config, "auto_map")


@pytest.mark.parametrize("key", CODE)
def test_each_key_by_itself(folder: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    stay_offline(monkeypatch)
    made = load(write_config(folder, networks.config_of(folder) | {key: CODE[key]}))
    assert getattr(made.config, key, None) != CODE[key] and made.config._attn_implementation == "sdpa"
    assert set(huggingface.inspect_folder(folder, "hubert", "--hubert").sizes) <= set(network_config.KEYS["hubert"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000, and a whole number from 1 to 128"),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers=2.0"),
        ({"num_hidden_layers": True}, "num_hidden_layers=true"),
        ({"num_hidden_layers": "2"}, 'num_hidden_layers="2"'),
        ({"num_hidden_layers": None}, "num_hidden_layers=null"),
        ({"intermediate_size": 1 << 40}, "intermediate_size=1099511627776"),
        ({"intermediate_size": 1 << 16, "num_hidden_layers": 128}, "it needs 13,196,774,640 numbers"),
        ({"hidden_act": "evil/kernel"}, 'hidden_act="evil/kernel"'),
        ({"hidden_act": ["gelu"]}, r'hidden_act=\["gelu"\]'),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps=NaN"),
        ({"conv_dim": [16] * 6}, "different lengths"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 0]}, "conv_stride="),
        ({"conv_stride": 5}, "conv_stride=5"),
        ({"conv_kernel": ["x" * 10**5]}, r"conv_kernel=\[\"x+\.\.\., and a list"),
        ({"dtype": "evil"}, 'dtype="evil"'),
        ({"torch_dtype": "float8", "dtype": None}, ""),
        ({"num_attention_heads": 7}, "not of its config"),
        ({"num_conv_pos_embedding_groups": 7}, "not of its config"),
    ],
)
def test_sizes_are_checked_before_memory_is_reserved(folder: Path, changes: dict[str, Any], reason: str) -> None:
    write_config(folder, networks.config_of(folder) | changes)
    if not reason:
        load(folder)
        return
    with pytest.raises(UsageError, match=reason) as caught:
        load(folder)
    assert len(str(caught.value)) < 500


def test_configs_that_are_no_files_of_moderate_size(folder: Path) -> None:
    for content, reason in (("[" * 10**5, "nests too deeply"), (" " * (1 << 20) + "{}", "are the most")):
        with pytest.raises(UsageError, match=reason):
            load(write_config(folder, content))
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(UsageError, match="no regular file"):
        load(folder)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(UsageError, match="no regular file"):
        weight_files.digest([folder / "model.safetensors"])


def test_weights_that_are_no_numbers_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer_norm.weight"][3] = float("nan")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"encoder\.layer_norm\.weight holds numbers that are not finite"):
        load(folder)


def test_a_missing_package_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"--hubert needs transformers: pip install 'headrace\[networks\]'"):
        load(folder)


def vocabulary(file: Path, size: int = 100) -> dict[str, int]:
    return bert._vocabulary(file, weight_files.digest([file]), size)


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"vocab": {"a": 100}}},
        {"model": {"vocab": {"a": -1}}},
        {"model": {"vocab": {"a": 1e999}}},
        {"model": {"vocab": ["a"]}},
        {"model": {"vocab": {"a": "x"}}},
        [],
        "[" * 10**5,
    ],
)
def test_vocabularies_number_tokens_that_the_network_has(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UsageError):
        vocabulary(file)


@pytest.mark.parametrize("missing", ["conv_dim", "conv_stride", "conv_kernel"])
def test_a_config_whose_default_contradicts_it_is_told_in_a_line(tmp_path: Path, missing: str) -> None:
    """The two lists that are left have another length than the one that transformers puts in for the third."""
    folder = tmp_path / "hubert"
    networks.hubert(folder)
    config = networks.config_of(folder) | {"conv_dim": [8, 8], "conv_stride": [2, 2], "conv_kernel": [4, 4]}
    del config[missing]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"config\.json describes no network: .*conv_dim"):
        load(folder)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_mutations_of_a_config(tmp_path: Path, count: int) -> None:
    folder, few = tmp_path / "hubert", {"hidden_size": 32, "num_attention_heads": 4, "num_conv_pos_embedding_groups": 4}
    networks.hubert(folder, HubertConfig(**{**networks.HUBERT.to_dict(), **few}))
    seed = json.dumps({key: value for key, value in networks.config_of(folder).items() if "mask" not in key}).encode()

    def attempt(mutated: bytes) -> None:
        (folder / "config.json").write_bytes(mutated)
        load(folder)

    fuzz(attempt, [seed], folder=folder, count=count, tokens=[b"1000000000", b'"evil/kernel"', b'"gelu"', b"128"])


@pytest.mark.parametrize("count", FUZZ_COUNTS)
@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_mutations_of_a_vocabulary(tmp_path: Path, name: str, count: int) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    tokens = {token: n for n, token in enumerate(networks.VOCABULARY)}
    seed = json.dumps({"model": {"vocab": tokens}}) if name.endswith("json") else "\n".join(tokens)

    def attempt(mutated: bytes) -> None:
        (folder / name).write_bytes(mutated)
        bert._ids(vocabulary(folder / name, len(tokens)), ["你好", "a"])

    fuzz(attempt, [seed.encode()], folder=folder, count=count)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
@pytest.mark.parametrize("name", ["config.json", "vocab.json", "preprocessor_config.json"])
def test_mutations_of_a_ctc_folder(tmp_path: Path, name: str, count: int) -> None:
    folder = tmp_path / "ctc"
    networks.ctc(folder, "abcdefgh|")
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 16000, "do_normalize": true}')
    seed = (folder / name).read_bytes()

    def attempt(mutated: bytes) -> None:
        (folder / name).write_bytes(mutated)
        network = CtcNetwork(folder, "fp32")
        network.vocabulary().tokens_of_word("badge")
        network.grid()
        normalises(folder)

    fuzz(attempt, [seed], folder=folder, count=count)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_mutations_of_safetensors(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    file = folder / "model.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4).half()}, file)

    def attempt(mutated: bytes) -> None:
        file.write_bytes(mutated)
        weight_files.as_tensors(weight_files.read([file], weight_files.digest([file])), file)

    tokens = [b'"F8_E8M0"', b'"F4"', b'"C64"', b'"U64"', b'"BOOL"', b"[0,0]", b"[9223372036854775807,2]", b"[24,0]"]
    fuzz(attempt, [file.read_bytes()], folder=folder, count=count, tokens=tokens)
