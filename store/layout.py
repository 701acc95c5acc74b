"""Layout of a store: its files, and how a corpus is divided into parts.

STORE/
  zarr.json        attributes: format, sample_rate, hop, preset, features, plan
  parts/00000/     one unit of work, of retry and of commit. Its zarr.json holds the part's seal; an array that was
                   added later has its seal in its own zarr.json
  index/           lengths and names over all parts, derived from them
  models/          what features learned from the whole store: NAME.safetensors
  scan/zarr.json   how many utterances the corpus lists, and which of them its scan rejected
  rejects.jsonl    utterances that were not stored, and why; derived from the seals of the parts and scan/
  build.json       report of the last build; add.json: report of the last `featurize add`
  .headrace-drafts/  what is being written; nothing here counts
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from headrace.store.names import part_number
from headrace.store.storage import StoragePath, storage_of

FORMAT = "headrace-1"
CHUNK_BYTES = 1 << 20
"""Target size of the inner chunks of a shard: the unit of checksums, and of remote and compressed reads."""

LENGTH_COLUMNS = {"frames": "frames", "phones": "phones_n", "tokens": "tokens_n"}
"""Ragged axis to the per-utterance column that holds its lengths."""

RECORDING_COUNTS = ("dead_channels", "clipped_samples")
"""What is counted of each recording when it is decoded, and told where it is not 0: channels that hold nothing of the
speech, and samples beyond full scale."""


def part_name(number: int) -> str:
    """Return the name of a part's folder, relative to the root."""
    return f"parts/{number:05d}"


def part_path(root: StoragePath, number: int) -> StoragePath:
    """Return the folder of a part."""
    return root / part_name(number)


def shard_name(dimensions: int) -> str:
    """Return the name of an array's only data file, relative to the array's folder."""
    return "/".join(["c", *("0" * dimensions)])


def sealed_parts(root: StoragePath) -> list[int]:
    """Return the numbers of the sealed parts, ascending. Parts that are not sealed do not count."""
    folder = root / "parts"
    numbers = map(part_number, storage_of(folder).list_groups(folder))
    return sorted(number for number in numbers if number is not None)


def to_ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Return ascending integers as [first, one past the last] of each run of consecutive ones."""
    runs = itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    return [[run[0], run[-1] + 1] for run in ([n for _, n in pairs] for _, pairs in runs)]


def expand_ranges(ranges: Iterable[Sequence[int]]) -> list[int]:
    """Return the integers that `to_ranges` made these ranges of."""
    return [number for first, stop in ranges for number in range(first, stop)]


def offsets(lengths: np.ndarray) -> np.ndarray:
    """Return the row offsets of ragged utterances: utterance n has the rows offsets[n]:offsets[n + 1].

    Args:
        lengths: (N,) rows of each utterance.
    Returns:
        (N + 1,) int64.
    """
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


def default_part_seconds(total_seconds: float) -> float:
    """Return how much audio a part holds by default: about an hour, less if the corpus is small.

    With parts of this size every core has work, and little has to be repeated after a crash. The size depends on the
    corpus only, so that every machine divides a corpus in the same way.
    """
    return min(3600.0, max(60.0, total_seconds / 16))


def plan_parts(seconds: np.ndarray, part_seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Order utterances by length and cut the order into parts.

    Args:
        seconds: (N,) durations; utterances of equal duration keep their order.
        part_seconds: a part is closed once it holds this much.
    Returns:
        order (N,) int64, and bounds (P + 1,) int64: part p is order[bounds[p]:bounds[p + 1]], never empty.
    """
    order = np.argsort(seconds, kind="stable")
    if not len(order):
        return order, np.zeros(1, np.int64)
    ends = np.cumsum(seconds[order])
    with np.errstate(over="ignore"):  # parts may be shorter than any utterance
        part = np.minimum((ends - seconds[order] / 2) / part_seconds, len(order)).astype(np.int64)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    return order, np.append(starts, len(order)).astype(np.int64)


def chunk_rows(rows: int, row_bytes: int) -> int:
    """Return the rows of an inner chunk: about CHUNK_BYTES.

    The chunks of an array are evened out, so that the padding of the last one is at most a row for each chunk.
    """
    chunks = max(1, round(rows * row_bytes / CHUNK_BYTES))
    return max(1, -(-rows // chunks))
