"""From a corpus folder to utterances and rejects. Reads text and headers, decodes nothing.

    lines, listings --formats--> Entry --examine--> Utterance | Reject

Whatever a corpus mentions or holds comes out once, in one order for one corpus: the order of its lines, or of its
sorted paths, then recordings that no line mentions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from headrace.featurize.audio.recording import DEFAULT_LIMITS, Limits
from headrace.featurize.corpus import formats, lhotse_cuts
from headrace.featurize.corpus.alignment_files import Alignments
from headrace.featurize.corpus.formats import FORMATS, Entry
from headrace.featurize.corpus.validate import Examiner
from headrace.featurize.files import folders, source
from headrace.featurize.files.source import Source
from headrace.store.errors import CorpusError, UsageError
from headrace.store.schema import Reject, Utterance
from headrace.store.storage import StoragePath, storage_of

_AHEAD = 64  # entries in flight per thread; small beside any corpus, large beside one slow file

S = TypeVar("S")
T = TypeVar("T")


def recognise(path: StoragePath, *, follow_outside: bool = False) -> str:
    """The format of a corpus, one of FORMATS.

    Raises:
        UsageError: there is nothing at `path`.
        CorpusError: no format fits, or more than one.
    """
    return _recognise(path, *source.find(path, follow_outside=follow_outside))


def scan(
    path: StoragePath,
    format: str | None = None,
    *,
    follow_outside: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    language: str = "en",
    alignments: StoragePath | None = None,
    split_s: float | None = None,
) -> Iterator[Utterance | Reject]:
    """Everything in a corpus, each once: as an utterance, or as a reject with stage "scan", or "align" where
    that is to blame.

    Args:
        path: of the corpus folder, or of a .list file or a manifest of cuts in it.
        format: one of FORMATS; None recognises it.
        follow_outside: take recordings that lie outside the corpus folder, by their path or through links.
        limits: what is too long.
        language: of utterances whose corpus does not say, an ISO code.
        alignments: a folder that holds them, laid out as the corpus.
        split_s: what is longer is cut at pauses of its alignment; None cuts nothing.
    Raises:
        UsageError: there is nothing at `path` or `alignments`, no such format, or pieces would be too long.
        CorpusError: not of that format, or nothing at all in it.
        StorageError: the bucket cannot be used, or does not answer.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"{format!r} is no corpus format; known are {', '.join(FORMATS)}")
    found, file = source.find(path, follow_outside=follow_outside)
    format = format or _recognise(path, found, file)
    if split_s is not None and split_s > limits.max_duration_s:
        raise UsageError(
            f"--max-segment {split_s:g} leaves more than the {limits.max_duration_s:g} s of --max-duration: give less."
        )
    examiner = Examiner(found, Alignments(found, alignments), limits, language, split_s)
    return _scan(path, examiner, format, found, _entries(path, format, found, file))


def _recognise(path: StoragePath, found: Source, file: str) -> str:
    if file:
        if folders.suffix(file) == ".list":
            return "list"
        if file.endswith(lhotse_cuts.SUFFIXES):
            return "lhotse"
        raise CorpusError(f"{path} is a file, and not a .list: give the folder that it is in, or --format list")
    lists = _lists(found)
    fitting = [name for name in FORMATS[1:3] if not _missing(found, name)] + ["list"] * (len(lists) == 1)
    if len(fitting) > 1:
        raise CorpusError(f"{path} can be read as {' and as '.join(sorted(fitting))}: say which with --format")
    if fitting:
        return fitting[0]
    if len(lists) > 1:
        raise CorpusError(f"{path} holds {len(lists)} .list files: name one, {path / lists[0]} say, as the corpus")
    if any(folders.recordings(found.walk())):  # a reject counts: it says why
        return "tree"
    raise CorpusError(
        f"{path} is no corpus of a known format: nothing fits, and --format can only name one of them",
        "list      one .list file of path|speaker|language|text",
        "lhotse    a .jsonl or .jsonl.gz file of cuts, itself named as the corpus",
        "ljspeech  metadata.csv and wavs/",
        "kaldi     wav.scp and text",
        f"tree      {', '.join(folders.AUDIO_SUFFIXES)}, each with a .txt, .lab or .TextGrid of its name beside it",
    )


def _entries(path: StoragePath, format: str, found: Source, file: str) -> formats.Entries:
    if format == "list":
        return formats.read_list(found, file or _one_list(path, found))
    if format == "lhotse" and file:
        return lhotse_cuts.read_cuts(found, file)
    missing = "a folder" if file else _missing(found, format)
    if missing:
        raise CorpusError(f"{path} cannot be read as {format}: there must be {missing}")
    readers = {"ljspeech": formats.read_ljspeech, "kaldi": formats.read_kaldi, "tree": formats.read_tree}
    return readers[format](found)


def _missing(found: Source, format: str) -> str:
    """What a folder lacks to be of a format."""
    if format == "lhotse":
        return "a file of cuts, named as the corpus"
    needed = {"ljspeech": ("metadata.csv", "wavs"), "kaldi": ("wav.scp", "text")}.get(format, ())
    return " and ".join(name for name in needed if not found.exists(name))


def _lists(found: Source) -> list[str]:
    return sorted(name for name in storage_of(found.root).list_names(found.root) if name.endswith(".list"))


def _one_list(path: StoragePath, found: Source) -> str:
    lists = _lists(found)
    if len(lists) != 1:
        raise CorpusError(f"{path} holds {len(lists)} .list files where there must be one: name the file itself")
    return lists[0]


def _scan(
    path: StoragePath, examiner: Examiner, format: str, found: Source, entries: Iterable[Entry | Reject]
) -> Iterator[Utterance | Reject]:
    claimed: dict[str, str] = {}
    empty = True
    for results, audio, where in _in_order(examiner.examine, entries, found.threads):
        empty = False
        for result in results:
            if audio and result.id in claimed:
                yield Reject(where, "scan", f"{result.id} for the second time, after {claimed[result.id]}: keep one")
                continue
            yield result
            if audio:
                claimed[result.id] = where
        claimed.setdefault(audio, where)
    for orphan in _unclaimed(found, claimed) if format != "tree" else ():
        empty = False
        yield orphan
    if empty:
        raise CorpusError(f"{path} is empty: there is no recording and no transcript in it")


def _unclaimed(found: Source, claimed: Container[str]) -> Iterator[Reject]:
    """Recordings in the folder that no line leads to."""
    for item in folders.recordings(found.walk()):
        if isinstance(item, Reject):
            yield item
        elif item not in claimed:
            yield Reject(item, "scan", "audio without text: no line of the corpus mentions it")


def _in_order(work: Callable[[S], T], items: Iterable[S], threads: int) -> Iterator[T]:
    """`map` by so many threads, a bounded number of items ahead, results in the order of the items."""
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > _AHEAD * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
