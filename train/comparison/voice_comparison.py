"""Compare voices on held-out utterances of a store: size, speed and memory, and what they sound like.

Each voice says the codes of the utterances, each in its own voice and with the same noise. What the first voice says is
what that of the others is compared with.

Shapes: S samples, T frames, M mel bands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace import store as stores
from headrace.featurize.features.codebooks import codebook_of
from headrace.featurize.quality import dnsmos
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.advice import command
from headrace.store.errors import StoreError, UsageError
from headrace.store.reader import Store
from headrace.store.storage import StoragePath
from headrace.train.comparison import word_errors
from headrace.train.comparison.fresh_process import Cost, VoiceResult, measure_alone
from headrace.train.comparison.measured_voices import Arrays
from headrace.train.data.batch_plan import held_out
from headrace.train.deployment.int8 import log_mel, mel_distance
from headrace.train.deployment.onnx_export import reference_arrays
from headrace.train.inference.reference import reference_from_store
from headrace.train.models.sovits_config import SovitsConfig

MAX_SECONDS = 12.0
"""Longer utterances are not compared, while there are others."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """An utterance that voices are compared on."""

    id: str
    text: str
    """What is said, where it is English; empty otherwise."""
    recorded: np.ndarray
    """(S,) float32 in [-1, 1]."""
    arrays: Arrays


def compare_voices(
    voices: Sequence[Path],
    store: StoragePath,
    *,
    count: int = 8,
    at: str = "",
    log: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Compare voices.

    Args:
        voices: each as for `measured_voices.open_voice`; the first one is the measure of the others.
        store: has recordings, phones and codes of the utterances.
        count: utterances to compare on, at most.
        at: which checkpoint of runs, as for `trained_models.load_sovits`.
        log: is told of every step.
    Returns:
        store, utterances (ids), seconds, recordings and each of voices (what `_quality` returns), and of voices what
        they cost, on one thread and on all; mel_distance_of_two_utterances of the first one.
    Raises:
        RunError, UsageError: as `measure_alone`; or the first voice has nothing that another one has.
        StoreError: the store lacks something.
    """
    opened = stores.open(store)
    utterances = read_utterances(opened, store, count)
    arrays, codebook = [one.arrays for one in utterances], codebook_of(opened.features)
    judge = _Judge(utterances, SpectralRecipe().sample_rate, log)
    recordings = judge.heard([one.recorded for one in utterances])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows: list[dict[str, Any]] = []
    first: VoiceResult | None = None
    for number, path in enumerate(voices, 1):
        log(f"{path}: {number} of {len(voices)}")
        result = measure_alone(path, at, arrays, codebook, threads=1)
        first = first or result
        _check_same_kind(first, voices[0], result, path)
        costs = [result.cost]
        if cores > 1:
            costs.append(measure_alone(path, at, arrays, codebook, threads=cores).cost)
        rows.append(_describe(path, result, costs) | judge.compared(first, result) | judge.heard(result.waves))
    assert first is not None, "one voice at least is given"
    return {
        "store": str(store),
        "utterances": [one.id for one in utterances],
        "seconds": sum(len(one.recorded) for one in utterances) / SpectralRecipe().sample_rate,
        "mel_distance_of_two_utterances": judge.of_two_utterances(first.waves),
        "recordings": recordings,
        "voices": rows,
    }


def read_utterances(opened: Store, path: StoragePath, count: int) -> list[Compared]:
    """Read evenly spaced ones of the held-out utterances of a store.

    Raises:
        StoreError: it lacks what voices read, or holds fewer than two utterances.
    """
    if missing := [name for name in ("phones", "semantic") if name not in opened.features]:
        raise StoreError(
            f"{path} holds no {' and no '.join(missing)}, and voices are compared on them: "
            f"{command('featurize add', path, *missing)} makes them."
        )
    if len(opened) < 2:
        raise StoreError(f"{path} holds {len(opened)} utterances, and voices are compared on one that is held out.")
    numbers = np.flatnonzero(held_out(opened.own_ids))
    seconds = opened.frames[numbers] * opened.hop / opened.sample_rate
    if (seconds <= MAX_SECONDS).any():
        numbers = numbers[seconds <= MAX_SECONDS]
    spread = np.unique(np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int))
    return [_read(opened, path, int(number)) for number in numbers[spread]]


