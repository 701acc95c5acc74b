"""`train sample`: text and a recording in, a recording out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from featurize import decode, recording
from featurize.dsp import Spectral, SpectralRecipe
from featurize.symbols import ids
from featurize.text import phonemise
from store.errors import CorpusError, Rejected, RunError, UsageError
from store.schema import Utterance
from train import choices, trained
from train.sample import SampleConfig, sample, utter


def say(
    *,
    sovits: Path,
    gpt: Path | None,
    reference: Path,
    text: str,
    language: str,
    semantic: str | None,
    out: Path,
    seed: int,
    top_k: int,
    temperature: float,
    speed: float,
    device: str,
) -> str:
    """Speak into a file. Returns a line about it.

    Raises:
        UsageError: neither or both of decoder and codes are given, or the text cannot be said.
        CorpusError: the reference is no recording.
        RunError: weights cannot be used.
    """
    if (gpt is None) == (semantic is None):
        raise UsageError("Give either --gpt, which turns the text into codes, or those codes by --semantic.")
    where, _ = choices.choose_device(device)
    recipe = SpectralRecipe()
    generator = trained.generator(sovits).to(where)
    spectral = Spectral(recipe).to(where)
    spec_FT = spectral.magnitude(_wave(reference, recipe).to(where)).mT
    phones_P = _phones(text, language, generator.config.symbols).to(where)
    torch.manual_seed(seed)
    if gpt is None:
        codes_Y = _codes(semantic or "", generator.config.codebook_size).to(where)
    else:
        decoder = trained.decoder(gpt).to(where)
        if decoder.config.codes != generator.config.codebook_size:
            raise RunError(
                f"{gpt} says {decoder.config.codes} different codes, {sovits} speaks {generator.config.codebook_size}: "
                "give two that were trained for each other."
            )
        codes_Y = sample(decoder, phones_P, SampleConfig(top_k=top_k, temperature=temperature))
    wave_S = utter(generator, codes_Y, phones_P, spec_FT, speed=speed)
    soundfile.write(out, wave_S.cpu().numpy(), recipe.sample_rate, subtype="PCM_16")
    return f"{out}: {len(wave_S) / recipe.sample_rate:.2f} s, {len(codes_Y)} codes"


def _wave(path: Path, recipe: SpectralRecipe) -> torch.Tensor:
    """(S,) float32 in [-1, 1], at the recipe's rate, levelled as training data is."""
    try:
        size = path.stat().st_size
        header = recording.header(path.parent, path.name, size)
        utterance = Utterance(
            id=path.name,
            audio=path.name,
            start=0,
            stop=header.samples,
            sample_rate=header.sample_rate,
            size=size,
            speaker="",
            language="",
            text="",
        )
        wave = decode.waveform(path.parent, utterance, recipe.sample_rate, "gpt-sovits")
    except OSError as error:
        raise CorpusError(f"Cannot read {path}: {error.strerror}.") from error
    except Rejected as error:
        raise CorpusError(f"{path} cannot be the reference: {error.reason}.") from error
    if len(wave) < recipe.min_frames * recipe.hop:
        raise CorpusError(f"{path} has {len(wave)} samples, too few to hear a voice: give some seconds of speech.")
    return torch.from_numpy(wave / np.float32(32768))


def _phones(text: str, language: str, known: int) -> torch.Tensor:
    """(P,) int64 ids."""
    try:
        phones = ids(phonemise(text, language)).astype(np.int64)
    except Rejected as error:
        raise UsageError(f"The text cannot be said: {error.reason}.") from error
    if phones.max() >= known:
        raise UsageError(f"This model knows {known} symbols, and the text in {language} needs others: take a v2 model.")
    return torch.from_numpy(phones)


def _codes(written: str, known: int) -> torch.Tensor:
    """(Y,) int64."""
    try:
        codes = [int(word) for word in written.split()]
    except ValueError as error:
        raise UsageError(f"--semantic {written!r}: give whole numbers between spaces.") from error
    if not codes or not all(0 <= code < known for code in codes):
        raise UsageError(f"--semantic needs codes from 0 to {known - 1}, and one at least.")
    return torch.tensor(codes)
