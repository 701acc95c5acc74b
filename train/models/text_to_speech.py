"""Text to speech: the text-to-semantic decoder generates codes, and SoVITS decodes them to a waveform.

Shapes: P phones, Q codes of the reference, Y codes, E channels of BERT, F spectrogram bins, T frames, S samples,
V channels of a speaker vector.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sampling import generate_semantic
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.speech_reference import Reference


@torch.no_grad()
def text_to_semantic(
    gpt: Text2SemanticDecoder,
    phones_P: Tensor,
    reference: Reference,
    config: SamplingConfig,
    *,
    bert_PE: Tensor | None = None,
) -> Tensor:
    """Generate the codes of a text, (Y,) int64, as a continuation of the reference.

    Args:
        phones_P: int64 ids of the text.
        bert_PE: BERT features of each phone. Where the text or the reference has none, zeros take their place.
    """

    def on_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(phones_P.device)

    given = None if reference.bert is None else on_device(reference.bert)
    parts = ((on_device(reference.phones), given), (phones_P, bert_PE))
    zeros = torch.zeros(len(reference.phones) + len(phones_P), gpt.config.bert_channels, device=phones_P.device)
    bert = torch.cat([zeros[: len(phones)] if features is None else features for phones, features in parts])
    phones = torch.cat([phones for phones, _ in parts])
    return generate_semantic(gpt, phones, config, bert_PE=bert, prompt_Q=on_device(reference.codes))


@torch.no_grad()
def decode_semantic(
    sovits: SynthesizerTrn,
    codes_Y: Tensor,
    phones_P: Tensor,
    reference_FT: Tensor,
    *,
    speed: float = 1.0,
    speaker_V: Tensor | None = None,
) -> Tensor:
    """Decode codes to a waveform, (S,) in [-1, 1].

    Args:
        sovits: in evaluation mode, on the tensors' device.
        codes_Y: int64, two frames each.
        phones_P: int64 ids of the phones that the codes stand for.
        reference_FT: linear spectrogram of the recording whose voice is imitated.
        speed: 2.0 speaks twice as fast.
        speaker_V: speaker vector of that recording, for a model that reads one.
    """
    wave_11S = sovits.decode(
        codes_Y[None],
        phones_P[None],
        torch.tensor([len(phones_P)], device=phones_P.device),
        reference_FT[None],
        torch.tensor([reference_FT.shape[1]], device=phones_P.device),
        speed=speed,
        speaker_BV=None if speaker_V is None else speaker_V[None],
    )
    return wave_11S[0, 0]


@torch.no_grad()
def synthesize(
    gpt: Text2SemanticDecoder,
    sovits: SynthesizerTrn,
    phones_P: Tensor,
    reference: Reference,
    config: SamplingConfig,
    *,
    bert_PE: Tensor | None = None,
    speed: float = 1.0,
) -> Tensor:
    """Synthesize a text in the voice of a reference, (S,) in [-1, 1].

    Args:
        gpt, sovits: in evaluation mode, on the tensors' device.
        phones_P, bert_PE: as in `text_to_semantic`.
        speed: 2.0 speaks twice as fast.
    """
    codes_Y = text_to_semantic(gpt, phones_P, reference, config, bert_PE=bert_PE)
    spec_FT = torch.from_numpy(reference.spec).to(phones_P.device)
    speaker_V = None if reference.speaker is None else torch.from_numpy(reference.speaker).to(phones_P.device)
    return decode_semantic(sovits, codes_Y, phones_P, spec_FT, speed=speed, speaker_V=speaker_V)
