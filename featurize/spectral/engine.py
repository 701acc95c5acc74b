"""Engines compute log-mel and MFCC of decoded waves. They differ in speed and agree in numbers.

    torch on a CPU    one utterance at a time through `headrace.featurize.spectral.dsp`, the reference
    torch on CUDA     `headrace.featurize.spectral.cuda_engine`: ragged batches, copied and computed asynchronously
    dali              `headrace.featurize.spectral.dali`: NVIDIA DALI's pipeline, on a CPU or on CUDA

An engine pulls waves from an iterator and yields results in the same order, so that it may read ahead and form
batches. Decoding, mixing down, resampling and level normalisation run on the host for every engine, so that `wave` is
the same on any device. The last bits of a spectrum depend on the device: a store is byte for byte the same if the same
engine runs on the same kind of device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.errors import Rejected, UsageError, rejecting

Key = TypeVar("Key")
READ_AHEAD_SAMPLES = 1 << 23
"""Samples that are decoded before they are transformed on a CPU: 16 MB, four minutes at 32 kHz."""


class Spectra(NamedTuple):
    """Log-mel and MFCC of one utterance."""

    mel: np.ndarray
    """(T, M) float16, or the dtype that the engine was loaded with."""
    mfcc: np.ndarray
    """(T, C), of the same dtype."""


class Engine(Protocol):
    """Computes the spectra of one recipe. `load` creates it, and it lives as long as its process."""

    def spectra(self, waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Spectra | Rejected]]:
        """Yield log-mel and MFCC of every wave in the order given.

        Args:
            waves: pairs of a key, which is passed through, and (T * hop,) int16 with T >= recipe.min_frames.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The engine and the device to use, and why."""

    engine: str
    """`torch` or `dali`."""
    device: str
    """`cpu` or `cuda`."""
    reason: str


def choose(engine: str, device: str, because: str = "") -> Choice:
    """Choose an engine and a device, replacing `auto` by what this machine has.

    Args:
        engine: auto, torch or dali.
        device: auto, cpu or cuda.
        because: the reason for the device, if the caller has chosen it.
    Raises:
        UsageError: the engine or device that was given is not available.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise UsageError("--device cuda was asked for, but torch sees no CUDA device here: use --device cpu.")
    if engine == "dali":
        _dali()
    by = f"{engine} was asked for" if engine != "auto" else "torch is faster than dali, which has no float64 transform"
    on = f"{device} was asked for" if device != "auto" else f"{'a' if has_cuda else 'no'} CUDA device is there"
    return Choice(
        engine="dali" if engine == "dali" else "torch",
        device="cuda" if has_cuda and device != "cpu" else "cpu",
        reason=f"{by}; {because or on}",
    )


@cache
def load(engine: str, device: str, recipe: SpectralRecipe, dtype: type[np.floating] = np.float16) -> Engine:
    """Return the engine of this process. Equal arguments give the same engine, so that its tables are made once.

    Args:
        engine: torch or dali.
        device: cpu or cuda.
        recipe: of the spectra.
        dtype: of the results; float32 to compare engines.
    """
    if engine == "dali":
        return _dali().DaliEngine(recipe, device, dtype)
    if device == "cpu":
        return TorchCpuEngine(recipe, dtype)
    from headrace.featurize.spectral.cuda_engine import BatchedEngine

    return BatchedEngine(recipe, device, dtype)


def _dali() -> ModuleType:
    """Import the DALI engine, which takes a second and is not available on every system."""
    try:
        from headrace.featurize.spectral import dali
    except ImportError as error:
        raise UsageError(
            f"--engine dali was asked for, but NVIDIA DALI cannot be loaded ({error}): use --engine torch."
        ) from error
    return dali


class TorchCpuEngine:
    """Runs `Spectral.features` on one utterance at a time: eight frames already fill a core's registers.

    Several waves are decoded before they are transformed. If decoder and transform alternated, each would find its
    tables evicted from the caches and take an eighth longer.
    """

    def __init__(self, recipe: SpectralRecipe, dtype: type[np.floating]) -> None:
        self._spectral = Spectral(recipe)
        self._dtype = torch.float16 if dtype is np.float16 else torch.float32  # NumPy takes 27 times as long to round

    def spectra(self, waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Spectra | Rejected]]:
        for group in _groups(waves):
            while group:
                key, wave = group.popleft()
                yield key, self._compute(wave)
                del key, wave  # an hour of audio is freed before the next is decoded

    def _compute(self, wave: np.ndarray) -> Spectra | Rejected:
        try:
            with rejecting("features"):
                mel, mfcc = self._spectral.features(torch.from_numpy(wave))
        except Rejected as error:
            return error
        return reject_if_not_finite(Spectra(mel.to(self._dtype).numpy(), mfcc.to(self._dtype).numpy()))


def _groups(waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[deque[tuple[Key, np.ndarray]]]:
    """Yield groups of waves of READ_AHEAD_SAMPLES in all, or a single longer one. The consumer empties each group."""
    group: deque[tuple[Key, np.ndarray]] = deque()
    samples = 0
    for key, wave in waves:
        group.append((key, wave))
        samples += len(wave)
        del key, wave
        if samples >= READ_AHEAD_SAMPLES:
            yield group
            samples = 0
    yield group


def reject_if_not_finite(spectra: Spectra) -> Spectra | Rejected:
    """Return the spectra, or a Rejected if they are not finite. NaN in a spectrum reaches all MFCC of its frame."""
    if np.isfinite(spectra.mfcc).all():
        return spectra
    return Rejected("features", "the spectrum is not finite")
