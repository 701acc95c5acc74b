"""Where the alignments of a corpus lie, and reading the one of an utterance.

Beside a recording, or at its place in a folder apart, as the Montreal Forced Aligner writes them: `.TextGrid`, or a
`.lab` that holds times. For all of a corpus, in its folder or that apart: `phones.ctm` and `words.ctm`.
"""

from __future__ import annotations

import posixpath
from contextlib import AbstractContextManager
from pathlib import Path

from headrace.featurize.alignment import label_files
from headrace.featurize.alignment.intervals import Alignment
from headrace.featurize.alignment.label_files import Row
from headrace.featurize.alignment.textgrid import read_textgrid
from headrace.featurize.alignment.words import check_text
from headrace.featurize.corpus.formats import Entry
from headrace.featurize.files import folders, source
from headrace.featurize.files.source import Source
from headrace.store.errors import CorpusError, Rejected, UsageError
from headrace.store.schema import Utterance
from headrace.store.storage import StoragePath, parse_path
from headrace.store.storage.s3 import SCHEME

SUFFIXES = (".TextGrid", ".textgrid", ".lab")
CTM = ("phones.ctm", "words.ctm")


def read(corpus: StoragePath, utterance: Utterance) -> Alignment:
    """The alignment that an utterance names or holds.

    Raises:
        Rejected: stage "align"; it cannot be read, is not of this audio by its times, or its words are of another text.
    """
    start, stop = utterance.start / utterance.sample_rate, utterance.stop / utterance.sample_rate
    if label_files.is_packed(utterance.alignment):
        found = label_files.unpacked(utterance.alignment, stop - start)
    else:
        with _local(corpus, utterance.alignment) as path:
            is_lab = folders.suffix(path.name) == ".lab"
            found = label_files.read_lab(path, stop - start) if is_lab else read_textgrid(path, start, stop)
    check_text(found.words, utterance.text)
    return found


def _local(corpus: StoragePath, name: str) -> AbstractContextManager[Path]:
    """A file of a corpus, or of the folder apart that has its alignments."""
    file = parse_path(name)
    apart = name.startswith(SCHEME) or posixpath.isabs(name)
    return source.local_file(file.parent, file.name) if apart else source.local_file(corpus, name)


class Alignments:
    """Finds the alignments of a corpus. Of many threads at once."""

    def __init__(self, corpus: Source, apart: StoragePath | None = None) -> None:
        """
        Args:
            apart: a folder that holds them, laid out as the corpus.
        Raises:
            UsageError: there is no such folder.
            CorpusError: a CTM cannot be read.
        """
        self._corpus = corpus
        self._apart = None if apart is None else _folder(apart)
        self._ctm = {name: _lines(self._apart or corpus, name) for name in CTM}

    def of(self, entry: Entry, audio: str, span_s: tuple[float, float]) -> str:
        """What `Utterance.alignment` is to be; empty where there is none. What lies apart goes before all else.

        Args:
            audio: the recording, relative to the corpus folder where it lies in it.
            span_s: where in the recording the utterance is.
        Raises:
            Rejected: stage "align"; a file that the corpus names is not there, or a line that is none.
        """
        whole = entry.seconds is None
        apart = self._at(self._apart, audio) if self._apart and whole else ""
        if self._apart and apart:
            return str(self._apart.root / apart)
        beside = self._at(self._corpus, audio) if entry.alignment is None and whole else ""
        return self._given(entry.alignment or "") or beside or self._rows(entry, audio, span_s)

    def _given(self, alignment: str) -> str:
        if not alignment or label_files.is_packed(alignment):
            return alignment
        name = self._corpus.relative(alignment)
        try:
            self._corpus.size(name)
        except Rejected as error:
            raise Rejected("align", f"its alignment, {name}: {error.reason}") from None
        return name if _is_timed(self._corpus, name) else ""

    def _at(self, where: Source, audio: str) -> str:
        stem = posixpath.splitext(audio)[0]
        there = (stem + suffix for suffix in SUFFIXES if where.exists(stem + suffix))
        return next((name for name in there if _is_timed(where, name)), "")

    def _rows(self, entry: Entry, audio: str, span_s: tuple[float, float]) -> str:
        """Of CTMs: by the utterance's name with times of its own, else by its recording's with those of that."""
        name = entry.name or posixpath.splitext(audio)[0]
        if any(name in lines for lines in self._ctm.values()):
            return label_files.packed(f"CTM: {name}", *(self._named(kind, name) for kind in CTM))
        start, stop = span_s
        rows = ([row for row in self._named(kind, entry.recording) if start <= row.middle < stop] for kind in CTM)
        moved = ([Row(row.start - start, row.end - start, row.label) for row in some] for some in rows)
        return label_files.packed(f"CTM: {name}", *moved)

    def _named(self, kind: str, name: str) -> list[Row]:
        return [label_files.ctm_row(f"{kind}: {name}", line) for line in self._ctm[kind].get(name, ())]


def _folder(apart: StoragePath) -> Source:
    try:
        found, file = source.find(apart, follow_outside=True)
    except UsageError:
        file, found = apart.name, None
    if file or not found:
        raise UsageError(f"--alignments {apart} is no folder: give one that is laid out as the corpus.")
    return found


def _is_timed(where: Source, name: str) -> bool:
    """A `.lab` may be a text too."""
    if folders.suffix(name) != ".lab":
        return True
    with source.local_file(where.root, name) as path:
        return label_files.holds_times(label_files.decoded(path))


def _lines(where: Source, name: str) -> dict[str, list[str]]:
    """Of a CTM, by what each line begins with, what follows. Empty where there is no such file."""
    found: dict[str, list[str]] = {}
    if not where.exists(name):
        return found
    try:
        text = (where.root / name).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{where.root / name} cannot be read as UTF-8: {error}.") from None
    for line in text.split("\n"):
        first, *rest = line.split(maxsplit=1)[:2] or [";;"]
        if not first.startswith(";;"):
            found.setdefault(first, []).append("".join(rest))
    return found
