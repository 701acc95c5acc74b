"""Features that are added to sealed parts, as further arrays.

The seal of the part does not change. An added array has a seal of its own, in the attributes of its metadata: its
FeatureSpec, the digests of its inputs, and checksums. The root names the feature once every part has it; until then
readers see the store as it was.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from headrace.store import index, json_text, layout
from headrace.store.advice import command, run_verify
from headrace.store.arrays.array_reader import load_array, verified_block_checksums
from headrace.store.errors import DamagedStore, StoreError
from headrace.store.integrity import checksummed_metadata
from headrace.store.names import check_names
from headrace.store.schema import FeatureSpec, digest
from headrace.store.storage import StoragePath, read_file, storage_of
from headrace.store.writer import Compression, write_array, write_error

Seal = Mapping[str, Any]
"""The seal of an added array: the fields of its FeatureSpec, `fingerprint`, `inputs`, `crc32c`, maybe `failed`."""


def write(
    root: StoragePath,
    number: int,
    spec: FeatureSpec,
    values: np.ndarray,
    inputs: Mapping[str, str],
    compression: Compression,
    failed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write and seal an array of a sealed part. If two workers write the same array, one copy of it stays.

    Args:
        values: of all utterances of the part, concatenated along the feature's axis: (sum of lengths, *row_shape).
        inputs: from `input_digests`.
        failed: by id of an utterance, why the feature could not be made of it.
    Raises:
        StoreError: the array does not fit the part's lengths, or the disk is full (then nothing is left behind).
    """
    check_names([spec.name], f"featurize add {root}")
    name = f"{layout.part_name(number)}/{spec.name}"
    _check_shape(root, number, spec, values)
    try:
        with storage_of(root).atomic_folder(root, name) as draft:
            _, *blocks = checksummed_metadata.split_checksums(write_array(draft, values, compression, spec.dimensions))
            document = json.loads((draft / "zarr.json").read_bytes())
            seal = {**spec.to_json(), "inputs": dict(inputs)} | ({"failed": dict(failed)} if failed else {})
            document["attributes"] = {"seal": seal}
            seal["crc32c"] = "".join([checksummed_metadata.document_checksum(document), *blocks])
            storage_of(draft).write(draft / "zarr.json", [checksummed_metadata.to_json_bytes(document)])
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
    """Read the seal of an added array of a part; None if the part has no such array.

    Raises:
        DamagedStore: the array's metadata cannot be read.
    """
    folder = layout.part_path(root, number) / name
    try:
        seal: Seal | None = json_text.parse(read_file(folder / "zarr.json"))["attributes"].get("seal")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedStore(f"{folder} is not a sealed array ({error!r}): {_remake(folder)}.") from error
    if seal is not None:
        _check_seal(seal, folder)
    return seal


def _remake(folder: StoragePath) -> str:
    root = folder.parent.parent.parent
    return f"remove that folder and run {command('featurize add', root, folder.name)}"


def _check_seal(seal: Seal, folder: StoragePath) -> None:
    """Check the names in the seal of an added array. Raises DamagedStore if it is not a seal, or one is no name."""
    try:
        check_names([seal["name"], *seal["inputs"]], folder)
        str.encode(seal["crc32c"], "ascii")
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedStore(f"{folder} is not a sealed array ({error!r}): {_remake(folder)}.") from error


def read_seals(root: StoragePath, name: str, numbers: Sequence[int]) -> list[Seal | None]:
    """Read the seals of an added feature in several parts."""
    return storage_of(root).map(partial(read_seal, root, name), numbers)


def input_digests(root: StoragePath, number: int, names: Sequence[str]) -> dict[str, str]:
    """Return digests of the arrays that another array is made from, for its seal.

    Args:
        names: of the arrays.
    Raises:
        DamagedStore: one of them is missing, or a seal cannot be read.
    """
    checksums = dict(index.read_seal(root, number)["crc32c"])
    for name in names:
        if name not in checksums:
            seal = read_seal(root, name, number)
            if seal is None:
                raise DamagedStore(f"part {number:05d} has no {name}: run {command('featurize add', root, name)}.")
            checksums[name] = seal["crc32c"]
    return {name: digest(checksums[name])[:12] for name in names}


def publish(root: StoragePath, spec: FeatureSpec, numbers: Sequence[int]) -> None:
    """Name a feature in the root, where readers look, because all parts have it now.

    Args:
        numbers: of all parts.
    Raises:
        DamagedStore: a part does not have it, or the root is not what was written.
    """
    document = checksummed_metadata.read(root / "zarr.json")
    features = {feature["name"]: feature for feature in document["attributes"]["features"]}
    entry = spec.to_json() | {"seals": seals_digest(root, spec.name, numbers)}
    if features.get(spec.name) != entry:
        document["attributes"]["features"] = list((features | {spec.name: entry}).values())
        storage_of(root).write_atomic(root, "zarr.json", checksummed_metadata.with_checksum(document))


def withdraw(root: StoragePath, names: Collection[str]) -> None:
    """Remove features from the root, because not all parts have them any more. Their arrays stay.

    Raises:
        DamagedStore: the root is not what was written.
    """
    document = checksummed_metadata.read(root / "zarr.json")
    features = document["attributes"]["features"]
    document["attributes"]["features"] = [feature for feature in features if feature["name"] not in names]
    storage_of(root).write_atomic(root, "zarr.json", checksummed_metadata.with_checksum(document))


def seals_digest(root: StoragePath, name: str, numbers: Sequence[int]) -> str:
    """Return the digest of all seals of an added feature, for the root. Raises DamagedStore if a part has none."""
    seals = read_seals(root, name, numbers)
    if None in seals:
        folder = layout.part_path(root, numbers[seals.index(None)]) / name
        raise DamagedStore(f"{folder} is not a sealed array: {_remake(folder)}.")
    return digest(list(zip(numbers, seals, strict=True)))


def verified_seal(root: StoragePath, name: str, number: int) -> Seal:
    """Read the seal of an added array that must be there, and check the array's metadata.

    Raises:
        DamagedStore: it is missing or damaged; the message says what is wrong, without the path.
    """
    try:
        document = json_text.parse(read_file(layout.part_path(root, number) / name / "zarr.json"))
        seal = dict(document["attributes"]["seal"])
        document["attributes"]["seal"] = {key: value for key, value in seal.items() if key != "crc32c"}
        expected, *_ = checksummed_metadata.split_checksums(seal["crc32c"])
        intact = checksummed_metadata.document_checksum(document) == expected
    except FileNotFoundError:
        raise DamagedStore(f"is not there: run {command('featurize add', root, name)}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedStore(f"has no seal ({error!r})") from error
    if not intact:
        raise DamagedStore("zarr.json is not what was sealed")
    _check_seal(seal, layout.part_path(root, number) / name)
    return seal


def block_checksums(root: StoragePath, number: int, name: str) -> list[str]:
    """Return the checksums of an array's blocks, whether the part was sealed with it or it was added later.

    Raises:
        DamagedStore: the array's metadata, or the seal, are not what was written.
    """
    folder, own = layout.part_path(root, number) / name, index.read_seal(root, number)["crc32c"]
    if name in own:
        return verified_block_checksums(folder, own[name])
    try:
        return checksummed_metadata.split_checksums(verified_seal(root, name, number)["crc32c"])[1:]
    except DamagedStore as error:
        raise DamagedStore(f"{folder} {error.message}: {run_verify(folder)}.") from error
