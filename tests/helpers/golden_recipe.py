"""Weights and inputs of the reference fixtures: every tensor is a pure function of its name and shape.

A name is hashed (FNV-1a, 64 bits) to the start of a splitmix64 counter, whose outputs become uniform numbers; the
scale of a weight follows from what its name says it is. Equal on every platform.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sovits_config import SovitsConfig, v2, v2Pro
from headrace.train.stages.gpt_inputs import GptInputs
from headrace.train.stages.sovits_inputs import RandomInputs, SovitsInputs

_MASK = (1 << 64) - 1
_GOLDEN_RATIO = 0x9E3779B97F4A7C15


def uniform(name: str, shape: Sequence[int]) -> np.ndarray:
    """[0, 1), float64."""
    counter = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
    z = np.uint64(_fnv1a(name)) + counter * np.uint64(_GOLDEN_RATIO)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)


def symmetric(name: str, shape: Sequence[int], scale: float = 1.0) -> np.ndarray:
    """[-scale, scale), float32."""
    return ((2 * uniform(name, shape) - 1) * scale).astype(np.float32)


def normal(name: str, shape: Sequence[int], std: float = 1.0) -> np.ndarray:
    """Box-Muller, float32."""
    radius = np.sqrt(-2 * np.log(1 - uniform(name + "#a", shape)))
    return (radius * np.cos(2 * math.pi * uniform(name + "#b", shape)) * std).astype(np.float32)


def integers(name: str, shape: Sequence[int], low: int, high: int) -> np.ndarray:
    """[low, high), int64."""
    return (low + np.floor(uniform(name, shape) * (high - low))).astype(np.int64)


def weight(key: str, shape: Sequence[int]) -> np.ndarray:
    """The value of the state_dict entry `key`, float32."""
    u = uniform(key, shape)
    low, span = _range(key, shape)
    return (low + span * u).astype(np.float32)


def fill(module: nn.Module, prefix: str = "") -> None:
    """Overwrite every entry of a module's state_dict in place."""
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            tensor.copy_(torch.from_numpy(weight(prefix + key, tuple(tensor.shape))))


def fingerprint(values: np.ndarray) -> dict[str, float | list[float] | list[int]]:
    flat = values.astype(np.float64).reshape(-1)
    return {
        "shape": list(values.shape),
        "sum": float(flat.sum()),
        "abs": float(np.abs(flat).sum()),
        "l2": float(np.sqrt((flat * flat).sum())),
        "first": flat[:4].tolist(),
        "last": flat[-4:].tolist(),
    }


def _fnv1a(name: str) -> int:
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & _MASK
    return value


_GAIN = {"dec.ups": (1.1, 0.3), "dec": (0.4, 0.2)}


def _range(key: str, shape: Sequence[int]) -> tuple[float, float]:
    """Lower end and width of the range of a weight. The first rule that fits counts."""
    last = key.rsplit(".", 1)[-1]
    if last == "inited":
        return 1.0, 0.0
    if last == "cluster_size":
        return 1.0, 1.0
    if last in ("embed", "embed_avg"):
        return -1.5, 3.0
    if last == "weight_g":
        return next((gain for start, gain in _GAIN.items() if key.startswith(start + ".")), (0.8, 0.4))
    if last == "weight_v":
        return -1.0, 2.0
    if key.endswith("prelu.weight"):
        return 0.1, 0.3
    if last in ("gamma", "alpha") or (last == "weight" and len(shape) == 1):
        return 0.8, 0.4
    if last in ("beta", "bias", "in_proj_bias"):
        return -0.05, 0.1
    if last in ("emb_rel_k", "emb_rel_v"):
        return -0.1, 0.2
    if key.endswith(("embedding.weight", "word_embeddings.weight")):
        return -1.0, 2.0
    bound = math.sqrt(3 / math.prod(shape[1:]))
    if key.endswith("proj.weight") and key.split(".")[0] in ("enc_p", "enc_q") and key.count(".") == 2:
        bound *= 0.3
    return -bound, 2 * bound


@dataclass(frozen=True)
class SovitsCase:
    """One run of the reference generator: what went in and what came out."""

    name: str
    config: SovitsConfig
    inputs: SovitsInputs
    drawn: RandomInputs
    expected: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


