"""Compute log-mel and MFCC on a CPU, eight frames at a time, one in each lane of the vector registers.

Libraries transform one frame after the other, vectorise within the frame, and write frames, spectra and powers to
memory between the steps. Here lane l of every register holds frame l from the window to the bands: the transform needs
no shuffles, and nothing leaves the cache. Only the first step, from samples to lanes, and the last, back to rows of
bands, transpose. All lanes are computed alike, so that a frame's result does not depend on its lane.

The transform is in float64 (`dsp` says why); powers and bands are sums of positive terms, where float32 is as good.

With h = n_fft / 2, the n_fft real samples x of a frame are read as h complex points z[j] = x[2j] + i x[2j + 1], whose
transform Z combines those of the even samples, E, and of the odd samples, O:

    E[k] = (Z[k] + Z*[h - k]) / 2      X[k]     =  E[k] + w^k O[k]            w = exp(-2 pi i / n_fft)
    O[k] = (Z[k] - Z*[h - k]) / 2i     X[h - k] = (E[k] - w^k O[k])*          (Press et al., Numerical Recipes, 12.3)

Z is computed in place by passes of radix 4, and of the remaining prime factors of h, on ever shorter blocks (decimation
in frequency: Gentleman and Sande 1966). Its order is then permuted, which costs nothing, since every value fills a
cache line.

Costs at n_fft 2048, 128 bands, in us a frame on a core with AVX-512 | AVX2: window and gather 0.3 | 0.4, transform
1.0 | 1.9, the rest 1.2. Radix 8 took the same time | 1.5 times as long, for lack of registers; 4 or 16 lanes were
slower. Numba compiles this in about 6 s, once per machine.

Shapes: S samples, T = S // hop frames, M bands. Work arrays are flat: `load(array, i)` takes eight numbers from i on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from headrace.featurize.spectral.kernel_tables import Tables
from headrace.featurize.spectral.simd import LANES, compiled, load, load_transposed, sqrt, store, to_float32, to_float64

COMPLEX_POINT = 2 * LANES
"""Numbers in a complex point: eight real parts, then eight imaginary parts."""


@njit
def _store_rotated(z: Any, at: int, re: Any, im: Any, twiddles: Any, t: int) -> None:
    """Multiply a point by the t-th twiddle factor and store it."""
    cos, sin = twiddles[2 * t], twiddles[2 * t + 1]
    store(z, at, re * cos - im * sin)
    store(z, at + LANES, re * sin + im * cos)


@njit
def _radix_2_pass(z: Any, start: int, length: int, twiddles: Any) -> None:
    """Apply a pass of radix 2 to one block."""
    step = length // 2 * COMPLEX_POINT
    for j in range(length // 2):
        a = (start + j) * COMPLEX_POINT
        b = a + step
        a_re, a_im, b_re, b_im = load(z, a), load(z, a + LANES), load(z, b), load(z, b + LANES)
        store(z, a, a_re + b_re)
        store(z, a + LANES, a_im + b_im)
        _store_rotated(z, b, a_re - b_re, a_im - b_im, twiddles, 2 * j + 1)


@njit
def _radix_4_pass(z: Any, start: int, length: int, twiddles: Any) -> None:
    """Apply a pass of radix 4 to one block."""
    step = length // 4 * COMPLEX_POINT
    for j in range(length // 4):
        a = (start + j) * COMPLEX_POINT
        b, c, d = a + step, a + 2 * step, a + 3 * step
        a_re, a_im, b_re, b_im = load(z, a), load(z, a + LANES), load(z, b), load(z, b + LANES)
        c_re, c_im, d_re, d_im = load(z, c), load(z, c + LANES), load(z, d), load(z, d + LANES)
        p_re, p_im, q_re, q_im = a_re + c_re, a_im + c_im, a_re - c_re, a_im - c_im
        r_re, r_im, s_re, s_im = b_re + d_re, b_im + d_im, b_re - d_re, b_im - d_im
        store(z, a, p_re + r_re)
        store(z, a + LANES, p_im + r_im)
        _store_rotated(z, b, q_re + s_im, q_im - s_re, twiddles, 4 * j + 1)
        _store_rotated(z, c, p_re - r_re, p_im - r_im, twiddles, 4 * j + 2)
        _store_rotated(z, d, q_re - s_im, q_im + s_re, twiddles, 4 * j + 3)


@njit
def _odd_radix_pass(z: Any, start: int, length: int, twiddles: Any, radix: int, roots: Any, pairs: Any) -> None:
    """Apply a pass of an odd radix to one block. Inputs q and radix - q share their roots, and so do outputs."""
    step, half = length // radix * COMPLEX_POINT, radix // 2
    for j in range(length // radix):
        base = (start + j) * COMPLEX_POINT
        zero_re, zero_im = load(z, base), load(z, base + LANES)
        for q in range(1, half + 1):
            for part in (0, LANES):
                a, b = load(z, base + q * step + part), load(z, base + (radix - q) * step + part)
                store(pairs, 2 * q * COMPLEX_POINT + part, a + b)
                store(pairs, 2 * q * COMPLEX_POINT + COMPLEX_POINT + part, a - b)
        for m in range(half + 1):
            even_re, even_im, odd_re, odd_im = zero_re, zero_im, zero_re * 0.0, zero_im * 0.0
            for q in range(1, half + 1):
                pair, root = 2 * q * COMPLEX_POINT, 2 * (m * q % radix)
                even_re = even_re + load(pairs, pair) * roots[root]
                even_im = even_im + load(pairs, pair + LANES) * roots[root]
                odd_re = odd_re + load(pairs, pair + COMPLEX_POINT) * roots[root + 1]
                odd_im = odd_im + load(pairs, pair + COMPLEX_POINT + LANES) * roots[root + 1]
            other = (radix - m) % radix
            _store_rotated(z, base + other * step, even_re + odd_im, even_im - odd_re, twiddles, radix * j + other)
            _store_rotated(z, base + m * step, even_re - odd_im, even_im + odd_re, twiddles, radix * j + m)


@njit
def _fft(z: Any, tables: Any, pairs: Any) -> None:
    """Transform h points in place, into permuted order."""
    points = length = len(tables.order) - 1
    twiddles, roots = tables.twiddles, tables.roots
    for radix in tables.radices:
        for start in range(0, points, length):
            if radix == 4:
                _radix_4_pass(z, start, length, twiddles)
            elif radix == 2:
                _radix_2_pass(z, start, length, twiddles)
            else:
                _odd_radix_pass(z, start, length, twiddles, radix, roots, pairs)
        roots, twiddles = roots[2 * radix :], twiddles[2 * length :]
        length //= radix


@njit
def _load_windowed(z: Any, wave: Any, at: int, hop: int, window: Any) -> None:
    """Load eight frames, the first at wave[at], and multiply them by the window."""
    for n in range(0, len(window), LANES):
        columns = load_transposed(wave, at + n, hop)
        for i in range(LANES):
            store(z, (n + i) * LANES, to_float64(columns[i]) * window[n + i])


@njit
def _store_bin(bins: Any, k: int, re: Any, im: Any) -> None:
    """Store the power and the magnitude of a bin."""
    power = to_float32(re * re + im * im)
    store(bins, k * COMPLEX_POINT, power)
    store(bins, k * COMPLEX_POINT + LANES, sqrt(power + 1e-8))


@njit
def _power_spectrum(bins: Any, z: Any, tables: Any) -> None:
    """Compute for each bin the powers of eight frames, then their magnitudes."""
    points = len(tables.order) - 1
    for k in range(points // 2 + 1):
        a, b = tables.order[k] * COMPLEX_POINT, tables.order[points - k] * COMPLEX_POINT
        a_re, a_im, b_re, b_im = load(z, a), load(z, a + LANES), load(z, b), load(z, b + LANES)
        even_re, even_im, odd_re, odd_im = a_re + b_re, a_im - b_im, a_im + b_im, b_re - a_re
        cos, sin = tables.split[2 * k], tables.split[2 * k + 1]
        turned_re, turned_im = odd_re * cos - odd_im * sin, odd_re * sin + odd_im * cos
        _store_bin(bins, k, even_re + turned_re, even_im + turned_im)
        _store_bin(bins, points - k, even_re - turned_re, even_im - turned_im)


@njit
def _mel_bands(bins: Any, tables: Any, at: int, magnitude: Any, power: Any) -> None:
    """Sum magnitudes and powers of eight frames to mel bands, in eight rows of the results."""
    bands = len(tables.first)
    square = np.empty(2 * LANES * LANES, np.float32)
    for m in range(0, bands, LANES):
        for i in range(LANES):
            k = tables.first[m + i] * COMPLEX_POINT
            power_sum, magnitude_sum = load(bins, k) * 0.0, load(bins, k) * 0.0
            for w in range(tables.ends[m + i], tables.ends[m + i + 1]):
                power_sum = power_sum + load(bins, k) * tables.weights[w]
                magnitude_sum = magnitude_sum + load(bins, k + LANES) * tables.weights[w]
                k += COMPLEX_POINT
            store(square, i * LANES, magnitude_sum)
            store(square, (LANES + i) * LANES, power_sum)
        magnitudes, powers = load_transposed(square, 0, LANES), load_transposed(square, LANES * LANES, LANES)
        for frame in range(LANES):
            store(magnitude, (at + frame) * bands + m, magnitudes[frame])
            store(power, (at + frame) * bands + m, powers[frame])


@njit
def _reflect(wave: Any, start: int, segment: Any) -> None:
    """Fill a segment with samples from `start` on, reflected at both ends of the wave. Samples beyond are unused."""
    last = len(wave) - 1
    for i in range(len(segment)):
        j = abs(start + i)
        segment[i] = wave[max(j if j <= last else 2 * last - j, 0)]


def _mel_of_frames(wave: Any, full_scale: float, tables: Any, magnitude: Any, power: Any) -> None:
    window = tables.window / full_scale
    points, padding = len(tables.order) - 1, len(tables.order) - 1 - tables.hop // 2
    z = np.empty(len(window) * LANES)
    pairs = np.empty((tables.radices.max() + 1) * COMPLEX_POINT)
    bins = np.empty((points + 1) * COMPLEX_POINT, np.float32)
    segment = np.empty((LANES - 1) * tables.hop + len(window), wave.dtype)
    for frame in range(0, len(wave) // tables.hop, LANES):
        start = frame * tables.hop - padding
        if start >= 0 and start + len(segment) <= len(wave):
            _load_windowed(z, wave, start, tables.hop, window)
        else:
            _reflect(wave, start, segment)
            _load_windowed(z, segment, 0, tables.hop, window)
        _fft(z, tables, pairs)
        _power_spectrum(bins, z, tables)
        _mel_bands(bins, tables, frame, magnitude, power)


def _mfcc_of_bands(rows: Any, tables: Any, mfcc: Any) -> None:
    """Compute the DCT of rows of bands, two at a time, in float64. In float32 a silence would be 1e-3 off."""
    bands, width = len(tables.first), len(tables.dct) // tables.bands
    for row in range(0, len(rows) // bands, 2):
        for c in range(0, width, LANES):
            one = two = load(tables.dct, c) * 0.0
            for m in range(tables.bands):
                basis = load(tables.dct, m * width + c)
                one = one + basis * rows[row * bands + m]
                two = two + basis * rows[(row + 1) * bands + m]
            store(mfcc, row * width + c, to_float32(one))
            store(mfcc, (row + 1) * width + c, to_float32(two))


_compute_mel, _compute_mfcc = compiled(_mel_of_frames), compiled(_mfcc_of_bands)


def features(tables: Tables, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log-mel and MFCC, the DCT of the power mel in dB, floored 80 dB under its peak.

    Args:
        tables: of the recipe.
        wave: (S,) float32, or int16 with full scale at 32768, contiguous. S >= hop, and S > (n_fft - hop) / 2, by which
            it is reflected at both ends.
    Returns:
        (T, M) and (T, C) float32.
    """
    frames, bands, width = len(wave) // tables.hop, len(tables.first), len(tables.dct) // tables.bands
    rows = (frames + LANES - 1) // LANES * LANES
    mel, power, mfcc = (np.empty(rows * columns, np.float32) for columns in (bands, bands, width))
    _compute_mel(wave, 32768.0 if wave.dtype == np.int16 else 1.0, tables, mel, power)
    for values, floor in ((mel, 1e-5), (power, 1e-10)):
        np.maximum(values, np.float32(floor), out=values)
        np.log(values, out=values)  # a third of the time that torch takes
    peak = power.reshape(rows, bands)[:frames, : tables.bands].max()
    _compute_mfcc(np.maximum(power, peak - np.float32(8 * math.log(10)), out=power), tables, mfcc)
    return mel.reshape(rows, bands)[:frames, : tables.bands], mfcc.reshape(rows, width)[:frames, : tables.cepstra]
