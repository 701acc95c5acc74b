"""The networks: parity with the reference weights and numbers, and the laws that each part obeys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.train.models import losses
from headrace.train.models.attention import MultiHeadAttention, neighbours
from headrace.train.models.discriminator import MultiPeriodDiscriminator
from headrace.train.models.flow import ResidualCouplingFlow, WaveNet
from headrace.train.models.layers import (
    WeightNormConv1d,
    WeightNormConvTranspose1d,
    frozen,
    length_mask,
    recompute_weights,
    slice_segments,
)
from headrace.train.models.quantizer import Codebook, VectorQuantizer
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import tiny, v1, v2, v2Pro, v2ProPlus
from tests.helpers.golden_recipe import SovitsCase, fill, fingerprint, normal, sovits_case, symmetric


@pytest.mark.parametrize(
    ("fixture", "build"),
    [
        ("s2G_v1_state", lambda: SynthesizerTrn(v1())),
        ("s2G_v2_state", lambda: SynthesizerTrn(v2())),
        ("s2G_v2Pro_state", lambda: SynthesizerTrn(v2Pro())),
        ("s2G_v2ProPlus_state", lambda: SynthesizerTrn(v2ProPlus())),
        ("s2D_v2_state", lambda: MultiPeriodDiscriminator(v2().periods, v2().discriminator_width)),
        ("s2D_v2Pro_state", lambda: MultiPeriodDiscriminator(v2Pro().periods, v2Pro().discriminator_width)),
    ],
)
def test_parameters_have_the_published_names_shapes_and_order(golden: Path, fixture: str, build) -> None:
    published = json.loads((golden / f"{fixture}.json").read_text())["state"]
    with torch.device("meta"):
        model = build()
    assert [(name, list(value.shape)) for name, value in model.state_dict().items()] == [
        (name, entry["shape"]) for name, entry in published.items()
    ]
    assert [name for name, _ in model.named_parameters()] == [
        name for name, entry in published.items() if entry["kind"] == "param"
    ]


@pytest.fixture(scope="module", params=["small_v2", "small_v2Pro", "full_v2", "full_v2Pro"])
def spoken(golden: Path, request: pytest.FixtureRequest) -> tuple[SovitsCase, SynthesizerTrn, dict[str, Tensor]]:
    """A reference case, the generator with its weights, and everything that the forward pass makes on the way."""
    case = sovits_case(golden, request.param)
    model = SynthesizerTrn(case.config).eval()
    fill(model)
    made: dict[str, Tensor] = {}
    encoder = model.enc_p
    watched = {
        "ge": model.prelu if case.config.speaker_channels else model.ref_enc,
        "ref_enc_out": model.ref_enc,
        "ssl_proj_out": model.ssl_proj,
        "encp_ssl_proj": encoder.ssl_proj,
        "encp_encoder_ssl": encoder.encoder_ssl,
        "encp_encoder_text": encoder.encoder_text,
        "encp_mrte": encoder.mrte,
        "encp_encoder2": encoder.encoder2,
    }
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: made.__setitem__(name, out))
        for name, module in watched.items()
    ]
    x, drawn = case.inputs, case.drawn
    with torch.no_grad():
        out = model(
            x.content, x.spec, x.frames, x.phones, x.phones_n,
            noise_BCT=drawn.noise, starts_B=drawn.starts, speaker_BV=x.speaker,
        )  # fmt: skip
        made |= {"ge512": model.timbre(made["ge"])}
        made |= {"quantized_25hz": model.quantizer.decode(out.codes), "codes": out.codes[:, None], "o": out.wave}
        made |= {"quantized_up": made["quantized_25hz"].repeat_interleave(2, 2), "ids_slice": drawn.starts}
        made |= {"y_mask": out.mask.float(), "commit_loss": out.commitment[None]}
        made |= {name: getattr(out, name) for name in ("z", "z_p", "m_p", "logs_p", "m_q", "logs_q")}
        made["encp_ssl_proj"] = made["encp_ssl_proj"] * out.mask  # the encoder masks what it is given
        made["flow_reverse_of_z_p"] = model.flow(out.z_p, out.mask, made["ge"], reverse=True)
    for hook in hooks:
        hook.remove()
    return case, model, made


@pytest.mark.slow
def test_every_intermediate_matches_the_reference(spoken) -> None:
    case, _, made = spoken
    forward = {name for name in case.expected if not name.startswith("decode")}
    assert forward <= set(made)
    for name in sorted(forward):
        tolerance = 0 if case.expected[name].dtype == np.int64 else 1e-4
        np.testing.assert_allclose(made[name].numpy(), case.expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("speed", "noise", "expected"), [(1.0, "noise_dec", ""), (1.3, "noise_dec13", "_speed1p3")])
def test_decoding_matches_the_reference(spoken, speed: float, noise: str, expected: str) -> None:
    case, model, made = spoken
    x, channels = case.inputs, case.config.inter_channels
    size = x.spec.shape[2] if speed == 1 else int(x.spec.shape[2] / speed) + 1
    with torch.no_grad():
        wave = model.decode(
            made["codes"][0],
            x.phones[:1],
            x.phones_n[:1],
            x.spec[:1, :, : x.frames[0]],
            x.frames[:1],
            speed=speed,
            noise_BCT=torch.from_numpy(normal(f"{case.name}.{noise}", (1, channels, size))),
            speaker_BV=None if x.speaker is None else x.speaker[:1],
        )
    np.testing.assert_allclose(wave.numpy(), case.expected[f"decode_out{expected}"], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v2", "v2Pro"])
def test_discriminators_match_the_reference(golden: Path, version: str) -> None:
    facts = json.loads((golden / "disc_losses.json").read_text())
    expected = np.load(golden / "disc_losses.npz")
    model = MultiPeriodDiscriminator(facts[f"periods_{version}"], 1024)
    fill(model, "D:")
    waves = [torch.from_numpy(symmetric(f"disc.{name}", (2, 1, facts["N"]), 0.6)) for name in ("y", "y_hat")]
    with torch.no_grad():
        real, fake = (model(wave) for wave in waves)
    for part, ((real_score, maps), (fake_score, _)) in enumerate(zip(real, fake, strict=True)):
        np.testing.assert_allclose(real_score, expected[f"y_d_r.{part}"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(fake_score, expected[f"y_d_g.{part}"], rtol=0, atol=1e-4)
        for layer, fact in zip(maps, facts["fmap"][str(part)], strict=True):
            made = fingerprint(layer.numpy())
            assert made["shape"] == fact["shape"]
            assert made["l2"] == pytest.approx(fact["l2"], rel=1e-4)
            assert made["first"] + made["last"] == pytest.approx(fact["first"] + fact["last"], abs=1e-4)
    (real_scores, real_maps), (fake_scores, fake_maps) = (zip(*side, strict=True) for side in (real, fake))
    want = facts[f"losses_{version}"]
    assert float(losses.discriminator_loss(real_scores, fake_scores)) == pytest.approx(want["disc"], rel=1e-5)
    assert float(losses.generator_loss(fake_scores)) == pytest.approx(want["gen"], rel=1e-5)
    assert float(losses.feature_matching_loss(real_maps, fake_maps)) == pytest.approx(want["fm"], rel=1e-5)


def test_kl_matches_the_reference(golden: Path) -> None:
    want = json.loads((golden / "disc_losses.json").read_text())["kl"]["value"]
    scales = {"z_p": 1, "logs_q": 0.3, "m_p": 1, "logs_p": 0.3}
    tensors = [torch.from_numpy(normal(f"kl.{name}", (2, 6, 11), std)) for name, std in scales.items()]
    assert float(losses.kl_loss(*tensors, length_mask(torch.tensor([11, 7]), 11))) == pytest.approx(want, rel=1e-5)


def test_kl_of_equal_gaussians_vanishes_on_average() -> None:
    torch.manual_seed(0)
    mean, log_std = torch.randn(2, 8, 1), torch.randn(2, 8, 1) / 3
    sample = mean + torch.exp(log_std) * torch.randn(2, 8, 20_000)
    mean, log_std = mean.expand_as(sample), log_std.expand_as(sample)
    loss = losses.kl_loss(sample, log_std, mean, log_std, torch.ones(2, 1, 20_000, dtype=torch.bool))
    assert abs(float(loss)) < 0.1  # 8 channels, each of variance 1/2 over 40,000 samples


def test_padding_does_not_affect_utterances() -> None:
    """Beyond the four frames past the end that the style encoder's convolutions see, as in the published weights."""
    torch.manual_seed(0)
    model = SynthesizerTrn(tiny()).eval()
    frames, phones_n = torch.tensor([20]), torch.tensor([5])
    made = []
    for size, phones in ((26, 5), (40, 9)):
        torch.manual_seed(1)
        pad = (0, size - 20)
        content = nn.functional.pad(torch.randn(1, 60, 20), pad)
        spec = nn.functional.pad(torch.rand(1, 1025, 20), pad)
        noise = nn.functional.pad(torch.randn(1, 32, 20), pad, value=3.0)
        ids = nn.functional.pad(torch.arange(5)[None], (0, phones - 5), value=7)
        with torch.no_grad():
            out = model(content, spec, frames, ids, phones_n, noise_BCT=noise, starts_B=torch.tensor([3]))
        made.append([out.wave, *(x[:, :, :20] for x in (out.z, out.z_p, out.m_p, out.logs_p))])
    for short, long in zip(*made, strict=True):
        torch.testing.assert_close(short, long, rtol=0, atol=1e-5)


