"""Scan a corpus folder for utterances. Reads text and headers, and decodes no audio.

    lines, listings --formats--> Entry --validate--> Utterance | Reject

Everything that a corpus mentions or contains is yielded once, in a fixed order: that of its lines, or of its sorted
paths, and then recordings that no line mentions.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from headrace.featurize.audio.recording import DEFAULT_LIMITS, Limits
from headrace.featurize.corpus.alignment_files import AlignmentFinder
from headrace.featurize.corpus.entry import Entry
from headrace.featurize.corpus.formats import known_formats
from headrace.featurize.corpus.formats.datasets import is_dataset
from headrace.featurize.corpus.formats.known_formats import FORMATS
from headrace.featurize.corpus.formats.table_files import Columns
from headrace.featurize.corpus.recording_finder import RecordingFinder
from headrace.featurize.corpus.validate import EntryValidator
from headrace.featurize.files import folders, source
from headrace.featurize.files.archives.archive_source import ArchiveSource, is_archive
from headrace.featurize.files.source import Source
from headrace.featurize.text.languages.language_tags import language_code, unknown_language
from headrace.store.errors import CorpusError, UsageError
from headrace.store.schema import Reject, Utterance
from headrace.store.storage import StoragePath

_PENDING_PER_THREAD = 64  # entries; few compared with a corpus, many compared with one slow file

S = TypeVar("S")
T = TypeVar("T")


def detect_format(path: StoragePath, *, follow_outside: bool = False) -> str:
    """Return the format of a corpus, one of FORMATS.

    Args:
        path: of the corpus folder, or of a .list file or a manifest of cuts in it.
        follow_outside: whether recordings may lie outside the corpus folder.
    Raises:
        UsageError: `path` does not exist.
        CorpusError: no format fits, or more than one.
    """
    return _detect_format(path, *_in_archives(*source.find(path, follow_outside=follow_outside), None))


def scan(
    path: StoragePath,
    format: str | None = None,
    *,
    follow_outside: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    language: str = "en",
    alignments: StoragePath | None = None,
    max_segment_s: float | None = None,
    audio: StoragePath | None = None,
    columns: Columns | None = None,
    strip_markup: bool = False,
    dropped: Counter[str] | None = None,
) -> Iterator[Utterance | Reject]:
    """Yield everything in a corpus once, as an utterance or as a reject of stage "scan" or "align".

    Args:
        path: of the corpus folder, or of a .list file or a manifest of cuts in it.
        format: one of FORMATS; None detects it.
        follow_outside: include recordings that lie outside the corpus folder, by their path or through links.
        limits: maximum duration.
        language: code or tag of utterances whose corpus does not give one.
        alignments: a folder of alignments, laid out like the corpus.
        max_segment_s: longer utterances are split at pauses of their alignment; None splits nothing.
        audio: a folder in which recordings are looked for, where they are not where the corpus says.
        columns: of a table; None finds them by their usual names.
        strip_markup: drop markup of texts (`headrace.featurize.text.markup`).
        dropped: counts what was dropped of texts.
    Raises:
        UsageError: `path`, `alignments` or `audio` does not exist, the format is unknown, or segments would be too
            long.
        CorpusError: the corpus is not of that format, or is empty.
        StorageError: the bucket cannot be accessed.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"{format!r} is not a corpus format: give one of {', '.join(FORMATS)}")
    language = _language(language)
    found, file = _in_archives(*source.find(path, follow_outside=follow_outside, audio=audio), format)
    format = format or (_format_of_columns(path, found, file) if columns else _detect_format(path, found, file))
    _check_readable(path, format, found, file)
    finder = RecordingFinder(found, None if audio is None else _audio_folder(found, audio))
    if max_segment_s is not None and max_segment_s > limits.max_duration_s:
        raise UsageError(
            f"--max-segment {max_segment_s:g} exceeds the {limits.max_duration_s:g} s of --max-duration: give less."
        )
    validator = EntryValidator(
        found, finder, AlignmentFinder(found, alignments), limits, language, max_segment_s, strip_markup
    )
    entries = known_formats.read(format, found, file, columns)
    return _scan(path, validator, format, found, entries, Counter() if dropped is None else dropped)


def _language(tag: str) -> str:
    if code := language_code(tag):
        return code
    raise UsageError(f"--language: {unknown_language(tag)}.")


