"""Read tables of utterances: TSV, CSV or JSON lines, with a header or with numbered columns.

Tables of Common Voice, NeMo, HiFiTTS and Hugging Face's audiofolder are such tables with names of their own.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf, isfinite
from sys import intern
from typing import Any

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.corpus.formats.lines import first_line, read_lines
from headrace.featurize.files.source import MAX_LINE_BYTES, Source
from headrace.featurize.text.languages.language_tags import language_code, unknown_tag
from headrace.store.errors import CorpusError, Rejected, UsageError, rejecting
from headrace.store.schema import Reject

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json")
COLUMNS = {
    "audio": "audio audio_file audio_filepath audio_path file file_name filename path recording wav wav_file wav_path",
    "text": "text_normalized normalized_text normalised_text sentence text transcript transcription transcript_text",
    "speaker": "speaker speaker_id speaker_name client_id spk spk_id reader",
    "language": "language lang locale language_id",
    "start": "start offset start_time begin",
    "end": "end end_time stop",
    "duration": "duration dur",
    "phones": "phones",
    "channel": "",
}
"""Usual names of columns by what they hold. If a table has several of them, the first in this order counts."""
_CHOICES = {role: tuple(names.split()) for role, names in COLUMNS.items()}
_QUOTE = '"'


class Columns:
    """Which columns of a table hold what."""

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        """
        Args:
            given: name or number of a column, from 1, by what it holds: keys of COLUMNS. Numbers are for tables
                without a header. Others are found by their usual names.
        """
        self._given = dict(given or {})

    def names(self, role: str) -> str:
        """Return the column that is given for something, by its name or its number; an empty string if none is."""
        return self._given.get(role, "")

    @property
    def are_numbered(self) -> bool:
        return bool(self._given) and all(value.isdecimal() for value in self._given.values())

    def positions(self, header: Sequence[str]) -> dict[str, int]:
        """Return the position of each column in a header, by what it holds.

        Raises:
            KeyError: the header lacks a given column.
        """
        if self.are_numbered:
            return {role: int(value) - 1 for role, value in self._given.items()}
        known = {name.strip().casefold(): position for position, name in reversed([*enumerate(header)])}
        found = {role: known[name.strip().casefold()] for role, name in self._given.items()}
        for role in [role for role in COLUMNS if role not in found]:
            for name in _CHOICES[role]:
                if name in known and known[name] not in found.values():
                    found[role] = known[name]
                    break
        return found


def parse_columns(text: str) -> Columns:
    """Return the columns that an option gives as `audio=path,text=sentence`.

    Raises:
        UsageError: it is not of that form, names something else than a table can hold, or lacks audio or text.
    """
    given: dict[str, str] = {}
    for pair in text.split(","):
        role, equals, name = (part.strip() for part in pair.partition("="))
        if not equals or not name or role not in COLUMNS or role in given:
            raise UsageError(f"{pair.strip()!r} is not WHAT=COLUMN, once each of {', '.join(COLUMNS)}")
        given[role] = name
    numbered = [value.isdecimal() for value in given.values()]
    if any(numbered) and (not all(numbered) or not {"audio", "text"} <= given.keys() or "0" in given.values()):
        raise UsageError(f"{text!r} numbers columns: number all from 1, audio and text among them")
    return Columns(given)


def read_table(
    source: Source, file: str, columns: Columns | None = None, *, folders: Sequence[str] = (), speaker: str = ""
) -> Entries:
    """Read a table with a line for each utterance.

    Args:
        file: .tsv, .csv, .jsonl or .json (one object a line), or text with bars between fields.
        columns: which columns to read; None finds them by their usual names.
        folders: beside the table, in which recordings may lie; the first that has the recording counts.
        speaker: of lines that give none.
    Raises:
        CorpusError: it has no column of recordings or of texts.
    """
    parse = _row_parser(source, file, folders, speaker or source.root.name)
    rows = _json_rows(source, file, columns) if _is_json(file) else _delimited_rows(source, file, columns)
    for location, row in rows:
        try:
            with rejecting("scan"):
                entry = row if isinstance(row, Reject) else parse(location, row)
            yield entry
        except Rejected as error:
            yield Reject(location, "scan", error.reason)


def is_table(source: Source, file: str) -> bool:
    """Return whether the first line of a file names columns of recordings and texts, or is a JSON object of them."""
    line = first_line(source, file)
    if _is_json(file):
        document = _json_object(line)
        return document is not None and {"audio", "text"} <= Columns().positions([*document]).keys()
    return {"audio", "text"} <= Columns().positions(_split(line, _delimiter(line))).keys()


Row = Mapping[str, Any]
"""A line's values by what they are."""
_Rows = Iterator[tuple[str, Row | Reject]]


def _row_parser(source: Source, file: str, folders: Sequence[str], speaker: str) -> Callable[[str, Row], Entry]:
    base = file.rpartition("/")[0]

    def parse(location: str, row: Row) -> Entry:
        audio = str(row.get("audio") or "").strip().replace("\\", "/")
        if not audio:
            raise Rejected("scan", "it names no recording")
        tag = str(row.get("language") or "").strip()
        language = language_code(tag) if tag else ""
        return Entry(
            location=location,
            audio=_path(source, base, folders, audio),
            speaker=intern(str(row.get("speaker") or "").strip() or speaker),
            language=language,
            text=str(row.get("text") or "").strip(),
            phones=str(row.get("phones") or "").strip(),
            channel=_channel(row.get("channel")),
            seconds=_seconds(row),
            alignment="" if _seconds(row) else None,
            name=audio,
            problem=unknown_tag(tag),
        )

    return parse


