"""Validate the entries of a corpus: turn each into utterances or rejects. Decodes no audio."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import inf
from typing import NamedTuple

from headrace.featurize.alignment import label_files, label_kinds
from headrace.featurize.alignment.label_files import has_times, is_json
from headrace.featurize.alignment.textgrid import read_transcript
from headrace.featurize.audio import recording
from headrace.featurize.audio.recording import Header, Limits
from headrace.featurize.corpus import alignment_files, split_at_pauses
from headrace.featurize.corpus.alignment_files import AlignmentFinder
from headrace.featurize.corpus.entry import Entry
from headrace.featurize.corpus.recording_finder import RecordingFinder
from headrace.featurize.files import folders
from headrace.featurize.files.archives.first_pass import Recording
from headrace.featurize.files.source import NO_SUCH_FILE, Source
from headrace.featurize.text import markup
from headrace.featurize.text.languages.language_tags import AUTO
from headrace.featurize.text.languages.scripts import language_by_script
from headrace.store.errors import Rejected, rejected_file, rejecting
from headrace.store.schema import Reject, Stage, Utterance, utterance_id

END_TOLERANCE_S = 0.01
"""Seconds by which a segment may end after its recording, as times rounded to two decimals do. It is then cropped."""


MAX_TEXT = 1 << 20
"""Characters in the text of an utterance: more than anyone speaks in a day."""
_TEXT_FIELDS = ("audio", "speaker", "language", "text", "text_file", "phones", "alignment", "name")


class Validation(NamedTuple):
    """The result of validating one entry."""

    results: Sequence[Utterance | Reject]
    """One item, or one for each segment that the recording was split into."""
    audio: str
    """The recording, relative to the corpus folder if it lies in it; empty if it is not known."""
    location: str
    """File and line of the entry."""
    markup: tuple[str, ...] = ()
    """What was dropped of its text."""


class EntryValidator:
    """Turns entries of a corpus into utterances or rejects. It can be used by many threads at once."""

    def __init__(
        self,
        source: Source,
        recordings: RecordingFinder,
        alignments: AlignmentFinder,
        limits: Limits,
        language: str,
        max_segment_s: float | None = None,
        strip_markup: bool = False,
    ) -> None:
        """Create a validator of one corpus.

        Args:
            source: files of the corpus.
            recordings: of the corpus.
            alignments: of the corpus.
            limits: maximum duration.
            language: ISO code of entries that do not give theirs.
            max_segment_s: longer utterances are split at pauses; None splits nothing.
            strip_markup: whether markup of texts is dropped.
        """
        self._source = source
        self._recordings = recordings
        self._alignments = alignments
        self._limits = limits
        self._language = language
        self._max_segment_s = max_segment_s
        self._strip_markup = strip_markup
        self._header = lru_cache(maxsize=1024)(self._read_header)  # segments of one recording follow each other

    def validate(self, item: Entry | Reject) -> Validation:
        """Return the utterances or rejects that an entry becomes. A reject stays as it is."""
        if isinstance(item, Reject):
            return Validation([item], "", item.id)
        audio = item.audio
        try:
            with rejecting("scan"):
                _check_unicode(item)
                audio = item.audio if item.member else self._recordings.find(item.audio)
                utterance, dropped = self._utterance(item, audio)
                return Validation([*self._split(utterance)], audio, item.location, dropped)
        except Rejected as error:
            segment = "#{}s-{}s".format(*item.seconds) if item.seconds else ""
            stage: Stage = "align" if error.stage == "align" else "scan"
            id = utterance_id(audio + segment, channel=item.channel)
            return Validation([Reject(id, stage, error.reason)], audio, item.location)

    def _split(self, utterance: Utterance) -> Iterable[Utterance | Reject]:
        """Return the utterance, or its segments if it is too long."""
        if self._max_segment_s is None or utterance.seconds <= self._max_segment_s:
            return (utterance,)
        if not utterance.alignment:
            reason = split_at_pauses.too_long_reason(self._max_segment_s)
            raise Rejected("scan", f"{reason}, and it cannot be split without an alignment: align it first, or cut it")
        alignment = alignment_files.read_alignment(self._source.files_root, utterance)
        return split_at_pauses.split(utterance, alignment, self._max_segment_s)

    def _utterance(self, entry: Entry, audio: str) -> tuple[Utterance, tuple[str, ...]]:
        """Return the utterance of an entry, and the markup that was dropped of its text."""
        if entry.problem:
            raise Rejected("scan", entry.problem)
        try:
            header, size, modified = self._of_row(entry) or self._header(audio)
        except Rejected as error:
            advice = self._recordings.advice(entry.audio) if error.reason == NO_SUCH_FILE else ""
            raise Rejected(error.stage, error.reason + advice) from None
        start, stop = _sample_range(entry.seconds, header.samples, header.sample_rate)
        if self._max_segment_s is None and stop - start > self._limits.max_duration_s * header.sample_rate:
            raise Rejected("scan", recording.too_long_reason(self._limits))
        text, dropped = self._text(entry)
        alignment = self._alignments.find(entry, audio, (start / header.sample_rate, stop / header.sample_rate))
        utterance = Utterance(
            id=utterance_id(audio, None if entry.seconds is None else (start, stop), entry.channel),
            audio=audio,
            start=start,
            stop=stop,
            sample_rate=header.sample_rate,
            channel=entry.channel,
            size=size,
            modified=(modified, *self._modified(alignment)),
            speaker=entry.speaker,
            language=_language(entry.language or self._language, text),
            text=text,
            phones=entry.phones,
            alignment=alignment,
            member=entry.member or self._source.member(audio),
        )
        return utterance, dropped

    def _text(self, entry: Entry) -> tuple[str, tuple[str, ...]]:
        """Return the text of an entry, and the markup that was dropped of it."""
        text = entry.text or (entry.text_file and self._read_text(entry.text_file))
        if len(text) > MAX_TEXT:
            raise Rejected("scan", _too_long(len(text)))
        text, dropped = markup.strip(text) if self._strip_markup else (text, [])
        if not text:
            raise Rejected("scan", f"the text is {'nothing but ' + ', '.join(dropped)[:60] if dropped else 'empty'}")
        return text, (*entry.markup, *dropped)

    def _modified(self, alignment: str) -> tuple[int, ...]:
        """Return when an alignment file was last modified; nothing if the utterance carries its alignment, or none."""
        has_file = alignment and not is_json(alignment)
        return (self._source.modified(alignment),) if has_file else ()

    def _of_row(self, entry: Entry) -> tuple[Header, int, int] | None:
        """Return what `_read_header` does of a recording in a table, which was read with its row."""
        if not (entry.member and entry.header):
            return None
        return entry.header, entry.size, self._source.modified(entry.member.archive)

    def _read_header(self, audio: str) -> tuple[Header, int, int]:
        """Return the header of a recording, its size in bytes and when it was last modified."""
        size, modified = self._source.size(audio), self._source.modified(audio)
        root, member, first_pass = self._source.files_root, self._source.member(audio), self._source.first_pass(audio)
        if not (member and first_pass):
            return recording.read_header(root, audio, size, self._limits), size, modified
        if known := first_pass.recording(member.place):
            header = Header(known.samples, known.sample_rate, known.channels)
            if header.samples <= self._limits.max_duration_s * header.sample_rate:  # a longer one would be measured
                recording.check_header(header, self._limits)
                return header, size, modified
        header = recording.read_header(root, audio, size, self._limits, member)
        first_pass.keep(member.place, Recording(size, member.check, *header))
        return header, size, modified

    def _read_text(self, name: str) -> str:
        """Return the text of a .txt or .lab, joined to one line, or of a TextGrid's tier of words."""
        if self._source.size(name) > 4 * MAX_TEXT:
            raise Rejected("scan", _too_long(self._source.size(name)))
        if folders.suffix(name) == ".textgrid":
            with self._source.local_file(name) as path:
                return read_transcript(path)
        try:
            with self._source.open(name) as file:
                text = file.read(4 * MAX_TEXT).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Rejected("scan", f"{posixpath.basename(name)} is not UTF-8 from byte {error.start + 1} on") from None
        except OSError as error:
            raise rejected_file(error, "scan", f"{posixpath.basename(name)} cannot be read: {error.strerror}") from None
        if folders.suffix(name) == ".lab" and has_times(text):
            raise Rejected("scan", _times_reason(posixpath.basename(name), text, self._language))
        return " ".join(text.split())


