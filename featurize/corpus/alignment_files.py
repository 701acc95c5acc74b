"""Find the alignments of a corpus, and read the alignment of an utterance.

An alignment is a `.TextGrid`, or a `.lab` with times. It lies beside its recording, or at the same relative path in a
separate folder, as the Montreal Forced Aligner writes it. `phones.ctm` and `words.ctm`, in the corpus folder or in the
separate one, have the alignments of all utterances.
"""

from __future__ import annotations

import posixpath
from contextlib import AbstractContextManager
from pathlib import Path

from headrace.featurize.alignment import label_files, label_kinds
from headrace.featurize.alignment.intervals import Alignment
from headrace.featurize.alignment.label_files import Interval
from headrace.featurize.alignment.textgrid import read_textgrid
from headrace.featurize.alignment.words import check_words_match_text
from headrace.featurize.corpus.entry import Entry
from headrace.featurize.files import folders, source
from headrace.featurize.files.source import Source
from headrace.store.errors import CorpusError, Rejected, UsageError
from headrace.store.schema import Utterance
from headrace.store.storage import StoragePath, parse_path
from headrace.store.storage.file_names import path_with_digest, portable_path
from headrace.store.storage.s3_settings import SCHEME

SUFFIXES = (".TextGrid", ".textgrid", ".lab")
CTM_FILES = ("phones.ctm", "words.ctm")


def read_alignment(corpus: StoragePath, utterance: Utterance) -> Alignment:
    """Read the alignment that an utterance names or contains.

    Args:
        corpus: folder that `utterance.alignment` is relative to.
        utterance: one whose `alignment` is not empty.
    Raises:
        Rejected: stage "align"; the alignment cannot be read, does not fit the audio's duration, has the words of
            another text, or labels that are neither phones nor words.
    """
    start, stop = utterance.start / utterance.sample_rate, utterance.stop / utterance.sample_rate
    if label_files.is_json(utterance.alignment):
        alignment = label_files.from_json(utterance.alignment, stop - start)
    else:
        with _local_file(corpus, utterance.alignment) as path:
            alignment = _read_file(path, start, stop)
    check_words_match_text(alignment.words, utterance.text)
    return label_kinds.settle(alignment, utterance.language, utterance.text)


def _read_file(path: Path, start: float, stop: float) -> Alignment:
    is_lab = folders.suffix(path.name) == ".lab"
    return label_files.read_lab(path, stop - start) if is_lab else read_textgrid(path, start, stop)


def _local_file(corpus: StoragePath, name: str) -> AbstractContextManager[Path]:
    """Give the path of an alignment in the corpus, or in a separate folder if its name is absolute."""
    file = parse_path(name)
    is_absolute = name.startswith(SCHEME) or posixpath.isabs(name)
    return source.local_file(file.parent, file.name) if is_absolute else source.local_file(corpus, name)


