"""From a waveform to log-mel and MFCC on a CPU, eight frames side by side, one in each lane of the vector registers.

Libraries transform one frame after the other, each vectorised within itself, and write frames, spectra and powers out
between the steps. Here lane l of every register holds frame l from the window to the bands: the transform needs no
shuffles, and nothing leaves the cache. Only the first step, from runs of samples to lanes, and the last, back to rows
of bands, transpose. Every lane does the same whatever is in the others: a frame's numbers do not depend on its place.

The transform is in float64 (`dsp` says why); powers and bands are sums of positive terms, where float32 is as good.

With h = n_fft / 2, the n_fft real samples x of a frame are taken for h complex points z[j] = x[2j] + i x[2j + 1], whose
transform Z mixes those of the even samples, E, and of the odd ones, O:

    E[k] = (Z[k] + Z*[h - k]) / 2      X[k]     =  E[k] + w^k O[k]            w = exp(-2 pi i / n_fft)
    O[k] = (Z[k] - Z*[h - k]) / 2i     X[h - k] = (E[k] - w^k O[k])*          (Press et al., Numerical Recipes, 12.3)

Z is made in place by passes of radix 4, and of the primes that are left of h, from the whole to ever shorter blocks
(decimation in frequency: Gentleman and Sande 1966). Its order is then permuted, which costs nothing where every value
fills a cache line.

Costs at n_fft 2048, 128 bands, in us a frame on a core with AVX-512 | AVX2: window and gather 0.3 | 0.4, transform
1.0 | 1.9, the rest 1.2. Radix 8 was as fast | half again as slow, for want of registers; with 4 or 16 lanes all was
slower. Numba compiles this in some 6 s, once on a machine.

Shapes: S samples, T = S // hop frames, M bands. Work arrays are flat: `load(array, i)` takes eight numbers from i on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from headrace.featurize.spectral.kernel_tables import Tables
from headrace.featurize.spectral.simd import LANES, compiled, double, load, root, single, store, transposed

POINT = 2 * LANES
"""Numbers to a complex point: eight real parts, then eight imaginary parts."""


@njit
def _turned(z: Any, at: int, re: Any, im: Any, twiddles: Any, t: int) -> None:
    """A point, turned by the t-th twiddle, to its place."""
    cos, sin = twiddles[2 * t], twiddles[2 * t + 1]
    store(z, at, re * cos - im * sin)
    store(z, at + LANES, re * sin + im * cos)


@njit
def _twos(z: Any, start: int, length: int, twiddles: Any) -> None:
    """The pass of radix 2 over one block."""
    step = length // 2 * POINT
    for j in range(length // 2):
        a = (start + j) * POINT
        b = a + step
        a_re, a_im, b_re, b_im = load(z, a), load(z, a + LANES), load(z, b), load(z, b + LANES)
        store(z, a, a_re + b_re)
        store(z, a + LANES, a_im + b_im)
        _turned(z, b, a_re - b_re, a_im - b_im, twiddles, 2 * j + 1)


@njit
def _fours(z: Any, start: int, length: int, twiddles: Any) -> None:
    """The pass of radix 4 over one block."""
    step = length // 4 * POINT
    for j in range(length // 4):
        a = (start + j) * POINT
        b, c, d = a + step, a + 2 * step, a + 3 * step
        a_re, a_im, b_re, b_im = load(z, a), load(z, a + LANES), load(z, b), load(z, b + LANES)
        c_re, c_im, d_re, d_im = load(z, c), load(z, c + LANES), load(z, d), load(z, d + LANES)
        p_re, p_im, q_re, q_im = a_re + c_re, a_im + c_im, a_re - c_re, a_im - c_im
        r_re, r_im, s_re, s_im = b_re + d_re, b_im + d_im, b_re - d_re, b_im - d_im
        store(z, a, p_re + r_re)
        store(z, a + LANES, p_im + r_im)
        _turned(z, b, q_re + s_im, q_im - s_re, twiddles, 4 * j + 1)
        _turned(z, c, p_re - r_re, p_im - r_im, twiddles, 4 * j + 2)
        _turned(z, d, q_re - s_im, q_im + s_re, twiddles, 4 * j + 3)


@njit
def _odds(z: Any, start: int, length: int, twiddles: Any, radix: int, roots: Any, pairs: Any) -> None:
    """The pass of an odd radix over one block. Inputs q and radix - q share their roots, as do such outputs."""
    step, half = length // radix * POINT, radix // 2
    for j in range(length // radix):
        base = (start + j) * POINT
        zero_re, zero_im = load(z, base), load(z, base + LANES)
        for q in range(1, half + 1):
            for part in (0, LANES):
                a, b = load(z, base + q * step + part), load(z, base + (radix - q) * step + part)
                store(pairs, 2 * q * POINT + part, a + b)
                store(pairs, 2 * q * POINT + POINT + part, a - b)
        for m in range(half + 1):
            even_re, even_im, odd_re, odd_im = zero_re, zero_im, zero_re * 0.0, zero_im * 0.0
            for q in range(1, half + 1):
                pair, root = 2 * q * POINT, 2 * (m * q % radix)
                even_re = even_re + load(pairs, pair) * roots[root]
                even_im = even_im + load(pairs, pair + LANES) * roots[root]
                odd_re = odd_re + load(pairs, pair + POINT) * roots[root + 1]
                odd_im = odd_im + load(pairs, pair + POINT + LANES) * roots[root + 1]
            other = (radix - m) % radix
            _turned(z, base + other * step, even_re + odd_im, even_im - odd_re, twiddles, radix * j + other)
            _turned(z, base + m * step, even_re - odd_im, even_im + odd_re, twiddles, radix * j + m)


@njit
def _transform(z: Any, tables: Any, pairs: Any) -> None:
    """h points, in place, into permuted order."""
    points = length = len(tables.order) - 1
    twiddles, roots = tables.twiddles, tables.roots
    for radix in tables.radices:
        for start in range(0, points, length):
            if radix == 4:
                _fours(z, start, length, twiddles)
            elif radix == 2:
                _twos(z, start, length, twiddles)
            else:
                _odds(z, start, length, twiddles, radix, roots, pairs)
        roots, twiddles = roots[2 * radix :], twiddles[2 * length :]
        length //= radix


@njit
def _windowed(z: Any, wave: Any, at: int, hop: int, window: Any) -> None:
    """Eight frames, the first at wave[at]."""
    for n in range(0, len(window), LANES):
        columns = transposed(wave, at + n, hop)
        for i in range(LANES):
            store(z, (n + i) * LANES, double(columns[i]) * window[n + i])


@njit
def _bin(bins: Any, k: int, re: Any, im: Any) -> None:
    power = single(re * re + im * im)
    store(bins, k * POINT, power)
    store(bins, k * POINT + LANES, root(power + 1e-8))


@njit
def _spectrum(bins: Any, z: Any, tables: Any) -> None:
    """Of each bin the powers of eight frames, then their magnitudes."""
    points = len(tables.order) - 1
    for k in range(points // 2 + 1):
        a, b = tables.order[k] * POINT, tables.order[points - k] * POINT
        a_re, a_im, b_re, b_im = load(z, a), load(z, a + LANES), load(z, b), load(z, b + LANES)
        even_re, even_im, odd_re, odd_im = a_re + b_re, a_im - b_im, a_im + b_im, b_re - a_re
        cos, sin = tables.split[2 * k], tables.split[2 * k + 1]
        turned_re, turned_im = odd_re * cos - odd_im * sin, odd_re * sin + odd_im * cos
        _bin(bins, k, even_re + turned_re, even_im + turned_im)
        _bin(bins, points - k, even_re - turned_re, even_im - turned_im)


@njit
def _bands(bins: Any, tables: Any, at: int, magnitude: Any, power: Any) -> None:
    """Both kinds of bands of eight frames, to eight rows of the results."""
    bands = len(tables.first)
    square = np.empty(2 * LANES * LANES, np.float32)
    for m in range(0, bands, LANES):
        for i in range(LANES):
            k = tables.first[m + i] * POINT
            power_sum, magnitude_sum = load(bins, k) * 0.0, load(bins, k) * 0.0
            for w in range(tables.ends[m + i], tables.ends[m + i + 1]):
                power_sum = power_sum + load(bins, k) * tables.weights[w]
                magnitude_sum = magnitude_sum + load(bins, k + LANES) * tables.weights[w]
                k += POINT
            store(square, i * LANES, magnitude_sum)
            store(square, (LANES + i) * LANES, power_sum)
        magnitudes, powers = transposed(square, 0, LANES), transposed(square, LANES * LANES, LANES)
        for frame in range(LANES):
            store(magnitude, (at + frame) * bands + m, magnitudes[frame])
            store(power, (at + frame) * bands + m, powers[frame])


@njit
def _reflected(wave: Any, start: int, segment: Any) -> None:
    """Samples from `start` on, mirrored at both ends of the wave. What lies past the mirror image does not count."""
    last = len(wave) - 1
    for i in range(len(segment)):
        j = abs(start + i)
        segment[i] = wave[max(j if j <= last else 2 * last - j, 0)]


def _every_frame(wave: Any, full_scale: float, tables: Any, magnitude: Any, power: Any) -> None:
    window = tables.window / full_scale
    points, padding = len(tables.order) - 1, len(tables.order) - 1 - tables.hop // 2
    z = np.empty(len(window) * LANES)
    pairs = np.empty((tables.radices.max() + 1) * POINT)
    bins = np.empty((points + 1) * POINT, np.float32)
    segment = np.empty((LANES - 1) * tables.hop + len(window), wave.dtype)
    for frame in range(0, len(wave) // tables.hop, LANES):
        start = frame * tables.hop - padding
        if start >= 0 and start + len(segment) <= len(wave):
            _windowed(z, wave, start, tables.hop, window)
        else:
            _reflected(wave, start, segment)
            _windowed(z, segment, 0, tables.hop, window)
        _transform(z, tables, pairs)
        _spectrum(bins, z, tables)
        _bands(bins, tables, frame, magnitude, power)


def _cepstra(rows: Any, tables: Any, mfcc: Any) -> None:
    """DCT of rows of bands, two at a time, in float64: in float32, 128 equal terms (a silence) add up to 1e-3 off."""
    bands, width = len(tables.first), len(tables.dct) // tables.bands
    for row in range(0, len(rows) // bands, 2):
        for c in range(0, width, LANES):
            one = two = load(tables.dct, c) * 0.0
            for m in range(tables.bands):
                basis = load(tables.dct, m * width + c)
                one = one + basis * rows[row * bands + m]
                two = two + basis * rows[(row + 1) * bands + m]
            store(mfcc, row * width + c, single(one))
            store(mfcc, (row + 1) * width + c, single(two))


_run, _transformed = compiled(_every_frame), compiled(_cepstra)


def features(tables: Tables, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-mel, and the DCT of the power's mel bands in dB, floored 80 dB under their peak.

    Args:
        wave: (S,) float32, or int16 for samples of 1 / 32768, contiguous. S >= hop, and S > (n_fft - hop) / 2: it is
            reflected by so much at both ends.
    Returns:
        (T, M) and (T, C) float32.
    """
    frames, bands, width = len(wave) // tables.hop, len(tables.first), len(tables.dct) // tables.bands
    rows = (frames + LANES - 1) // LANES * LANES
    mel, power, mfcc = (np.empty(rows * columns, np.float32) for columns in (bands, bands, width))
    _run(wave, 32768.0 if wave.dtype == np.int16 else 1.0, tables, mel, power)
    for values, floor in ((mel, 1e-5), (power, 1e-10)):
        np.maximum(values, np.float32(floor), out=values)
        np.log(values, out=values)  # a third of the time that torch takes
    peak = power.reshape(rows, bands)[:frames, : tables.bands].max()
    _transformed(np.maximum(power, peak - np.float32(8 * math.log(10)), out=power), tables, mfcc)
    return mel.reshape(rows, bands)[:frames, : tables.bands], mfcc.reshape(rows, width)[:frames, : tables.cepstra]
