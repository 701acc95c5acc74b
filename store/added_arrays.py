"""Features that join sealed parts as further arrays.

A part's own seal stays as it is. A joined array has a seal of its own, in the attributes of its metadata: its
FeatureSpec, what it was made from, and checksums. Readers know of it once the root's list of features names it, and
that is when every part has it: until then they see the store as it was.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from headrace.store import index, layout
from headrace.store.arrays.array_reader import load_array, verified_block_checksums
from headrace.store.errors import DamagedStore, StoreError
from headrace.store.integrity import checksummed_metadata
from headrace.store.schema import FeatureSpec, digest
from headrace.store.storage import StoragePath, storage_of
from headrace.store.writer import Compression, write_array, write_error

Seal = Mapping[str, Any]
"""Of a joined array: the fields of its FeatureSpec, `fingerprint`, `inputs` and `crc32c`."""


def write(
    root: StoragePath,
    number: int,
    spec: FeatureSpec,
    values: np.ndarray,
    inputs: Mapping[str, str],
    compression: Compression,
) -> None:
    """Write and seal one array beside those of a sealed part. Two workers given the same one end with one copy of it.

    Args:
        values: for all utterances of the part, concatenated along the feature's axis: (sum of lengths, *row_shape).
        inputs: as `made_from` tells them.
    Raises:
        StoreError: the array does not fit the part's lengths, or the disk is full (in which case nothing is left
            behind).
    """
    name = f"{layout.part_name(number)}/{spec.name}"
    _check_shape(root, number, spec, values)
    try:
        with storage_of(root).atomic_folder(root, name) as draft:
            _, *blocks = checksummed_metadata.split_checksums(write_array(draft, values, compression, spec.dimensions))
            described = json.loads((draft / "zarr.json").read_bytes())
            seal = {**spec.to_json(), "inputs": dict(inputs)}
            described["attributes"] = {"seal": seal}
            seal["crc32c"] = "".join([checksummed_metadata.document_checksum(described), *blocks])
            storage_of(draft / "zarr.json").write(draft / "zarr.json", [checksummed_metadata.to_json_bytes(described)])
    except OSError as error:
        raise write_error(error, f"{root / name}") from error


def _check_shape(root: StoragePath, number: int, spec: FeatureSpec, values: np.ndarray) -> None:
    folder = layout.part_path(root, number)
    lengths = load_array(folder / layout.LENGTH_COLUMNS.get(spec.axis, "frames"))
    rows = len(lengths) if spec.axis == "utterance" else int(lengths.sum())
    if values.shape != (rows, *spec.row_shape) or values.dtype != spec.dtype:
        raise StoreError(
            f"part {number}: {spec.name} is {values.dtype}{values.shape}, "
            f"its lengths and spec say {spec.dtype}{(rows, *spec.row_shape)}."
        )


def read_seal(root: StoragePath, name: str, number: int) -> Seal | None:
    """The seal of a joined array of one part; None where there is no sealed one.

    Raises:
        DamagedStore: its metadata cannot be understood.
    """
    folder = layout.part_path(root, number) / name
    try:
        seal: Seal | None = json.loads((folder / "zarr.json").read_bytes())["attributes"].get("seal")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedStore(
            f"{folder} is not a sealed array ({error!r}): remove that folder and run featurize add again."
        ) from error
    return seal


def read_seals(root: StoragePath, name: str, numbers: Sequence[int]) -> list[Seal | None]:
    """The seals of a joined feature in many parts."""
    return storage_of(root).map(partial(read_seal, root, name), numbers)


def input_digests(root: StoragePath, number: int, names: Sequence[str]) -> dict[str, str]:
    """What stands in a seal for the arrays that another one is made from: digests of their checksums.

    Raises:
        DamagedStore: one of them is not there, or a seal cannot be read.
    """
    checksums = dict(index.read_seal(root, number)["crc32c"])
    for name in names:
        if name not in checksums:
            seal = read_seal(root, name, number)
            if seal is None:
                raise DamagedStore(f"part {number:05d} has no {name}: run featurize add {root} {name}.")
            checksums[name] = seal["crc32c"]
    return {name: digest(checksums[name])[:12] for name in names}


def publish(root: StoragePath, spec: FeatureSpec, numbers: Sequence[int]) -> None:
    """Name a feature in the root, where readers look, now that all parts have it.

    Raises:
        DamagedStore: one of them has not, or the root is not what was written.
    """
    document = checksummed_metadata.read(root / "zarr.json")
    features = {feature["name"]: feature for feature in document["attributes"]["features"]}
    entry = spec.to_json() | {"seals": seals_digest(root, spec.name, numbers)}
    if features.get(spec.name) != entry:
        document["attributes"]["features"] = list((features | {spec.name: entry}).values())
        storage_of(root).write_atomic(root, "zarr.json", checksummed_metadata.with_checksum(document))


def withdraw(root: StoragePath, names: Collection[str]) -> None:
    """Name features in the root no more: not all parts have them now. Their arrays stay.

    Raises:
        DamagedStore: the root is not what was written.
    """
    document = checksummed_metadata.read(root / "zarr.json")
    features = document["attributes"]["features"]
    document["attributes"]["features"] = [feature for feature in features if feature["name"] not in names]
    storage_of(root).write_atomic(root, "zarr.json", checksummed_metadata.with_checksum(document))


def seals_digest(root: StoragePath, name: str, numbers: Sequence[int]) -> str:
    """What stands in the root for all seals of a joined feature. Raises DamagedStore where a part has none."""
    seals = read_seals(root, name, numbers)
    if None in seals:
        folder = layout.part_path(root, numbers[seals.index(None)]) / name
        raise DamagedStore(f"{folder} is not a sealed array: remove that folder and run featurize add again.")
    return digest(list(zip(numbers, seals, strict=True)))


def verified_seal(root: StoragePath, name: str, number: int) -> Seal:
    """The seal of a joined array that must be there, with metadata as they were sealed.

    Raises:
        DamagedStore: it is not; the message says what is wrong and not where.
    """
    try:
        described = json.loads((layout.part_path(root, number) / name / "zarr.json").read_bytes())
        seal = dict(described["attributes"]["seal"])
        described["attributes"]["seal"] = {key: value for key, value in seal.items() if key != "crc32c"}
        intact = checksummed_metadata.split_checksums(seal["crc32c"])[0] == checksummed_metadata.document_checksum(
            described
        )
    except FileNotFoundError:
        raise DamagedStore("is not there: run featurize add again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DamagedStore(f"has no seal ({error!r})") from error
    if not intact:
        raise DamagedStore("zarr.json is not what was sealed")
    return seal


def block_checksums(root: StoragePath, number: int, name: str) -> list[str]:
    """Checksums of the blocks of an array, whether the part was sealed with it or it joined later.

    Raises:
        DamagedStore: its metadata, or the seal, are not what was written.
    """
    folder, own = layout.part_path(root, number) / name, index.read_seal(root, number)["crc32c"]
    if name in own:
        return verified_block_checksums(folder, own[name])
    try:
        return checksummed_metadata.split_checksums(verified_seal(root, name, number)["crc32c"])[1:]
    except DamagedStore as error:
        raise DamagedStore(f"{folder} {error.message}: run store verify.") from error
