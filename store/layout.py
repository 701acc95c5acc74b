"""Where things lie in a store, and how a corpus is cut into parts.

STORE/
  zarr.json        attributes: format, sample_rate, hop, preset, features, plan
  parts/00000/     one unit of work, of retry and of commit; its zarr.json carries the seal, that of an array that
                   joined later lies in the array's own
  index/           lengths and names over all parts, derived from them
  models/          what features learned from the whole store: NAME.safetensors
  rejects.jsonl    what did not get in, and why
  build.json       what the last build did; add.json: what the last add did
  tmp/             parts in the making; nothing here counts
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from headrace.store.storage import StoragePath, storage_of

FORMAT = "headrace-1"
CHUNK_BYTES = 1 << 20
"""Aim for the inner chunks of a shard: the unit of checksums, and of remote and compressed reads."""

LENGTH_COLUMNS = {"frames": "frames", "phones": "phones_n", "tokens": "tokens_n"}
"""Ragged axis to the per-utterance column that holds its lengths."""


def part_name(number: int) -> str:
    return f"parts/{number:05d}"


def part_path(root: StoragePath, number: int) -> StoragePath:
    return root / part_name(number)


def shard_name(dimensions: int) -> str:
    """Of an array's one data file, in the array's folder."""
    return "/".join(["c", *("0" * dimensions)])


def sealed_parts(root: StoragePath) -> list[int]:
    """Numbers of the parts that are there, ascending. A part is there whole or not at all."""
    return sorted(int(name) for name in storage_of(root / "parts").list_groups(root / "parts") if name.isdigit())


def to_ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending integers as [first, one past the last] of each run."""
    runs = itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    return [[run[0], run[-1] + 1] for run in ([n for _, n in pairs] for _, pairs in runs)]


def expand_ranges(ranges: Iterable[Sequence[int]]) -> list[int]:
    """The integers that `ranges` made these of."""
    return [number for first, stop in ranges for number in range(first, stop)]


def offsets(lengths: np.ndarray) -> np.ndarray:
    """(N,) lengths to (N + 1,) int64 row offsets: utterance n has the rows offsets[n]:offsets[n + 1]."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


def default_part_seconds(total_seconds: float) -> float:
    """About an hour a part; less for a small corpus, so that there is work for every core and little to do again
    after a crash. Depends on the corpus alone: another machine cuts it the same way."""
    return min(3600.0, max(60.0, total_seconds / 16))


def plan_parts(seconds: np.ndarray, part_seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Order utterances by length and cut the order into parts.

    Args:
        seconds: (N,) durations; equal ones keep their order.
        part_seconds: a part is closed once it holds this much.
    Returns:
        order (N,) int64, and bounds (P + 1,) int64: part p is order[bounds[p]:bounds[p + 1]], never empty.
    """
    order = np.argsort(seconds, kind="stable")
    if not len(order):
        return order, np.zeros(1, np.int64)
    ends = np.cumsum(seconds[order])
    part = np.minimum(((ends - seconds[order] / 2) / part_seconds).astype(np.int64), len(order))
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    return order, np.append(starts, len(order)).astype(np.int64)


def chunk_rows(rows: int, row_bytes: int) -> int:
    """Rows of one inner chunk: about CHUNK_BYTES, and evened out so that the last chunk wastes no more than a row
    a chunk in padding."""
    chunks = max(1, round(rows * row_bytes / CHUNK_BYTES))
    return max(1, -(-rows // chunks))