def test_the_flow_inverts_itself() -> None:
    torch.manual_seed(0)
    flow = ResidualCouplingFlow(channels=8, hidden=16, couplings=3, layers=2, voice=4)
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.5)
    mask = length_mask(torch.tensor([9, 5]), 9)
    x, voice = torch.randn(2, 8, 9) * mask, torch.randn(2, 4, 1)
    there = flow(x, mask, voice)
    assert not torch.allclose(there, x, atol=0.1)
    torch.testing.assert_close(flow(there, mask, voice, reverse=True), x, rtol=0, atol=1e-4)


def test_relative_positions_are_those_of_the_definition() -> None:
    """Shaw et al. 2018, equations 3 and 4, written out for every pair of frames."""
    torch.manual_seed(0)
    attend = MultiHeadAttention(6, 2, window=2)
    x = torch.randn(1, 6, 7)
    made = attend(x, x, torch.ones(1, 1, 7, dtype=torch.bool), neighbours(7, 2, x.device))
    q, k, v = (conv(x)[0].view(2, 3, 7) for conv in (attend.conv_q, attend.conv_k, attend.conv_v))
    answer = torch.zeros(2, 3, 7)
    for head in range(2):
        for i in range(7):
            near = [j - i + 2 if abs(j - i) <= 2 else None for j in range(7)]
            keys = [k[head, :, j] + (0 if r is None else attend.emb_rel_k[0, r]) for j, r in enumerate(near)]
            values = [v[head, :, j] + (0 if r is None else attend.emb_rel_v[0, r]) for j, r in enumerate(near)]
            weights = torch.stack([q[head, :, i] @ key / 3**0.5 for key in keys]).softmax(0)
            answer[head, :, i] = sum(w * value for w, value in zip(weights, values, strict=True))
    torch.testing.assert_close(made, attend.conv_o(answer.view(1, 6, 7)))


