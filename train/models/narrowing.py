"""Smaller networks made of a larger one: of its most important channels, and of some of its layers.

A channel is written by some tensors and read by others. A `Group` is a set of channels with every place where they
occur: a channel that goes is cut out of all of them, so that the narrow network is an ordinary one of smaller sizes.
Residual streams are one group from end to end (Li et al. 2017, "Pruning Filters for Efficient ConvNets"; Fang et al.
2023, "DepGraph"). Convolutions with weight normalisation are cut by their normalised weights, and normalised again.

Shapes: C channels of a group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sovits_config import SovitsConfig

LAYER = re.compile(r"(enc_p\.(?:encoder_ssl|encoder_text|encoder2)\.\w+|h\.layers)\.(\d+)\.(.+)")
"""Names of tensors of transformer layers: the stack, the number of the layer, and the rest."""


class Place(NamedTuple):
    """An axis of the weight of a module where the channels of a group lie, one after the other."""

    module: str
    axis: int
    writes: bool
    """Whether they are outputs of the module, which its bias has too."""
    start: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Channels, and where they occur."""

    width: int
    places: tuple[Place, ...]


def prune(
    weights: Mapping[str, Tensor],
    sizes: SovitsConfig | GptConfig,
    narrow: SovitsConfig | GptConfig,
    scores: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the weights of a network of sizes `narrow`, made of the most important channels of one of `sizes`.

    Args:
        sizes, narrow: they differ in widths of groups only. A group that would be wider stays as it is.
        scores: importance of the elements of each normalised weight, by module; a channel has the sum of its own.
            None takes their squares.
    """
    whole = normalised_weights(weights)
    widths = {group.places[0]: group.width for group in groups(narrow)}
    masks: dict[tuple[str, int], Tensor] = {}
    writing: set[tuple[str, int]] = set()
    for group in groups(sizes):
        width = widths.get(group.places[0], group.width)
        if width >= group.width:
            continue
        kept = _importance(group, whole, scores).topk(width).indices
        for place in group.places:
            key = place.module, place.axis
            mask = masks.setdefault(key, torch.ones(whole[place.module].shape[place.axis], dtype=torch.bool))
            mask[place.start : place.start + group.width] = False
            mask[place.start + kept] = True
            if place.writes:
                writing.add(key)
    cut = dict(weights)
    for (module, axis), mask in masks.items():
        whole[module] = whole[module].index_select(axis, mask.nonzero()[:, 0])
        if (module, axis) in writing and f"{module}.bias" in cut:
            cut[f"{module}.bias"] = cut[f"{module}.bias"][mask]
    for module in {module for module, _ in masks}:
        cut |= _stored_weight(module, whole[module], weights)
    return cut


def student_weights(
    weights: Mapping[str, Tensor], sizes: SovitsConfig | GptConfig, student: SovitsConfig | GptConfig
) -> dict[str, Tensor]:
    """Return weights of a teacher for a student to begin with: evenly spaced layers, and the most important channels.

    Args:
        sizes: those of the teacher. What else differs from the student's keeps the teacher's shapes.
    """
    if isinstance(sizes, SovitsConfig) and isinstance(student, SovitsConfig):
        fewer: SovitsConfig | GptConfig = replace(sizes, n_layers=min(sizes.n_layers, student.n_layers))
    elif isinstance(sizes, GptConfig) and isinstance(student, GptConfig):
        fewer = replace(sizes, layers=min(sizes.layers, student.layers))
    else:
        raise TypeError("sizes of two stages")
    before, after = _layer_counts(sizes), _layer_counts(fewer)
    chosen = {stack: evenly_spaced(count, after[stack]) for stack, count in before.items()}
    return prune(with_layers(weights, chosen), fewer, student)


def with_layers(weights: Mapping[str, Tensor], chosen: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return weights with only some layers.

    Args:
        chosen: numbers of the layers that stay, ascending, by the stack: `h` for a decoder, and for a generator
            `enc_p.encoder_ssl` and others.
    """
    picked: dict[str, Tensor] = {}
    for name, value in weights.items():
        if not (found := LAYER.fullmatch(name)):
            picked[name] = value
            continue
        layers = chosen[found[1].rpartition(".")[0]]
        if int(found[2]) in layers:
            picked[f"{found[1]}.{layers.index(int(found[2]))}.{found[3]}"] = value
    return picked


def evenly_spaced(count: int, chosen: int) -> list[int]:
    """Return the numbers of `chosen` of `count` layers, from the first one to the last."""
    return [round(number * (count - 1) / max(chosen - 1, 1)) for number in range(chosen)]


def normalised_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weight of each module, in float32, with weight normalisation carried out."""
    whole = {name.removesuffix(".weight"): value.float() for name, value in weights.items() if name.endswith(".weight")}
    for name, direction in weights.items():
        if name.endswith(".weight_v"):
            module = name.removesuffix(".weight_v")
            whole[module] = torch._weight_norm(direction.float(), weights[f"{module}.weight_g"].float(), 0)
    return whole


def groups(sizes: SovitsConfig | GptConfig) -> Iterator[Group]:
    """Yield the groups of channels that can be pruned: all but those of latent, voice, codes and attention."""
    if isinstance(sizes, GptConfig):
        for layer in range(sizes.layers):
            yield _pair(sizes.feed_forward_width, f"h.layers.{layer}.linear1", f"h.layers.{layer}.linear2")
        return
    for encoder, layers in _layer_counts(sizes).items():
        for layer in range(layers):
            feed = f"{encoder}.ffn_layers.{layer}"
            yield _pair(sizes.filter_channels, f"{feed}.conv_1", f"{feed}.conv_2")
    for coupling in range(sizes.couplings):
        yield from _coupling_groups(f"flow.flows.{2 * coupling}", sizes.flow_width, sizes.coupling_layers)
    yield from _vocoder_groups(sizes)


def _pair(width: int, writer: str, reader: str) -> Group:
    """Return the group of channels that one layer writes and one layer reads."""
    return Group(width, (Place(writer, 0, True), Place(reader, 1, False)))


def _coupling_groups(name: str, width: int, layers: int) -> Iterator[Group]:
    """Yield the groups of a WaveNet and the convolutions around it.

    Those are its residual stream, the sum of its skip outputs, and the gated channels of each layer.
    """
    inner = [f"{name}.enc.in_layers.{layer}" for layer in range(layers)]
    outer = [f"{name}.enc.res_skip_layers.{layer}" for layer in range(layers)]
    condition = f"{name}.enc.cond_layer"
    residual = [Place(layer, 0, True) for layer in outer[:-1]]
    yield Group(width, (Place(f"{name}.pre", 0, True), *(Place(layer, 1, False) for layer in inner), *residual))
    skips = [Place(layer, 0, True, width) for layer in outer[:-1]]
    yield Group(width, (Place(f"{name}.post", 1, False), *skips, Place(outer[-1], 0, True)))
    for layer in range(layers):
        signal, gate = 2 * layer * width, (2 * layer + 1) * width
        writers = Place(inner[layer], 0, True), Place(inner[layer], 0, True, width)
        conditions = Place(condition, 0, True, signal), Place(condition, 0, True, gate)
        yield Group(width, (Place(outer[layer], 1, False), *writers, *conditions))


def _vocoder_groups(sizes: SovitsConfig) -> Iterator[Group]:
    """Yield the groups of the decoder: its stream after each stage, and the channels within each residual block."""
    widths, kernels = sizes.decoder_widths, len(sizes.resblock_kernel_sizes)
    yield Group(widths[0], (Place("dec.conv_pre", 0, True), Place("dec.cond", 0, True), Place("dec.ups.0", 0, False)))
    for stage, width in enumerate(widths[1:]):
        last = stage == len(widths) - 2
        follows = Place("dec.conv_post", 1, False) if last else Place(f"dec.ups.{stage + 1}", 0, False)
        stream = [Place(f"dec.ups.{stage}", 1, True), follows]
        for block in range(stage * kernels, (stage + 1) * kernels):
            for number in range(len(sizes.resblock_dilation_sizes[block % kernels])):
                first, second = (f"dec.resblocks.{block}.{convs}.{number}" for convs in ("convs1", "convs2"))
                yield _pair(width, first, second)
                stream += [Place(first, 1, False), Place(second, 0, True)]
        yield Group(width, tuple(stream))


def _importance(group: Group, whole: Mapping[str, Tensor], scores: Mapping[str, Tensor] | None) -> Tensor:
    """Return the importance of each channel of a group, (C,)."""
    total = torch.zeros(group.width)
    for place in group.places:
        score = whole[place.module].square() if scores is None else scores[place.module]
        channels = score.narrow(place.axis, place.start, group.width)
        total += channels.transpose(0, place.axis).flatten(1).sum(1)
    return total


def _stored_weight(module: str, weight: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a weight as the tensors by which it is stored, in their dtype."""
    if f"{module}.weight" in weights:
        return {f"{module}.weight": weight.to(weights[f"{module}.weight"].dtype)}
    dtype, others = weights[f"{module}.weight_v"].dtype, tuple(range(1, weight.dim()))
    norm = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    return {f"{module}.weight_g": norm.to(dtype), f"{module}.weight_v": weight.to(dtype)}


def _layer_counts(sizes: SovitsConfig | GptConfig) -> dict[str, int]:
    """Return the number of layers of each stack of transformer layers, by the name that its tensors begin with."""
    if isinstance(sizes, GptConfig):
        return {"h": sizes.layers}
    half = sizes.n_layers // 2
    return {"enc_p.encoder_ssl": half, "enc_p.encoder_text": sizes.n_layers, "enc_p.encoder2": half}
