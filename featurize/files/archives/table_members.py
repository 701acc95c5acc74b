"""Read recordings that lie in the rows of Parquet and Arrow files, as data sets of Hugging Face have them.

Both are read by batches of rows: in Parquet those of a row group, in Arrow those of a record batch. Rows are asked for
in their order, nearly: a few batches are held.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import google_crc32c

from headrace.store.errors import Rejected, UsageError, rejected_file
from headrace.store.schema import ArchiveKind, Member
from headrace.store.storage import StoragePath

Open = Callable[[], Any]
"""Opens a file for Arrow."""
_BATCH_BYTES, _MAX_BATCH_ROWS = 1 << 23, 16
_MAX_GROUP_BYTES = 1 << 31
"""Of a row group, unpacked: a larger one is not read."""
_HELD_BATCHES, _HELD_FILES = 3, 2
_BLOCK = 1 << 20
_ARROW_FILE = b"ARROW1\0\0"
"""Begins a file of record batches; a stream of them begins with the first message."""


def kind_of(name: str) -> ArchiveKind | None:
    """Return the kind of a table that holds recordings, by its suffix; None if a file is none."""
    return "parquet" if name.lower().endswith(".parquet") else "arrow" if name.lower().endswith(".arrow") else None


def arrow() -> Any:
    """Return the module of Arrow.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(f"Parquet and Arrow files are read by {error.name}: pip install 'headrace[tables]'.") from None
    return pyarrow


@contextmanager
def _rejecting(file: str) -> Iterator[None]:
    """Turn what Arrow says of a damaged file into a reject."""
    pa = arrow()
    try:
        yield
    except GeneratorExit:  # Arrow is gone when the process ends, and a file that is held is closed
        raise
    except OSError as error:
        if error.errno is not None:
            raise rejected_file(error, "decode", f"its table cannot be read: {error.strerror}") from None
        raise Rejected("decode", _damaged(file, error)) from None
    except (pa.ArrowException, ValueError, LookupError, OverflowError, EOFError, MemoryError) as error:
        if isinstance(error, MemoryError) and not isinstance(error, pa.ArrowMemoryError):
            raise
        raise Rejected("decode", _damaged(file, error)) from None


def _damaged(file: str, error: Exception) -> str:
    told = " ".join(str(error).split())[:120]
    return f"its table cannot be read ({told}): the file is cut short or damaged"


