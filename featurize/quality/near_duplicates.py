"""Find near duplicates in a corpus: texts by MinHash (Broder 1997), recordings by their energy contour.

Shapes: N texts or utterances.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np

SHINGLE = 3
"""Characters in a shingle."""
HASHES, BANDS = 32, 8
"""Hashes of a text, and bands that they are divided into. Two texts are compared where all hashes of a band are equal.
This finds 98 % of pairs that share 80 % of their shingles, and 0.2 % of those that share 20 %."""
SIMILAR_TEXT = 0.8
"""Least share of equal hashes of near duplicates; it estimates the Jaccard similarity of the shingles."""
NO_TEXT = np.uint64(0)
"""Key of a text without a letter or digit."""

SEGMENTS, CONTOUR_BANDS = 16, 8
CONTOUR_SIZE = SEGMENTS * CONTOUR_BANDS
DEPTH = 5.0
"""Floor of the contour, in nats of amplitude (43 dB) below the peak: noise and codecs change what is below."""
SIMILAR_SOUND = 0.985
"""Least cosine similarity of the energy contours of near duplicates."""
MAX_LENGTH_RATIO = 1.02
"""Greatest ratio of the lengths of near duplicates."""
BLOCK = 512

_RANDOM = np.random.default_rng(0)
_FACTORS = _RANDOM.integers(1, 1 << 63, SHINGLE, np.uint64) | np.uint64(1)
_MIXERS = _RANDOM.integers(1, 1 << 63, HASHES, np.uint64) | np.uint64(1)


def normalise_text(text: str) -> str:
    """Return the letters and digits of a text, with case and width folded."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """Return (N,) uint64 hashes of normalised texts; NO_TEXT for an empty one."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() if text else bytes(8) for text in texts)
    return np.frombuffer(digests, np.uint64)


def spoken_keys(texts: Sequence[str], speakers: Sequence[str]) -> np.ndarray:
    """Return (N,) uint64 hashes of who says what, of normalised texts; NO_TEXT for an empty one."""
    return text_keys([f"{speaker}\n{text}" if text else "" for text, speaker in zip(texts, speakers, strict=True)])


def signatures(texts: Sequence[str]) -> np.ndarray:
    """Compute MinHash signatures of normalised texts: the least value of each hash over all shingles.

    Returns:
        (N, HASHES) uint32; zeros for an empty text.
    """
    found = np.zeros((len(texts), HASHES), np.uint32)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    nonempty = lengths > 0
    if not nonempty.any():
        return found
    pad = "\0" * (SHINGLE - 1)
    characters = np.frombuffer("".join(text + pad for text in texts if text).encode("utf-32-le"), np.uint32)
    windows = len(characters) - SHINGLE + 1
    grams = sum(characters[k : k + windows].astype(np.uint64) * _FACTORS[k] for k in range(SHINGLE))
    stops = np.cumsum(lengths[nonempty] + SHINGLE - 1)
    starts = np.concatenate(([0], stops[:-1]))
    inside = np.ones(len(characters), bool)
    for offset in range(1, SHINGLE):
        inside[stops - offset] = False
    grams, firsts = grams[inside[:windows]], starts - np.arange(len(starts)) * (SHINGLE - 1)
    grams ^= grams >> np.uint64(29)
    for column, mixer in enumerate(_MIXERS):
        hashed = ((grams * mixer) >> np.uint64(32)).astype(np.uint32)
        found[nonempty, column] = np.minimum.reduceat(hashed, firsts)
    return found


def similar_texts(signatures_NH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of nearly equal texts. Where many share a band, only neighbours are compared.

    Returns:
        (K, 2) int64 numbers, the lower one first; (K,) float64 estimates; the most similar first.
    """
    width, found = HASHES // BANDS, []
    nonempty = np.flatnonzero(signatures_NH.any(1))
    for band in range(BANDS):
        band_hashes = np.ascontiguousarray(signatures_NH[nonempty, band * width : (band + 1) * width])
        band_hashes = band_hashes.view(np.dtype((np.void, band_hashes.itemsize * width))).ravel()
        order = np.argsort(band_hashes, kind="stable")
        same = np.flatnonzero(band_hashes[order[1:]] == band_hashes[order[:-1]])
        found.append(nonempty[np.stack([order[same], order[same + 1]], 1)])
    pairs = np.unique(np.sort(np.concatenate(found), 1), axis=0)
    return _above_threshold(pairs, (signatures_NH[pairs[:, 0]] == signatures_NH[pairs[:, 1]]).mean(1), SIMILAR_TEXT)


def energy_contour(rows: np.ndarray) -> np.ndarray:
    """Compute the energy contour of an utterance in a few bands, without its level and spectral tilt.

    Only the lower half of the bands is used, which telephones transmit too: it found all of 61 copies through a
    telephone, and all bands only 43.

    Args:
        rows: (T, C) log amplitudes in nats; C mel bands, or 1.
    Returns:
        (CONTOUR_SIZE,) float32 of norm 1; zeros where the utterance is too short, or constant.
    """
    if len(rows) < SEGMENTS:
        return np.zeros(CONTOUR_SIZE, np.float32)
    low = rows[:, : -(-rows.shape[1] // 2)].astype(np.float32)
    low = np.maximum(low, low.max() - DEPTH)
    bands = np.linspace(0, low.shape[1], min(CONTOUR_BANDS, low.shape[1]), endpoint=False).astype(np.int64)
    times = np.linspace(0, len(low), SEGMENTS + 1).astype(np.int64)
    summed = np.add.reduceat(np.add.reduceat(low, bands, axis=1), times[:-1], axis=0)
    mean = summed / np.diff(times)[:, None]
    flat = (mean - mean.mean(0)).ravel()
    return np.pad(flat, (0, CONTOUR_SIZE - flat.size)) / max(float(np.linalg.norm(flat)), 1e-6)


def similar_recordings(contours_ND: np.ndarray, frames_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of utterances of nearly equal length and contour: each with the most similar longer one.

    Returns:
        As `similar_texts`.
    """
    order = np.argsort(frames_N, kind="stable")
    frames, sorted_ND = frames_N[order], contours_ND[order]
    nearest, similarity = np.arange(len(order)), np.zeros(len(order))
    for first in range(0, len(order), BLOCK):
        rows = np.arange(first, min(first + BLOCK, len(order)))
        stop = int(np.searchsorted(frames, frames[rows[-1]] * MAX_LENGTH_RATIO, side="right"))
        cosines = sorted_ND[rows] @ sorted_ND[first:stop].T
        later = np.arange(first, stop) > rows[:, None]
        cosines[~later | (frames[first:stop] > frames[rows, None] * MAX_LENGTH_RATIO)] = 0
        best = cosines.argmax(1)
        nearest[rows], similarity[rows] = first + best, cosines[np.arange(len(rows)), best]
    return _above_threshold(np.sort(order[np.stack([np.arange(len(order)), nearest], 1)], 1), similarity, SIMILAR_SOUND)


def _above_threshold(pairs: np.ndarray, similarity: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.flatnonzero(similarity >= threshold)
    chosen = chosen[np.argsort(-similarity[chosen], kind="stable")]
    return pairs[chosen], similarity[chosen]
