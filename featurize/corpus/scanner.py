"""Scan a corpus folder for utterances. Reads text and headers, and decodes no audio.

    lines, listings --formats--> Entry --validate--> Utterance | Reject

Everything that a corpus mentions or contains is yielded once, in a fixed order: that of its lines, or of its sorted
paths, and then recordings that no line mentions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from headrace.featurize.audio.recording import DEFAULT_LIMITS, Limits
from headrace.featurize.corpus import formats, lhotse_cuts
from headrace.featurize.corpus.alignment_files import AlignmentFinder
from headrace.featurize.corpus.formats import FORMATS, Entry
from headrace.featurize.corpus.validate import EntryValidator
from headrace.featurize.files import folders, source
from headrace.featurize.files.source import Source
from headrace.featurize.text.languages.language_tags import language_code
from headrace.store.errors import CorpusError, UsageError
from headrace.store.schema import Reject, Utterance
from headrace.store.storage import StoragePath, storage_of

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
    return _detect_format(path, *source.find(path, follow_outside=follow_outside))


def scan(
    path: StoragePath,
    format: str | None = None,
    *,
    follow_outside: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    language: str = "en",
    alignments: StoragePath | None = None,
    max_segment_s: float | None = None,
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
    Raises:
        UsageError: `path` or `alignments` does not exist, the format is unknown, or segments would be too long.
        CorpusError: the corpus is not of that format, or is empty.
        StorageError: the bucket cannot be accessed.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"{format!r} is not a corpus format: give one of {', '.join(FORMATS)}")
    language, given = language_code(language), language
    if not language:
        raise UsageError(f"{given!r} is not a language code: give one such as en, zh or pt-BR.")
    found, file = source.find(path, follow_outside=follow_outside)
    format = format or _detect_format(path, found, file)
    if max_segment_s is not None and max_segment_s > limits.max_duration_s:
        raise UsageError(
            f"--max-segment {max_segment_s:g} exceeds the {limits.max_duration_s:g} s of --max-duration: give less."
        )
    validator = EntryValidator(found, AlignmentFinder(found, alignments), limits, language, max_segment_s)
    return _scan(path, validator, format, found, _entries(path, format, found, file))


def _detect_format(path: StoragePath, found: Source, file: str) -> str:
    if file:
        if folders.suffix(file) == ".list":
            return "list"
        if file.endswith(lhotse_cuts.SUFFIXES):
            return "lhotse"
        raise CorpusError(f"{path} is a file and not a .list: give the folder that it is in, or --format list")
    lists = _list_files(found)
    fitting = [name for name in FORMATS[1:3] if not _missing_files(found, name)] + ["list"] * (len(lists) == 1)
    if len(fitting) > 1:
        raise CorpusError(f"{path} can be read as {' and as '.join(sorted(fitting))}: say which with --format")
    if fitting:
        return fitting[0]
    if len(lists) > 1:
        raise CorpusError(f"{path} holds {len(lists)} .list files: name one, {path / lists[0]} say, as the corpus")
    if any(folders.recordings(found.walk())):  # a reject counts: it gives a reason
        return "tree"
    raise CorpusError(
        f"{path} is not a corpus in a known format. Lay it out as one of these, or name one with --format:",
        "list      one .list file of path|speaker|language|text",
        "lhotse    a .jsonl or .jsonl.gz file of cuts, itself named as the corpus",
        "ljspeech  metadata.csv and wavs/",
        "kaldi     wav.scp and text",
        f"tree      {', '.join(folders.AUDIO_SUFFIXES)}, each with a .txt, .lab or .TextGrid of its name beside it",
    )


def _entries(path: StoragePath, format: str, found: Source, file: str) -> formats.Entries:
    if format == "list":
        return formats.read_list(found, file or _only_list_file(path, found))
    if format == "lhotse" and file:
        return lhotse_cuts.read_cuts(found, file)
    missing = "a folder" if file else _missing_files(found, format)
    if missing:
        raise CorpusError(f"{path} cannot be read as {format}: there must be {missing}")
    readers = {"ljspeech": formats.read_ljspeech, "kaldi": formats.read_kaldi, "tree": formats.read_tree}
    return readers[format](found)


def _missing_files(found: Source, format: str) -> str:
    """Return what a folder lacks to be a corpus of a format."""
    if format == "lhotse":
        return "a file of cuts, named as the corpus"
    needed = {"ljspeech": ("metadata.csv", "wavs"), "kaldi": ("wav.scp", "text")}.get(format, ())
    return " and ".join(name for name in needed if not found.exists(name))


def _list_files(found: Source) -> list[str]:
    return sorted(name for name in storage_of(found.root).list_names(found.root) if name.endswith(".list"))


def _only_list_file(path: StoragePath, found: Source) -> str:
    lists = _list_files(found)
    if len(lists) != 1:
        raise CorpusError(f"{path} holds {len(lists)} .list files where there must be one: name the file itself")
    return lists[0]


def _scan(
    path: StoragePath, validator: EntryValidator, format: str, found: Source, entries: Iterable[Entry | Reject]
) -> Iterator[Utterance | Reject]:
    locations: dict[str, str] = {}
    empty = True
    for results, audio, location in _map_in_order(validator.validate, entries, found.threads):
        empty = False
        for result in results:
            if audio and result.id in locations:
                reason = f"{result.id} for the second time, after {locations[result.id]}: keep one"
                yield Reject(location, "scan", reason)
                continue
            yield result
            if audio:
                locations[result.id] = location
        locations.setdefault(audio, location)
    for reject in _recordings_without_text(found, locations) if format != "tree" else ():
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