class AlignmentFinder:
    """Finds the alignments of a corpus. It can be used by many threads at once."""

    def __init__(self, corpus: Source, folder: StoragePath | None = None) -> None:
        """Read the CTM files.

        Args:
            corpus: files of the corpus.
            folder: a separate folder of alignments, laid out like the corpus.
        Raises:
            UsageError: `folder` does not exist.
            CorpusError: a CTM cannot be read.
        """
        self._corpus = corpus
        self._folder = None if folder is None else _find_folder(folder)
        self._ctm = {name: _read_ctm(self._folder or corpus, name) for name in CTM_FILES}

    def find(self, entry: Entry, audio: str, span_s: tuple[float, float]) -> str:
        """Return the value for `Utterance.alignment`, empty if there is none. The separate folder has precedence.

        Args:
            entry: of the corpus.
            audio: the recording, relative to the corpus folder if it lies in it.
            span_s: start and end of the utterance in the recording.
        Raises:
            Rejected: stage "align"; a file that the corpus names does not exist, or a line of a CTM is malformed.
        """
        is_whole = entry.seconds is None
        separate = self._exported(self._folder, audio) if self._folder and is_whole else ""
        if self._folder and separate:
            return str(self._folder.root / separate)
        beside = self._file_of(self._corpus, audio) if entry.alignment is None and is_whole else ""
        named = self._named_by_corpus(entry.alignment or "") or beside
        return self._carried(named, span_s) if named else self._from_ctm(entry, audio, span_s)

    def _carried(self, alignment: str, span_s: tuple[float, float]) -> str:
        """Return an alignment that lies in an archive as JSON, which the worker reads of the utterance itself."""
        if label_files.is_json(alignment) or not self._corpus.member(alignment):
            return alignment
        with self._corpus.local_file(alignment) as path:
            found = _read_file(path, *span_s)
        tiers = (
            map(Interval, tier.starts_s.tolist(), tier.ends_s.tolist(), tier.labels)
            for tier in (found.phones, found.words)
        )
        return label_files.to_json(alignment, *tiers)

    def _named_by_corpus(self, alignment: str) -> str:
        if not alignment or label_files.is_json(alignment):
            return alignment
        name = self._corpus.relative(alignment)
        try:
            self._corpus.size(name)
        except Rejected as error:
            raise Rejected("align", f"its alignment, {name}: {error.reason}") from None
        return name if _has_times(self._corpus, name) else ""

    def _exported(self, folder: Source, audio: str) -> str:
        """Return the name of a recording's alignment in a separate folder, which `store export` may have written."""
        usual = posixpath.splitext(audio)[0] + SUFFIXES[0]
        written = (portable_path(usual), path_with_digest(usual, audio))
        return self._file_of(folder, audio) or next(filter(folder.exists, written), "")

    def _file_of(self, folder: Source, audio: str) -> str:
        """Return the name of a recording's alignment in a folder, empty if there is none."""
        stem = posixpath.splitext(audio)[0]
        candidates = (stem + suffix for suffix in SUFFIXES if folder.exists(stem + suffix))
        return next((name for name in candidates if _has_times(folder, name)), "")

    def _from_ctm(self, entry: Entry, audio: str, span_s: tuple[float, float]) -> str:
        """Return the alignment in CTMs. Lines named after the utterance count from its start, others are cropped."""
        name = entry.name or posixpath.splitext(audio)[0]
        if any(name in lines for lines in self._ctm.values()):
            return label_files.to_json(f"CTM: {name}", *(self._intervals(file, name) for file in CTM_FILES))
        start, stop = span_s
        tiers = (
            [
                Interval(interval.start - start, interval.end - start, interval.label)
                for interval in self._intervals(file, entry.recording)
                if start <= interval.middle < stop
            ]
            for file in CTM_FILES
        )
        return label_files.to_json(f"CTM: {name}", *tiers)

    def _intervals(self, file: str, name: str) -> list[Interval]:
        return [label_files.parse_ctm_line(f"{file}: {name}", line) for line in self._ctm[file].get(name, ())]


def _find_folder(path: StoragePath) -> Source:
    try:
        found, file = source.find(path, follow_outside=True)
    except UsageError:
        file, found = path.name, None
    if file or not found:
        raise UsageError(f"--alignments {path} is not a folder: give one that is laid out like the corpus.")
    return found


def _has_times(folder: Source, name: str) -> bool:
    """Return whether a file is an alignment. A `.lab` may also be a text."""
    if folders.suffix(name) != ".lab":
        return True
    with folder.local_file(name) as path:
        return label_files.has_times(label_files.read_text(path))


def _read_ctm(folder: Source, name: str) -> dict[str, list[str]]:
    """Return the rests of a CTM's lines by their first word. It is empty if the file does not exist."""
    rests: dict[str, list[str]] = {}
    if not folder.exists(name):
        return rests
    try:
        with folder.open(name) as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{folder.root / name} cannot be read as UTF-8: {error}.") from None
    for line in text.split("\n"):
        first, *rest = line.split(maxsplit=1)[:2] or [";;"]
        if not first.startswith(";;"):
            rests.setdefault(first, []).append("".join(rest))
    return rests
