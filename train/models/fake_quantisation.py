"""Fake quantisation: layers compute in training with the numbers that they compute with in INT8 (Jacob et al. 2018).

A weight is rounded to int8, symmetric, with a scale for each output channel, of the largest magnitude that it has there
at that moment. What a layer reads, and what a convolution writes, is rounded to uint8, with one scale and one zero
point, of a range that is calibrated when training begins and then stays; what is written to sums in float32 has them
for each channel. Gradients pass through the rounding as if it were not there, and are 0 where a number is beyond its
range.

Parameters keep their names and are not rounded themselves: a network is trained, saved and loaded as any other.

Shapes: C channels that a layer writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
MIDDLE = 128
"""The whole number that a kernel writes for 0 where each channel then gets a zero point of its own."""


def float32_modules(config: SovitsConfig, kept: int = FLOAT32_STAGES) -> tuple[str, ...]:
    """Return the modules of a generator that stay in float32: the last stages of its decoder, and what ends it.

    So does the upsampling of the stage before them, as all that this stage computes is added to what it writes, and the
    layer that reads the spectrogram of a reference: 256 numbers do not hold its loud bands and its quiet ones.

    Args:
        kept: number of those stages.
    """
    stages, blocks = len(config.upsample_rates), len(config.resblock_kernel_sizes)
    residual = range(max(0, stages - kept), stages)
    from_stage = max(0, stages - kept - 1)
    return (
        "ref_enc.spectral.0",
        *(f"dec.ups.{stage}" for stage in range(from_stage, stages)),
        *(f"dec.activations.{stage}" for stage in range(from_stage, stages + 1)),
        *(f"dec.resblocks.{stage * blocks + block}" for stage in residual for block in range(blocks)),
        "dec.conv_post",
    )


def channelwise_modules(config: SovitsConfig, kept: int = FLOAT32_STAGES) -> tuple[str, ...]:
    """Return the modules of a generator whose convolutions write each channel with a scale of its own.

    They are those of its decoder that write to sums in float32.

    Args:
        kept: number of the last stages that stay in float32.
    """
    stages, blocks = max(0, len(config.upsample_rates) - kept), len(config.resblock_kernel_sizes)
    upsampling = [f"dec.ups.{stage}" for stage in range(stages - 1)]
    return (*upsampling, *(f"dec.resblocks.{number}.convs2" for number in range(stages * blocks)))


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
    return isinstance(config, SovitsConfig) and _is_part(layer, float32_modules(config))


def _is_part(layer: str, modules: Iterable[str]) -> bool:
    """Return whether a layer is one of these modules, or a part of one, by its name."""
    return any(f"{layer}.".startswith(f"{module}.") for module in modules)


class LayerQuantiser:
    """Computes a layer with rounded numbers, in its place."""

    def __init__(self, layer: Any, *, channelwise: bool = False) -> None:
        """
        Args:
            channelwise: round each channel that a convolution writes with a scale of its own.
        """
        self.layer = layer
        self.channelwise = channelwise and isinstance(layer, nn.Conv1d)
        self._written = layer.out_channels if self.channelwise else 1
        self.ranges = torch.zeros(2 + 2 * self._written, device=layer_weight(layer).device)
        """(4,) or (2 + 2 C,) float32: the smallest and the largest number that the layer reads, then the smallest ones
        and the largest ones that it writes, or 0. All are 0 where they are not known, and then nothing is rounded but
        the weight."""
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
        if self.channelwise and self._rounding:  # the kernel has one scale for all channels, so each is a part of it
            scale_C, zero_C = self._rounding[1]
            weight, scale = weight / scale_C[:, None, None], scale / scale_C
            self.layer.bias = nn.Parameter(self.layer.bias / scale_C + (zero_C - MIDDLE), requires_grad=False)
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
        self._rounding = [scale_and_zero_point(*ends) for ends in self._ends()] if self.ranges.any() else []

    def _ends(self) -> list[tuple[Tensor, Tensor]]:
        """Return the smallest and the largest numbers that are read, () each, and that are written, () or (C,)."""
        least, most, *written = self.ranges.split((1, 1, self._written, self._written))
        if not self.channelwise:
            written = [one[0] for one in written]
        return [(least[0], most[0]), (written[0], written[1])]

    @torch.no_grad()
    def _observe(self, x: Tensor) -> Tensor:
        """Compute the layer as it is, and widen its ranges to what it reads and writes."""
        y = compute(self.layer, x, layer_weight(self.layer))
        if not isinstance(self.layer, TABLES):
            for (least, most), values in zip(self._ends(), (x, y), strict=True):
                flat = values.float().transpose(0, 1).flatten(1) if least.dim() else values.float().flatten()
                least.copy_(least.minimum(flat.amin(-1)))
                most.copy_(most.maximum(flat.amax(-1)))
        return y

    def _rounded(self, x: Tensor, which: int) -> Tensor:
        """Round what is read (0), or what is written (1)."""
        if not self._rounding:
            return x
        scale, zero_point = self._rounding[which]
        if scale.dim() and self._is_frozen:
            return _own_scales(x, scale, zero_point)
        return rounded(x.float(), scale, UINT8, zero_point, axis=1 if scale.dim() else None).to(x.dtype)


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


def _own_scales(whole: Tensor, scale_C: Tensor, zero_C: Tensor) -> Tensor:
    """Round what a frozen layer writes, in which each channel is in units of its scale. (B, C, T), in real numbers."""
    one, middle = torch.ones((), device=whole.device), torch.tensor(MIDDLE, dtype=torch.int32, device=whole.device)
    if torch.compiler.is_exporting():
        middle, zero_C = middle.to(torch.uint8), zero_C.to(torch.uint8)
        shape: Any = whole.shape
        units = torch.onnx.ops.symbolic("QuantizeLinear", (whole, one, middle), dtype=torch.uint8, shape=shape)
        given = units, scale_C, zero_C
        return torch.onnx.ops.symbolic("DequantizeLinear", given, {"axis": 1}, dtype=whole.dtype, shape=shape)
    units = torch.fake_quantize_per_tensor_affine(whole, one, middle, *UINT8)
    return (units + (MIDDLE - zero_C)[:, None]) * scale_C[:, None]


def scale_and_zero_point(least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale, float32, and zero point, int32, of a range that has 0 in it, or of several. 0 is exact."""
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
        channelwise = channelwise_modules(network.config) if isinstance(network.config, SovitsConfig) else ()
        self._layers = {
            name: LayerQuantiser(layer, channelwise=_is_part(name, channelwise))
            for name, layer in quantised_layers(network).items()
        }
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
        """Return the ranges of each layer by its name: the same tensors, which may be written into."""
        return {name: one.ranges for name, one in self._layers.items() if not isinstance(one.layer, TABLES)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Set the ranges. Those of layers that have stayed in float32 since they were calibrated are left out.

        Where channels have ranges of their own that were calibrated together, each gets that of all.

        Raises:
            RunError: they are those of other layers.
        """
        state = {name: ranges for name, ranges in state.items() if not _stays(name, self._network)}
        if state.keys() != self.state_dict().keys() or not all(self._set(*given) for given in state.items()):
            raise RunError("The ranges of activations are not those of this model.")
        self.calibrate()

    def _set(self, name: str, given: Any) -> bool:
        """Set the ranges of a layer. Returns whether they are some: each has 0 in it."""
        known = self._layers[name].ranges
        if not isinstance(given, Tensor) or given.shape not in {(4,), known.shape} or not given.isfinite().all():
            return False
        read, written = given[:2], given[2:].view(2, -1)
        ends = torch.cat((read[:, None], written), dim=1)
        known.copy_(torch.cat((read, written.expand(2, len(known) // 2 - 1).flatten())))
        return bool((ends[0] <= 0).all() and (ends[1] >= 0).all())


_METHODS = {SelfAttention: "project", VectorQuantizer: "decode"}
"""What computes the weight of a layer, where that is not `forward`."""
