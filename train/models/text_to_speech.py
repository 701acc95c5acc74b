"""Text to speech: the text-to-semantic decoder generates codes, and SoVITS decodes them to a waveform.

Shapes: P phones, Q codes of the reference, Y codes, E channels of BERT, F spectrogram bins, T frames, S samples,
V channels of a speaker vector.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headrace.featurize.audio.libsndfile import soundfile
from headrace.store.errors import RunError
from headrace.store.storage.output_files import output_file
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sampling import SamplingConfig, generate_semantic
from headrace.train.models.sovits import SynthesizerTrn


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A recording whose voice and manner are imitated, and its transcript."""

    spec: Tensor
    """(F, T) float32, linear."""
    phones: Tensor
    """(P,) int64; empty where its transcript is not known."""
    codes: Tensor
    """(Q,) int64; may be empty."""
    bert: Tensor | None = None
    """(P, E) BERT features of the transcript."""
    speaker: Tensor | None = None
    """(V,), for a generator that reads speaker vectors."""


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
    parts = ((reference.phones, reference.bert), (phones_P, bert_PE))
    zeros = reference.spec.new_zeros(len(reference.phones) + len(phones_P), gpt.config.bert_channels)
    bert = torch.cat([zeros[: len(phones)] if features is None else features for phones, features in parts])
    phones = torch.cat((reference.phones, phones_P))
    return generate_semantic(gpt, phones, config, bert_PE=bert, prompt_Q=reference.codes)


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
    return decode_semantic(sovits, codes_Y, phones_P, reference.spec, speed=speed, speaker_V=reference.speaker)


def check_finite(wave_S: np.ndarray, rate: int) -> None:
    """Raise RunError if a waveform is not finite, with the place: as samples it would be noise."""
    wrong = np.flatnonzero(~np.isfinite(wave_S))
    if len(wrong):
        raise RunError(
            f"The speech is not finite from {wrong[0] / rate:.2f} s on, at {len(wrong):,} of {len(wave_S):,} samples: "
            "speak with another checkpoint, by --at, or with other weights."
        )


def raw_audio(wave_S: np.ndarray, rate: int) -> bytes:
    """Return a waveform as raw 16-bit samples, little-endian and without a header: the samples of `write_wave`."""
    check_finite(wave_S, rate)
    encoded = io.BytesIO()
    soundfile.write(encoded, wave_S, rate, subtype="PCM_16", format="RAW", endian="LITTLE")
    return encoded.getvalue()


def write_wave(path: Path, wave_S: np.ndarray, rate: int) -> None:
    """Write a WAV file of 16-bit PCM, whatever the suffix of the path; what is there is replaced by the complete file.

    Raises:
        StoreError: it cannot be written. The file is not written by libsndfile, whose errors carry no reason.
        RunError: the waveform is not finite. Nothing is written.
    """
    check_finite(wave_S, rate)
    encoded = io.BytesIO()
    soundfile.write(encoded, wave_S, rate, subtype="PCM_16", format="WAV")
    with output_file(path) as draft:
        draft.write_bytes(encoded.getbuffer())
