"""From text to speech with trained weights: the decoder says the codes, the SoVITS generator speaks them.

Shapes: P phones, Q codes of the reference, Y codes, E channels of BERT, F spectrogram bins, T frames, V vocabulary,
S samples, W channels of a speaker vector.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from headrace.store.errors import UsageError
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.prefix_attention import Attend, PrefixSight, attend
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """How the next code is picked. Defaults are those of GPT-SoVITS."""

    top_k: int = 15
    """Only so many of the likeliest are in question; 1 is the likeliest itself."""
    top_p: float = 1.0
    """Only the likeliest that together have at most this probability are in question, the first one always."""
    temperature: float = 1.0
    """Under 1 the likely become likelier."""
    repetition_penalty: float = 1.35
    """Logits of what has been said, the prompt included, are divided by this, or multiplied if they are negative."""
    shortest: int = 11
    """Codes that are said at least; 0.44 s."""
    longest: int = 1500
    """Codes that are said at most; a minute."""


def check_pair(decoder: GptConfig, generator: SovitsConfig) -> None:
    """
    Raises:
        UsageError: one says codes that the other does not speak.
    """
    if decoder.codes != generator.codebook_size:
        raise UsageError(
            f"The decoder says {decoder.codes} different codes, the SoVITS generator speaks {generator.codebook_size}: "
            "give two that were trained for each other."
        )


class Memory:
    """Attention of one layer that keeps keys and values: of a whole prompt first, then of one position a call. An
    `Attend`."""

    def __init__(self, prompt: Attend, size: int) -> None:
        """
        Args:
            prompt: who sees whom in the prompt.
            size: positions that there may be in the end.
        """
        self._prompt, self._size, self._filled = prompt, size, 0
        self._keys = self._values = torch.empty(0)

    def __call__(self, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, dropout: float) -> Tensor:
        B, H, L, D = k_BHLD.shape
        if beginning := not self._filled:
            self._keys, self._values = (x.new_empty(B, H, self._size, D) for x in (k_BHLD, v_BHLD))
        start, self._filled = self._filled, self._filled + L
        self._keys[:, :, start : self._filled] = k_BHLD
        self._values[:, :, start : self._filled] = v_BHLD
        if beginning:
            return self._prompt(q_BHLD, k_BHLD, v_BHLD, dropout)
        return attend(q_BHLD, self._keys[:, :, : self._filled], self._values[:, :, : self._filled])


@torch.no_grad()
def sample(
    model: Text2SemanticDecoder,
    phones_P: Tensor,
    config: SampleConfig,
    *,
    bert_PE: Tensor | None = None,
    prompt_Q: Tensor | None = None,
) -> Tensor:
    """Say the codes of a text, (Y,) int64. Random numbers come from torch's global generator of the device.

    It stops where the end is picked or is likeliest, or at `config.longest`.

    Args:
        model: in evaluation mode.
        phones_P: int64 ids: of the prompt, where there is one, and then of the text.
        bert_PE: features of each phone.
        prompt_Q: int64 codes that have been said already. They are not said again.
    """
    said = phones_P.new_empty(0) if prompt_Q is None else prompt_Q
    begun = len(said)
    text_1PC = model.embed_text(phones_P[None], None if bert_PE is None else bert_PE[None])
    x_1LC = torch.cat((text_1PC, model.embed_codes(said[None])), dim=1)
    sight = PrefixSight(torch.tensor([len(phones_P)], device=phones_P.device), len(phones_P))
    memories = [Memory(sight, x_1LC.shape[1] + config.longest) for _ in model.h.layers]
    for number in range(config.longest):
        logits_V = model.ar_predict_layer(model.h(x_1LC, memories)[0, -1])
        weighed_V = penalised(logits_V[: model.config.end] if number < config.shortest else logits_V, said, config)
        code = pick(weighed_V, config)
        if model.config.end in (int(code), int(weighed_V.argmax())):
            break
        said = torch.cat((said, code[None]))
        x_1LC = model.embed_codes(code[None, None], len(said) - 1)
    return said[begun:]


def penalised(logits_V: Tensor, said: Tensor, config: SampleConfig) -> Tensor:
    """Logits, those of codes that have been said lowered (CTRL, Keskar et al. 2019, section 4.1)."""
    logits = logits_V.clone()
    of_said = logits[said]
    logits[said] = torch.where(of_said < 0, of_said * config.repetition_penalty, of_said / config.repetition_penalty)
    return logits


def pick(logits_V: Tensor, config: SampleConfig) -> Tensor:
    """One id by chance, () int64, from logits that are penalised already."""
    logits = logits_V
    if config.top_p < 1:
        ordered, order = logits.sort(descending=True)
        out = ordered.softmax(0).cumsum(0) > config.top_p
        out[0] = False
        logits = logits.masked_fill(out.scatter(0, order, out), -torch.inf)
    logits = logits / max(config.temperature, 1e-5)
    least = logits.topk(min(config.top_k, len(logits))).values[-1]
    probabilities = logits.masked_fill(logits < least, -torch.inf).softmax(0)
    # The largest of p / Exp(1) is distributed as p, and nobody has to add up and search.
    return (probabilities / torch.empty_like(probabilities).exponential_()).argmax()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A recording whose voice and manner are taken, and what is said in it."""

    spec: Tensor
    """(F, T) float32, linear."""
    phones: Tensor
    """(P,) int64; none where its text is not known."""
    codes: Tensor
    """(Q,) int64; as many as none."""
    bert: Tensor | None = None
    """(P, E)."""
    speaker: Tensor | None = None
    """(W,), where the generator reads one."""


