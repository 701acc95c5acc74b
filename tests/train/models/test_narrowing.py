"""Pruned networks: they say what the whole one says, if what was cut said nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headrace.store.errors import RunError, UsageError
from headrace.train.models import gpt_config, sizes, sovits_config
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.narrowing import evenly_spaced, groups, normalised_weights, prune, student_weights
from headrace.train.models.presets import PRESETS
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig

SOVITS, GPT = sovits_config.tiny(), gpt_config.tiny()
NARROW_SOVITS = replace(SOVITS, filter_channels=96, flow_channels=44, decoder_channels=(92, 44, 24, 12, 4, 4))
NARROW_GPT = replace(GPT, feed_forward_channels=300)


def sovits(config: SovitsConfig, seed: int = 0) -> SynthesizerTrn:
    """A generator whose couplings shift, which those of a new one do not."""
    torch.manual_seed(seed)
    model = SynthesizerTrn(config).eval()
    for coupling in list(model.flow.flows)[::2]:
        torch.nn.init.normal_(coupling.post.weight, std=0.1)
    return model


def gpt(config: GptConfig, seed: int = 0) -> Text2SemanticDecoder:
    torch.manual_seed(seed)
    return Text2SemanticDecoder(config).eval()


@torch.no_grad()
def said(model: SynthesizerTrn | Text2SemanticDecoder) -> list[Tensor]:
    """Everything that training and speech compute, of fixed inputs."""
    random = torch.Generator().manual_seed(1)
    phones, codes = torch.arange(12)[None], torch.arange(16)[None]
    n = torch.tensor([12])
    if isinstance(model, Text2SemanticDecoder):
        return [model(phones, n, codes, torch.tensor([16]))]
    spec = torch.rand(1, 1025, 40, generator=random)
    noise = torch.randn(1, model.config.inter_channels, 40, generator=random)
    frames = torch.tensor([40])
    trained = model(
        None, spec, frames, phones, n, noise_BCT=noise, starts_B=torch.tensor([3]), codes_BQ=torch.arange(20)[None]
    )
    wave = model.decode(codes, phones, n, spec, frames, noise_BCT=noise[:, :, :32])
    return [trained.wave, trained.z_p, trained.m_p, wave]


def silence(weights: dict[str, Tensor], config: SovitsConfig | GptConfig, narrow: SovitsConfig | GptConfig) -> None:
    """Zero, in random places, as many channels of each group as have to go: nothing is written to them."""
    widths = [group.width for group in groups(narrow)]
    random = torch.Generator().manual_seed(2)
    for group, width in zip(groups(config), widths, strict=True):
        gone = torch.randperm(group.width, generator=random)[width:]
        for place in (place for place in group.places if place.writes):
            for name in ("weight", "weight_g"):
                if f"{place.module}.{name}" in weights:
                    axis = place.axis if name == "weight" else 0
                    if place.axis == 1 and name == "weight_g":  # transposed: its norms are those of its inputs
                        weights[f"{place.module}.weight_v"][:, gone] = 0
                    else:
                        weights[f"{place.module}.{name}"].index_fill_(axis, place.start + gone, 0)
            if f"{place.module}.bias" in weights:
                weights[f"{place.module}.bias"][place.start + gone] = 0


@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_channels_that_say_nothing_are_those_that_go(stage: str) -> None:
    make, config, narrow = (sovits, SOVITS, NARROW_SOVITS) if stage == "sovits" else (gpt, GPT, NARROW_GPT)
    whole = make(config)  # type: ignore[operator]
    weights = {name: value.clone() for name, value in whole.state_dict().items()}
    silence(weights, config, narrow)
    # Readers of silent channels do not matter to what is said, but they do to importance.
    scores = {module: torch.zeros_like(weight) for module, weight in normalised_weights(weights).items()}
    for group in groups(config):
        for place in (place for place in group.places if place.writes):
            part = slice(place.start, place.start + group.width)
            index = (part,) if place.axis == 0 else (slice(None), part)
            scores[place.module][index] = normalised_weights(weights)[place.module][index].abs()
    whole.load_state_dict(weights)
    small = make(narrow, seed=5)  # type: ignore[operator]
    small.load_state_dict(prune(weights, config, narrow, scores))
    for found, expected in zip(said(small), said(whole), strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    other = {module: -score for module, score in scores.items()}
    small.load_state_dict(prune(weights, config, narrow, other))
    assert not torch.allclose(said(small)[0], said(whole)[0], rtol=1e-3, atol=1e-3)


def test_without_scores_the_largest_weights_stay() -> None:
    model = gpt(GPT)
    weights = model.state_dict()
    weights["h.layers.1.linear1.weight"][7] *= 0.01
    weights["h.layers.1.linear2.weight"][:, 7] *= 0.01
    weights["h.layers.1.linear2.weight"][:, 9] *= 10
    narrow = prune(weights, GPT, replace(GPT, feed_forward_channels=511))
    kept = torch.cat((torch.arange(7), torch.arange(8, 512)))
    assert torch.equal(narrow["h.layers.1.linear1.weight"], weights["h.layers.1.linear1.weight"][kept])
    assert torch.equal(narrow["h.layers.1.linear1.bias"], weights["h.layers.1.linear1.bias"][kept])
    assert torch.equal(narrow["h.layers.1.linear2.weight"], weights["h.layers.1.linear2.weight"][:, kept])
    (column,) = prune(weights, GPT, replace(GPT, feed_forward_channels=1))["h.layers.1.linear2.weight"].T
    assert torch.equal(column, weights["h.layers.1.linear2.weight"][:, 9])


def test_a_student_gets_evenly_spaced_layers_and_the_teachers_widest_channels() -> None:
    assert evenly_spaced(24, 8) == [0, 3, 7, 10, 13, 16, 20, 23]
    assert evenly_spaced(6, 4) == [0, 2, 3, 5] and evenly_spaced(3, 1) == [0] and evenly_spaced(3, 3) == [0, 1, 2]
    teacher = gpt(GPT).state_dict()
    student = replace(GPT, layers=2)
    given = student_weights(teacher, GPT, student)
    model = gpt(student, seed=5)
    model.load_state_dict(given)  # strictly: no layer is left over
    assert torch.equal(given["h.layers.1.linear1.weight"], teacher["h.layers.3.linear1.weight"])
    narrow = replace(SOVITS, n_layers=1, upsample_initial_channel=64, filter_channels=96)
    sovits(narrow).load_state_dict(student_weights(sovits(SOVITS).state_dict(), SOVITS, narrow))
    wider = student_weights(sovits(narrow).state_dict(), narrow, SOVITS)
    assert wider["dec.conv_pre.bias"].shape == (64,)


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_say_their_sizes(preset: str) -> None:
    base = PRESETS[preset]
    for config in (
        base.sovits,
        replace(base.sovits, symbols=99, flow_channels=48, decoder_channels=(96, 40, 24, 12, 8, 4)),
    ):
        with torch.device("meta"):
            weights = SynthesizerTrn(config).state_dict()
        assert sizes.generator_sizes(weights, base.sovits) == config
        changed = sizes.apply_pruned(base.sovits, sizes.pruned_sizes(weights, base.sovits))
        assert changed == replace(config, symbols=base.sovits.symbols)
    narrow = replace(base.gpt, feed_forward_channels=400, codes=70)
    with torch.device("meta"):
        weights = Text2SemanticDecoder(narrow).state_dict()
    assert sizes.decoder_sizes(weights, base.gpt) == narrow
    assert sizes.apply_pruned(base.gpt, sizes.pruned_sizes(weights, base.gpt)) == replace(narrow, codes=base.gpt.codes)
    assert sizes.pruned_sizes({}, base.gpt) == "" == sizes.pruned_sizes({}, base.sovits)


def test_weights_of_small_are_told_from_those_of_v2() -> None:
    with torch.device("meta"):
        weights = SynthesizerTrn(PRESETS["small"].sovits).state_dict()
    assert sizes.generator_sizes(weights, PRESETS["v2"].sovits) == PRESETS["small"].sovits
    with pytest.raises(RunError, match=r"dec\.conv_pre\.bias is missing"):
        sizes.generator_sizes({}, SOVITS)


@pytest.mark.parametrize(
    "text",
    ["x", "3", '{"layers": 2}', '{"filter_channels": -1}', '{"filter_channels": [3]}', '{"decoder_channels": 3}',
     '{"decoder_channels": [3, 2]}', '{"decoder_channels": [8, 8, 8, 8, 8, 0]}', '{"flow_channels": 1e9}', "[" * 5000],
)  # fmt: skip
def test_sizes_that_none_has_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="init_sizes is"):
        sizes.apply_pruned(SOVITS, text)
