"""Speaking with trained weights: the reference's tokens, and the laws of picking and remembering."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.train.models import gpt_config
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sampling import Reference, SampleConfig, penalised, pick, sample, speak
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import tiny
from tests.helpers.golden_recipe import SMALL_GPT, fill, gpt_inputs

GREEDY = SampleConfig(top_k=1)
TINY = GptConfig(symbols=20, codes=64, bert_channels=8, channels=16, heads=2, layers=2)


def decoder(config: GptConfig = TINY) -> Text2SemanticDecoder:
    torch.manual_seed(0)
    return Text2SemanticDecoder(config).eval()


@pytest.mark.parametrize("row", [0, 1])
def test_the_likeliest_codes_are_the_reference_s(golden: Path, row: int) -> None:
    want = np.load(golden / "s1_golden.npz")
    model, x = Text2SemanticDecoder(SMALL_GPT).eval(), gpt_inputs("s1small", SMALL_GPT, [9, 6], [14, 11])
    fill(model)
    phones = int(x.phones_n[row])
    text, bert, prompt = x.phones[row, :phones], x.bert[row, :phones], x.codes[row, :5]
    codes = sample(model, text, replace(GREEDY, longest=40), bert_PE=bert, prompt_Q=prompt)
    np.testing.assert_array_equal(torch.cat((prompt, codes)), want[f"infer.batch_y.{row}"])
    if row == 0:
        alone = sample(model, text, replace(GREEDY, longest=41), bert_PE=bert, prompt_Q=prompt)
        np.testing.assert_array_equal(torch.cat((prompt, alone)), want["infer.greedy_y"][0])
        unprompted = sample(model, text, replace(GREEDY, longest=41), bert_PE=bert)
        np.testing.assert_array_equal(unprompted, want["infer.greedy_y_noprompt"][0])


def test_the_full_size_decoder_says_the_reference_s_codes(golden: Path) -> None:
    want = json.loads((golden / "s1_golden.json").read_text())["full"]["greedy_tokens"]
    model, x = Text2SemanticDecoder(gpt_config.v2()).eval(), gpt_inputs("s1full", gpt_config.v2(), [31, 22], [60, 47])
    fill(model)
    prompt = x.codes[0, :20]
    codes = sample(model, x.phones[0], replace(GREEDY, longest=31), bert_PE=x.bert[0], prompt_Q=prompt)
    assert torch.cat((prompt, codes)).tolist() == want


@torch.no_grad()
def test_remembering_gives_what_reading_anew_gives() -> None:
    model, phones = decoder(), torch.arange(7)
    prompt = torch.tensor([3, 1, 4])
    said = prompt
    for code in sample(model, phones, GREEDY, prompt_Q=prompt).tolist():
        logits = model(phones[None], torch.tensor([7]), said[None], torch.tensor([len(said)]))[0, -1]
        logits = logits[: TINY.end] if len(said) - 3 < GREEDY.shortest else logits
        assert code == int(penalised(logits, said, GREEDY).argmax())
        said = torch.cat((said, torch.tensor([code])))
    assert len(said) > 3 + GREEDY.shortest


def bias_to_end(model: Text2SemanticDecoder) -> None:
    """Whatever is said, the end is the likeliest."""
    torch.nn.init.zeros_(model.ar_predict_layer.weight)
    model.h.layers[-1].norm2.weight.data.zero_()
    model.h.layers[-1].norm2.bias.data.fill_(1.0)
    model.ar_predict_layer.weight.data[model.config.end].fill_(1.0)


@pytest.mark.parametrize("shortest", [1, 4])
def test_it_stops_at_the_end_but_not_before_the_shortest(shortest: int) -> None:
    model = decoder()
    bias_to_end(model)
    codes = sample(model, torch.arange(5), SampleConfig(shortest=shortest))
    assert len(codes) == shortest
    assert not (codes == TINY.end).any()


def test_it_stops_at_the_longest() -> None:
    assert len(sample(decoder(), torch.arange(5), SampleConfig(longest=7, shortest=7))) == 7


def test_what_was_said_becomes_less_likely() -> None:
    logits, said = torch.tensor([2.0, -1.0, 3.0, 0.5]), torch.tensor([0, 1, 1])
    made = penalised(logits, said, SampleConfig(repetition_penalty=2.0))
    assert made.tolist() == [1.0, -2.0, 3.0, 0.5]
    assert logits.tolist() == [2.0, -1.0, 3.0, 0.5]


def shares(probabilities: list[float], config: SampleConfig) -> list[float]:
    torch.manual_seed(0)
    logits = torch.tensor(probabilities).log()
    picked = torch.stack([pick(logits, config) for _ in range(4000)])
    return (torch.bincount(picked, minlength=len(probabilities)) / len(picked)).tolist()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SampleConfig(top_k=10), [0.5, 0.3, 0.15, 0.05]),
        (SampleConfig(top_k=2), [0.625, 0.375, 0, 0]),
        (SampleConfig(top_k=1), [1, 0, 0, 0]),
        (SampleConfig(top_p=0.8), [0.625, 0.375, 0, 0]),
        (SampleConfig(top_p=0.1), [1, 0, 0, 0]),
        (SampleConfig(temperature=0.5), [0.685, 0.247, 0.062, 0.007]),
        (SampleConfig(temperature=0.0), [1, 0, 0, 0]),
    ],
)
def test_codes_are_picked_as_often_as_they_should(config: SampleConfig, expected: list[float]) -> None:
    assert shares([0.5, 0.3, 0.15, 0.05], config) == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("bert", [False, True])
@torch.no_grad()
def test_speaking_is_saying_the_codes_and_decoding_them(bert: bool) -> None:
    sovits, model = SynthesizerTrn(replace(tiny(), speaker_channels=6)).eval(), decoder()
    sovits.quantizer.codebook.embed.normal_()
    phones = torch.arange(5)
    reference = Reference(
        spec=torch.rand(1025, 30),
        phones=torch.tensor([7, 8, 9]),
        codes=torch.tensor([1, 2, 3]),
        bert=torch.randn(3, 8) if bert else None,
        speaker=torch.randn(6),
    )
    of_text = torch.randn(5, 8)
    torch.manual_seed(5)
    wave = speak(model, sovits, phones, reference, SampleConfig(longest=20), bert_PE=of_text, speed=1.2)
    torch.manual_seed(5)
    codes = sample(
        model,
        torch.cat((reference.phones, phones)),
        SampleConfig(longest=20),
        bert_PE=torch.cat((reference.bert if bert else torch.zeros(3, 8), of_text)),
        prompt_Q=reference.codes,
    )
    expected = sovits.decode(
        codes[None], phones[None], torch.tensor([5]), reference.spec[None], torch.tensor([30]),
        speed=1.2, speaker_BV=reference.speaker[None],
    )  # fmt: skip
    assert torch.equal(wave, expected[0, 0])
    assert len(wave) == (int(len(codes) * 2 / 1.2) + 1) * 640 and wave.abs().max() <= 1
