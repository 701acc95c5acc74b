"""What the scan of a corpus listed, and what of it the scan rejected: `scan/zarr.json`, with a checksum of its own.

What a part rejected is in the seal of the part. What the scan rejected became part of none. With this record every
utterance that was listed can be accounted for:

    listed = stored + rejected by the parts + rejected by the scan

A build writes the record when it begins, in one piece. A build of a corpus that grew names the new parts in the root
first: at every moment the store is either incomplete, or its sum holds. Stores of earlier versions have no record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headrace.store.errors import DamagedStore
from headrace.store.integrity import checksummed_metadata
from headrace.store.root_attributes import RECORDED
from headrace.store.schema import Reject
from headrace.store.storage import StoragePath, storage_of
from headrace.store.writer import replace_group

FILE = "scan/zarr.json"
REMEDY = "run featurize build again, which scans the corpus again"


@dataclass(frozen=True, slots=True)
class ScanRecord:
    """The outcome of scanning a corpus."""

    listed: int
    """Everything that the corpus mentions or contains, as utterances and as rejects."""
    rejects: tuple[Reject, ...] = ()


def is_recorded(attributes: Mapping[str, Any]) -> bool:
    """Return whether a store with these root attributes has a record."""
    return attributes.get(RECORDED) is True


def read(root: StoragePath) -> ScanRecord:
    """Read the record of a store.

    Raises:
        DamagedStore: it is missing, or is not what was written.
    """
    try:
        attributes = checksummed_metadata.read(root / FILE)["attributes"]
        listed = attributes["listed"]
        found = tuple(Reject.from_json(each) for each in attributes["rejects"])
        if type(listed) is not int or listed < len(found):
            raise ValueError(f"listed is {str(listed)[:40]!r}")
        return ScanRecord(listed, found)
    except (DamagedStore, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedStore(f"{root / FILE} is not there, or not what was written: {REMEDY}.") from error


def write(root: StoragePath, record: ScanRecord) -> None:
    """Write the record of a store unless it is there, and have the root say that there is one.

    Raises:
        DamagedStore: the root is not what was written.
    """
    try:
        there = read(root) == record
    except DamagedStore:
        there = False
    if not there:
        replace_group(root, FILE, {"listed": record.listed, "rejects": [asdict(reject) for reject in record.rejects]})
    document = checksummed_metadata.read(root / "zarr.json")
    if not is_recorded(document["attributes"]):
        document["attributes"][RECORDED] = True
        storage_of(root).write_atomic(root, "zarr.json", checksummed_metadata.with_checksum(document))
