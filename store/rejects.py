"""The utterances of a corpus that are not in a store, and the sum of all.

What a part rejected is in its seal, what the scan rejected in the record of the scan. `rejects.jsonl` in the root, one
JSON object a line, is derived from both, and can be made again at any time. Rejects are grouped by the kind of their
reason: what is the same but for names, numbers and quoted texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from headrace.store import index, json_text, layout
from headrace.store.integrity import scan_record
from headrace.store.schema import Reject, Stage
from headrace.store.storage import StoragePath, read_file, storage_of

FILE = "rejects.jsonl"
_VARIABLE = "…"
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?!\w)""")
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,:]\d+)*(?:e[-+]?\d+)?(?!\w)")
_NAME = re.compile(
    r"^\S.*?(?= for the second time)|(?<= time, after )\S.*?(?=: keep one)"
    r"|(?<=wav\.scp has no ).+|(?<=segments has no ).+"
)
"""Names that some reasons have without quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """How many utterances of the corpus a store accounts for."""

    stored: int
    rejected: int
    listed: int | None
    """By the scan of the corpus; None if an earlier version made the store, which did not record it."""


def account(root: StoragePath, attributes: Mapping[str, Any], numbers: Sequence[int]) -> Account:
    """Return the account of a store, from the seals of its parts and the record of the scan.

    Without a record, what the scan rejected is counted in `rejects.jsonl`.

    Args:
        attributes: of the root.
        numbers: of the sealed parts.
    Raises:
        DamagedStore: a seal, or the record, is not what was written.
    """
    seals = index.read_seals(root, numbers)
    stored = sum(seal["utterances"] for seal in seals)
    if not scan_record.is_recorded(attributes):
        return Account(stored=stored, rejected=count(root, attributes, numbers, stored), listed=None)
    record = scan_record.read(root)
    rejected = sum(len(seal["rejects"]) for seal in seals) + len(record.rejects)
    return Account(stored=stored, rejected=rejected, listed=record.listed)


def count(root: StoragePath, attributes: Mapping[str, Any], numbers: Sequence[int], stored: int) -> int:
    """Return the number of rejects. Of a complete store no seal is read: what was planned and not stored was rejected.

    Args:
        attributes, numbers: as in `account`.
        stored: number of utterances in the parts.
    Raises:
        DamagedStore: the record of the scan, or a seal that is read, is not what was written.
    """
    if not scan_record.is_recorded(attributes):
        listed, unreadable = read(root)
        return len(listed) + unreadable
    complete = len(numbers) == attributes["plan"]["parts"]
    by_parts = attributes["plan"]["utterances"] - stored if complete else len(sealed(root, numbers))
    return by_parts + len(scan_record.read(root).rejects)


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
    return [Reject.from_json(each) for seal in seals for each in seal["rejects"]]


def derived(root: StoragePath) -> bytes:
    """Return the content of the list of a store that has a record of its scan: all rejects, by id.

    Raises:
        DamagedStore: a seal, or the record, is not what was written.
    """
    return _lines([*scan_record.read(root).rejects, *sealed(root, layout.sealed_parts(root))])


def is_current(root: StoragePath) -> bool:
    """Return whether the list of a store is the one that is derived. Raises DamagedStore as `derived` does."""
    try:
        return read_file(root / FILE) == derived(root)
    except OSError:
        return False


def write_derived(root: StoragePath) -> None:
    """Write the list of a store that has a record of its scan, unless it is there.

    Raises:
        DamagedStore: as `derived` does.
    """
    if not is_current(root):
        storage_of(root).write_atomic(root, FILE, derived(root))


def write(root: StoragePath, rejects: Iterable[Reject]) -> None:
    """Write the list of a store, by id, replacing the one that is there."""
    storage_of(root).write_atomic(root, FILE, _lines(rejects))


def _lines(rejects: Iterable[Reject]) -> bytes:
    ordered = sorted(rejects, key=lambda reject: reject.id)
    return "".join(f"{reject.to_json()}\n" for reject in ordered).encode()


def _parse(line: bytes) -> Reject | None:
    try:
        return Reject.from_json(json_text.parse(line))
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectKind:
    """Rejects of one stage whose reasons differ in names, numbers and quoted texts only."""

    stage: Stage
    kind: str
    """The reason, with an ellipsis in place of what differs; if all are equal, the reason itself."""
    count: int
    example: str
    """Id of the first of them."""
    reason: str
    """Its reason."""

    def __str__(self) -> str:
        """Return how many there are and one of them, for a person."""
        if self.kind == self.reason:
            return f"{self.count:,} x {self.reason}, for example {self.example}"
        return f"{self.count:,} x like {self.example}: {self.reason}"


def group(rejects: Iterable[Reject]) -> list[RejectKind]:
    """Return the kinds of some rejects, the most frequent first."""
    found: dict[tuple[Stage, str], list[Reject]] = {}
    for reject in rejects:
        found.setdefault((reject.stage, _kind(reject)), []).append(reject)
    kinds = [
        RejectKind(
            stage=stage,
            kind=kind if any(one.reason != of_kind[0].reason for one in of_kind) else of_kind[0].reason,
            count=len(of_kind),
            example=of_kind[0].id,
            reason=of_kind[0].reason,
        )
        for (stage, kind), of_kind in found.items()
    ]
    return sorted(kinds, key=lambda kind: -kind.count)


def _kind(reject: Reject) -> str:
    """Return the reason of a reject without what is its own."""
    stem = PurePosixPath(reject.id.partition("#")[0]).stem
    reason = reject.reason
    if stem and f"{stem}." in reason:
        reason = re.sub(rf"(?<!\w){re.escape(stem)}\.\w+", _VARIABLE, reason)
    for pattern in (_QUOTED, _NAME, _NUMBER):
        reason = pattern.sub(_VARIABLE, reason)
    return reason