@torch.no_grad()
def say(
    gpt: Text2SemanticDecoder,
    phones_P: Tensor,
    reference: Reference,
    config: SampleConfig,
    *,
    bert_PE: Tensor | None = None,
) -> Tensor:
    """The codes of a text, (Y,) int64, as they go on from those of the reference.

    Args:
        phones_P: int64 ids of the text.
        bert_PE: features of each phone; zeros stand for what the text or the reference has none of.
    """
    said_and_text = ((reference.phones, reference.bert), (phones_P, bert_PE))
    blank = reference.spec.new_zeros(len(reference.phones) + len(phones_P), gpt.config.bert_channels)
    bert = torch.cat([blank[: len(phones)] if rows is None else rows for phones, rows in said_and_text])
    return sample(gpt, torch.cat((reference.phones, phones_P)), config, bert_PE=bert, prompt_Q=reference.codes)


@torch.no_grad()
def speak(
    gpt: Text2SemanticDecoder,
    sovits: SynthesizerTrn,
    phones_P: Tensor,
    reference: Reference,
    config: SampleConfig,
    *,
    bert_PE: Tensor | None = None,
    speed: float = 1.0,
) -> Tensor:
    """A text as a waveform, (S,) in [-1, 1]. Both models in evaluation mode, on the tensors' device.

    Args:
        As `say`, and
        speed: 2.0 speaks twice as fast.
    """
    codes_Y = say(gpt, phones_P, reference, config, bert_PE=bert_PE)
    return utter(sovits, codes_Y, phones_P, reference.spec, speed=speed, speaker_W=reference.speaker)


@torch.no_grad()
def utter(
    sovits: SynthesizerTrn,
    codes_Y: Tensor,
    phones_P: Tensor,
    reference_FT: Tensor,
    *,
    speed: float = 1.0,
    speaker_W: Tensor | None = None,
) -> Tensor:
    """Codes as a waveform, (S,) in [-1, 1]. The model in evaluation mode, on the tensors' device.

    Args:
        codes_Y: int64, two frames each.
        phones_P: int64 ids of what they say.
        reference_FT: linear spectrogram of the recording whose voice is taken.
        speed: 2.0 speaks twice as fast.
        speaker_W: speaker vector of that recording, where the model reads one.
    """
    wave_11S = sovits.decode(
        codes_Y[None],
        phones_P[None],
        torch.tensor([len(phones_P)], device=phones_P.device),
        reference_FT[None],
        torch.tensor([reference_FT.shape[1]], device=phones_P.device),
        speed=speed,
        speaker_BV=None if speaker_W is None else speaker_W[None],
    )
    return wave_11S[0, 0]


def write_wave(path: Path, wave_S: np.ndarray, rate: int) -> None:
    """Write 16 bit PCM as a WAV file, whatever it is called.

    Raises:
        OSError: it cannot be written; libsndfile, on a file of its own, would tell no reason.
    """
    encoded = io.BytesIO()
    soundfile.write(encoded, wave_S, rate, subtype="PCM_16", format="WAV")
    path.write_bytes(encoded.getbuffer())
