"""From a corpus folder to utterances and rejects. Reads text and headers, decodes nothing.

    lines, listings --formats--> Entry --examine--> Utterance | Reject

Whatever a corpus mentions or holds comes out once, in one order for one corpus: the order of its lines, or of its
sorted paths, then recordings that no line mentions.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from featurize import folders, formats
from featurize.examine import Examiner
from featurize.formats import FORMATS, Entry
from store.errors import CorpusError, UsageError
from store.schema import Reject, Utterance

THREADS = 16
"""Headers are read by so many at once: on a network disk each costs a round trip or two."""
_AHEAD = 64 * THREADS  # entries in flight; small beside any corpus, large beside one slow file

S = TypeVar("S")
T = TypeVar("T")


def recognise(path: Path, *, follow_outside: bool = False) -> str:
    """The format of a corpus, one of FORMATS.

    Raises:
        UsageError: there is nothing at `path`.
        CorpusError: no format fits, or more than one.
    """
    _check_there(path)
    if path.is_file():
        if folders.suffix(str(path)) == ".list":
            return "list"
        raise CorpusError(f"{path} is a file, and not a .list: give the folder that it is in, or --format list")
    lists = sorted(path.glob("*.list"))
    fitting = [name for name in FORMATS[1:3] if not _missing(path, name)] + ["list"] * (len(lists) == 1)
    if len(fitting) > 1:
        raise CorpusError(f"{path} can be read as {' and as '.join(sorted(fitting))}: say which with --format")
    if fitting:
        return fitting[0]
    if len(lists) > 1:
        raise CorpusError(f"{path} holds {len(lists)} .list files: name one, {lists[0]} say, as the corpus")
    if any(folders.recordings(_root(path), follow_outside=follow_outside)):  # a reject counts: it says why
        return "tree"
    raise CorpusError(
        f"{path} is no corpus of a known format: nothing fits, and --format can only name one of them",
        "list      one .list file of path|speaker|language|text",
        "ljspeech  metadata.csv and wavs/",
        "kaldi     wav.scp and text",
        f"tree      files {', '.join(folders.AUDIO)}, each with a .txt, .lab or .TextGrid of its name beside it",
    )


def scan(path: Path, format: str | None = None, *, follow_outside: bool = False) -> Iterator[Utterance | Reject]:
    """Everything in a corpus, each once: as an utterance, or as a reject with stage "scan".

    Args:
        path: of the corpus folder, or of a .list file in it.
        format: one of FORMATS; None recognises it.
        follow_outside: take recordings that lie outside the corpus folder, by their path or through links.
    Raises:
        UsageError: there is nothing at `path`, or no such format.
        CorpusError: not of that format, or nothing at all in it.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"{format!r} is no corpus format; known are {', '.join(FORMATS)}")
    _check_there(path)
    format = format or recognise(path, follow_outside=follow_outside)
    return _scan(path, format, _entries(path, format, follow_outside), follow_outside)


def _entries(path: Path, format: str, follow_outside: bool) -> formats.Entries:
    root = _root(path)
    if format == "list":
        return formats.read_list(root, _list_file(path))
    missing = "a folder" if path.is_file() else _missing(path, format)
    if missing:
        raise CorpusError(f"{path} cannot be read as {format}: there must be {missing}")
    if format == "ljspeech":
        return formats.read_ljspeech(root, root / "metadata.csv", follow_outside)
    return formats.read_kaldi(root) if format == "kaldi" else formats.read_tree(root, follow_outside)


def _check_there(path: Path) -> None:
    if not os.path.exists(path):
        raise UsageError(f"There is no {path}: give a folder of recordings and transcripts, or a .list file")


def _missing(folder: Path, format: str) -> str:
    """What a folder lacks to be of a format."""
    needed = {"ljspeech": ("metadata.csv", "wavs"), "kaldi": ("wav.scp", "text")}.get(format, ())
    return " and ".join(name for name in needed if not (folder / name).exists())


def _list_file(path: Path) -> Path:
    lists = [path] if path.is_file() else sorted(path.glob("*.list"))
    if len(lists) != 1:
        raise CorpusError(f"{path} holds {len(lists)} .list files where there must be one: name the file itself")
    return lists[0]


def _root(path: Path) -> Path:
    return (path if path.is_dir() else path.parent).resolve()


def _scan(
    path: Path, format: str, entries: Iterable[Entry | Reject], follow_outside: bool
) -> Iterator[Utterance | Reject]:
    examiner = Examiner(_root(path), follow_outside)
    claimed: dict[str, str] = {}
    empty = True
    for result, audio, where in _in_order(examiner.examine, entries):
        empty = False
        if audio and result.id in claimed:
            yield Reject(where, "scan", f"{result.id} for the second time, after {claimed[result.id]}: keep one")
            continue
        yield result
        if audio:
            claimed[result.id] = where
            claimed.setdefault(audio, where)
    for orphan in _unclaimed(_root(path), claimed, follow_outside) if format != "tree" else ():
        empty = False
        yield orphan
    if empty:
        raise CorpusError(f"{path} is empty: there is no recording and no transcript in it")


def _unclaimed(root: Path, claimed: Container[str], follow_outside: bool) -> Iterator[Reject]:
    """Recordings in the folder that no line leads to."""
    for item in folders.recordings(root, follow_outside=follow_outside):
        if isinstance(item, Reject):
            yield item
        elif item not in claimed:
            yield Reject(item, "scan", "audio without text: no line of the corpus mentions it")


def _in_order(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """`map` by THREADS threads, a bounded number of items ahead, results in the order of the items."""
    pool = ThreadPoolExecutor(THREADS)
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
