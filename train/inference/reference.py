"""What `train sample` speaks like: a recording, or an utterance of a store with all that is known of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from headrace import store as stores
from headrace.featurize.audio import decode, recording
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.featurize.text.g2p import phonemise
from headrace.featurize.text.symbols import ids
from headrace.store.errors import CorpusError, RecipeMismatch, Rejected, StoreError, UsageError
from headrace.store.schema import Utterance
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.models.text_to_speech import Reference

if TYPE_CHECKING:
    from headrace.store.reader import Store
    from headrace.store.storage import StoragePath

NOTHING = torch.zeros(0, dtype=torch.int64)


def of_recording(
    path: Path, text: str | None, language: str, codes: str | None, speaker: Path | None, model: SovitsConfig
) -> Reference:
    """
    Args:
        text: what is said in it; with `codes`, its content codes, the beginning that the decoder goes on from.
        speaker: file of its speaker vector.
        model: of the generator.
    Raises:
        UsageError: text without codes, or the other way round, or what cannot be read of them.
        CorpusError: it is no recording.
    """
    if (text is None) != (codes is None):
        raise UsageError("--reference-text and --reference-semantic belong together: give both, or neither.")
    if model.speaker_channels and speaker is None:
        raise UsageError(
            "This model reads a speaker vector beside the spectrogram: give one by --speaker-vector, or take an "
            "utterance of a store that holds them, by --store and --utterance."
        )
    recipe = SpectralRecipe()
    return Reference(
        spec=Spectral(recipe).magnitude(_wave(path, recipe)).mT,
        phones=NOTHING if text is None else phones_of(text, language, model.symbols),
        codes=NOTHING if codes is None else codes_of(codes, model.codebook_size),
        speaker=None if speaker is None else _speaker(matrix_of(speaker, "--speaker-vector"), model, str(speaker)),
    )


def of_store(place: StoragePath, name: str, model: SovitsConfig, *, prompt: bool) -> Reference:
    """
    Args:
        name: id of an utterance, or its number.
        prompt: whether its phones and codes begin what is said, where the store has them.
    Raises:
        StoreError: there is no such utterance, or the store has no recordings, or no speaker vector that is needed.
    """
    store, recipe = stores.open(place), SpectralRecipe()
    _check_store(store, recipe, model)
    number = int(name) if name.isdigit() and int(name) < len(store) else store.find(name)

    def rows(feature: str) -> torch.Tensor:
        return torch.from_numpy(np.array(store.read(feature, number)))

    begun = prompt and {"phones", "semantic"} <= store.features.keys()
    wave_S = rows("wave").flatten().float() / 32768
    return Reference(
        spec=Spectral(recipe).magnitude(wave_S).mT,
        phones=rows("phones").long() if begun else NOTHING,
        codes=rows("semantic").long()[: int(store.frames[number]) // 2] if begun else NOTHING,
        bert=rows("bert").float() if begun and "bert" in store.features else None,
        speaker=_speaker(rows("speaker_vector"), model, str(store.path)) if model.speaker_channels else None,
    )


def phones_of(text: str, language: str, known: int) -> torch.Tensor:
    """(P,) int64 ids.

    Args:
        known: symbols of the model.
    """
    try:
        phones = ids(phonemise(text, language).phones, "headrace-ipa").astype(np.int64)  # all that there are
    except Rejected as error:
        raise UsageError(f"The text cannot be said: {error.reason}.") from error
    if phones.max() >= known:
        raise UsageError(
            f"This model knows {known} symbols, and the text in {language} needs others: take a model that was trained "
            "on a store with a larger table."
        )
    return torch.from_numpy(phones)


def codes_of(written: str, known: int) -> torch.Tensor:
    """(Y,) int64, of numbers between spaces."""
    try:
        codes = [int(word) for word in written.split()]
    except ValueError as error:
        raise UsageError(f"codes {written!r}: give whole numbers between spaces.") from error
    if not codes or not all(0 <= code < known for code in codes):
        raise UsageError(f"codes of this model are from 0 to {known - 1}, and one at least is needed: {written!r}.")
    return torch.tensor(codes)


def matrix_of(path: Path, option: str) -> torch.Tensor:
    """The numbers of an .npy file, float32. Nothing in it is executed."""
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, EOFError, TypeError, AttributeError) as error:
        raise UsageError(f"{option} {path} is no array of numbers in an .npy file.") from error


def _check_store(store: Store, recipe: SpectralRecipe, model: SovitsConfig) -> None:
    needed = ("wave", "speaker_vector") if model.speaker_channels else ("wave",)
    if missing := [name for name in needed if name not in store.features]:
        raise StoreError(
            f"{store.path} holds {', '.join(store.features)}, but speaking needs {', '.join(missing)} too."
        )
    if (store.sample_rate, store.hop) != (recipe.sample_rate, recipe.hop):
        raise RecipeMismatch(
            f"{store.path} has recordings of {store.sample_rate} Hz in hops of {store.hop}, the model hears "
            f"{recipe.sample_rate} Hz in hops of {recipe.hop}: give the recording itself by --reference."
        )


def _speaker(vector: torch.Tensor, model: SovitsConfig, source: str) -> torch.Tensor:
    if vector.numel() != model.speaker_channels:
        raise UsageError(
            f"The speaker vector of {source} has {vector.numel()} numbers, this model reads {model.speaker_channels}."
        )
    return vector.flatten().float()


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
