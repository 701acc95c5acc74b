"""Checks that a store is what was sealed, and that it keeps the laws.

Checksums tell that the bytes are those that were written; the laws tell that what was written makes sense.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr

from store import index, layout
from store.errors import DamagedStore
from store.reader import read_attributes
from store.schema import FeatureSpec
from store.writer import checksum


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be."""

    where: str
    """Part, array and utterance, as far as known."""
    what: str


def verify(root: Path) -> Iterator[Problem]:
    """Every problem of a store; none means it is whole.

    Raises:
        NotAStore: `root` is not a store.
    """
    attributes = read_attributes(root)
    specs = [FeatureSpec.from_json(spec) for spec in attributes["features"]]
    numbers = layout.sealed_parts(root)
    missing = sorted(set(range(attributes["plan"]["parts"])) - set(numbers))
    if missing:
        yield Problem("store", f"{len(missing)} parts are not sealed yet, the first is {missing[0]:05d}")
    whole = True
    for number in numbers:
        for problem in verify_part(root, number, specs):
            whole = False
            yield problem
    if whole and not missing:
        yield from _verify_totals(root, attributes, numbers)


def verify_part(root: Path, number: int, specs: list[FeatureSpec]) -> Iterator[Problem]:
    """Checksums of every block, then, if they hold, the laws."""
    folder, where = layout.part_path(root, number), f"part {number:05d}"
    try:
        seal = index.read_seal(root, number)
    except DamagedStore as error:
        yield Problem(where, error.message)
        return
    damaged = [
        Problem(f"{where} {name}", what)
        for name, checksums in seal["crc32c"].items()
        for what in _verify_blocks(folder / name, checksums)
    ]
    yield from damaged
    if not damaged:
        yield from _verify_laws(folder, where, seal, specs)


def _verify_blocks(path: Path, checksums: str) -> Iterator[str]:
    sealed, *expected = [checksums[i : i + 8] for i in range(0, len(checksums), 8)]
    try:
        intact = checksum((path / "zarr.json").read_bytes()) == sealed
        blocks = _stored_blocks(path, len(expected)) if intact else []
    except (OSError, ValueError) as error:
        yield f"cannot be read: {error}"
        return
    if not intact:
        yield "zarr.json is not what was sealed"
        return
    for number, (block, wanted) in enumerate(zip(blocks, expected, strict=True)):
        if checksum(block) != wanted:
            yield f"block {number} is not what was sealed"


def _stored_blocks(path: Path, count: int) -> list[bytes]:
    """The inner chunks as stored, by the shard's own index; a string array is one block."""
    array = zarr.open_array(path, mode="r")
    if not count:
        return []
    data = path.joinpath("c", *("0" for _ in array.shape)).read_bytes()
    if array.shards is None:
        return [data]
    table, checksum = data[-16 * count - 4 : -4], data[-4:]
    if google_crc32c.value(table).to_bytes(4, "little") != checksum:
        raise ValueError("the shard's index is damaged")
    return [data[offset : offset + length] for offset, length in np.frombuffer(table, "<u8").reshape(-1, 2).tolist()]


def _verify_laws(folder: Path, where: str, seal: dict[str, Any], specs: list[FeatureSpec]) -> Iterator[Problem]:
    columns = {name: index.read_column(folder / name) for name in seal["columns"]}
    ids = index.read_column(folder / "id")
    frames = columns["frames"]
    for name in ("speaker", "language", "text"):
        if len(index.read_column(folder / name)) != len(ids):
            yield Problem(f"{where} {name}", f"does not have {len(ids)} entries")
    if len(set(ids)) != len(ids):
        yield Problem(f"{where} id", "one identity twice")
    if (np.diff(frames) < 0).any():
        yield Problem(f"{where} frames", "utterances are not in order of length")
    for spec in specs:
        yield from _verify_feature(folder, where, spec, columns, ids)
    if "phone_frames" in seal["features"]:
        yield from _verify_alignment(folder, where, columns, ids)


def _verify_feature(
    folder: Path, where: str, spec: FeatureSpec, columns: dict[str, np.ndarray], ids: np.ndarray
) -> Iterator[Problem]:
    lengths = np.ones(len(ids), np.int64) if spec.axis == "utterance" else columns[layout.LENGTH_COLUMNS[spec.axis]]
    array = zarr.open_array(folder / spec.name, mode="r")
    expected = (int(lengths.sum()), *spec.row_shape)
    if array.shape != expected or array.dtype != spec.dtype:
        found = f"{array.dtype}{array.shape}"
        yield Problem(f"{where} {spec.name}", f"is {found}; lengths and spec say {spec.dtype}{expected}")
    elif np.issubdtype(array.dtype, np.floating):
        bad = np.flatnonzero(~np.isfinite(np.asarray(array[:])).all(axis=tuple(range(1, array.ndim))))
        if len(bad):
            owner = int(np.searchsorted(layout.offsets(lengths), bad[0], side="right")) - 1
            yield Problem(f"{where} {spec.name} {ids[owner]}", f"{len(bad)} rows are not finite")


def _verify_alignment(folder: Path, where: str, columns: dict[str, np.ndarray], ids: np.ndarray) -> Iterator[Problem]:
    """Alignment law: the phones of an aligned utterance share out its frames, exactly."""
    durations = index.read_column(folder / "phone_frames")
    totals = (
        np.add.reduceat(np.append(durations, 0), layout.offsets(columns["phones_n"])[:-1]) if len(ids) else durations
    )
    expected = np.where(columns["aligned"] == 1, columns["frames"], 0)
    for wrong in np.flatnonzero(totals != expected):
        found = f"phones cover {totals[wrong]} frames of {expected[wrong]}"
        yield Problem(f"{where} phone_frames {ids[wrong]}", found)


def _verify_totals(root: Path, attributes: dict[str, Any], numbers: list[int]) -> Iterator[Problem]:
    """Reject law: stored and rejected add up. And the index says what the parts say."""
    seals = [index.read_seal(root, number) for number in numbers]
    counted = sum(seal["utterances"] + len(seal["rejects"]) for seal in seals)
    if counted != attributes["plan"]["utterances"]:
        yield Problem("store", f"{counted} utterances stored or rejected, {attributes['plan']['utterances']} planned")
    if not (root / "index" / "zarr.json").exists():
        yield Problem("index", "is not there: run featurize build again")
        return
    try:
        same = _equal(index.read(root), index.derive(root))
    except DamagedStore:
        same = False
    if not same:
        yield Problem("index", "does not agree with the parts: remove its folder and run featurize build again")


def _equal(one: index.Index, other: index.Index) -> bool:
    pairs = [(one.parts, other.parts), (one.bounds, other.bounds)]
    pairs += [(one.columns[name], other.columns[name]) for name in other.columns]
    pairs += [(one.names[name], other.names[name]) for name in index.NAMES]
    return one.fingerprint == other.fingerprint and all(np.array_equal(a, b) for a, b in pairs)
