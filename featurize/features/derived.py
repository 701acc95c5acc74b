"""Features made from other features of a store: what they are. `add_features` makes them, part by part.

One's own is a class like the ones below, here or in a file beside, and a line in `feature_registry`.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from headrace.featurize.features import learned_state, praat
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store import layout, learned_models
from headrace.store.arrays.array_reader import load_array, open_array
from headrace.store.errors import StoreError, UsageError
from headrace.store.schema import Axis, FeatureSpec
from headrace.store.storage import StoragePath


def _nothing(name: str) -> Any:
    raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Part:
    """What a part holds, to make more from."""

    specs: Mapping[str, FeatureSpec]
    """Of the features that are there, by name."""
    utterances: Callable[[str], Iterable[np.ndarray]]
    """By the name of a feature, (rows, *row_shape) of one utterance after the other, read-only."""
    counts: Counter[str] = field(default_factory=Counter)
    """What a person should be told at the end, and how often it came."""
    learned: Callable[[str], Mapping[str, np.ndarray]] = _nothing
    """By the name of a feature that `learns`, what it learned from the whole store."""
    strings: Callable[[str], Sequence[str]] = _nothing
    """By name (`id`, `speaker`, `text`, ...; `frames` too), one value of each utterance."""
    device: str = "cpu"
    """Where networks run: cpu or cuda."""


def sealed_part(root: StoragePath, number: int, specs: Mapping[str, FeatureSpec], device: str = "cpu") -> Part:
    """A part of a store."""
    folder = layout.part_path(root, number)

    def utterances(name: str) -> Iterator[np.ndarray]:
        axis = specs[name].axis
        lengths = load_array(folder / layout.LENGTH_COLUMNS.get(axis, "frames"))
        bounds = layout.offsets(np.ones_like(lengths) if axis == "utterance" else lengths).tolist()
        return iter(open_array(folder / name).read(list(itertools.pairwise(bounds))))

    return Part(
        specs,
        utterances,
        learned=lambda name: learned_state.read(root, specs[name]),
        strings=lambda name: load_array(folder / name).tolist(),
        device=device,
    )


@dataclass(frozen=True, kw_only=True)
class Derived(ABC):
    """A feature made from others of the same part. A frozen dataclass whose fields are what its user may choose."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    """Features that it is made from."""
    axis: ClassVar[Axis]
    dtype: ClassVar[str]
    channels: ClassVar[int | None] = None
    learns: ClassVar[bool] = False
    """Whether it learns something from all parts before any is made."""
    on_gpu: ClassVar[bool] = False
    """Whether it is made on GPUs where there are any: by a network that takes `Part.device`."""

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        """Everything that changes the numbers, but for what it is made from: that enters by its fingerprint."""
        return asdict(self)

    @abstractmethod
    def rows(self, part: Part) -> Iterator[np.ndarray]:
        """(rows, *row_shape) of every utterance of the part, in order. The same part gives the same numbers."""

    def learn(self, parts: Sequence[Part], note: Callable[[str], None]) -> dict[str, np.ndarray]:
        """What `rows` finds as `part.learned(self.name)`: arrays by name. For features that learn: once a store, in the
        command's own process. The same parts give the same numbers.

        Args:
            note: tells a person how it goes.
        """
        raise NotImplementedError(f"{self.name} learns nothing")

    def spec(self, there: Mapping[str, FeatureSpec], model: str = "") -> FeatureSpec:
        """
        Args:
            there: the features of the store, by name; what is needed is among them.
            model: digest of what was learned; empty before it is.
        """
        recipe = {**self.recipe(there), **{name: there[name].fingerprint for name in self.needs}}
        if model:
            recipe[learned_models.MODEL_DIGEST] = model
        return FeatureSpec(name=self.name, axis=self.axis, dtype=self.dtype, channels=self.channels, recipe=recipe)


@dataclass(frozen=True, kw_only=True)
class F0(Derived):
    """Fundamental frequency in Hz at the centre of every frame, 0 where it is not voiced: `praat.pitch`."""

    floor: float = 75.0
    """Hz; nothing below is found. Praat looks at three periods of it at a time."""
    ceiling: float = 600.0
    """Hz; nothing above is found."""

    name, needs, axis, dtype = "f0", ("wave",), "frames", "float32"
    PIECE, MARGIN = 1 << 14, 64  # frames; Praat holds a sound in float64, 0.9 GB an hour

    def __post_init__(self) -> None:
        if not 10 <= self.floor < self.ceiling < math.inf:
            raise UsageError(
                f"f0 from {self.floor:g} to {self.ceiling:g} Hz: the floor must be 10 Hz or more and below the ceiling."
            )

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        pieces = {"piece_frames": self.PIECE, "margin_frames": self.MARGIN}
        limits = {"floor": float(self.floor), "ceiling": float(self.ceiling)}
        return {"method": "praat-ac", "padding": "zero", **limits, **praat.PITCH, **pieces}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        rate = part.specs["wave"].recipe["sample_rate"]
        for wave in part.utterances("wave"):
            if wave.size < praat.pitch_window(rate, self.floor):
                part.counts["shorter than three periods of the floor"] += 1
                yield np.zeros(len(wave), np.float32)
            else:
                yield in_pieces(lambda piece: self._pitch(piece, rate), wave, self.PIECE, self.MARGIN)

    def _pitch(self, wave: np.ndarray, rate: int) -> np.ndarray:
        return praat.pitch(wave, rate, floor=self.floor, ceiling=self.ceiling)


@dataclass(frozen=True, kw_only=True)
class Energy(Derived):
    """L2 norm of the magnitude spectrum of every frame (FastSpeech 2: Ren et al. 2021, section 2.3), from the STFT that
    `mel` and `mfcc` of the same store come from."""

    name, needs, axis, dtype = "energy", ("wave",), "frames", "float32"
    PIECE = 128  # frames: a cache-sized block

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        recipe = self._stft(there)
        transform = {"n_fft": recipe.n_fft, "win": recipe.win, "hop": recipe.hop}
        conventions = {"window": "hann-periodic", "padding": "reflect", "magnitude": "sqrt(power+1e-8)", "norm": "l2"}
        return {**transform, **conventions}

    @torch.inference_mode()
    def rows(self, part: Part) -> Iterator[np.ndarray]:
        recipe = self._stft(part.specs)
        spectral = Spectral(recipe)

        def energy(wave: np.ndarray) -> np.ndarray:
            samples = torch.from_numpy(wave.reshape(-1) / np.float32(32768))
            return torch.linalg.vector_norm(spectral.magnitude(samples), dim=-1).numpy()

        for wave in part.utterances("wave"):
            yield in_pieces(energy, wave, self.PIECE, recipe.min_frames)

    @staticmethod
    def _stft(there: Mapping[str, FeatureSpec]) -> SpectralRecipe:
        """The transform, with one band that nobody asks for."""
        for name in ("mel", "mfcc"):
            if name in there:
                found = there[name].recipe
                transform = {key: found[key] for key in ("sample_rate", "n_fft", "win", "hop")}
                return SpectralRecipe(**transform, fmax=found["sample_rate"] / 2, n_mels=1, n_mfcc=1)
        raise StoreError("energy comes from the STFT of mel or mfcc: a store that has neither cannot say which it is.")


def in_pieces(function: Callable[[np.ndarray], np.ndarray], wave: np.ndarray, length: int, margin: int) -> np.ndarray:
    """Apply a function of local reach piece by piece: a recording of six hours takes the memory of a short one.

    Args:
        function: (t, hop) samples to (t, ...) values of the same frames.
        wave: (T, hop).
        length: frames of a piece.
        margin: frames before and after a piece that the function sees too.
    Returns:
        (T, ...).
    """
    pieces = []
    for start in range(0, len(wave), length):
        first = max(0, start - margin)
        values = function(wave[first : start + length + margin])
        pieces.append(values[start - first :][:length])
    return np.concatenate(pieces)
