"""References of speech synthesis: from a recording, or from an utterance of a store. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headrace import store as stores
from headrace.featurize.audio import decode, recording
from headrace.featurize.spectral.recipe import SpectralRecipe, magnitude
from headrace.featurize.text.g2p import phonemise
from headrace.featurize.text.symbols import ids
from headrace.store.errors import CorpusError, RecipeMismatch, Rejected, StoreError, UsageError
from headrace.store.schema import Utterance
from headrace.train.inference.npy_file import read_npy
from headrace.train.inference.sentences import close
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.models.speech_reference import Reference

if TYPE_CHECKING:
    from headrace.featurize.text.languages.frontend import Reading
    from headrace.featurize.text.reading_options import ReadingOptions
    from headrace.store.reader import Store
    from headrace.store.storage import StoragePath

REFERENCE_SECONDS = 3.0, 10.0
"""Shortest and longest recording that upstream accepts for a reference."""
SILENCE_S = 0.3
"""Silence after a recording whose codes are made, as upstream adds it: the codes that are continued end in a pause."""
EMPTY = np.zeros(0, np.int64)


def reference_from_recording(
    path: Path,
    text: str | None,
    language: str,
    codes: Callable[[np.ndarray], np.ndarray] | None,
    speaker: Path | None,
    model: SovitsConfig,
    *,
    bert: Callable[[str, str], np.ndarray | None] | None = None,
    any_length: bool = False,
    options: ReadingOptions | None = None,
) -> Reference:
    """Create a reference from a recording.

    Args:
        text: its transcript; with `codes`, the prompt that the GPT continues from.
        language: of the transcript.
        codes: makes its semantic codes, (Q,) int64, of its samples, (S,) int16.
        speaker: an .npy file with its speaker vector.
        model: sizes of the SoVITS generator.
        bert: makes BERT features, (P, E), of the transcript and its language.
        options: of reading texts.
        any_length: whether it may be shorter or longer than REFERENCE_SECONDS.
    Raises:
        UsageError: text without codes or codes without text, or one of them is invalid; or the recording is too short
            or too long.
        CorpusError: the file is not a usable recording.
    """
    if (text is None) != (codes is None):
        raise UsageError(
            "--reference-text belongs together with the codes of what is said: give --hubert, which makes them (of an "
            "exported voice, give it to train export), or --reference-semantic; or neither text nor codes."
        )
    if model.speaker_channels and speaker is None:
        raise UsageError(
            "This model reads a speaker vector beside the spectrogram: give one by --speaker-vector, or take an "
            "utterance of a store that holds them, by --store and --utterance."
        )
    recipe = SpectralRecipe()
    wave_S = read_recording(path, recipe)
    if not any_length:
        _check_length(path, len(wave_S) / recipe.sample_rate)
    return Reference(
        spec=_spectrogram(wave_S, recipe),
        phones=EMPTY if text is None else text_to_phones(close(text, language), language, model.symbols, options),
        codes=EMPTY if codes is None else codes(wave_S),
        bert=None if text is None or bert is None else bert(close(text, language), language),
        speaker=None if speaker is None else _speaker(read_npy(speaker, "--speaker-vector"), model, str(speaker)),
    )


def reference_from_store(path: StoragePath, name: str, model: SovitsConfig, *, prompt: bool) -> Reference:
    """Create a reference from an utterance of a store.

    Args:
        name: id of the utterance, or its number.
        model: sizes of the SoVITS generator.
        prompt: whether the GPT continues from its phones and codes, where the store has them.
    Raises:
        StoreError: there is no such utterance, or the store lacks recordings or a speaker vector that is needed.
    """
    store, recipe = stores.open(path), SpectralRecipe()
    _check_store(store, recipe, model)
    number = store.number_of(name)

    if store.frames[number] < recipe.min_frames:
        raise StoreError(f"Utterance {store.ids[number]} of {path} is too short for a voice: take another one.")

    def rows(feature: str) -> np.ndarray:
        return np.array(store.read(feature, number))

    prompted = prompt and {"phones", "semantic"} <= store.features.keys()
    return Reference(
        spec=_spectrogram(rows("wave").reshape(-1), recipe),
        phones=rows("phones").astype(np.int64) if prompted else EMPTY,
        codes=rows("semantic").astype(np.int64)[: int(store.frames[number]) // 2] if prompted else EMPTY,
        bert=rows("bert").astype(np.float32) if prompted and "bert" in store.features else None,
        speaker=_speaker(rows("speaker_vector"), model, str(store.path)) if model.speaker_channels else None,
    )


def text_to_phones(text: str, language: str, symbol_count: int, options: ReadingOptions | None = None) -> np.ndarray:
    """Return (P,) int64: the ids of the phones of a text, as `read_text` reads it."""
    return read_text(text, language, symbol_count, options)[1]


def read_text(
    text: str, language: str, symbol_count: int, options: ReadingOptions | None = None
) -> tuple[Reading, np.ndarray]:
    """Return the reading of a text, and the ids of its phones: (P,) int64.

    Args:
        symbol_count: number of symbols that the model knows.
        options: of reading texts.
    Raises:
        UsageError: the text has no phones, or the model does not know them.
    """
    try:
        reading = phonemise(text, language, options)
        phones = ids(reading.phones, "headrace-ipa").astype(np.int64)
    except Rejected as error:
        raise UsageError(f"The text cannot be spoken: {error.reason}.") from error
    if phones.max() >= symbol_count:
        raise UsageError(
            f"This model knows {symbol_count} symbols, and the text in {language} needs others: take a model that was "
            "trained on a store with a larger table."
        )
    return reading, phones


def parse_codes(text: str, codebook_size: int) -> np.ndarray:
    """Parse whole numbers between spaces into (Y,) int64 codes.

    Raises:
        UsageError: a word is not a code from 0 to `codebook_size` - 1, or there is none.
    """
    try:
        codes = [int(word) for word in text.split()]
    except ValueError as error:
        raise UsageError(f"codes {text!r}: give whole numbers between spaces.") from error
    if not codes or not all(0 <= code < codebook_size for code in codes):
        raise UsageError(
            f"codes of this model are from 0 to {codebook_size - 1}, and one at least is needed: {text!r}."
        )
    return np.array(codes)


def _check_store(store: Store, recipe: SpectralRecipe, model: SovitsConfig) -> None:
    """Check that a store has the features that the model needs of a reference, at its sample rate."""
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


def _check_length(path: Path, seconds: float) -> None:
    """Raise UsageError if a recording is shorter or longer than REFERENCE_SECONDS."""
    shortest, longest = REFERENCE_SECONDS
    if not shortest <= round(seconds, 1) <= longest:  # as it is told
        raise UsageError(
            f"{path} lasts {seconds:.1f} s, and a reference of {shortest:g} to {longest:g} s is imitated best: cut it, "
            "or take it as it is by --any-length."
        )


def _spectrogram(wave_S: np.ndarray, recipe: SpectralRecipe) -> np.ndarray:
    """Return the linear spectrogram of int16 samples, (F, T) float32."""
    return np.ascontiguousarray(magnitude(wave_S / np.float32(32768), recipe).T)


def _speaker(vector: np.ndarray, model: SovitsConfig, source: str) -> np.ndarray:
    """Return a speaker vector as (V,) float32, after checking its size."""
    if vector.size != model.speaker_channels:
        raise UsageError(
            f"The speaker vector of {source} has {vector.size} numbers, this model reads {model.speaker_channels}."
        )
    return vector.reshape(-1).astype(np.float32)


def with_silence(wave_S: np.ndarray, recipe: SpectralRecipe) -> np.ndarray:
    """Return a recording and the silence after it, in whole hops: int16, (frames, hop)."""
    silent_S = np.concatenate((wave_S, np.zeros(round(SILENCE_S * recipe.sample_rate), np.int16)))
    return silent_S[: len(silent_S) // recipe.hop * recipe.hop].reshape(-1, recipe.hop)


def read_recording(path: Path, recipe: SpectralRecipe) -> np.ndarray:
    """Read (S,) int16 at the recipe's sample rate, at the level that it has, as upstream speaks. Raises CorpusError."""
    try:
        size = path.stat().st_size
        header = recording.read_header(path.parent, path.name, size)
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
        wave = decode.waveform(path.parent, utterance, recipe.sample_rate, "none")
    except OSError as error:
        raise CorpusError(f"Cannot read {path}: {error.strerror}.") from error
    except Rejected as error:
        raise CorpusError(f"{path} cannot be the reference: {error.reason}.") from error
    if len(wave) < recipe.min_frames * recipe.hop:
        raise CorpusError(f"{path} has {len(wave)} samples, too few for a voice: give some seconds of speech.")
    return wave
