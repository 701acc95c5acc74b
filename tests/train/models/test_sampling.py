"""Sampling of semantic codes: the codes of GPT-SoVITS itself, the KV cache, and the distribution of samples."""

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
from headrace.train.models.sampling import apply_repetition_penalty, generate_semantic, sample_token
from headrace.train.models.sampling_config import SamplingConfig
from tests.helpers.golden_recipe import SMALL_GPT, fill, gpt_inputs

GREEDY = SamplingConfig(top_k=1)
TINY = GptConfig(symbols=20, codes=64, bert_channels=8, channels=16, heads=2, layers=2)


def decoder(config: GptConfig = TINY) -> Text2SemanticDecoder:
    torch.manual_seed(0)
    return Text2SemanticDecoder(config).eval()


@pytest.mark.parametrize("row", [0, 1])
def test_greedy_codes_are_those_of_the_reference(golden: Path, row: int) -> None:
    want = np.load(golden / "s1_golden.npz")
    model, x = Text2SemanticDecoder(SMALL_GPT).eval(), gpt_inputs("s1small", SMALL_GPT, [9, 6], [14, 11])
    fill(model)
    phones = int(x.phones_n[row])
    text, bert, prompt = x.phones[row, :phones], x.bert[row, :phones], x.codes[row, :5]
    codes = generate_semantic(model, text, replace(GREEDY, max_codes=40), bert_PE=bert, prompt_Q=prompt)
    np.testing.assert_array_equal(torch.cat((prompt, codes)), want[f"infer.batch_y.{row}"])
    if row == 0:
        alone = generate_semantic(model, text, replace(GREEDY, max_codes=41), bert_PE=bert, prompt_Q=prompt)
        np.testing.assert_array_equal(torch.cat((prompt, alone)), want["infer.greedy_y"][0])
        unprompted = generate_semantic(model, text, replace(GREEDY, max_codes=41), bert_PE=bert)
        np.testing.assert_array_equal(unprompted, want["infer.greedy_y_noprompt"][0])


def test_greedy_codes_at_full_size_are_those_of_the_reference(golden: Path) -> None:
    want = json.loads((golden / "s1_golden.json").read_text())["full"]["greedy_tokens"]
    model, x = Text2SemanticDecoder(gpt_config.v2()).eval(), gpt_inputs("s1full", gpt_config.v2(), [31, 22], [60, 47])
    fill(model)
    prompt = x.codes[0, :20]
    codes = generate_semantic(model, x.phones[0], replace(GREEDY, max_codes=31), bert_PE=x.bert[0], prompt_Q=prompt)
    assert torch.cat((prompt, codes)).tolist() == want


@torch.no_grad()
def test_the_kv_cache_matches_a_full_forward_pass() -> None:
    model, phones = decoder(), torch.arange(7)
    prompt = torch.tensor([3, 1, 4])
    codes_so_far = prompt
    for code in generate_semantic(model, phones, GREEDY, prompt_Q=prompt).tolist():
        logits = model(phones[None], torch.tensor([7]), codes_so_far[None], torch.tensor([len(codes_so_far)]))[0, -1]
        logits = logits[: TINY.end] if len(codes_so_far) - 3 < GREEDY.min_codes else logits
        assert code == int(apply_repetition_penalty(logits, codes_so_far, GREEDY.repetition_penalty).argmax())
        codes_so_far = torch.cat((codes_so_far, torch.tensor([code])))
    assert len(codes_so_far) > 3 + GREEDY.min_codes


def bias_to_end(model: Text2SemanticDecoder) -> None:
    """Make the end the most probable code, whatever came before."""
    torch.nn.init.zeros_(model.ar_predict_layer.weight)
    model.h.layers[-1].norm2.weight.data.zero_()
    model.h.layers[-1].norm2.bias.data.fill_(1.0)
    model.ar_predict_layer.weight.data[model.config.end].fill_(1.0)


@pytest.mark.parametrize("min_codes", [1, 4])
def test_it_stops_at_the_end_but_not_before_min_codes(min_codes: int) -> None:
    model = decoder()
    bias_to_end(model)
    codes = generate_semantic(model, torch.arange(5), SamplingConfig(min_codes=min_codes))
    assert len(codes) == min_codes
    assert not (codes == TINY.end).any()


def test_it_stops_at_max_codes() -> None:
    assert len(generate_semantic(decoder(), torch.arange(5), SamplingConfig(max_codes=7, min_codes=7))) == 7


def test_previous_codes_become_less_probable() -> None:
    logits, codes_so_far = torch.tensor([2.0, -1.0, 3.0, 0.5]), torch.tensor([0, 1, 1])
    made = apply_repetition_penalty(logits, codes_so_far, 2.0)
    assert made.tolist() == [1.0, -2.0, 3.0, 0.5]
    assert logits.tolist() == [2.0, -1.0, 3.0, 0.5]


def shares(probabilities: list[float], config: SamplingConfig) -> list[float]:
    torch.manual_seed(0)
    logits = torch.tensor(probabilities).log()
    sampled = torch.stack([sample_token(logits, config) for _ in range(4000)])
    return (torch.bincount(sampled, minlength=len(probabilities)) / len(sampled)).tolist()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SamplingConfig(top_k=10), [0.5, 0.3, 0.15, 0.05]),
        (SamplingConfig(top_k=2), [0.625, 0.375, 0, 0]),
        (SamplingConfig(top_k=1), [1, 0, 0, 0]),
        (SamplingConfig(top_p=0.8), [0.625, 0.375, 0, 0]),
        (SamplingConfig(top_p=0.1), [1, 0, 0, 0]),
        (SamplingConfig(temperature=0.5), [0.685, 0.247, 0.062, 0.007]),
        (SamplingConfig(temperature=0.0), [1, 0, 0, 0]),
    ],
)
def test_codes_are_sampled_by_their_probabilities(config: SamplingConfig, expected: list[float]) -> None:
    assert shares([0.5, 0.3, 0.15, 0.05], config) == pytest.approx(expected, abs=0.025)
