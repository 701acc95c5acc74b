"""The list of segments: a table that points into recordings, and that `featurize build` reads.

    audio           start    end      speaker  language  text
    talks/one.flac  0.4200   6.1300   talks    en        Good evening.

Tab-separated, UTF-8. Paths are relative to the list if the recordings lie beside or below it, else absolute.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import NamedTuple

from headrace.featurize.corpus.formats.lines import read_lines
from headrace.featurize.files import source
from headrace.featurize.text.languages.language_tags import language_code
from headrace.store.errors import CorpusError, UsageError
from headrace.store.schema import Reject
from headrace.store.storage import StoragePath
from headrace.store.storage.output_files import output_file

SUFFIX = ".tsv"
HEADER = ("audio", "start", "end", "speaker", "language", "text")


class Row(NamedTuple):
    """A segment."""

    audio: str
    """Path of the recording."""
    start: float
    """Seconds from the recording's start."""
    end: float
    speaker: str
    language: str
    text: str = ""
    """Empty if it is not known."""


def check_name(out: Path) -> None:
    """Raise UsageError if a list cannot have this name."""
    if out.suffix.lower() != SUFFIX:
        raise UsageError(f"{out} would be a table with tabs: give it a name that ends in {SUFFIX}.")


def checked_language(tag: str) -> str:
    """Return the code of a language.

    Raises:
        UsageError: it is none.
    """
    code = language_code(tag)
    if not code:
        raise UsageError(f"{tag!r} is not a language code: give one such as en, zh or pt-BR.")
    return code


def write(out: Path, root: StoragePath, rows: Iterable[Row]) -> None:
    """Write a list.

    Args:
        out: the file, which appears whole or not at all.
        root: of the corpus, that the paths of the rows are relative to.
        rows: the segments, in the order in which they are written.
    """
    with output_file(out) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(HEADER) + "\n")
        for row in rows:
            audio = _path(row.audio, root, out)
            times = f"{row.start:.4f}", f"{row.end:.4f}"
            file.write("\t".join((audio, *times, *map(_field, (row.speaker, row.language, row.text)))) + "\n")


def read(path: Path) -> list[Row]:
    """Read a list that `write` wrote, and that may have been edited since.

    Raises:
        UsageError: there is no such file.
        CorpusError: it is not such a list, or a line of it is damaged.
    """
    found, file = source.find(path)
    if not file:
        raise UsageError(f"{path} is a folder: give the list that `featurize split` wrote.")
    lines = [(place, line) for place, line in read_lines(found, file)]
    columns = _columns(path, "" if not lines or isinstance(lines[0][1], Reject) else lines[0][1])
    return [_row(place, line, columns) for place, line in lines[1:]]


def _columns(path: Path, header: str) -> list[int]:
    names = header.split("\t")
    if lacking := [name for name in HEADER if name not in names]:
        raise CorpusError(f"{path} is not a list of segments: its first line lacks {', '.join(lacking)}")
    return [names.index(name) for name in HEADER]


def _row(place: str, line: str | Reject, columns: list[int]) -> Row:
    if isinstance(line, Reject):
        raise CorpusError(f"{place}: {line.reason}")
    fields = line.split("\t")
    try:
        audio, start, end, *others = (fields[column].strip() if column < len(fields) else "" for column in columns)
        row = Row(audio, float(start), float(end), *others)
    except ValueError:
        raise CorpusError(f"{place}: its start or its end is not a number of seconds") from None
    if not 0 <= row.start < row.end < inf:
        raise CorpusError(f"{place}: from {start} to {end} s is no part of a recording")
    return row


def _path(audio: str, root: StoragePath, out: Path) -> str:
    """Return the path of a recording as the list has it."""
    if not isinstance(root, Path):
        return audio  # relative to the corpus in the bucket, where the list is to be copied to
    relative = os.path.relpath(root / audio, out.resolve().parent)
    return (root / audio if relative.startswith("..") else Path(relative)).as_posix()


def _field(text: str) -> str:
    return " ".join(text.split())
