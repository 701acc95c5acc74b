"""Engines: what turns decoded waves into log-mel and MFCC. They differ in speed and agree in numbers.

    torch on a CPU    one utterance at a time through `headrace.featurize.spectral.dsp`, the reference
    torch on CUDA     `headrace.featurize.spectral.cuda_engine`: ragged batches, copied and computed asynchronously
    dali              `headrace.featurize.spectral.dali`: NVIDIA DALI's pipeline, on a CPU or on CUDA

An engine pulls waves from an iterator and yields results in the same order, so that it may run ahead and batch as
suits it. Decoding, mixing down, resampling and levelling are done before, on the host, for every engine alike: `wave`
is then the same on any device, and aliases lie where soxr leaves them. The last bits of a spectrum are the device's: a
store is byte for byte the same wherever the same engine runs on the same kind of device.
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
from headrace.store.errors import Rejected, UsageError

Key = TypeVar("Key")
AT_ONCE = 1 << 23
"""Samples that are decoded before they are transformed on a CPU: 16 MB, four minutes at 32 kHz."""


class Spectra(NamedTuple):
    """What an engine makes of one utterance."""

    mel: np.ndarray
    """(T, M) float16, or as the engine was asked."""
    mfcc: np.ndarray
    """(T, C), likewise."""


class Engine(Protocol):
    """Made for one recipe, by `load`; lives as long as its process."""

    def spectra(self, waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Spectra | Rejected]]:
        """Log-mel and MFCC of every wave, in the order given.

        Args:
            waves: pairs of anything, passed through, and (T * hop,) int16 with T >= recipe.min_frames.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which engine on which device, and why."""

    engine: str
    """`torch` or `dali`."""
    device: str
    """`cpu` or `cuda`."""
    reason: str


def choose(engine: str, device: str, because: str = "") -> Choice:
    """Settle `auto` by what this machine has.

    Args:
        engine: auto, torch or dali.
        device: auto, cpu or cuda.
        because: the reason for the device, where somebody else has settled that.
    Raises:
        UsageError: what was asked for by name is not here.
    """
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UsageError("--device cuda was asked for, but torch sees no CUDA device here: use --device cpu.")
    if engine == "dali":
        _dali()
    by = f"{engine} was asked for" if engine != "auto" else "torch is faster than dali, which has no float64 transform"
    on = f"{device} was asked for" if device != "auto" else f"{'a' if there else 'no'} CUDA device is there"
    return Choice(
        engine="dali" if engine == "dali" else "torch",
        device="cuda" if there and device != "cpu" else "cpu",
        reason=f"{by}; {because or on}",
    )


@cache
def load(engine: str, device: str, recipe: SpectralRecipe, dtype: type[np.floating] = np.float16) -> Engine:
    """The engine of this process. Equal arguments give the same one: tables, plans and buffers are made once.

    Args:
        dtype: of the results; float32 where engines are compared.
    """
    if engine == "dali":
        return _dali().Dali(recipe, device, dtype)
    if device == "cpu":
        return TorchCpu(recipe, dtype)
    from headrace.featurize.spectral.cuda_engine import Batched

    return Batched(recipe, device, dtype)


def _dali() -> ModuleType:
    """Imported where it is asked for alone: it takes a second, and is not made for every system."""
    try:
        from headrace.featurize.spectral import dali
    except ImportError as error:
        raise UsageError(
            f"--engine dali was asked for, but NVIDIA DALI cannot be loaded ({error}): use --engine torch."
        ) from error
    return dali


class TorchCpu:
    """`Spectral.features`, one utterance at a time: a batch gains nothing where eight frames at a time fill a core.

    Waves are asked for several at a time: by turns, decoder and transform would find the caches full of the other's
    tables each time, and take an eighth longer.
    """

    def __init__(self, recipe: SpectralRecipe, dtype: type[np.floating]) -> None:
        self._spectral = Spectral(recipe)
        self._dtype = torch.float16 if dtype is np.float16 else torch.float32  # NumPy takes 27 times as long to round

    def spectra(self, waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Spectra | Rejected]]:
        for taken in _several(waves):
            while taken:
                key, wave = taken.popleft()
                yield key, self._made(wave)
                del key, wave  # which may be an hour long, before the next one is decoded

    def _made(self, wave: np.ndarray) -> Spectra | Rejected:
        mel, mfcc = self._spectral.features(torch.from_numpy(wave))
        return checked(Spectra(mel.to(self._dtype).numpy(), mfcc.to(self._dtype).numpy()))


def _several(waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[deque[tuple[Key, np.ndarray]]]:
    """As many as come to `AT_ONCE` samples, or one that is longer. Whoever gets them takes them out."""
    taken: deque[tuple[Key, np.ndarray]] = deque()
    samples = 0
    for key, wave in waves:
        taken.append((key, wave))
        samples += len(wave)
        del key, wave
        if samples >= AT_ONCE:
            yield taken
            samples = 0
    yield taken


def checked(spectra: Spectra) -> Spectra | Rejected:
    """Not a number, anywhere in the spectrum, reaches every coefficient of its frame."""
    if np.isfinite(spectra.mfcc).all():
        return spectra
    return Rejected("features", "the spectrum is not finite")
