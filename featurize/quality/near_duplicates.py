"""Find near duplicates in a corpus: texts by MinHash (Broder 1997), recordings by their energy contour.

N texts, or utterances.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np

GRAM = 3
"""Characters of a shingle."""
HASHES, BANDS = 32, 8
"""Of a text; two texts are compared where all hashes of a band are equal: 98 % of those that share 80 % of their
shingles are, and 0.2 % of those that share 20 %."""
SIMILAR_TEXT = 0.8
"""Share of equal hashes, which estimates the share of equal shingles (Jaccard), from which two texts are nearly one."""
NO_TEXT = np.uint64(0)
"""Key of a text without a letter or digit."""

SEGMENTS, OUTLINE_BANDS = 16, 8
OUTLINE = SEGMENTS * OUTLINE_BANDS
DEPTH = 5.0
"""Nats of amplitude, 43 dB, below the loudest: what lies deeper counts as that deep, for noise and codecs change it."""
SIMILAR_SOUND = 0.985
"""Cosine of outlines from which two utterances sound like one recording."""
LENGTHS = 1.02
"""How much longer one of them may be."""
BLOCK = 512

_RANDOM = np.random.default_rng(0)
_FACTORS = _RANDOM.integers(1, 1 << 63, GRAM, np.uint64) | np.uint64(1)
_MIXERS = _RANDOM.integers(1, 1 << 63, HASHES, np.uint64) | np.uint64(1)


def normalised(text: str) -> str:
    """Return only the letters and digits of a text, without differences of case and width."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def keys(texts: Sequence[str]) -> np.ndarray:
    """Return (N,) uint64 keys, equal where normalised texts are; NO_TEXT for an empty one."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() if text else bytes(8) for text in texts)
    return np.frombuffer(digests, np.uint64)


def signatures(texts: Sequence[str]) -> np.ndarray:
    """Return MinHashes of normalised texts: by each of several hashes, the least hash of all shingles.

    Returns:
        (N, HASHES) uint32; zeros for an empty text.
    """
    found = np.zeros((len(texts), HASHES), np.uint32)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    there = lengths > 0
    if not there.any():
        return found
    pad = "\0" * (GRAM - 1)
    characters = np.frombuffer("".join(text + pad for text in texts if text).encode("utf-32-le"), np.uint32)
    windows = len(characters) - GRAM + 1
    grams = sum(characters[k : k + windows].astype(np.uint64) * _FACTORS[k] for k in range(GRAM))
    stops = np.cumsum(lengths[there] + GRAM - 1)
    starts = np.concatenate(([0], stops[:-1]))
    inside = np.ones(len(characters), bool)
    for back in range(1, GRAM):
        inside[stops - back] = False
    grams, firsts = grams[inside[:windows]], starts - np.arange(len(starts)) * (GRAM - 1)
    grams ^= grams >> np.uint64(29)
    for column, mixer in enumerate(_MIXERS):
        hashed = ((grams * mixer) >> np.uint64(32)).astype(np.uint32)
        found[there, column] = np.minimum.reduceat(hashed, firsts)
    return found


def similar_texts(signatures_NH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of nearly equal texts. Of many that share a band, neighbours are compared.

    Returns:
        (K, 2) int64 numbers, the lower one first; (K,) float64 estimates; the most similar first.
    """
    width, found = HASHES // BANDS, []
    there = np.flatnonzero(signatures_NH.any(1))
    for band in range(BANDS):
        own = np.ascontiguousarray(signatures_NH[there, band * width : (band + 1) * width])
        own = own.view(np.dtype((np.void, own.itemsize * width))).ravel()
        order = np.argsort(own, kind="stable")
        same = np.flatnonzero(own[order[1:]] == own[order[:-1]])
        found.append(there[np.stack([order[same], order[same + 1]], 1)])
    pairs = np.unique(np.sort(np.concatenate(found), 1), axis=0)
    return _best(pairs, (signatures_NH[pairs[:, 0]] == signatures_NH[pairs[:, 1]]).mean(1), SIMILAR_TEXT)


def outline(rows: np.ndarray) -> np.ndarray:
    """Return the energy contour of an utterance in a few bands, without its level and its spectral tilt.

    Only the lower half of the bands counts, which telephones transmit too: of 61 copies through a telephone all were
    found by it, and 43 by all bands.

    Args:
        rows: (T, C) log amplitudes in nats; C a number of bands, or 1.
    Returns:
        (OUTLINE,) float32 of norm 1; zeros where it is too short, or never changes.
    """
    if len(rows) < SEGMENTS:
        return np.zeros(OUTLINE, np.float32)
    low = rows[:, : -(-rows.shape[1] // 2)].astype(np.float32)
    low = np.maximum(low, low.max() - DEPTH)
    bands = np.linspace(0, low.shape[1], min(OUTLINE_BANDS, low.shape[1]), endpoint=False).astype(np.int64)
    times = np.linspace(0, len(low), SEGMENTS + 1).astype(np.int64)
    summed = np.add.reduceat(np.add.reduceat(low, bands, axis=1), times[:-1], axis=0)
    mean = summed / np.diff(times)[:, None]
    flat = (mean - mean.mean(0)).ravel()
    return np.pad(flat, (0, OUTLINE - flat.size)) / max(float(np.linalg.norm(flat)), 1e-6)


def similar_sounds(outlines_ND: np.ndarray, frames_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of utterances with nearly the same length and outline: each with the most similar longer one.

    Returns:
        As `similar_texts`.
    """
    order = np.argsort(frames_N, kind="stable")
    frames, sorted_ND = frames_N[order], outlines_ND[order]
    nearest, similarity = np.arange(len(order)), np.zeros(len(order))
    for first in range(0, len(order), BLOCK):
        rows = np.arange(first, min(first + BLOCK, len(order)))
        stop = int(np.searchsorted(frames, frames[rows[-1]] * LENGTHS, side="right"))
        cosines = sorted_ND[rows] @ sorted_ND[first:stop].T
        later = np.arange(first, stop) > rows[:, None]
        cosines[~later | (frames[first:stop] > frames[rows, None] * LENGTHS)] = 0
        best = cosines.argmax(1)
        nearest[rows], similarity[rows] = first + best, cosines[np.arange(len(rows)), best]
    return _best(np.sort(order[np.stack([np.arange(len(order)), nearest], 1)], 1), similarity, SIMILAR_SOUND)


def _best(pairs: np.ndarray, similarity: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.flatnonzero(similarity >= least)
    chosen = chosen[np.argsort(-similarity[chosen], kind="stable")]
    return pairs[chosen], similarity[chosen]
