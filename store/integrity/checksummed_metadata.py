"""Zarr group metadata that carries its own checksum, as an attribute.

The checksum covers the content of the document and not its bytes, so that any Zarr library may write it again. The
root, the parts and the index have one. The metadata of an array is covered by the seal of its part, or by its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np

from headrace.store import json_text
from headrace.store.advice import command, run_repair
from headrace.store.errors import DamagedStore
from headrace.store.storage import StoragePath, read_file

KEY = "crc32c"
"""Attribute that holds the checksum."""


def crc32c(data: Any) -> str:
    """Return the CRC-32C of a buffer as eight hexadecimal digits."""
    return f"{google_crc32c.value(data if isinstance(data, bytes) else np.asarray(memoryview(data))):08x}"


def split_checksums(checksums: str) -> list[str]:
    """Split the concatenated checksums of an array: that of its metadata, then that of each block."""
    return [checksums[start : start + 8] for start in range(0, len(checksums), 8)]


def document_checksum(document: Mapping[str, Any]) -> str:
    """Return the CRC-32C of a document as JSON with sorted keys and no spaces."""
    return crc32c(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def to_json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON in the form that zarr writes."""
    return json.dumps(document, indent=2).encode()


def with_checksum(document: Mapping[str, Any]) -> bytes:
    """Return the content of a group's `zarr.json` with its checksum among the attributes."""
    attributes = {key: value for key, value in document["attributes"].items() if key != KEY}
    bare = {**document, "attributes": attributes}
    return to_json_bytes({**bare, "attributes": {**attributes, KEY: document_checksum(bare)}})


def read(file: StoragePath) -> dict[str, Any]:
    """Read a group's `zarr.json` and check its checksum.

    Raises:
        DamagedStore: it is missing, or is not what was written.
    """
    try:
        document: dict[str, Any] = json_text.parse(read_file(file))
    except (OSError, ValueError) as error:
        raise DamagedStore(f"{file} cannot be read ({error!r}): {run_repair(file)}.") from error
    check(file, document)
    return document


def check(file: StoragePath, document: Any, root: StoragePath | None = None) -> None:
    """Check the checksum of the document that was read from a file.

    Args:
        root: of the store, where the path of the file does not say it.
    Raises:
        DamagedStore: it is not what was written.
    """
    remedy = f"run {command('store repair', root)}" if root else run_repair(file)
    try:
        attributes = dict(document["attributes"])
        intact = attributes.pop(KEY) == document_checksum({**document, "attributes": attributes})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedStore(f"{file} cannot be read ({error!r}): {remedy}.") from error
    if not intact:
        raise DamagedStore(f"{file} is not what was written: {remedy}.")
