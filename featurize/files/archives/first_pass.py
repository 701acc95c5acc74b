"""Keep what the first reading of an archive found: where its members lie, and how long their recordings are.

To list a tar or a table that lies in a bucket, most of it is fetched. Every command would do that again, so it is kept
in the user's folder for caches, one file for each version of an archive. Its lines, each a CRC-32C and a JSON object,
are appended as they are found: a command that is killed has kept what it had read. What is kept is believed no more
than a manifest is: a member that is not what was listed is rejected when it is decoded.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import google_crc32c

from headrace.featurize.files.archives.members import Listed, Listing, check_size, checked_name
from headrace.store.errors import Rejected
from headrace.store.library_settings import private_cache
from headrace.store.schema import ArchiveKind, Member, Reject
from headrace.store.storage import StoragePath

MAX_BYTES = 1 << 30
"""Of all that is kept; what was used longest ago is removed. A member takes 150."""
_FORMAT = 1
_NUMBER = range(1 << 62)

Place = tuple[int, int]
"""`Member.place`."""


class Recording(NamedTuple):
    """What is kept of a recording: its size in bytes, a checksum of it in a table, and its header."""

    size: int
    check: int
    samples: int
    sample_rate: int
    channels: int


class FirstPass:
    """What is known of one version of an archive. It can be used by many threads at once."""

    def __init__(self, root: StoragePath, archive: str, size: int, modified: int, column: str = "") -> None:
        """
        Args:
            root: that the archive's name is relative to.
            archive: its name.
            size, modified: tell its versions apart, as `Source` gives them. Nothing is kept if `modified` is 0.
            column: of a table, in which its recordings are.
        """
        self._file: Path | None = None
        self._output: FileIO | None = None
        self._members: list[Listed | Reject] = []
        self._recordings: dict[Place, Recording] = {}
        self._is_whole = False
        self._lock = threading.Lock()
        if modified:
            key = json.dumps([_FORMAT, _release(), str(root), archive, size, modified, column])
            self._file = _folder() / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.jsonl"
            self._read(archive, self._file)

    def members(self, listing: Callable[[], Listing]) -> Iterator[Listed | Reject]:
        """Yield the members as `listing` does, which is called unless it was listened to, to its end, before."""
        if self._is_whole:
            yield from self._members
            return
        found = []
        for item in listing():
            found.append(_reject_line(item) if isinstance(item, Reject) else _member_line(item))
            yield item
        self._keep({"begin": True}, *found, {"whole": len(found)})

    def recording(self, place: Place) -> Recording | None:
        """Return what is known of the recording at a place."""
        return self._recordings.get(place)

    def knows(self, group: int, rows: int) -> bool:
        """Return whether every recording in the rows of a group of a table is known."""
        return rows > 0 and all((group, row) in self._recordings for row in range(rows))

    def keep(self, place: Place, recording: Recording) -> None:
        """Keep what was found of a recording."""
        if place not in self._recordings:
            self._recordings[place] = recording
            self._keep({"recording": [*place, *recording]})

    def _keep(self, *lines: dict[str, Any]) -> None:
        """Append lines in one go. Where that cannot be, on a full disk for example, nothing is kept from here on."""
        if self._file is None:
            return
        written = (json.dumps(line, separators=(",", ":")).encode() for line in lines)
        content = b"".join(b"\n%08x %s" % (google_crc32c.value(line), line) for line in written)
        try:
            with self._lock:
                if self._output is None:  # it stays open: to open it for each recording takes long over a network
                    self._output = FileIO(self._file, "ab")
                    weakref.finalize(self, self._output.close)
                self._output.write(content)
        except OSError:
            self._file = None

    def _read(self, archive: str, file: Path) -> None:
        """Read what was kept. Anything that is not as `_keep` writes it counts as not kept."""
        try:
            content = file.read_bytes()
            os.utime(file)
        except OSError:
            return
        for line in content.splitlines():
            check, _, written = line.partition(b" ")
            if check == b"%08x" % google_crc32c.value(written):
                with suppress(ValueError, TypeError, LookupError, RecursionError, Rejected):
                    self._add(archive, json.loads(written))
        if not self._is_whole:
            self._members = []

    def _add(self, archive: str, line: Any) -> None:
        if self._is_whole and "recording" not in line:
            return  # two commands have listed it at the same time
        if "begin" in line:
            self._members = []
        elif "member" in line:
            name, size, kind, *place, check = line["member"]
            _check_numbers(size, *place, check)
            start, length = place
            if kind not in get_args(ArchiveKind) or checked_name(name) != name:
                raise ValueError(line)
            check_size(size)
            member = Member(archive=archive, kind=cast(ArchiveKind, kind), place=(start, length), check=check)
            self._members.append(Listed(name, size, member))
        elif "reject" in line:
            name, reason = map(str, line["reject"])
            self._members.append(Reject(name, "scan", reason))
        elif "recording" in line:
            first, second, *numbers = line["recording"]
            _check_numbers(first, second, *numbers)
            self._recordings[first, second] = Recording(*numbers)
        elif "whole" in line:
            self._is_whole = line["whole"] == len(self._members)


def _member_line(item: Listed) -> dict[str, Any]:
    member = item.member
    return {"member": [item.name, item.size, member.kind, *member.place, member.check]}


def _reject_line(reject: Reject) -> dict[str, Any]:
    return {"reject": [reject.id, reject.reason]}


def _check_numbers(*values: object) -> None:
    """Raise ValueError unless all are whole numbers, from 0."""
    if not all(type(value) is int and value in _NUMBER for value in values):
        raise ValueError(values)


@lru_cache(maxsize=1)
def _release() -> str:
    """Return the version of Headrace: another one may find more in an archive."""
    return version("headrace")


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Return the folder in which all is kept, after what was not used for longest is removed from it."""
    folder = private_cache("archives")
    with suppress(OSError):
        files = sorted(((s.st_mtime, s.st_size, f) for f in folder.iterdir() if (s := f.stat())), reverse=True)
        total = 0
        for _, size, file in files:
            total += size
            if total > MAX_BYTES:
                file.unlink(missing_ok=True)
    return folder
