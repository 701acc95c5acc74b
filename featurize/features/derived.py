"""Features that are computed from other features of a store, part by part, by `add_features`.

To define a new one, write a subclass of `Derived` here or in a file beside, and add it to `feature_registry`.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from headrace.featurize.features import learned_state, praat
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store import index, layout, learned_models
from headrace.store.arrays.array_reader import load_array, open_array
from headrace.store.errors import StoreError, UsageError
from headrace.store.schema import Axis, FeatureSpec
from headrace.store.storage import StoragePath

Item = TypeVar("Item")


def _unavailable(name: str) -> Any:
    raise KeyError(name)


def require_package(name: str, option: str, extra: str) -> None:
    """Check that a package which only an option needs is installed.

    Args:
        extra: of Headrace, which installs it.
    Raises:
        UsageError: it is not.
    """
    if find_spec(name) is None:
        raise UsageError(f"{option} needs {name}: pip install 'headrace[{extra}]'.")


@dataclass(frozen=True, slots=True)
class Part:
    """The data of a part that derived features are computed from."""

    specs: Mapping[str, FeatureSpec]
    """Specs of the features that exist, by name."""
    utterances: Callable[[str], Iterable[np.ndarray]]
    """From the name of a feature to its arrays (rows, *row_shape), read-only, utterance by utterance."""
    counts: Counter[str] = field(default_factory=Counter)
    """Remarks for the user at the end, and how often each occurred."""
    failed: dict[int, str] = field(default_factory=dict)
    """By number of an utterance in the part, why the feature has no values for it. The seal and the user get its id."""
    learned: Callable[[str], Mapping[str, np.ndarray]] = _unavailable
    """From the name of a feature that `learns` to the arrays that it learned from the whole store."""
    strings: Callable[[str], Sequence[str]] = _unavailable
    """From the name of a column (`id`, `speaker`, `text`, `frames`, ...) to its value for each utterance."""
    device: str = "cpu"
    """Where networks run: cpu or cuda."""


def sealed_part(
    root: StoragePath,
    number: int,
    specs: Mapping[str, FeatureSpec],
    device: str = "cpu",
    only: Sequence[int] | None = None,
) -> Part:
    """Return the part of a store with a number.

    Args:
        only: numbers of the utterances of the part that count; None for all.
    """
    folder = layout.part_path(root, number)

    def utterances(name: str) -> Iterator[np.ndarray]:
        axis = specs[name].axis
        lengths = load_array(folder / layout.LENGTH_COLUMNS.get(axis, "frames"))
        bounds = layout.offsets(np.ones_like(lengths) if axis == "utterance" else lengths).tolist()
        spans = list(itertools.pairwise(bounds))
        return iter(open_array(folder / name).read(spans if only is None else [spans[n] for n in only]))

    def strings(name: str) -> list[Any]:
        column = load_array(folder / name)
        return list((column if only is None else column[list(only)]).tolist())

    return Part(
        specs,
        utterances,
        learned=lambda name: learned_state.read(root, specs[name]),
        strings=strings,
        device=device,
    )


def _unheard(*_: Any) -> None:
    """Receive progress that nobody follows."""


@dataclass(frozen=True, slots=True)
class LearningLog:
    """Tells the user how far learning is. Called with a line, it shows the line."""

    line: Callable[[str], None] = _unheard
    step: Callable[[float, float, str], None] = _unheard
    """Receives how much is done, of how much in all, and what that is: `3/22 rounds, ...`. A phase begins with 0 done,
    and ends with all of it; equal amounts take about equal times."""

    def __call__(self, line: str) -> None:
        self.line(line)

    def each(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """Yield the items, and tell how many are done: `3/22 parts read` if they are `parts read`."""
        for done, item in enumerate(items):
            self.step(done, len(items), f"{done}/{len(items)} {what}")
            yield item
        self.step(len(items), len(items), f"{len(items)}/{len(items)} {what}")


SILENT = LearningLog()


@dataclass(frozen=True, kw_only=True)
class Derived(ABC):
    """A feature computed from others of the same part: a frozen dataclass whose fields are the user's choices."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    """Names of the features that it is computed from."""
    axis: ClassVar[Axis]
    dtype: ClassVar[str]
    channels: ClassVar[int | None] = None
    learns: ClassVar[bool] = False
    """Whether it learns from all parts before the first one is computed."""
    missing: ClassVar[float] = 0
    """Value of the rows of an utterance on which a library fails."""
    on_gpu: ClassVar[bool] = False
    """Whether it runs on GPUs where there are any: its network is on `Part.device`."""

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        """Return everything that changes the numbers, except the input features: these enter by their fingerprints."""
        return asdict(self)

    @abstractmethod
    def rows(self, part: Part) -> Iterator[np.ndarray]:
        """Yield (rows, *row_shape) of every utterance, in order. The same part gives the same numbers."""

    def learn(self, parts: Sequence[Part], log: LearningLog) -> dict[str, np.ndarray]:
        """Return the arrays that `rows` finds as `part.learned(self.name)`, by name.

        It is called only for features that `learns`, once for a store, in the command's own process. The same parts
        give the same numbers.

        Args:
            log: shows the user progress, and lines about it.
        """
        raise NotImplementedError(f"{self.name} learns nothing")

    def spec(self, specs: Mapping[str, FeatureSpec], model: str = "") -> FeatureSpec:
        """Return the spec of the feature.

        Args:
            specs: of the features of the store, by name; they include all that `needs` names.
            model: digest of what was learned; empty before anything is.
        """
        recipe = {**self.recipe(specs), **{name: specs[name].fingerprint for name in self.needs}}
        if model:
            recipe[learned_models.MODEL_DIGEST] = model
        return FeatureSpec(name=self.name, axis=self.axis, dtype=self.dtype, channels=self.channels, recipe=recipe)


