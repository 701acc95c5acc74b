"""Fake quantisation: layers compute in training with the numbers that they compute with in INT8 (Jacob et al. 2018).

A weight is rounded to int8, symmetric, with a scale for each output channel, of the largest magnitude that it has there
at that moment. What a layer reads, and what a convolution writes, is rounded to uint8, with one scale and one zero
point, of a range that is calibrated when training begins and then stays. Gradients pass through the rounding as if it
were not there, and are 0 where a number is beyond its range.

Parameters keep their names and are not rounded themselves: a network is trained, saved and loaded as any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.store.errors import RunError
from headrace.train.models.layers import WeightNorm
from headrace.train.models.quantizer import VectorQuantizer
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.models.transformer import SelfAttention
from headrace.train.models.vocoder import FLOAT32_STAGES

LAYERS = (nn.Linear, nn.Conv1d, nn.ConvTranspose1d, nn.Embedding, SelfAttention, VectorQuantizer)
"""Layers with a weight that is rounded. Of an attention that is the projection to queries, keys and values, of a vector
quantiser its entries."""
PRODUCTS = (nn.Linear, SelfAttention)
TABLES = (nn.Embedding, VectorQuantizer)
"""Those that look up rows, and read no numbers that could be rounded."""
NOT_SPOKEN = ("enc_q", "ssl_proj")
"""Modules of a generator that only training computes."""
UINT8, INT8 = (0, 255), (-128, 127)
"""Smallest and largest whole numbers of activations, and of weights, which do not reach -128."""


def float32_modules(config: SovitsConfig, kept: int = FLOAT32_STAGES) -> tuple[str, ...]:
    """Return the modules of a generator that stay in float32: the last stages of its decoder, and what ends it.

    So does the upsampling of the stage before them, as all that this stage computes is added to what it writes.

    Args:
        kept: number of those stages.
    """
    stages, blocks = len(config.upsample_rates), len(config.resblock_kernel_sizes)
    last = range(max(0, stages - kept), stages)
    upsampling = range(max(0, stages - kept - 1), stages)
    residual = [f"dec.resblocks.{stage * blocks + block}" for stage in last for block in range(blocks)]
    return (*(f"dec.ups.{stage}" for stage in upsampling), *residual, "dec.conv_post")


def quantised_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a network that compute with whole numbers in INT8, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, LAYERS) and not _stays(name, network) and not name.startswith(NOT_SPOKEN)
    }


def _stays(layer: str, network: nn.Module) -> bool:
    """Return whether a layer of a network stays in float32, by its name."""
    config: Any = network.config
    kept = float32_modules(config) if isinstance(config, SovitsConfig) else ()
    return any(f"{layer}.".startswith(f"{one}.") for one in kept)


class LayerQuantiser:
    """Computes a layer with rounded numbers, in its place."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.ranges = torch.zeros(4, device=layer_weight(layer).device)
        """(4,) float32: the smallest and the largest number that the layer reads, and those that it writes, or 0. All
        are 0 where they are not known, and then nothing is rounded but the weight."""
        self.observing = False
        self._rounding: list[tuple[Tensor, Tensor]] = []  # scale and zero point of what is read, and of what is written
        self._is_frozen = False

    def __call__(self, x: Tensor, *_: Any) -> Tensor:
        """Compute the layer."""
        layer = self.layer
        if self.observing:
            return self._observe(x)
        weight, scale, axis = self._weight()
        if isinstance(layer, TABLES):  # rounded again, so that rows are looked up in INT8
            return rounded(compute(layer, x, rounded(weight, scale, INT8)), scale, INT8)
        weight = rounded(weight, scale, INT8, axis=axis)
        y = compute(layer, self._rounded(x, 0), weight, transposed=self._is_frozen and isinstance(layer, PRODUCTS))
        return self._rounded(y, 1) if isinstance(layer, nn.Conv1d) else y

    @torch.no_grad()
    def freeze(self) -> None:
        """Compute the scales of the weight once for all that follows. Weights of products are transposed, as kernels
        for INT8 read them.
        """
        weight, scale, _ = self._weight()
        if isinstance(self.layer, PRODUCTS):
            weight = weight.T.contiguous()
        self.layer.register_buffer("frozen_weight", weight.detach(), persistent=False)
        self.layer.register_buffer("frozen_scale", scale, persistent=False)
        self._is_frozen = True

    def _weight(self) -> tuple[Tensor, Tensor, int]:
        """Return the weight, its scales, and the axis that has them; a table has one scale."""
        layer = self.layer
        axis = 1 if isinstance(layer, nn.ConvTranspose1d) else 0
        if self._is_frozen:
            return layer.frozen_weight, layer.frozen_scale, 1 if isinstance(layer, PRODUCTS) else axis
        weight = layer_weight(layer)
        return weight, weight_scale(weight, None if isinstance(layer, TABLES) else axis), axis

    def calibrate(self) -> None:
        """Make scales and zero points of the ranges, if they are known."""
        self._rounding = [scale_and_zero_point(*ends) for ends in self.ranges.view(2, 2)] if self.ranges.any() else []

    @torch.no_grad()
    def _observe(self, x: Tensor) -> Tensor:
        """Compute the layer as it is, and widen its ranges to what it reads and writes."""
        y = compute(self.layer, x, layer_weight(self.layer))
        if not isinstance(self.layer, TABLES):
            for range_2, values in zip(self.ranges.split(2), (x, y), strict=True):
                least, most = values.float().aminmax()
                range_2.copy_(torch.stack((range_2[0].minimum(least), range_2[1].maximum(most))))
        return y

    def _rounded(self, x: Tensor, which: int) -> Tensor:
        """Round what is read (0), or what is written (1)."""
        if not self._rounding:
            return x
        scale, zero_point = self._rounding[which]
        return rounded(x.float(), scale, UINT8, zero_point).to(x.dtype)


