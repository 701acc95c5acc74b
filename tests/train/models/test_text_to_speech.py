"""Text to speech with both networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sampling import generate_semantic
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import tiny
from headrace.train.models.speech_reference import Reference
from headrace.train.models.text_to_speech import synthesize

TINY = GptConfig(symbols=20, codes=64, bert_channels=8, channels=16, heads=2, layers=2)


@pytest.mark.parametrize("bert", [False, True])
@torch.no_grad()
def test_synthesis_is_generating_codes_and_decoding_them(bert: bool) -> None:
    torch.manual_seed(0)
    sovits, model = SynthesizerTrn(replace(tiny(), speaker_channels=6)).eval(), Text2SemanticDecoder(TINY).eval()
    sovits.quantizer.codebook.embed.normal_()
    phones = torch.arange(5)
    reference = Reference(
        spec=torch.rand(1025, 30).numpy(),
        phones=np.array([7, 8, 9]),
        codes=np.array([1, 2, 3]),
        bert=torch.randn(3, 8).numpy() if bert else None,
        speaker=torch.randn(6).numpy(),
    )
    of_text = torch.randn(5, 8)
    torch.manual_seed(5)
    wave = synthesize(model, sovits, phones, reference, SamplingConfig(max_codes=20), bert_PE=of_text, speed=1.2)
    torch.manual_seed(5)
    codes = generate_semantic(
        model,
        torch.cat((torch.tensor([7, 8, 9]), phones)),
        SamplingConfig(max_codes=20),
        bert_PE=torch.cat((torch.from_numpy(reference.bert) if bert else torch.zeros(3, 8), of_text)),
        prompt_Q=torch.tensor([1, 2, 3]),
    )
    expected = sovits.decode(
        codes[None], phones[None], torch.tensor([5]), torch.from_numpy(reference.spec)[None], torch.tensor([30]),
        speed=1.2, speaker_BV=torch.from_numpy(reference.speaker)[None],
    )  # fmt: skip
    assert torch.equal(wave, expected[0, 0])
    assert len(wave) == (int(len(codes) * 2 / 1.2) + 1) * 640 and wave.abs().max() <= 1
