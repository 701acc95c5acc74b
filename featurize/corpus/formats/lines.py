"""Read the lines of a corpus' text files, and turn each into an entry or a reject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.files.source import Source
from headrace.featurize.files.source import read_lines as split_lines
from headrace.store.errors import CorpusError, Rejected, rejecting
from headrace.store.schema import Reject


def parse_lines(source: Source, file: str, parse: Callable[[str, str], Entry]) -> Entries:
    """Yield `parse(location, line)` of every line, or a reject."""
    for location, line in read_lines(source, file):
        try:
            with rejecting("scan"):
                entry = line if isinstance(line, Reject) else parse(location, line)
            yield entry
        except Rejected as error:
            yield Reject(location, "scan", error.reason)


def read_lines(source: Source, file: str) -> Iterator[tuple[str, str | Reject]]:
    """Yield the location and the content of every line that is not blank, or a reject if it is not UTF-8.

    Raises:
        CorpusError: the file cannot be read, or has a line that is too long.
    """
    try:
        with source.open(file) as data:
            yield from _decode_lines(file, split_lines(data, file))
    except (OSError, Rejected) as error:
        reason = error.reason if isinstance(error, Rejected) else error.strerror
        raise CorpusError(f"{source.root / file} cannot be read: {reason}") from None


def first_line(source: Source, file: str) -> str:
    """Return the first line of a file that is not blank; an empty string if there is none, or it is not UTF-8.

    Raises:
        CorpusError: as for `read_lines`.
    """
    line = next((line for _, line in read_lines(source, file)), "")
    return "" if isinstance(line, Reject) else line


def _decode_lines(file: str, lines: Iterable[bytes]) -> Iterator[tuple[str, str | Reject]]:
    for number, raw in enumerate(lines, 1):
        location = f"{file}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield location, Reject(location, "scan", f"not UTF-8 from byte {error.start + 1} on: save it as UTF-8")
            continue
        if line.strip():
            yield location, line.rstrip("\r\n")
