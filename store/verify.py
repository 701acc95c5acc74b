"""Checks that a store is what was sealed, and that it keeps the laws.

Checksums tell that the bytes are those that were written; the laws tell that what was written makes sense.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from store import index, joined, layout, place
from store.errors import DamagedStore
from store.place import Place
from store.reader import read_attributes
from store.schema import FeatureSpec
from store.shard import read_index
from store.writer import checksum


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be."""

    where: str
    """Part, array and utterance, as far as known."""
    what: str


def verify(root: Place) -> Iterator[Problem]:
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


def verify_part(root: Place, number: int, specs: list[FeatureSpec]) -> Iterator[Problem]:
    """Checksums of every block, then, if they hold, the laws."""
    folder, where = layout.part_path(root, number), f"part {number:05d}"
    try:
        seal = index.read_seal(root, number)
    except DamagedStore as error:
        yield Problem(where, error.message)
        return
    sealed = seal["crc32c"].items()
    found = place.each(folder, lambda array: list(_verify_blocks(folder / array[0], array[1])), sealed)
    damaged = [Problem(f"{where} {name}", what) for (name, _), some in zip(sealed, found, strict=True) for what in some]
    for spec in specs:
        if spec.name not in seal["features"]:
            damaged += [Problem(f"{where} {spec.name}", what) for what in _verify_joined(root, number, spec)]
    yield from damaged
    if not damaged:
        yield from _verify_laws(folder, where, seal, specs)


def _verify_blocks(path: Place, checksums: str) -> Iterator[str]:
    sealed, *expected = joined.split(checksums)
    try:
        intact = checksum((path / "zarr.json").read_bytes()) == sealed
    except OSError as error:
        yield f"cannot be read: {error}"
        return
    if intact:
        yield from _verify_data(path, expected)
    else:
        yield "zarr.json is not what was sealed"


def _verify_joined(root: Place, number: int, spec: FeatureSpec) -> Iterator[str]:
    """An array that joined its part later, by its own seal."""
    try:
        seal = joined.intact_seal(root, spec.name, number)
        made_from = joined.made_from(root, number, seal["inputs"])
    except DamagedStore as error:
        yield error.message
        return
    if seal["fingerprint"] != spec.fingerprint:
        yield f"is {seal['fingerprint'][:6]}, the store says {spec.fingerprint[:6]}"
    if seal["inputs"] != made_from:
        yield f"was not made from the {', '.join(seal['inputs'])} that is there"
    _, *expected = joined.split(seal["crc32c"])
    yield from _verify_data(layout.part_path(root, number) / spec.name, expected)


def _verify_data(path: Place, expected: list[str]) -> Iterator[str]:
    try:
        blocks = _stored_blocks(path, len(expected))
    except (OSError, DamagedStore) as error:
        yield f"cannot be read: {error}"
        return
    for number, (block, wanted) in enumerate(zip(blocks, expected, strict=True)):
        if checksum(block) != wanted:
            yield f"block {number} is not what was sealed"


def _stored_blocks(path: Place, count: int) -> list[bytes]:
    """The inner chunks as stored, by the shard's own index; a string array is one block."""
    array = index.metadata(path)
    if not count:
        return []
    file = path / layout.shard_name(array.ndim)
    if array.shards is None:
        return [file.read_bytes()]
    bounds = read_index(file, count).tolist()
    data = file.read_bytes()
    return [data[start:stop] for start, stop in bounds]


def _verify_laws(folder: Place, where: str, seal: dict[str, Any], specs: list[FeatureSpec]) -> Iterator[Problem]:
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
    folder: Place, where: str, spec: FeatureSpec, columns: dict[str, np.ndarray], ids: np.ndarray
) -> Iterator[Problem]:
    lengths = np.ones(len(ids), np.int64) if spec.axis == "utterance" else columns[layout.LENGTH_COLUMNS[spec.axis]]
    array = index.metadata(folder / spec.name)
    expected = (int(lengths.sum()), *spec.row_shape)
    if array.shape != expected or array.dtype != spec.dtype:
        found = f"{array.dtype}{array.shape}"
        yield Problem(f"{where} {spec.name}", f"is {found}; lengths and spec say {spec.dtype}{expected}")
    elif np.issubdtype(array.dtype, np.floating):
        bad = np.flatnonzero(~np.isfinite(index.load(folder / spec.name)).all(axis=tuple(range(1, array.ndim))))
        if len(bad):
            owner = int(np.searchsorted(layout.offsets(lengths), bad[0], side="right")) - 1
            yield Problem(f"{where} {spec.name} {ids[owner]}", f"{len(bad)} rows are not finite")


def _verify_alignment(folder: Place, where: str, columns: dict[str, np.ndarray], ids: np.ndarray) -> Iterator[Problem]:
    """Alignment law: the phones of an aligned utterance share out its frames, exactly."""
    durations = index.read_column(folder / "phone_frames")
    totals = (
        np.add.reduceat(np.append(durations, 0), layout.offsets(columns["phones_n"])[:-1]) if len(ids) else durations
    )
    expected = np.where(columns["aligned"] == 1, columns["frames"], 0)
    for wrong in np.flatnonzero(totals != expected):
        found = f"phones cover {totals[wrong]} frames of {expected[wrong]}"
        yield Problem(f"{where} phone_frames {ids[wrong]}", found)


def _verify_totals(root: Place, attributes: dict[str, Any], numbers: list[int]) -> Iterator[Problem]:
    """Reject law: stored and rejected add up. And the root and the index say what the parts say."""
    seals = [index.read_seal(root, number) for number in numbers]
    counted = sum(seal["utterances"] + len(seal["rejects"]) for seal in seals)
    if counted != attributes["plan"]["utterances"]:
        yield Problem("store", f"{counted} utterances stored or rejected, {attributes['plan']['utterances']} planned")
    for feature in attributes["features"]:
        if "seals" in feature and feature["seals"] != joined.seals_digest(root, feature["name"], numbers):
            yield Problem(
                f"store {feature['name']}", "is not the one that was named in zarr.json: run featurize add again"
            )
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