@pytest.mark.parametrize("conv", [WeightNormConv1d(4, 6, 3), WeightNormConvTranspose1d(4, 6, 3)])
def test_weight_norm_starts_as_the_plain_layer_and_keeps_the_norm(conv: WeightNormConv1d) -> None:
    torch.testing.assert_close(conv.normalised(), conv.weight_v)
    with torch.no_grad():
        conv.weight_v.mul_(5)
        conv.weight_g.fill_(2)
    torch.testing.assert_close(conv.normalised().flatten(1).norm(dim=1), torch.full((len(conv.weight_v),), 2.0))


def test_frozen_weights_are_normalised_once_and_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    network = MultiPeriodDiscriminator((2, 3), 64)
    wave = torch.randn(2, 1, 50, requires_grad=True)

    def gradient() -> Tensor:
        return torch.autograd.grad(losses.generator_loss([score for score, _ in network(wave)]), wave)[0]

    want = gradient()
    with frozen(network):
        weights = [layer.normalised() for layer in network.modules() if isinstance(layer, WeightNormConv1d)]
        assert not any(weight.requires_grad for weight in weights)
        torch.testing.assert_close(gradient(), want, rtol=0, atol=0)
        again = [layer.normalised() for layer in network.modules() if isinstance(layer, WeightNormConv1d)]
        assert all(one is other for one, other in zip(weights, again, strict=True))
    layers = [layer for layer in network.modules() if isinstance(layer, WeightNormConv1d)]
    assert all(layer.normalised().requires_grad for layer in layers)
    with torch.no_grad():
        layers[0].weight_g.mul_(2)
    torch.testing.assert_close(layers[0].normalised(), 2 * weights[0])


