"""Sizes of networks as their weights show them, and the sizes that pruning changes.

A preset says what no tensor shows: heads, strides, dropout. Of weights only shapes are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from headrace.store.errors import RunError, UsageError
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sovits_config import SovitsConfig

PRUNABLE = {
    "sovits": ("filter_channels", "flow_channels", "decoder_channels"),
    "gpt": ("feed_forward_channels", "layers"),
}
"""Stage to the sizes that pruning changes."""
CODEBOOK = "quantizer.vq.layers.0._codebook.embed"
MAX_CHANNELS = 1 << 16


class HasShape(Protocol):
    """A tensor, of which only the shape matters."""

    @property
    def shape(self) -> Any:
        """Its sizes."""


Weights = Mapping[str, HasShape]
Sizes = TypeVar("Sizes", SovitsConfig, GptConfig)


def generator_sizes(weights: Weights, preset: SovitsConfig) -> SovitsConfig:
    """Return the sizes of the generator that has these weights. `preset` gives those that no tensor shows.

    Raises:
        RunError: a tensor that tells a size is missing or empty.
    """
    widths = (
        _rows(weights, "dec.conv_pre.bias"),
        *(_rows(weights, f"dec.ups.{stage}.bias") for stage in range(len(preset.upsample_rates))),
    )
    flow = _rows(weights, "flow.flows.0.pre.bias")
    halved = replace(preset, upsample_initial_channel=widths[0], decoder_channels=())
    halves = halved.decoder_widths == widths
    return replace(
        halved if halves else preset,
        symbols=_rows(weights, "enc_p.text_embedding.weight"),
        codebook_size=_rows(weights, CODEBOOK),
        n_layers=_count(weights, "enc_p.encoder_text.attn_layers"),
        filter_channels=_rows(weights, "enc_p.encoder_text.ffn_layers.0.conv_1.bias"),
        flow_channels=0 if flow == preset.hidden_channels else flow,
        decoder_channels=() if halves else widths,
    )


def decoder_sizes(weights: Weights, preset: GptConfig) -> GptConfig:
    """Return the sizes of the text-to-semantic decoder that has these weights, as `generator_sizes`."""
    inner = _rows(weights, "h.layers.0.linear1.bias")
    return replace(
        preset,
        symbols=_rows(weights, "ar_text_embedding.word_embeddings.weight"),
        codes=_rows(weights, "ar_predict_layer.weight") - 1,
        layers=_count(weights, "h.layers"),
        feed_forward_channels=0 if inner == 4 * preset.channels else inner,
    )


def pruned_sizes(weights: Weights, preset: SovitsConfig | GptConfig) -> str:
    """Return the sizes of `PRUNABLE` in which weights differ from a preset, as `apply_pruned` reads them.

    Empty where none differ, and where the weights are not those of this network.
    """
    try:
        found: SovitsConfig | GptConfig
        if isinstance(preset, SovitsConfig):
            stage, found = "sovits", generator_sizes(weights, preset)
        else:
            stage, found = "gpt", decoder_sizes(weights, preset)
    except RunError:  # told when the weights are loaded
        return ""
    return encode_pruned(found, preset, stage)


def encode_pruned(sizes: Any, preset: Any, stage: str) -> str:
    """Return the sizes of `PRUNABLE` in which `sizes` differ from a preset; empty where none do."""
    different = {
        name: getattr(sizes, name) for name in PRUNABLE[stage] if getattr(sizes, name) != getattr(preset, name)
    }
    return json.dumps(different) if different else ""


def parse_pruned(text: str, stage: str) -> dict[str, int | tuple[int, ...]]:
    """Return the sizes by name that `encode_pruned` has written.

    Raises:
        UsageError: it has not written this.
    """
    try:
        found = json.loads(text) if text else {}
        sizes = {name: tuple(size) if isinstance(size, list) else size for name, size in found.items()}
    except (ValueError, AttributeError, RecursionError):
        sizes = {"": 0}
    for name, size in sizes.items():
        wanted = tuple if name == "decoder_channels" else int
        numbers = size if isinstance(size, tuple) else (size,)
        valid = all(type(number) is int and 0 <= number <= MAX_CHANNELS for number in numbers)
        if name not in PRUNABLE[stage] or type(size) is not wanted or not valid:
            raise UsageError(f"init_sizes is {text[:80]!r}, which are no sizes of a pruned {stage}.")
    return sizes


def apply_pruned(preset: Sizes, text: str) -> Sizes:
    """Return the sizes of a preset, changed by those that `encode_pruned` has written.

    Raises:
        UsageError: it has not written this, or not for this preset.
    """
    changes: Any = parse_pruned(text, "sovits" if isinstance(preset, SovitsConfig) else "gpt")
    sizes = replace(preset, **changes)
    if isinstance(sizes, SovitsConfig):
        widths = sizes.decoder_widths
        if len(widths) != len(sizes.upsample_rates) + 1 or not all(widths):
            raise UsageError(f"init_sizes is {text[:80]!r}, and these decoder_channels are not of this preset.")
    return sizes


def _rows(weights: Weights, name: str) -> int:
    """Return the length of a tensor. Raises RunError where there is none, or it has no rows."""
    if name not in weights or not len(weights[name].shape) or not weights[name].shape[0]:
        raise RunError(f"The weights are not of this model: {name} is missing, or empty.")
    return int(weights[name].shape[0])


def _count(weights: Weights, prefix: str) -> int:
    """Return the number of layers whose tensors are called `PREFIX.NUMBER...`."""
    return len({found[1] for name in weights if (found := re.match(re.escape(prefix) + r"\.(\d+)\.", name))})
