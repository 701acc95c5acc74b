"""`train sample`: text and a reference in, a recording out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from headrace.featurize.quality.dnsmos import scorer
from headrace.featurize.spectral.dsp import SpectralRecipe
from headrace.store.errors import UsageError
from headrace.train.checkpoints import trained_models
from headrace.train.inference import reference
from headrace.train.models.sampling import SamplingConfig
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.models.text_to_speech import (
    Reference,
    check_codebooks,
    decode_semantic,
    text_to_semantic,
    write_wave,
)
from headrace.train.trainer import auto_settings

if TYPE_CHECKING:
    from headrace.store.storage import StoragePath


@dataclass(frozen=True, kw_only=True)
class Saying:
    """The options of `train sample`."""

    sovits: Path
    gpt: Path | None
    reference: Path | None
    reference_text: str | None
    reference_semantic: str | None
    speaker_vector: Path | None
    store: StoragePath | None
    utterance: str | None
    text: str
    language: str
    bert: Path | None
    semantic: str | None
    out: Path
    seed: int
    top_k: int
    top_p: float
    temperature: float
    repetition_penalty: float
    speed: float
    device: str

    def __post_init__(self) -> None:
        if (self.gpt is None) == (self.semantic is None):
            raise UsageError("Give either --gpt, which turns the text into codes, or those codes by --semantic.")
        if (self.reference is None) == (self.store is None) or (self.store is None) != (self.utterance is None):
            raise UsageError("Give the voice either as a recording, by --reference, or by --store and --utterance.")
        of_recording = (self.reference_text, self.reference_semantic, self.speaker_vector)
        if self.store is not None and any(given is not None for given in of_recording):
            raise UsageError(
                "What is said by an utterance of --store, and its voice, are in the store: leave them out."
            )
        of_decoder = (self.reference_text, self.reference_semantic, self.bert)
        if self.gpt is None and any(given is not None for given in of_decoder):
            raise UsageError("--reference-text, --reference-semantic and --bert are read by --gpt: leave them out.")


def speak(saying: Saying) -> str:
    """Speak into a file. Returns a line about it.

    Raises:
        UsageError: options that do not go together, or the text cannot be said.
        CorpusError, StoreError: the reference is no recording, or no utterance of a store.
        RunError: weights cannot be used.
    """
    device, _ = auto_settings.choose_device(saying.device)
    generator = trained_models.generator(saying.sovits).to(device)
    heard = _on(_reference(saying, generator.config), device)
    phones_P = reference.phones_of(saying.text, saying.language, generator.config.symbols).to(device)
    torch.manual_seed(saying.seed)
    if saying.gpt is None:
        codes_Y = reference.codes_of(saying.semantic or "", generator.config.codebook_size).to(device)
    else:
        codes_Y = _said(saying, saying.gpt, phones_P, heard, generator.config)
    wave_S = decode_semantic(generator, codes_Y, phones_P, heard.spec, speed=saying.speed, speaker_V=heard.speaker)
    rate, wave = SpectralRecipe().sample_rate, wave_S.cpu().numpy()
    write_wave(saying.out, wave, rate)
    score = scorer()
    opinion = f", DNSMOS {score(wave, rate)['mos']:.2f}" if score else ""
    return f"{saying.out}: {len(wave) / rate:.2f} s, {len(codes_Y)} codes{opinion}"


def _reference(saying: Saying, model: SovitsConfig) -> Reference:
    if saying.store is not None and saying.utterance is not None:
        return reference.of_store(saying.store, saying.utterance, model, prompt=saying.gpt is not None)
    assert saying.reference is not None, "checked"
    return reference.of_recording(
        saying.reference,
        saying.reference_text,
        saying.language,
        saying.reference_semantic,
        saying.speaker_vector,
        model,
    )


def _said(saying: Saying, gpt: Path, phones_P: torch.Tensor, heard: Reference, model: SovitsConfig) -> torch.Tensor:
    """(Y,) codes of the text."""
    decoder = trained_models.decoder(gpt).to(phones_P.device)
    check_codebooks(decoder.config, model)
    bert = None if saying.bert is None else reference.matrix_of(saying.bert, "--bert").to(phones_P.device)
    expected = (len(phones_P), decoder.config.bert_channels)
    if bert is not None and bert.shape != expected:
        raise UsageError(
            f"--bert {saying.bert} has shape {tuple(bert.shape)}, the text and the decoder need {expected}."
        )
    config = SamplingConfig(
        top_k=saying.top_k,
        top_p=saying.top_p,
        temperature=saying.temperature,
        repetition_penalty=saying.repetition_penalty,
    )
    return text_to_semantic(decoder, phones_P, heard, config, bert_PE=bert)


def _on(heard: Reference, device: torch.device) -> Reference:
    def there(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device)

    return Reference(
        spec=heard.spec.to(device),
        phones=heard.phones.to(device),
        codes=heard.codes.to(device),
        bert=there(heard.bert),
        speaker=there(heard.speaker),
    )
