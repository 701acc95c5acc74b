"""Gaussian mixtures with diagonal covariances: scoring of frames, and re-estimation of one state's mixture.

The method is that of Young et al., The HTK Book, 2006, sections 8.2 and 10.6.

Shapes: T frames, N frames of one state, D channels, S states, K Gaussians of a state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FRAMES_PER_GAUSSIAN = 40
"""Least number of frames for each Gaussian of a state."""
MIN_FRAMES = 10
"""A state with fewer frames is not re-estimated."""
SPLIT = 0.2
"""Distance that the halves of a split Gaussian move, in standard deviations (The HTK Book, section 10.6)."""
VARIANCE_FLOOR = 0.01
"""Least variance, for features of variance 1."""
BLOCK = 4096
"""Frames scored at a time: 1000 Gaussians take 16 MB."""


class Mixture(NamedTuple):
    """The mixture of one state."""

    means: np.ndarray
    """(K, D) float32."""
    variances: np.ndarray
    """(K, D) float32."""
    weights: np.ndarray
    """(K,) float32; they sum to 1."""


@dataclass(frozen=True, slots=True)
class StateMixtures:
    """The mixtures of all states, as arrays. States with fewer Gaussians are padded with some of weight 0."""

    means: np.ndarray
    """(S, K, D) float32."""
    variances: np.ndarray
    """(S, K, D) float32."""
    weights: np.ndarray
    """(S, K) float32."""
    stay: np.ndarray
    """(S,) float32 self-transition probabilities."""

    @classmethod
    def from_mixtures(cls, mixtures: Sequence[Mixture], stay: np.ndarray) -> StateMixtures:
        """Stack the mixtures of all states, with their self-transition probabilities (S,)."""
        max_gaussians = max(len(mixture.weights) for mixture in mixtures)

        def padded(arrays: Sequence[np.ndarray], value: float) -> np.ndarray:
            full = np.full((len(arrays), max_gaussians, *arrays[0].shape[1:]), value, np.float32)
            for row, array in zip(full, arrays, strict=True):
                row[: len(array)] = array
            return full

        means, variances, weights = zip(*mixtures, strict=True)
        return cls(padded(means, 0), padded(variances, 1), padded(weights, 0), stay.astype(np.float32))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> StateMixtures:
        """Restore the mixtures from named arrays."""
        return cls(*(arrays[name] for name in cls.__slots__))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all fields as named arrays."""
        return {name: getattr(self, name) for name in self.__slots__}


class Scorer:
    """Computes log-likelihoods of frames in all states."""

    def __init__(self, models: StateMixtures, device: str = "cpu") -> None:
        self._shape = models.weights.shape
        flat = (models.means.reshape(-1, models.means.shape[-1]), models.variances.reshape(-1, models.means.shape[-1]))
        self._linear = [tensor.to(device) for tensor in _linear_log_density(*flat, models.weights.reshape(-1))]

    @torch.inference_mode()
    def __call__(self, x_TD: np.ndarray) -> np.ndarray:
        """Return log-likelihoods (T, S) float32 of frames (T, D) float32."""
        pieces = [self._block(x_TD[start : start + BLOCK]) for start in range(0, len(x_TD), BLOCK)]
        return np.concatenate(pieces)

    def _block(self, x_TD: np.ndarray) -> np.ndarray:
        constant, weight = self._linear
        joint = torch.addmm(constant, _with_squares(x_TD).to(weight.device), weight)
        scores: np.ndarray = torch.logsumexp(joint.view(-1, *self._shape), -1).cpu().numpy()
        return scores


def _linear_log_density(means: np.ndarray, variances: np.ndarray, weights: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return log-densities of N weighted Gaussians as a linear map of a frame and its squares.

    Returns:
        constant (N,) and weight (2 D, N), float32.
    """
    precision = 1 / variances
    with np.errstate(divide="ignore"):
        constant = np.log(weights) - (means**2 * precision + np.log(2 * np.pi * variances)).sum(1) / 2
    weight = np.concatenate([means * precision, -precision / 2], 1).T
    return torch.from_numpy(constant.astype(np.float32)), torch.from_numpy(np.ascontiguousarray(weight, np.float32))


def _with_squares(x_ND: np.ndarray) -> Tensor:
    first = torch.from_numpy(x_ND)
    return torch.cat([first, first * first], 1)


@torch.inference_mode()
def refit(old: Mixture, x_ND: np.ndarray, size: int) -> Mixture:
    """Split the heaviest Gaussians until there are `size`, then run one round of expectation-maximisation."""
    if len(x_ND) < MIN_FRAMES:
        return old
    mixture = old
    while len(mixture.weights) < min(size, len(x_ND) // FRAMES_PER_GAUSSIAN):
        mixture = _split(mixture)
    constant, weight = _linear_log_density(*mixture)
    x_and_squares = _with_squares(x_ND)
    shares_NK = torch.softmax(torch.addmm(constant, x_and_squares, weight), 1)
    count = shares_NK.sum(0).numpy()
    kept = count >= min(MIN_FRAMES, count.max())
    moments = (shares_NK.T @ x_and_squares).numpy()[kept] / count[kept, None]
    means, squares = np.split(moments, 2, axis=1)
    return Mixture(means, np.maximum(squares - means**2, VARIANCE_FLOOR), count[kept] / count[kept].sum())


def _split(mixture: Mixture) -> Mixture:
    """Replace the heaviest Gaussian by two, moved SPLIT to either side."""
    heaviest = int(mixture.weights.argmax())
    step = SPLIT * np.sqrt(mixture.variances[heaviest])
    means, variances, weights = (np.concatenate([array, array[heaviest, None]]) for array in mixture)
    means[heaviest] -= step
    means[-1] += step
    weights[[heaviest, -1]] /= 2
    return Mixture(means, variances, weights)