def sovits_case(golden: Path, name: str) -> SovitsCase:
    """`name`: small_v2, small_v2Pro, full_v2 or full_v2Pro. Two utterances, the second shorter in frames and phones."""
    facts = json.loads((golden / f"s2_{name}.json").read_text())
    config = _config(facts["config"], facts["segment_frames"])
    segment = config.segment_frames
    frames = np.array([segment + 16, segment + 9])
    size = 2 * (frames[0] // 2 + 1)
    inputs = _inputs(name, frames, size, speaker_channels=config.speaker_channels)
    uniforms = torch.from_numpy(uniform(name + ".rand_u", (2,)).astype(np.float32))
    drawn = RandomInputs(
        noise=torch.from_numpy(normal(name + ".noise_q", (2, config.inter_channels, size))),
        starts=(uniforms * (inputs.frames - segment + 1)).long(),
    )
    expected = dict(np.load(golden / f"s2_{name}.npz"))
    return SovitsCase(name, config, inputs, drawn, expected, facts)


def _config(sizes: dict[str, Any], segment: int) -> SovitsConfig:
    same = ("hidden_channels", "inter_channels", "filter_channels", "n_heads", "n_layers", "upsample_initial_channel")
    like = {"v2": v2(), "v2Pro": v2Pro()}[sizes["version"]]
    return SovitsConfig(
        **{name: sizes[name] for name in same},
        upsample_rates=tuple(sizes["upsample_rates"]),
        upsample_kernel_sizes=tuple(sizes["upsample_kernel_sizes"]),
        resblock_kernel_sizes=tuple(sizes["resblock_kernel_sizes"]),
        resblock_dilation_sizes=tuple(tuple(row) for row in sizes["resblock_dilation_sizes"]),
        p_dropout=sizes["p_dropout"],
        voice_channels=sizes["gin_channels"],
        speaker_channels=like.speaker_channels,
        periods=like.periods,
        segment_frames=segment,
        freeze_quantizer=True,
    )


def _inputs(name: str, frames: np.ndarray, size: int, *, speaker_channels: int, hop: int = 640) -> SovitsInputs:
    phones_n = np.array([13, 9])
    valid = np.arange(size) < frames[:, None, None]
    tilt = np.exp(-np.arange(1025) / 250)[:, None]
    spec = (np.abs(normal(name + ".spec", (2, 1025, size))) * tilt + 1e-4).astype(np.float32) * valid
    wave = np.zeros((2, size * hop), np.float32)
    wave[:, : frames[0] * hop] = symmetric(name + ".wav", (2, 1, frames[0] * hop), 0.5)[:, 0]
    wave[1, frames[1] * hop :] = 0
    phones = integers(name + ".text", (2, 13), 0, 732) * (np.arange(13) < phones_n[:, None])
    return SovitsInputs(
        content=torch.from_numpy(normal(name + ".ssl", (2, 768, size), 0.6) * valid),
        spec=torch.from_numpy(spec),
        wave=torch.from_numpy(wave).view(2, size, hop).mT,
        frames=torch.from_numpy(frames),
        phones=torch.from_numpy(phones),
        phones_n=torch.from_numpy(phones_n),
        speaker=torch.from_numpy(normal(name + ".sv_emb", (2, 20480))) if speaker_channels else None,
    )


SMALL_GPT = GptConfig(symbols=40, codes=64, channels=32, heads=4, layers=2)


def gpt_inputs(tag: str, config: GptConfig, phones_n: Sequence[int], codes_n: Sequence[int]) -> GptInputs:
    """A batch of the reference decoder. Its second utterance has no BERT features."""
    size, longest = len(phones_n), max(phones_n)
    text, semantic = (torch.arange(max(n)) < torch.tensor(n)[:, None] for n in (phones_n, codes_n))
    bert = torch.from_numpy(normal(f"{tag}.bert", (size, 1024, longest), 0.5)).mT * text[:, :, None]
    bert[1] = 0
    return GptInputs(
        phones=torch.from_numpy(integers(f"{tag}.x", (size, longest), 0, config.symbols)) * text,
        phones_n=torch.tensor(phones_n),
        codes=torch.from_numpy(integers(f"{tag}.y", (size, max(codes_n)), 0, config.end)) * semantic,
        codes_n=torch.tensor(codes_n),
        bert=bert,
    )


def safetensors(path: Path) -> dict[str, np.ndarray]:
    """Float32 tensors of a file in the safetensors format: a length, a JSON header of that length, the bytes."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:begin])
    entries.pop("__metadata__", None)
    return {
        name: np.frombuffer(data[begin:], np.float32)[slice(*(at // 4 for at in entry["data_offsets"]))].reshape(
            entry["shape"]
        )
        for name, entry in entries.items()
    }
