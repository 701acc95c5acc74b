"""The list of utterances that are not in a store: `rejects.jsonl`, one JSON object a line.

What a part rejected is in its seal too. What the scan rejected is only here; the next build scans again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.store import index, json_text
from headrace.store.schema import Reject
from headrace.store.storage import StoragePath, read_file, storage_of

FILE = "rejects.jsonl"


def read(root: StoragePath) -> tuple[list[Reject], int]:
    """Return the rejects in the list of a store, and the number of lines that cannot be read; none without a list."""
    try:
        lines = read_file(root / FILE).split(b"\n")
    except FileNotFoundError:
        return [], 0
    except OSError:
        return [], 1
    found = [_parse(line) for line in lines if line.strip()]
    rejects = [reject for reject in found if reject]
    return rejects, len(found) - len(rejects)


def sealed(root: StoragePath, numbers: Sequence[int]) -> list[Reject]:
    """Return the rejects in the seals of some parts. Raises DamagedStore if a seal cannot be read."""
    seals = index.read_seals(root, numbers)
    return [Reject(each["id"], each["stage"], each["reason"]) for seal in seals for each in seal["rejects"]]


def write(root: StoragePath, rejects: Iterable[Reject]) -> None:
    """Write the list of a store, by id, replacing the one that is there."""
    ordered = sorted(rejects, key=lambda reject: reject.id)
    storage_of(root).write_atomic(root, FILE, "".join(f"{reject.to_json()}\n" for reject in ordered).encode())


def _parse(line: bytes) -> Reject | None:
    try:
        found = json_text.parse(line)
        reject = Reject(found["id"], found["stage"], found["reason"])
    except (ValueError, KeyError, TypeError):
        return None
    return reject if all(isinstance(text, str) for text in (reject.id, reject.stage, reject.reason)) else None
