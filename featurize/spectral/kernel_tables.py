"""What `headrace.featurize.spectral.cpu_kernel` computes with that depends on the recipe alone; in NumPy, made once.

With w = exp(-2 pi i / n_fft), h = n_fft / 2, and the passes of a Fourier transform of h points from the whole, a block
of n = h points, to the shortest blocks, n = radix. Complex tables are flat float64: real, imaginary, real, ...
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from headrace.featurize.spectral.simd import LANES


class Tables(NamedTuple):
    """The tables of one recipe."""

    hop: int
    bands: int
    cepstra: int
    window: np.ndarray
    """(n_fft,) float64, padded with zeros to a multiple of eight. Halved, so that E and O need not be."""
    radices: np.ndarray
    """Factors of h, one per pass."""
    twiddles: np.ndarray
    """For each pass over blocks of n points, exp(-2 pi i jq / n) with j < n / radix and q < radix."""
    roots: np.ndarray
    """For each pass, exp(-2 pi i q / radix) with q < radix."""
    order: np.ndarray
    """(h + 1,) the index of each frequency in the permuted transform. Frequency h is frequency 0."""
    split: np.ndarray
    """w^k with k <= h / 2."""
    first: np.ndarray
    """(M,) the first bin of each band, with M being `bands` rounded up to a multiple of eight by empty bands."""
    ends: np.ndarray
    """(M + 1,) where the weights of each band begin and end."""
    weights: np.ndarray
    """float32."""
    dct: np.ndarray
    """(bands, cepstra) float64, flat, rows padded with zeros to a multiple of eight. Also converts nepers to dB."""


def make_tables(hop: int, window: np.ndarray, basis_FM: np.ndarray, dct_MC: np.ndarray) -> Tables:
    """Return the tables of one recipe.

    Args:
        hop: samples per frame; n_fft - hop is even.
        window: (n_fft,) with n_fft even.
        basis_FM: mel filters, whose non-zero bins are contiguous.
        dct_MC: DCT of the bands in dB.
    """
    points = len(window) // 2
    radices, length, twiddles = _radices(points), points, []
    for radix in radices:
        twiddles.append(_unit_circle(np.outer(np.arange(length // radix), np.arange(radix)) / length))
        length //= radix
    order = np.zeros(1, int)
    for radix in reversed(radices):  # part q of a block holds its frequencies q, q + radix, ...
        order = np.add.outer(order, np.arange(radix) * len(order)).ravel()
    used = [np.flatnonzero(band) for band in basis_FM.T] + [np.zeros(0, int)] * (-basis_FM.shape[1] % LANES)
    return Tables(
        hop=hop,
        bands=dct_MC.shape[0],
        cepstra=dct_MC.shape[1],
        window=np.pad(window / 2, (0, -len(window) % LANES)),
        radices=np.array(radices),
        twiddles=np.concatenate(twiddles),
        roots=np.concatenate([_unit_circle(np.arange(radix) / radix) for radix in radices]),
        order=np.append(order, 0),
        split=_unit_circle(np.arange(points // 2 + 1) / len(window)),
        first=np.array([bins[0] if len(bins) else 0 for bins in used]),
        ends=np.cumsum([0, *map(len, used)]),
        weights=basis_FM.T[basis_FM.T != 0].astype(np.float32),
        dct=np.pad(dct_MC * (10 / math.log(10)), ((0, 0), (0, -dct_MC.shape[1] % LANES))).ravel(),
    )


def _radices(points: int) -> list[int]:
    """Return the radices of the passes: factors of four, then the remaining primes."""
    if points % 4 == 0:
        return [4, *_radices(points // 4)]
    prime = next((n for n in range(2, points + 1) if points % n == 0), None)
    return [prime, *_radices(points // prime)] if prime else []


def _unit_circle(turns: np.ndarray) -> np.ndarray:
    """Return exp(-2 pi i turns) as alternating real and imaginary parts."""
    return np.exp(-2j * np.pi * turns).ravel().view(np.float64)