def test_frozen_weights_are_in_the_precision_of_their_use() -> None:
    layer = WeightNormConv1d(4, 6, 3)
    with torch.autocast("cpu", torch.bfloat16), frozen(layer):
        assert layer.normalised().dtype == torch.bfloat16
    assert layer.normalised().dtype == torch.float32


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("make", [WeightNormConv1d, WeightNormConvTranspose1d])
def test_weights_that_are_normalised_again_give_the_same_gradients(
    make: type[WeightNormConv1d], half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, x, times = make(4, 6, 3), torch.randn(2, 4, 9, requires_grad=True), list[None]()
    normalise = torch._weight_norm

    def counted(*given: object) -> Tensor:
        times.append(None)
        return normalise(*given)

    def gradients() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = layer(x).float().square().sum()
        return torch.autograd.grad(loss, [x, *layer.parameters()])

    monkeypatch.setattr(torch, "_weight_norm", counted)
    want, kept = gradients(), len(times)
    recompute_weights(nn.Sequential(layer))
    assert all(map(torch.equal, gradients(), want))
    assert (kept, len(times)) == (1, 3)


def test_gates_are_those_of_the_definition() -> None:
    """Outputs and all gradients, of the formula written out."""
    torch.manual_seed(0)
    network, mask = WaveNet(6, 3, 4).double(), length_mask(torch.tensor([9, 5]), 9)
    x, voice = torch.randn(2, 6, 9).double().requires_grad_(), torch.randn(2, 4, 1).double().requires_grad_()
    hidden, skipped = x, torch.zeros_like(x)
    for layer, condition in enumerate(network.cond_layer(voice).chunk(3, dim=1)):
        signal, gate = (network.in_layers[layer](hidden) + condition).chunk(2, dim=1)
        out = network.res_skip_layers[layer](signal.tanh() * gate.sigmoid())
        if layer < 2:
            residual, out = out.chunk(2, dim=1)
            hidden = (hidden + residual) * mask
        skipped = skipped + out
    made, want, leaves = network(x, mask, voice), skipped * mask, [x, voice, *network.parameters()]
    torch.testing.assert_close(made, want)
    weights = torch.randn_like(want)
    found, expected = (torch.autograd.grad((output * weights).sum(), leaves) for output in (made, want))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_of_adversarial_losses_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    real, fake = ([torch.randn(2, size).requires_grad_() for size in (3, 5)] for _ in range(2))
    mean = [(1 - one).square().mean() + other.square().mean() for one, other in zip(real, fake, strict=True)]
    want = torch.autograd.grad(3 * torch.stack(mean).sum(), [*real, *fake])
    found = torch.autograd.grad(3 * losses.discriminator_loss(real, fake), [*real, *fake])
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other)