def _in_archives(found: Source, file: str, format: str | None) -> tuple[Source, str]:
    """Return the source with its archives opened: the one that is the corpus, or those of a folder that is no corpus
    without them. An archive that lies in a corpus beside all else is none of it."""
    if file:
        return (ArchiveSource(found, file), "") if is_archive(file) else (found, file)
    listing = known_formats.Listing(found)
    if not any(map(is_archive, listing.sample)):
        return found, file
    fitting = known_formats.fitting(found) if format is None else [format] * (not FORMATS[format].lacks(listing))
    in_archives = not fitting or FORMATS[fitting[0]].in_archives
    return (ArchiveSource(found) if in_archives else found), file


def _audio_folder(found: Source, audio: StoragePath) -> str:
    """Return the folder of recordings, relative to the corpus if it lies in it; empty if it is the corpus folder."""
    where = audio.resolve()
    name = "" if where == found.root else found.relative(str(where))
    if not (found.exists(name) if name else True) or not found.names(name):
        raise UsageError(f"--audio {audio} is not a folder that holds anything, on this machine or in the corpus")
    return name


def _detect_format(path: StoragePath, found: Source, file: str) -> str:
    if file:
        if name := known_formats.format_of_file(found, file):
            return name
        kinds = ".list, a table (.tsv, .csv, .jsonl) or a list of fields between bars (.txt)"
        raise CorpusError(f"{path} is a file and not a {kinds}: give the folder that it is in, or --format")
    fitting = known_formats.fitting(found)
    if len(fitting) > 1:
        raise CorpusError(f"{path} can be read as {' and as '.join(sorted(fitting))}: say which with --format")
    lists = known_formats.list_files(known_formats.Listing(found))
    if len(lists) > 1 and fitting in ([], ["tree"]):
        raise CorpusError(f"{path} holds {len(lists)} .list files: name one, {path / lists[0]} say, as the corpus")
    if fitting:
        return fitting[0]
    raise CorpusError(
        f"{path} is not a corpus in a known format. Lay it out as one of these, or name one with --format:",
        *(f"{name:13} {format.layout}" for name, format in FORMATS.items()),
    )


def _format_of_columns(path: StoragePath, found: Source, file: str) -> str:
    """Return the format of a corpus whose columns are named."""
    if file:
        return "datasets" if is_dataset(file) else "table"
    if not FORMATS["datasets"].lacks(known_formats.Listing(found)):
        return "datasets"
    raise UsageError(f"--columns are those of a table: name the file in {path} that is the table")


def _check_readable(path: StoragePath, name: str, found: Source, file: str) -> None:
    """Raise CorpusError if a corpus is not of the format that was named."""
    format = FORMATS[name]
    if file and not file.endswith(format.suffixes or "/"):
        lacking = f"a file of {' or '.join(format.suffixes)}" if format.suffixes else "a folder"
    elif file:
        lacking = ""
    elif name == "list":
        lists = known_formats.list_files(known_formats.Listing(found))
        if len(lists) != 1:
            raise CorpusError(f"{path} holds {len(lists)} .list files where there must be one: name the file itself")
        lacking = ""
    else:
        lacking = format.lacks(known_formats.Listing(found)) if name != "tree" else ""
    if lacking:
        raise CorpusError(f"{path} cannot be read as {name}: there must be {lacking}")


def _scan(
    path: StoragePath,
    validator: EntryValidator,
    format: str,
    found: Source,
    entries: Iterable[Entry | Reject],
    dropped: Counter[str],
) -> Iterator[Utterance | Reject]:
    locations: dict[str, str] = {}
    mentioned: set[str] = set()
    empty = True
    for results, audio, location, markup in _map_in_order(validator.validate, entries, found.threads):
        empty = False
        dropped.update(markup)
        for result in results:
            if audio and result.id in locations:
                reason = f"{result.id} for the second time, after {locations[result.id]}: keep one"
                yield Reject(location, "scan", reason)
                continue
            yield result
            if audio:
                locations[result.id] = location
        mentioned.add(audio)
    for reject in _recordings_without_text(found, mentioned) if FORMATS[format].lists_all and format != "tree" else ():
        empty = False
        yield reject
    if empty:
        raise CorpusError(f"{path} is empty: there is no recording and no transcript in it")


def _recordings_without_text(found: Source, mentioned: Container[str]) -> Iterator[Reject]:
    """Yield a reject for every recording in the folder that no line mentions."""
    for item in folders.recordings(found.walk()):
        if isinstance(item, Reject):
            yield item
        elif item not in mentioned:
            yield Reject(item, "scan", "audio without text: no line of the corpus mentions it")


def _map_in_order(function: Callable[[S], T], items: Iterable[S], threads: int) -> Iterator[T]:
    """Map a function over items in several threads, a bounded number in advance. Results keep the items' order."""
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > _PENDING_PER_THREAD * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
