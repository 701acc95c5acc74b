"""Layers that compute in training with the numbers of INT8."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.store.errors import RunError
from headrace.train.models import fake_quantisation, gpt_config, sovits_config
from headrace.train.models.fake_quantisation import FakeQuantisation, quantised_layers, rounded
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.layers import WeightNormConv1d, WeightNormConvTranspose1d
from headrace.train.models.sovits import SynthesizerTrn


class Network(nn.Module):
    """One layer, as a network of its own."""

    config = GptConfig()

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def calibrated(layer: nn.Module, x: Tensor) -> tuple[Network, FakeQuantisation]:
    network = Network(layer)
    quantisation = FakeQuantisation(network)
    with quantisation.calibrating():
        network(x)
    return network, quantisation


def whole(x: np.ndarray, scale: np.ndarray, zero: float = 0.0) -> np.ndarray:
    """Numbers as whole ones, as QuantizeLinear of ONNX defines them."""
    return np.rint(x / scale) + zero


@pytest.mark.parametrize("kind", [nn.Conv1d, WeightNormConv1d, nn.ConvTranspose1d, WeightNormConvTranspose1d])
def test_a_convolution_is_that_of_whole_numbers(kind: type) -> None:
    torch.manual_seed(0)
    layer, x = kind(4, 6, 3), 3 * torch.randn(2, 4, 50) + 1
    transposed = isinstance(layer, nn.ConvTranspose1d)
    exact = layer(x).detach()
    network, _ = calibrated(layer, x)
    found = network(x).detach().numpy()

    weight = (layer.normalised() if hasattr(layer, "normalised") else layer.weight).detach().numpy()
    axis = 1 if transposed else 0
    others = tuple(one for one in range(3) if one != axis)
    scale_w = abs(weight).max(others, keepdims=True) / 127
    least, most = float(x.min()), float(x.max())
    scale_x = np.float32((most - least) / 255)
    zero = np.rint(-least / scale_x)
    read = torch.from_numpy(((whole(x.numpy(), scale_x, zero).clip(0, 255) - zero) * scale_x).astype(np.float32))
    used = torch.from_numpy((whole(weight, scale_w) * scale_w).astype(np.float32))
    functional = nn.functional.conv_transpose1d if transposed else nn.functional.conv1d
    expected = functional(read, used, layer.bias).detach()
    step = 0.0 if transposed else float(exact.max() - exact.min()) / 255  # what convolutions write is rounded too
    assert abs(found - expected.numpy()).max() <= step / 2 * 1.001 + 1e-5
    assert (abs(found - exact.numpy()).max() > 1e-3) and (step == 0 or len(np.unique(found.round(4))) <= 256)


def test_gradients_pass_within_the_range_and_not_beyond_it() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 1)
    network, _ = calibrated(layer, torch.tensor([[-1.0, 0.5, 2.0]]))
    x = torch.tensor([[-0.7, 2.5, 1.0]], requires_grad=True)
    network(x).sum().backward()
    scale = layer.weight.detach().abs().max() / 127
    used = (layer.weight.detach() / scale).round() * scale
    assert x.grad is not None and layer.weight.grad is not None
    assert torch.allclose(x.grad, used * torch.tensor([[1.0, 0.0, 1.0]]), atol=1e-6)
    assert torch.allclose(layer.weight.grad, torch.tensor([[-0.7, 2.0, 1.0]]), atol=3 / 255 / 2 + 1e-6)


def test_zero_is_exact_and_a_range_without_numbers_rounds_only_the_weight() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(5, 4)
    x[0] = 0
    network, quantisation = calibrated(layer, x)
    assert torch.equal(network(x)[0], layer.bias)
    plain = Network(nn.Linear(4, 4))
    weight, bias = plain.layer.weight.detach(), plain.layer.bias.detach()
    FakeQuantisation(plain)
    scale = weight.abs().amax(1, keepdim=True) / 127
    assert torch.allclose(plain(x), x @ ((weight / scale).round() * scale).T + bias, atol=1e-6)
    assert quantisation.state_dict().keys() == {"layer"}


def test_a_table_is_rounded_by_one_scale() -> None:
    table = nn.Embedding(7, 5)
    network = Network(table)
    FakeQuantisation(network)
    scale = float(table.weight.detach().abs().max()) / 127
    steps = network(torch.arange(7)).detach() / scale
    assert torch.allclose(steps, steps.round(), atol=1e-3) and steps.abs().max() == pytest.approx(127)


def test_frozen_layers_compute_the_same() -> None:
    torch.manual_seed(1)
    model = Text2SemanticDecoder(replace(gpt_config.tiny(), layers=1, channels=16, heads=2, bert_channels=5)).eval()
    inputs = torch.randint(0, 90, (1, 6)), torch.tensor([6]), torch.randint(0, 60, (1, 9)), torch.tensor([9])
    quantisation = FakeQuantisation(model)
    plain = model(*inputs, None)
    with torch.no_grad(), quantisation.calibrating():
        assert not torch.equal(model(*inputs, None), plain)
    fake = model(*inputs, None)
    assert not torch.equal(fake, plain)
    quantisation.freeze()
    assert torch.allclose(model(*inputs, None), fake, atol=1e-5)


class Channelwise(Network):
    """A layer at a place where channels have scales of their own."""

    config = sovits_config.tiny()  # type: ignore[assignment]

    def __init__(self, layer: nn.Module) -> None:
        nn.Module.__init__(self)
        self.dec = nn.ModuleDict({"resblocks": nn.ModuleList([nn.ModuleDict({"convs2": nn.ModuleList([layer])})])})

    @property
    def layer(self) -> Any:  # type: ignore[override]
        return self.dec.resblocks[0]["convs2"][0]


def channels() -> tuple[Channelwise, FakeQuantisation, Tensor, Tensor]:
    """Return a convolution of a wide channel and a narrow one, calibrated, what it reads, and what it then writes."""
    torch.manual_seed(0)
    layer, x = WeightNormConv1d(3, 2, 3), torch.randn(4, 3, 200)
    with torch.no_grad():
        layer.weight_g.copy_(torch.tensor([8.0, 0.02])[:, None, None])
        layer.bias.copy_(torch.tensor([3.0, 0.1]))
    network = Channelwise(layer)
    exact = network(x).detach()
    quantisation = FakeQuantisation(network)
    with quantisation.calibrating():
        network(x[:2])
        network(x[2:])
    return network, quantisation, x, exact


def test_channels_are_rounded_by_scales_of_their_own_where_sums_read_them() -> None:
    network, quantisation, x, exact = channels()
    (ranges,) = quantisation.state_dict().values()
    assert ranges[:2].tolist() == [float(x.min()), float(x.max())]
    ends = exact.transpose(0, 1).flatten(1)
    assert torch.allclose(ranges[2:4], ends.amin(1).clamp(max=0)) and torch.allclose(ranges[4:], ends.amax(1))
    assert ranges[3] == 0 < ends[1].min()  # 0 is within a range
    found, steps = network(x).detach(), (ranges[4:] - ranges[2:4]) / 255
    assert all(len(channel.unique()) <= 256 for channel in (found / steps[:, None]).round().transpose(0, 1))
    noise = (found - exact).transpose(0, 1).flatten(1).std(1)
    assert (noise < 2 * steps).all() and noise[1] < steps[0] / 100


def test_a_frozen_layer_computes_the_same_with_scales_of_channels() -> None:
    network, quantisation, x, _ = channels()
    expected = network(x).detach()
    quantisation.freeze()
    assert torch.allclose(network(x), expected, atol=1e-5)
    assert network.layer.bias.abs().max() > 3  # in whole numbers of the channel


def test_ranges_of_all_channels_from_before_are_those_of_each() -> None:
    _, quantisation, _, _ = channels()
    ((name, ranges),) = quantisation.state_dict().items()
    quantisation.load_state_dict({name: torch.tensor([-1.0, 2.0, -3.0, 4.0])})
    assert ranges.tolist() == [-1.0, 2.0, -3.0, -3.0, 4.0, 4.0]
    for bad in ([-1.0, 2.0, -3.0, 1.0, 4.0, 4.0], [-1.0, 2.0, -3.0, -3.0, 4.0, -4.0], [-1.0, 2.0, 0.0, 0.0, 1.0]):
        with pytest.raises(RunError, match="not those of this model"):
            quantisation.load_state_dict({name: torch.tensor(bad)})


def test_which_layers_compute_with_whole_numbers() -> None:
    generator = SynthesizerTrn(sovits_config.tiny())
    names = set(quantised_layers(generator))
    kept = fake_quantisation.float32_modules(generator.config)
    assert not any(name.startswith(("enc_q.", "ssl_proj", *(f"{one}." for one in kept))) for name in names)
    assert {"dec.conv_pre", "dec.ups.0", "quantizer", "enc_p.text_embedding", "flow.flows.0.enc.cond_layer"} <= names
    decoder = set(quantised_layers(Text2SemanticDecoder(replace(gpt_config.tiny(), layers=1))))
    layer = {f"h.layers.0.{part}" for part in ("self_attn", "self_attn.out_proj", "linear1", "linear2")}
    tables = {f"ar_{part}_embedding.word_embeddings" for part in ("text", "audio")}
    assert decoder == {"bert_proj", "ar_predict_layer", *tables, *layer}


def test_ranges_of_other_layers_are_refused() -> None:
    _, quantisation = calibrated(nn.Linear(2, 2), torch.ones(1, 2))
    bad = [torch.zeros(2), torch.tensor([0.0, 1.0, 0.0, torch.inf]), torch.tensor([0.5, 1.0, 0.0, 1.0]), [0, 0, 0, 0]]
    states: list[Any] = [{}, {"other": torch.zeros(4)}, *({"layer": ranges} for ranges in bad)]
    for state in states:
        with pytest.raises(RunError, match="not those of this model"):
            quantisation.load_state_dict(state)


def test_ranges_of_layers_that_stay_in_float32_by_now_are_left_out() -> None:
    generator = SynthesizerTrn(sovits_config.tiny())
    quantisation = FakeQuantisation(generator)
    older = {name: torch.tensor([-1.0, 2.0, 0.0, 3.0]) for name in (*quantisation.state_dict(), "dec.ups.2")}
    quantisation.load_state_dict(older)
    assert quantisation.state_dict()["dec.ups.1"].tolist() == [-1.0, 2.0, 0.0, 3.0]
    assert "dec.ups.2" not in quantisation.state_dict()
    with pytest.raises(RunError, match="not those of this model"):
        quantisation.load_state_dict(older | {"dec.ups.9": torch.zeros(4)})


def test_rounding_has_256_steps() -> None:
    x = torch.linspace(-3, 3, 10_001)
    steps = rounded(x, torch.tensor(0.01), (0, 255), torch.tensor(100, dtype=torch.int32)).unique()
    assert len(steps) == 256 and steps[0] == -1 and float(steps[-1]) == pytest.approx(1.55)