def parts_to_learn_from(
    feature: Derived, stores: Sequence[tuple[StoragePath, Mapping[str, FeatureSpec]]]
) -> list[Part]:
    """Return the parts of stores that have utterances. A part that rejected all of its utterances teaches nothing.

    Args:
        stores: each with the specs of its features.
    Raises:
        StoreError: there are none.
    """
    parts: list[Part] = []
    for root, specs in stores:
        numbers = layout.sealed_parts(root)
        seals = zip(numbers, index.read_seals(root, numbers), strict=True)
        parts += [sealed_part(root, number, specs) for number, seal in seals if seal["utterances"]]
    if not parts:
        where = " and ".join(str(root) for root, _ in stores)
        raise StoreError(f"{feature.name} is learned from utterances, and {where} holds none: rejects.jsonl says why.")
    return parts


@dataclass(frozen=True, kw_only=True)
class F0(Derived):
    """Fundamental frequency in Hz at the centre of every frame, 0 where unvoiced: `praat.pitch`."""

    floor: float = 75.0
    """Lowest frequency in Hz. Praat analyses windows of three periods of it."""
    ceiling: float = 600.0
    """Highest frequency in Hz."""

    name, needs, axis, dtype = "f0", ("wave",), "frames", "float32"
    PIECE, MARGIN = 1 << 14, 64  # frames; Praat holds a sound in float64, 0.9 GB an hour

    def __post_init__(self) -> None:
        if not 10 <= self.floor < self.ceiling < math.inf:
            raise UsageError(
                f"f0 from {self.floor:g} to {self.ceiling:g} Hz: the floor must be 10 Hz or more and below the ceiling."
            )

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
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
                yield apply_in_pieces(lambda piece: self._pitch(piece, rate), wave, self.PIECE, self.MARGIN)

    def _pitch(self, wave: np.ndarray, rate: int) -> np.ndarray:
        return praat.pitch(wave, rate, floor=self.floor, ceiling=self.ceiling)


@dataclass(frozen=True, kw_only=True)
class Energy(Derived):
    """L2 norm of the magnitude spectrum of every frame (FastSpeech 2: Ren et al. 2021, section 2.3), from the STFT that
    `mel` and `mfcc` of the same store come from."""

    name, needs, axis, dtype = "energy", ("wave",), "frames", "float32"
    PIECE = 128  # frames: a cache-sized block

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        recipe = self._stft(specs)
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
            yield apply_in_pieces(energy, wave, self.PIECE, recipe.min_frames)

    @staticmethod
    def _stft(specs: Mapping[str, FeatureSpec]) -> SpectralRecipe:
        """Return the recipe of the store's STFT; its single band is not used."""
        for name in ("mel", "mfcc"):
            if name in specs:
                found = specs[name].recipe
                transform = {key: found[key] for key in ("sample_rate", "n_fft", "win", "hop")}
                return SpectralRecipe(**transform, fmax=found["sample_rate"] / 2, n_mels=1, n_mfcc=1)
        raise StoreError("energy comes from the STFT of mel or mfcc: a store that has neither cannot say which it is.")


def apply_in_pieces(
    function: Callable[[np.ndarray], np.ndarray], wave: np.ndarray, length: int, margin: int
) -> np.ndarray:
    """Apply a function to a waveform piece by piece, so that a long recording takes the memory of a short one.

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