class Table:
    """A Parquet or Arrow file of which rows are read."""

    def __init__(self, open: Open, name: str, kind: ArchiveKind) -> None:
        """
        Args:
            open: opens it for Arrow.
            name: of the file.
        Raises:
            Rejected: it is damaged.
        """
        self._open, self._name, self._kind = open, name, kind
        self._parquet: Any = None
        with _rejecting(name):
            if kind == "parquet":
                self._parquet = _parquet(open)
                self.schema = self._parquet.schema_arrow
            else:
                with closing(open()) as file:
                    self._first = _skip_magic(file)
                    self.schema = arrow().ipc.read_schema(file)
            self.names: list[str] = self.schema.names

    def groups(self) -> Iterator[tuple[int, int]]:
        """Yield the place of each row group or record batch, and how many rows it says that it has."""
        if self._parquet is not None:
            metadata = self._parquet.metadata
            yield from ((number, metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups))
            return
        with closing(self._open()) as file, _rejecting(self._name):
            file.seek(self._first)
            arrow().ipc.read_schema(file)
            while (message := self._message(file)) is not None:
                place, batch = message
                yield place, batch.num_rows

    def rows(self, place: int, columns: list[str]) -> Iterator[tuple[int, Any]]:
        """Yield batches of the rows of a row group or record batch, each with the number of its first row in it.

        Raises:
            Rejected: they are damaged.
        """
        first = 0
        with _rejecting(self._name):
            batches = self._of_group(place, columns) if self._parquet is not None else self._of_message(place, columns)
            for batch in batches:
                batch.validate(full=True)
                yield first, batch
                first += batch.num_rows

    def _of_group(self, number: int, columns: list[str]) -> Iterator[Any]:
        group = self._parquet.metadata.row_group(number)
        if group.total_byte_size > _MAX_GROUP_BYTES:  # not by column: pyarrow 26 ends the process on bad statistics
            raise ValueError(f"a row group of more than {_MAX_GROUP_BYTES >> 30} GB")
        mean = max(1, group.total_byte_size // max(1, group.num_rows))
        count = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // mean))
        yield from self._parquet.iter_batches(count, row_groups=[number], columns=columns, use_threads=False)

    def _of_message(self, place: int, columns: list[str]) -> Iterator[Any]:
        with closing(self._open()) as file:
            file.seek(place)
            found = self._message(file)
            if found is None:
                raise ValueError("a record batch is not there any more")
            yield found[1].select(columns)

    def _message(self, file: Any) -> tuple[int, Any] | None:
        """Return the next record batch and where it begins; None at the end."""
        pa = arrow()
        place = file.tell()
        try:
            message = pa.ipc.read_message(file)
        except EOFError:
            return None
        if message.type != "record batch":
            raise ValueError(f"a {message.type} where a record batch is expected")
        return place, pa.ipc.read_record_batch(message, self.schema)


def _parquet(open: Open) -> Any:
    return arrow().parquet.ParquetFile(
        open(), buffer_size=_BLOCK, pre_buffer=False, page_checksum_verification=True, thrift_string_size_limit=1 << 26
    )


def _skip_magic(file: Any) -> int:
    start = len(_ARROW_FILE) if file.read(len(_ARROW_FILE)) == _ARROW_FILE else 0
    file.seek(start)
    return start


def values_of(batch: Any, column: str) -> Any:
    """Return the encoded recordings of a batch: an array of bytes."""
    array = batch.column(column)
    return array.field("bytes") if arrow().types.is_struct(array.type) else array


class _Rows:
    """The recordings of a column, of which a few batches are held."""

    def __init__(self, table: Table, column: str) -> None:
        self._table, self._column = table, column
        self._group = -1
        self._batches: Iterator[tuple[int, Any]] = iter(())
        self._held: deque[tuple[int, Any]] = deque(maxlen=_HELD_BATCHES)

    def get(self, group: int, row: int) -> bytes | None:
        """Return a recording; None if there is no such row, or nothing in it."""
        if group != self._group or (self._held and row < self._held[0][0]):
            self._held.clear()
            self._group, self._batches = group, self._table.rows(group, [self._column])
        while not self._held or row >= self._held[-1][0] + len(self._held[-1][1]):
            item = next(self._batches, None)
            if item is None:
                self._group = -1
                return None
            self._held.append((item[0], values_of(item[1], self._column)))
        first, values = next((first, values) for first, values in self._held if first <= row < first + len(values))
        value = values[row - first].as_py()
        return value if isinstance(value, bytes) else None


_FILES: OrderedDict[tuple[Any, ...], _Rows] = OrderedDict()
_LOCK = threading.Lock()


def read_row(root: StoragePath, open: Open, member: Member, size: int) -> bytes:
    """Return a recording in a row.

    Raises:
        Rejected: stage "decode"; it is not what was scanned, or cannot be read.
    """
    path = root / member.archive
    version = _version(path)
    key = (str(path), version, member.column)
    with _LOCK:
        rows = _FILES.pop(key, None) or _Rows(Table(open, member.archive, member.kind), member.column)
        content = rows.get(*member.place)
        _FILES[key] = rows  # of a file that fails, nothing is kept
        while len(_FILES) > _HELD_FILES:
            _FILES.popitem(last=False)
    if content is None or len(content) != size or google_crc32c.value(content) != member.check:
        raise Rejected(
            "decode", "the table that it is in was replaced since it was scanned: run the same command again"
        )
    return content


def _version(path: StoragePath) -> tuple[int, ...]:
    if not isinstance(path, Path):
        return ()
    try:
        status = os.stat(path)
    except OSError as error:
        raise rejected_file(error, "decode", f"its table cannot be read: {error.strerror}") from None
    return status.st_size, status.st_mtime_ns
