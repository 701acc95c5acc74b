"""A voice by ONNX Runtime: where nothing is drawn its codes are torch's, and its speech of the same noise is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.train.deployment import code_sampling, onnx_voice
from headrace.train.deployment.onnx_voice import OnnxRuntimeVoice
from headrace.train.models import sampling
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.speech_reference import Reference
from headrace.train.models.text_to_speech import text_to_semantic
from tests.train.deployment import onnx_voices
from tests.train.deployment.onnx_voices import GPT, SOVITS

PHONES = np.array([2, 7, 1, 8, 2, 8])
GREEDY = SamplingConfig(top_k=1, max_codes=40)
VOICES: dict[str, Callable[[], Reference]] = {
    "prompt": onnx_voices.reference,
    "voice alone": lambda: replace(
        onnx_voices.reference(), phones=np.zeros(0, np.int64), codes=np.zeros(0, np.int64), bert=None
    ),
    "no features of BERT": lambda: replace(onnx_voices.reference(), bert=None),
}


@pytest.fixture(scope="module")
def voice() -> OnnxRuntimeVoice:
    return OnnxRuntimeVoice(onnx_voices.exported(), threads=1)


@pytest.mark.parametrize("penalty", [1.0, 1.35])
@pytest.mark.parametrize("name", VOICES)
def test_greedy_codes_are_those_of_torch(
    voice: OnnxRuntimeVoice, name: str, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_voice, "CACHE_STEP", 7)
    decoder, reference = onnx_voices.networks().decoder, VOICES[name]()
    assert decoder is not None
    config = replace(GREEDY, repetition_penalty=penalty)
    bert_PE = np.random.default_rng(1).standard_normal((len(PHONES), GPT.bert_channels), np.float32)
    for bert in (None, bert_PE):
        given = None if bert is None else torch.from_numpy(bert)
        expected = text_to_semantic(decoder, torch.from_numpy(PHONES), reference, config, bert_PE=given)
        found = voice.codes(PHONES, reference, config, bert_PE=bert)
        assert len(found) > 10 and found.dtype == np.int64
        np.testing.assert_array_equal(found, expected.numpy())


@torch.no_grad()
@pytest.mark.parametrize("speed", [1.0, 1.3, 0.7])
def test_speech_is_that_of_torch_with_the_same_noise(voice: OnnxRuntimeVoice, speed: float) -> None:
    generator, reference, codes = onnx_voices.networks().generator, onnx_voices.reference(), np.arange(17)
    assert generator is not None and reference.speaker is not None
    voice.seed(11)
    wave_S = voice.speech(codes, PHONES, reference, speed=speed)
    expected = generator.decode(
        torch.from_numpy(codes)[None],
        torch.from_numpy(PHONES)[None],
        torch.tensor([len(PHONES)]),
        torch.from_numpy(reference.spec)[None],
        torch.tensor([reference.spec.shape[1]]),
        noise_BCT=torch.from_numpy(
            np.random.default_rng(11).standard_normal((SOVITS.inter_channels, len(wave_S) // SOVITS.hop), np.float32)
        )[None],
        speaker_BV=torch.from_numpy(reference.speaker)[None],
    )[0, 0]
    np.testing.assert_allclose(wave_S, expected.numpy(), rtol=0, atol=1e-5)
    torch.manual_seed(0)
    lengths = torch.tensor([len(PHONES)]), torch.tensor([reference.spec.shape[1]])
    drawn = generator.decode(
        torch.from_numpy(codes)[None],
        torch.from_numpy(PHONES)[None],
        lengths[0],
        torch.from_numpy(reference.spec)[None],
        lengths[1],
        speed=speed,
        speaker_BV=torch.from_numpy(reference.speaker)[None],
    )
    assert len(wave_S) == drawn.shape[2], "a speed is the same length in both"


def test_the_same_seed_gives_the_same_codes(voice: OnnxRuntimeVoice) -> None:
    config, reference = SamplingConfig(max_codes=30), onnx_voices.reference()

    def drawn(seed: int) -> list[int]:
        voice.seed(seed)
        return voice.codes(PHONES, reference, config).tolist()

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize(
    "options", [{"top_k": 4}, {"top_p": 0.8}, {"temperature": 0.7}, {"top_k": 5, "top_p": 0.9}, {}]
)
def test_codes_are_drawn_from_the_distribution_of_torch(options: dict[str, float]) -> None:
    config = replace(SamplingConfig(top_k=12), **options)  # type: ignore[arg-type]
    logits_V = np.random.default_rng(4).standard_normal(12).astype(np.float32)
    random, tensor, count = np.random.default_rng(0), torch.from_numpy(logits_V), 20_000
    torch.manual_seed(0)
    here = np.bincount([code_sampling.sample_token(logits_V, config, random) for _ in range(count)], minlength=12)
    there = np.bincount([int(sampling.sample_token(tensor, config)) for _ in range(count)], minlength=12)
    assert ((here == 0) == (there == 0)).all(), "the same codes are left out"
    spread = np.sqrt((here + there).clip(min=1))  # the deviation of the difference of two Poisson counts
    assert abs(here - there).max() < 4.5 * count**0.5 and (abs(here - there) / spread).max() < 4.5


def test_the_penalty_is_that_of_torch() -> None:
    logits_V = np.random.default_rng(4).standard_normal(30).astype(np.float32)
    for codes in ([], [3], [3, 3, 29, 0]):
        found = code_sampling.apply_repetition_penalty(logits_V, np.array(codes, np.int64), 1.35)
        expected = sampling.apply_repetition_penalty(torch.from_numpy(logits_V), torch.tensor(codes).long(), 1.35)
        np.testing.assert_array_equal(found, expected.numpy())


def test_the_exported_reference_is_read(voice: OnnxRuntimeVoice) -> None:
    assert voice.reference is not None and voice.same_codebook is True
    for name in ("spec", "phones", "codes", "bert", "speaker"):
        np.testing.assert_array_equal(getattr(voice.reference, name), getattr(onnx_voices.reference(), name))


def test_without_a_decoder_it_still_decodes(tmp_path: Path) -> None:
    voice = OnnxRuntimeVoice(onnx_voices.exported(), decoder=False, threads=1)
    assert voice.gpt is None and voice.same_codebook is None
    assert len(voice.speech(np.arange(3), PHONES, onnx_voices.reference())) == 6 * SOVITS.hop
