"""Read data sets of Hugging Face as they lie on disk: Parquet or Arrow files with a column of recordings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from sys import intern
from typing import Any

import google_crc32c

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.corpus.formats.table_files import COLUMNS, Columns, path_beside
from headrace.featurize.files.archives import reading, table_members
from headrace.featurize.files.archives.first_pass import FirstPass, Recording
from headrace.featurize.files.archives.members import check_size
from headrace.featurize.files.archives.table_members import Table, kind_of
from headrace.featurize.files.folders import join
from headrace.featurize.files.source import Source
from headrace.featurize.text.languages.language_tags import language_code, unknown_tag
from headrace.store.errors import CorpusError, Rejected, rejecting
from headrace.store.schema import Member, Reject

_OF_CACHE = "cache-"
"""Begins the names of files that `datasets` made of others by `map`: the same rows again."""
_MAX_LOST = 100_000
"""Rows of a damaged row group of which each is told."""
_ROLES = ("audio", *(role for role in COLUMNS if role in ("text", "speaker", "language", "phones")))


def read_datasets(source: Source, file: str = "", columns: Columns | None = None) -> Entries:
    """Read the tables of a data set in the order of their names, each row an utterance.

    A recording is in its row, encoded as in a file, or its row names a file. Rows have the names of their table and
    their number in it, from 0.

    Args:
        file: that was given as the corpus; all in the folder are read if it is empty.
        columns: which columns to read; None finds them by their usual names, and recordings by their type.
    Raises:
        CorpusError: a table has no column of recordings or of texts.
    """
    for item in [("", [file])] if file else source.walk():
        if isinstance(item, Reject):
            yield item
            continue
        for name in (join(item[0], name) for name in item[1] if is_dataset(name)):
            try:
                yield from _Reader(source, name, columns or Columns()).entries()
            except Rejected as error:
                yield Reject(name, "scan", error.reason)


def is_dataset(name: str) -> bool:
    """Return whether a file is a table of a data set, by its name."""
    return kind_of(name) is not None and not name.rpartition("/")[2].startswith(_OF_CACHE)


class _Reader:
    """Reads a table."""

    def __init__(self, source: Source, file: str, columns: Columns) -> None:
        self._source, self._file = source, file
        size = source.size(file)
        self._kind = kind_of(file) or "parquet"
        self._table = Table(lambda: reading.open_table(source.files_root, file), file, self._kind)
        self._features = _features(self._table.schema)
        self._columns = self._found(columns)
        self._first_pass = FirstPass(source.files_root, file, size, source.modified(file), self._columns["audio"])

    def _found(self, columns: Columns) -> dict[str, str]:
        """Return the names of the columns by what they hold."""
        names = self._table.names
        try:
            found = {role: names[position] for role, position in columns.positions(names).items() if role in _ROLES}
        except (KeyError, IndexError) as error:
            raise CorpusError(f"{self._source.root / self._file} has no column {error.args[0]!r}.") from None
        if not columns.names("audio") and (audio := self._audio_column(names)):
            found["audio"] = audio
        if lacking := [role for role in ("audio", "text") if role not in found]:
            listed = ", ".join(repr(name[:30]) for name in names[:12]) or "nothing"
            raise CorpusError(
                f"{self._source.root / self._file}: no column of {' and none of '.join(lacking)} is known. It has "
                f"{listed}: say which with --columns audio=NAME,text=NAME"
            )
        return found

    def _audio_column(self, names: Sequence[str]) -> str:
        """Return the first column whose type is that of recordings."""
        types = table_members.arrow().types
        of_features = [name for name in names if (self._features.get(name) or {}).get("_type") == "Audio"]
        of_struct = [
            f.name for f in self._table.schema if types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0
        ]
        return next(iter((*of_features, *of_struct)), "")

    def entries(self) -> Entries:
        number = 0
        for place, rows in self._table.groups():
            first, count = number, 0
            try:
                known = self._first_pass.knows(place, rows)  # what takes long is to read the recordings
                columns = [name for role, name in self._columns.items() if not (known and role == "audio")]
                for start, batch in self._table.rows(place, [*dict.fromkeys(columns)]):
                    audio = self._known(place, start, batch) if known else self._audio(batch)
                    for row, values in enumerate(self._values(batch, audio), start):
                        yield from self._entry(place, row, first + row, values)
                        count = row + 1
            except Rejected as error:
                lost = range(first + count, first + max(count + 1, min(rows, count + _MAX_LOST)))
                yield from (Reject(f"{self._file}/{row}", "scan", error.reason) for row in lost)
            number = first + max(rows, count)

    def _audio(self, batch: Any) -> Iterator[Any]:
        """Yield the recordings one by one, since they are large; a Rejected for each that is damaged."""
        column = batch.column(self._columns["audio"])
        return (_value_of(column, row) for row in range(batch.num_rows))

    def _known(self, place: int, start: int, batch: Any) -> Iterator[Any]:
        """Yield what the first pass kept of the recordings."""
        return (self._first_pass.recording((place, row)) for row in range(start, start + batch.num_rows))

    def _values(self, batch: Any, audio: Iterator[Any]) -> Iterator[dict[str, Any]]:
        """Yield the values of each row by what they are."""
        lists = {role: batch.column(name).to_pylist() for role, name in self._columns.items() if role != "audio"}
        for row, recording in enumerate(audio):
            values = {role: self._named(role, values[row]) for role, values in lists.items()}
            yield values | {"audio": recording}

    def _named(self, role: str, value: Any) -> Any:
        """Return the name of a class of which a row has the number."""
        names = (self._features.get(self._columns[role]) or {}).get("names")
        is_class = isinstance(names, list) and type(value) is int and 0 <= value < len(names)
        return names[value] if is_class and isinstance(names, list) else value

    def _entry(self, place: int, row: int, number: int, values: Mapping[str, Any]) -> Entries:
        name = f"{self._file}/{number}"
        try:
            with rejecting("scan"):
                audio = values["audio"]
                if isinstance(audio, Rejected):
                    raise audio
                tag = str(values.get("language") or "").strip()
                language = language_code(tag) if tag else ""
                entry = Entry(
                    location=name,
                    audio=name,
                    speaker=intern(
                        str("" if (s := values.get("speaker")) is None else s).strip() or self._source.root.name
                    ),
                    language=language,
                    text=str(values.get("text") or "").strip(),
                    phones=str(values.get("phones") or "").strip(),
                    alignment="",
                    problem=unknown_tag(tag),
                )
                yield self._with_recording(entry, place, row, audio)
        except Rejected as error:
            yield Reject(name, "scan", error.reason)

    def _with_recording(self, entry: Entry, place: int, row: int, audio: object) -> Entry:
        """Add what is known of the recording to an entry.

        Args:
            audio: the value of its row, or what was kept of it.
        """
        from headrace.featurize.audio import recording  # not above: the names of formats are in `--help`

        content, path = (audio.get("bytes"), audio.get("path")) if isinstance(audio, dict) else (audio, audio)
        member = Member(archive=self._file, kind=self._kind, place=(place, row), column=self._columns["audio"])
        if isinstance(content, bytes):
            check_size(len(content))
            member = replace(member, check=int(google_crc32c.value(content)))
            header = recording.read_header(
                self._source.files_root, entry.audio, len(content), member=member, content=content
            )
            audio = Recording(len(content), member.check, *header)
            self._first_pass.keep(member.place, audio)
        if isinstance(audio, Recording):
            header = recording.Header(audio.samples, audio.sample_rate, audio.channels)
            return replace(entry, member=replace(member, check=audio.check), size=audio.size, header=header)
        if not isinstance(path, str) or not path.strip():
            raise Rejected("scan", "its row has neither a recording nor the path of one")
        return replace(entry, audio=path_beside(self._source, self._file, path.strip()), alignment=None, name=path)


def _value_of(column: Any, row: int) -> Any:
    """Return the value of a row, or a Rejected if it is damaged: names in it are not validated by pyarrow."""
    try:
        with rejecting("scan"):
            return column[row].as_py()
    except Rejected as error:
        return error


def _features(schema: Any) -> dict[str, Any]:
    """Return what `datasets` wrote of the columns' types; nothing if others wrote the table."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return {}
    return {name: kind for name, kind in found.items() if isinstance(kind, dict)} if isinstance(found, dict) else {}