def _language(tag: str, text: str) -> str:
    """Return the language of an utterance, told by the script of its text where the corpus leaves it to that."""
    return language_by_script(text, tag) if tag in AUTO else tag


def _times_reason(name: str, lab: str, language: str) -> str:
    """Return the reason to reject a recording whose only text is a `.lab` with times."""
    kind = label_kinds.describe(label_files.lab_labels(name, lab), language)
    return f"{name} holds times of {kind}, not a text: put a .txt beside it"


def _too_long(length: int) -> str:
    return f"its text has {length:,} characters: no utterance has more than {MAX_TEXT:,}"


def _check_unicode(entry: Entry) -> None:
    """Raise Rejected if a field has half of a surrogate pair, which JSON can write, and UTF-8 and a store cannot."""
    for name in _TEXT_FIELDS:
        try:
            (getattr(entry, name) or "").encode()
        except UnicodeEncodeError:
            raise Rejected("scan", f"its {name} holds half of a surrogate pair, which is no character") from None


def _sample_range(seconds: tuple[float, float] | None, frames: int, sample_rate: int) -> tuple[int, int]:
    """Return the first sample of a segment and one past its last."""
    if seconds is None:
        return 0, frames
    start_s, stop_s = seconds
    duration_s = frames / sample_rate
    if not 0 <= start_s < stop_s:
        raise Rejected("scan", f"the segment runs from {start_s} to {stop_s} s")
    if start_s >= duration_s or duration_s + END_TOLERANCE_S < stop_s < inf:
        raise Rejected("scan", f"the segment runs from {start_s} to {stop_s} s, the recording has {duration_s:.3f} s")
    start, stop = round(start_s * sample_rate), round(min(stop_s, duration_s) * sample_rate)
    if start == stop:
        raise Rejected("scan", f"the segment from {start_s} to {stop_s} s holds no samples")
    return start, stop