def test_segments_are_slices() -> None:
    x, starts = torch.arange(2 * 3 * 10.0).view(2, 3, 10), torch.tensor([6, 0])
    torch.testing.assert_close(slice_segments(x, starts, 4), torch.stack([x[0, :, 6:10], x[1, :, :4]]))


def clusters(count: int, each: int) -> tuple[Tensor, Tensor]:
    """Far apart centres (count, 4), and (count * each, 4) vectors close to them."""
    centres = torch.randn(count, 4) * 10
    return centres, centres.repeat_interleave(each, 0) + torch.randn(count * each, 4) * 0.01


def test_the_codebook_is_initialised_by_clusters_of_the_first_batch() -> None:
    torch.manual_seed(0)
    centres, x = clusters(5, 40)
    book = Codebook(16, 4)
    book.initialise(x, torch.ones(200, dtype=torch.bool))
    assert book.inited.item() == 1
    assert float(torch.cdist(centres, book.embed).min(1).values.max()) < 0.05
    before = book.embed.clone()
    book.initialise(x + 100, torch.ones(200, dtype=torch.bool))
    torch.testing.assert_close(book.embed, before)


def test_the_codebook_follows_its_inputs_and_replaces_unused_entries() -> None:
    torch.manual_seed(0)
    centres, x = clusters(4, 50)
    book, everything = Codebook(8, 4), torch.ones(200, dtype=torch.bool)
    book.initialise(x, everything)
    moved = x + 1
    closest = torch.full((8,), torch.inf)  # of each code: one that wins nothing takes 300 steps to die
    for step in range(1000):
        book.update(moved, book.nearest(moved), everything)
        if step >= 400:
            closest = closest.minimum(torch.cdist(book.embed, moved).min(1).values)
    assert float(torch.cdist(centres + 1, book.embed).min(1).values.max()) < 0.1
    assert float(closest.max()) < 0.1


def test_padding_does_not_update_the_codebook() -> None:
    states = []
    for padding in (0.0, 1e3):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(32, 4).train()  # more entries than inputs can keep alive
        x = torch.randn(2, 4, 30)
        x[0, :, 20:] = padding
        valid = length_mask(torch.tensor([20, 30]), 30)[:, 0]
        _, _, commitment = quantizer(x, valid)
        states.append([commitment, *quantizer.buffers()])
    for without, having in zip(*states, strict=True):
        torch.testing.assert_close(without, having)


def test_gradients_pass_straight_through_the_quantiser() -> None:
    torch.manual_seed(0)
    quantizer, valid = VectorQuantizer(8, 4).train(), torch.ones(2, 30, dtype=torch.bool)
    x = torch.randn(2, 4, 30, requires_grad=True)
    quantised, codes, _ = quantizer(x, valid)
    quantised.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))
    book = quantizer.codebook
    distances = torch.cdist(x.detach().mT.reshape(-1, 4), book.embed)
    assert codes.shape == (2, 30)
    assert float((codes.flatten() == distances.argmin(1)).float().mean()) > 0.9  # the codes have moved a little since


def test_a_frozen_quantiser_does_not_change_in_training() -> None:
    torch.manual_seed(0)
    model = SynthesizerTrn(replace(tiny(), freeze_quantizer=True)).train()
    before = {name: value.clone() for name, value in model.quantizer.state_dict().items()}
    quantised, _, commitment = model.quantise(torch.randn(1, 60, 8), torch.ones(1, 1, 8, dtype=torch.bool))
    assert not quantised.requires_grad
    assert commitment == 0
    for name, value in model.quantizer.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_presets_make_the_samples_of_a_hop() -> None:
    assert tiny().hop == v2().hop == 640