def rounded(
    x: Tensor, scale: Tensor, limits: tuple[int, int], zero_point: Tensor | None = None, *, axis: int | None = None
) -> Tensor:
    """Round numbers to multiples of a scale, of a number between two limits. Gradients pass within the limits.

    Args:
        scale: () float32, or (C,) for each channel along an axis.
        zero_point: () int32, the whole number that stands for 0; None for 0.
    """
    zero = torch.zeros_like(scale, dtype=torch.int32) if zero_point is None else zero_point
    if torch.compiler.is_exporting():  # as whole numbers, in a graph of ONNX
        dtype = torch.int8 if limits == INT8 else torch.uint8
        given = scale, zero.to(dtype)
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        whole = torch.onnx.ops.symbolic("QuantizeLinear", (x, *given), attributes, dtype=dtype, shape=x.shape)
        return torch.onnx.ops.symbolic("DequantizeLinear", (whole, *given), attributes, dtype=x.dtype, shape=x.shape)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, *limits)
    return torch.fake_quantize_per_channel_affine(x, scale, zero, axis, *limits)


def scale_and_zero_point(least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale, () float32, and zero point, () int32, of a range that has 0 in it. 0 is exact."""
    scale = (most - least) / UINT8[1]
    scale = scale.where(scale > 0, 1.0)
    return scale, (-least / scale).round().int()


def weight_scale(weight: Tensor, axis: int | None = None) -> Tensor:
    """Return the scale of each channel of a weight along an axis, (C,) float32, or of the whole, ()."""
    others = [other for other in range(weight.dim()) if other != axis]
    peak = weight.detach().float().abs().amax(others)
    return peak.where(peak > torch.finfo(torch.float32).tiny, 1.0) / INT8[1]


def layer_weight(layer: Any) -> Tensor:
    """Return the weight of a layer, with weight normalisation carried out."""
    if isinstance(layer, WeightNorm):
        return layer.normalised()
    if isinstance(layer, VectorQuantizer):
        return layer.codebook.embed
    weight: Tensor = layer.in_proj_weight if isinstance(layer, SelfAttention) else layer.weight
    return weight


def compute(layer: Any, x: Tensor, weight: Tensor, *, transposed: bool = False) -> Tensor:
    """Compute a layer with this weight in place of its own.

    Args:
        transposed: whether the weight is that of a product, transposed.
    """
    if isinstance(layer, nn.ConvTranspose1d):
        assert not isinstance(layer.padding, str), "it is given in samples"
        return F.conv_transpose1d(x, weight, layer.bias, layer.stride, layer.padding)
    if isinstance(layer, nn.Conv1d):
        return layer._conv_forward(x, weight, layer.bias)
    if isinstance(layer, PRODUCTS):
        bias = layer.in_proj_bias if isinstance(layer, SelfAttention) else layer.bias
        if not transposed:
            return F.linear(x, weight, bias)
        # Of a product and a sum ONNX Runtime makes one operator, which has no kernel for INT8 that returns float32.
        return x @ weight if bias is None else x @ weight - (-bias)
    rows = F.embedding(x, weight)
    return rows.mT if isinstance(layer, VectorQuantizer) else rows


class FakeQuantisation:
    """The layers of a network, computed with rounded numbers from its construction on."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._layers = {name: LayerQuantiser(layer) for name, layer in quantised_layers(network).items()}
        for quantiser in self._layers.values():
            setattr(quantiser.layer, _METHODS.get(type(quantiser.layer), "forward"), quantiser)

    @contextmanager
    def calibrating(self) -> Iterator[None]:
        """Within this context layers compute as they are, and their ranges follow what they read and write."""
        for quantiser in self._layers.values():
            quantiser.observing = True
        try:
            yield
        finally:
            for quantiser in self._layers.values():
                quantiser.observing = False
        self.calibrate()

    def calibrate(self) -> None:
        """Make scales and zero points of the ranges."""
        for quantiser in self._layers.values():
            quantiser.calibrate()

    def freeze(self) -> None:
        """Compute the scales of weights once for all that follows, which export needs."""
        for quantiser in self._layers.values():
            quantiser.freeze()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the ranges of each layer, (4,), by its name: the same tensors, which may be written into."""
        return {name: one.ranges for name, one in self._layers.items() if not isinstance(one.layer, TABLES)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Set the ranges. Those of layers that have stayed in float32 since they were calibrated are left out.

        Raises:
            RunError: they are those of other layers.
        """
        state = {name: ranges for name, ranges in state.items() if not _stays(name, self._network)}
        if state.keys() != self.state_dict().keys() or not all(map(_are_ranges, state.values())):
            raise RunError("The ranges of activations are not those of this model.")
        for name, ranges in state.items():
            self._layers[name].ranges.copy_(ranges)
        self.calibrate()


def _are_ranges(value: Any) -> bool:
    """Return whether something is two ranges, each of which has 0 in it."""
    if not isinstance(value, Tensor) or value.shape != (4,) or not value.isfinite().all():
        return False
    return bool((value[::2] <= 0).all() and (value[1::2] >= 0).all())


_METHODS = {SelfAttention: "project", VectorQuantizer: "decode"}
"""What computes the weight of a layer, where that is not `forward`."""