def _path(source: Source, base: str, folders: Sequence[str], audio: str) -> str:
    if audio.startswith("/") or "://" in audio:
        return audio
    candidates = ["/".join(filter(None, (base, folder, audio))) for folder in ("", *folders)]
    return next(filter(source.exists, candidates), candidates[-1])


def path_beside(source: Source, file: str, audio: str) -> str:
    """Return the path of a recording that a table names, which may be relative to the table or to the corpus."""
    return _path(source, file.rpartition("/")[0], ("",), audio.replace("\\", "/"))


def _seconds(row: Row) -> tuple[float, float] | None:
    """Return the start and the end of a segment; None if the row is about a whole recording."""
    start, end, duration = (_number(row.get(name), name) for name in ("start", "end", "duration"))
    if end is None and not start:
        return None  # a duration alone is that of the recording
    start = start or 0.0
    return start, end if end is not None else start + duration if duration is not None else inf


def _channel(value: Any) -> int:
    """Return the channel that a row names, from 0; -1 if it names none."""
    if value is None or value == "":
        return -1
    if not re.fullmatch(r"\d{1,3}", str(value)):
        raise Rejected("scan", f"its channel is {str(value)[:40]!r}, and not a number from 0")
    return int(value)


def _number(value: Any, name: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = inf
    if not isfinite(number):
        raise Rejected("scan", f"its {name} is {str(value)[:40]!r}, and not seconds")
    return number


def _is_json(file: str) -> bool:
    return file.endswith((".jsonl", ".json"))


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _json_rows(source: Source, file: str, columns: Columns | None) -> _Rows:
    columns = columns or Columns()
    if columns.are_numbered:
        raise CorpusError(f"{source.root / file} holds JSON objects, which have no numbered columns: name their keys.")
    for location, line in read_lines(source, file):
        if isinstance(line, Reject):
            yield location, line
            continue
        document = _json_object(line)
        if document is None:
            yield location, Reject(location, "scan", "not a JSON object: give each utterance one, on a line")
            continue
        keys = [*document]
        try:
            found = columns.positions(keys)
        except KeyError as error:
            yield location, Reject(location, "scan", f"it has no {error.args[0]!r}")
            continue
        values = {role: document[keys[position]] for role, position in found.items()}
        yield (
            location,
            {
                role: value["path"] if isinstance(value, dict) and "path" in value else value
                for role, value in values.items()
            },
        )


def _delimited_rows(source: Source, file: str, columns: Columns | None) -> _Rows:
    columns = columns or Columns()
    lines = read_lines(source, file)
    head = first_line(source, file)
    delimiter = _delimiter(head)
    positions = _positions(source, file, columns, _split(head, delimiter))
    if not columns.are_numbered:
        next(lines, None)
    last = max(positions.values())
    for location, line in _joined(lines, delimiter):
        if isinstance(line, Reject):
            yield location, line
            continue
        fields = _split(line, delimiter)
        if len(fields) <= last:
            reason = f"{len(fields)} columns, and its table has {last + 1} or more"
            yield location, Reject(location, "scan", reason)
            continue
        yield location, {role: fields[position] for role, position in positions.items()}


def _positions(source: Source, file: str, columns: Columns, header: Sequence[str]) -> dict[str, int]:
    listed = ", ".join(repr(name[:30]) for name in header[:12]) or "nothing"
    try:
        found = columns.positions(header)
    except KeyError as error:
        raise CorpusError(
            f"{source.root / file} has no column {error.args[0]!r}. Its first line has {listed}."
        ) from None
    if lacking := [role for role in ("audio", "text") if role not in found]:
        raise CorpusError(
            f"{source.root / file}: no column of {' and none of '.join(lacking)} is known by its name. Its first line "
            f"has {listed}: say which with --columns audio=NAME,text=NAME, or audio=1,text=2 without a header."
        )
    return found


def _joined(lines: Iterable[tuple[str, str | Reject]], delimiter: str) -> Iterator[tuple[str, str | Reject]]:
    """Join lines of a CSV that a quoted field continues over."""
    pending, begun = "", ""
    for location, line in lines:
        if isinstance(line, Reject) or delimiter not in ",;":
            yield location, line
            continue
        pending, begun = (f"{pending}\n{line}", begun) if pending else (line, location)
        if pending.count(_QUOTE) % 2 and len(pending) < MAX_LINE_BYTES:
            continue
        yield begun, pending
        pending = ""
    if pending:
        yield begun, Reject(begun, "scan", "a quotation mark that opens a field is never closed")


def _delimiter(line: str) -> str:
    """Return what separates the columns of a table, by its first line: most known names, then most columns."""

    def score(delimiter: str) -> tuple[int, int]:
        return len(Columns().positions(line.split(delimiter))), line.count(delimiter)

    return max("\t|;,", key=score)


def _split(line: str, delimiter: str) -> list[str]:
    if delimiter not in ",;":
        return [field.strip() for field in line.split(delimiter)]
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=False), [])
    except csv.Error:
        return line.split(delimiter)