def _read(opened: Store, path: StoragePath, number: int) -> Compared:
    vectors = opened.features.get("speaker_vector")
    sizes = SovitsConfig(speaker_channels=(vectors.channels or 0) if vectors else 0)
    arrays = reference_arrays(reference_from_store(path, str(number), sizes, prompt=True))
    if not len(arrays["codes"]) or not len(arrays["phones"]):
        raise StoreError(f"{opened.ids[number]} in {path} has no codes or no phones: voices cannot be compared on it.")
    english = str(opened.languages[number]).lower() == "en"
    return Compared(
        id=str(opened.ids[number]),
        text=str(opened.texts[number]) if english else "",
        recorded=opened.read("wave", number).reshape(-1).astype(np.float32) / 32768,
        arrays=arrays,
    )


def _check_same_kind(first: VoiceResult, named: Path, other: VoiceResult, path: Path) -> None:
    """Raise UsageError if two voices have nothing in common that could be compared."""
    if not ((first.sovits and other.sovits) or (first.gpt and other.gpt)):
        kinds = [" and ".join(kind for kind in ("sovits", "gpt") if getattr(one, kind)) for one in (first, other)]
        raise UsageError(f"{named} is {kinds[0]} and {path} is {kinds[1]}: compare voices that have the same model.")


def _describe(path: Path, result: VoiceResult, costs: Sequence[Cost]) -> dict[str, Any]:
    return {
        "voice": str(path),
        "runtime": result.runtime,
        "bytes": result.size,
        "parameters": result.parameters,
        "costs": [asdict(cost) | {"speech_per_cpu_s": cost.speech_per_cpu_s} for cost in costs],
        "loss": result.loss,
        "accuracy": result.accuracy,
    }


class _Judge:
    """Says how speech sounds, of the utterances that are compared."""

    def __init__(self, utterances: Sequence[Compared], rate: int, log: Callable[[str], object]) -> None:
        """
        Args:
            rate: Hz, of all speech.
            log: is told what cannot be measured here.
        """
        self._utterances, self._rate, self._spectral = utterances, rate, Spectral(SpectralRecipe())
        self._score = dnsmos.scorer()
        self._recogniser: word_errors.Recogniser | None = None
        if self._score is None:
            log("DNSMOS is not installed: pip install 'headrace[mos]'")
        if any(one.text for one in utterances):
            if word_errors.is_installed():
                self._recogniser = word_errors.Recogniser()
            else:
                log("words are not counted: pip install 'headrace[words]' for a recogniser of English")

    def heard(self, waves: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return mos, and word_errors, as a share of the words of English texts. None where that is not measured."""
        score = self._score
        ratings = [score(wave, self._rate)["mos"] for wave in waves] if score is not None else []
        return {"mos": float(np.mean(ratings)) if ratings else None, "word_errors": self._word_errors(waves)}

    def _word_errors(self, waves: Sequence[np.ndarray]) -> float | None:
        if self._recogniser is None or not waves:
            return None
        wrong = total = 0
        for one, wave in zip(self._utterances, waves, strict=True):
            said = word_errors.words_of(one.text)
            if said:
                wrong += word_errors.word_errors(self._recogniser.words(wave, self._rate), said)
                total += len(said)
        return wrong / total if total else None

    def compared(self, first: VoiceResult, other: VoiceResult) -> dict[str, Any]:
        """Return mel_distance to what the first voice says, as a share of that of its utterances, and to recordings."""
        distance, of_two = self._distance(first.waves, other.waves), self.of_two_utterances(first.waves)
        return {
            "mel_distance": distance,
            "mel_share": None if distance is None or not of_two else distance / of_two,
            "mel_distance_to_recordings": self._distance([one.recorded for one in self._utterances], other.waves),
        }

    def of_two_utterances(self, waves: Sequence[np.ndarray]) -> float | None:
        """Return the mean distance of each utterance to the one before; None where there are not two."""
        return self._distance(waves[:-1], waves[1:])

    def _distance(self, some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float | None:
        """Return the mean distance of log-mel; None where there is none."""
        pairs = zip(some, others, strict=True) if some and others else ()
        found = [mel_distance(*(log_mel(self._spectral, wave) for wave in pair)) for pair in pairs]
        return float(np.mean(found)) if found else None
