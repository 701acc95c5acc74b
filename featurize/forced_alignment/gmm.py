"""Mixtures of Gaussians with diagonal covariances: how well frames fit those of many states, and how they are fitted to
the frames of one (Young et al., The HTK Book, 2006, sections 8.2 and 10.6).

Shapes: T frames, N frames of one state, D numbers of each, S states, K Gaussians of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FRAMES_PER_GAUSSIAN = 40
"""A state of fewer frames has fewer Gaussians."""
FEWEST_FRAMES = 10
"""What has less stays as it is."""
SPLIT = 0.2
"""How far the halves of a Gaussian are moved, in standard deviations (The HTK Book, section 10.6)."""
VARIANCE_FLOOR = 0.01
"""Of features whose variance is 1."""
BLOCK = 4096
"""Frames scored at a time: 1000 Gaussians take 16 MB."""


class Mixture(NamedTuple):
    """Of one state."""

    means: np.ndarray
    """(K, D) float32."""
    variances: np.ndarray
    """(K, D) float32."""
    weights: np.ndarray
    """(K,) float32; they sum to 1."""


@dataclass(frozen=True, slots=True)
class Models:
    """Of all states, as arrays. A state of fewer Gaussians than others has some of weight 0."""

    means: np.ndarray
    """(S, K, D) float32."""
    variances: np.ndarray
    """(S, K, D) float32."""
    weights: np.ndarray
    """(S, K) float32."""
    stay: np.ndarray
    """(S,) float32: the probability to stay from one frame to the next."""

    @classmethod
    def of(cls, mixtures: Sequence[Mixture], stay: np.ndarray) -> Models:
        most = max(len(mixture.weights) for mixture in mixtures)

        def padded(arrays: Sequence[np.ndarray], value: float) -> np.ndarray:
            full = np.full((len(arrays), most, *arrays[0].shape[1:]), value, np.float32)
            for row, array in zip(full, arrays, strict=True):
                row[: len(array)] = array
            return full

        means, variances, weights = zip(*mixtures, strict=True)
        return cls(padded(means, 0), padded(variances, 1), padded(weights, 0), stay.astype(np.float32))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Models:
        return cls(*(arrays[name] for name in cls.__slots__))

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.__slots__}


class Scorer:
    """How well frames fit states."""

    def __init__(self, models: Models, device: str = "cpu") -> None:
        self._shape = models.weights.shape
        flat = (models.means.reshape(-1, models.means.shape[-1]), models.variances.reshape(-1, models.means.shape[-1]))
        self._linear = [tensor.to(device) for tensor in _linear(*flat, models.weights.reshape(-1))]

    @torch.inference_mode()
    def __call__(self, x_TD: np.ndarray) -> np.ndarray:
        """(T, D) float32 to log-likelihoods, (T, S) float32."""
        pieces = [self._block(x_TD[start : start + BLOCK]) for start in range(0, len(x_TD), BLOCK)]
        return np.concatenate(pieces)

    def _block(self, x_TD: np.ndarray) -> np.ndarray:
        constant, weight = self._linear
        joint = torch.addmm(constant, _with_squares(x_TD).to(weight.device), weight)
        scores: np.ndarray = torch.logsumexp(joint.view(-1, *self._shape), -1).cpu().numpy()
        return scores


def _linear(means: np.ndarray, variances: np.ndarray, weights: np.ndarray) -> tuple[Tensor, Tensor]:
    """Log-densities of N weighted Gaussians as a linear map of a frame and its squares: constant (N,), weight
    (2 D, N)."""
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
    """One round of expectation and maximisation, with the heaviest Gaussians split before until there are `size`."""
    if len(x_ND) < FEWEST_FRAMES:
        return old
    mixture = old
    while len(mixture.weights) < min(size, len(x_ND) // FRAMES_PER_GAUSSIAN):
        mixture = _split(mixture)
    constant, weight = _linear(*mixture)
    both = _with_squares(x_ND)
    shares_NK = torch.softmax(torch.addmm(constant, both, weight), 1)
    count = shares_NK.sum(0).numpy()
    kept = count >= min(FEWEST_FRAMES, count.max())
    moments = (shares_NK.T @ both).numpy()[kept] / count[kept, None]
    means, squares = np.split(moments, 2, axis=1)
    return Mixture(means, np.maximum(squares - means**2, VARIANCE_FLOOR), count[kept] / count[kept].sum())


def _split(mixture: Mixture) -> Mixture:
    """With two Gaussians in the place of the heaviest one, a little to both sides."""
    heaviest = int(mixture.weights.argmax())
    step = SPLIT * np.sqrt(mixture.variances[heaviest])
    means, variances, weights = (np.concatenate([array, array[heaviest, None]]) for array in mixture)
    means[heaviest] -= step
    means[-1] += step
    weights[[heaviest, -1]] /= 2
    return Mixture(means, variances, weights)
