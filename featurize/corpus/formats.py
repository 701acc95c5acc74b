"""Corpus formats: from a folder's own way of saying it to entries. Reads lines and listings, touches no audio.

A reader is a generator over a corpus, in the order of its lines or, for a tree, of its sorted paths. What it
can make nothing of it yields as a `Reject`; whether a recording is there and usable is decided in
`headrace.featurize.corpus.scanner`, for all formats alike.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from math import inf
from sys import intern

from headrace.featurize.files.folders import AUDIO_SUFFIXES, join, recordings, suffix
from headrace.featurize.files.source import Source
from headrace.store.errors import CorpusError, Rejected
from headrace.store.schema import Reject

TEXTS = (".txt", ".lab", ".textgrid")
"""Suffixes of transcripts in a tree, in any case; of several of one name the first in this order is the text."""
TIMED = (".lab", ".textgrid")
"""Of these, suffixes of what may be an alignment."""
FORMATS = ("list", "ljspeech", "kaldi", "tree", "lhotse")
LANGUAGE_TAGS = {"zh": "zh", "en": "en", "ja": "ja", "jp": "ja", "ko": "ko", "yue": "yue"}
"""GPT-SoVITS' tags, in lower case, to ISO codes."""
_CODE = re.compile("[a-z]{2,3}(-[a-z0-9]{1,8})*")
_PATH_JUNK = " '\"\u202a"  # what pasting from Windows leaves around a path


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a corpus says of one utterance, taken at its word."""

    where: str
    """File and line that say it; in a tree, the recording's own path."""
    audio: str
    """POSIX path, absolute or relative to the corpus folder."""
    speaker: str
    language: str = ""
    """ISO code; empty where the corpus does not say."""
    text: str = ""
    text_file: str = ""
    """Path, relative to the corpus folder, of the file that is the text, where no line gives it."""
    phones: str = ""
    """Names of symbols between spaces, where the corpus gives them itself."""
    alignment: str | None = None
    """Path of a TextGrid or a `.lab` with times, likewise, or an alignment as `times.packed` has it; empty: it names
    none; None: nor does it say that there is none beside the recording."""
    name: str = ""
    """What the corpus calls it, where that is not the recording's path."""
    recording: str = ""
    """What the corpus calls the recording that it is a segment of."""
    seconds: tuple[float, float] | None = None
    """Start and end of a segment, infinite for the recording's end; None for the whole recording."""
    problem: str = ""
    """Why this can be no utterance, where that is plain already."""


Entries = Iterator[Entry | Reject]


def read_list(source: Source, file: str) -> Entries:
    """GPT-SoVITS: a line is `path|speaker|language|text`; here it may go on with `|phones`, symbols between spaces, and
    with `|alignment`, a path."""

    def entry(where: str, line: str) -> Entry:
        fields = [field.strip() for field in line.split("|")]
        timed = len(fields) > 4 and suffix(fields[-1]) in TIMED
        alignment = _path(fields.pop()) if timed else None
        phones = fields.pop() if len(fields) == 5 else ""
        if len(fields) != 4:
            raise Rejected("scan", f"{len(fields)} fields between bars instead of path|speaker|language|text")
        path, speaker, tag, text = fields
        if not path:
            raise Rejected("scan", "no path before the first bar")
        language = language_of(tag)
        return Entry(
            where=where,
            audio=_path(path),
            speaker=intern(speaker or source.root.name),
            language=language,
            text=text,
            phones=phones,
            alignment=alignment,
            problem="" if language else f"language tag {tag!r} is none of {', '.join(LANGUAGE_TAGS)}, nor a code as de",
        )

    return _parsed(source, file, entry)


def _path(written: str) -> str:
    return written.strip(_PATH_JUNK).replace("\\", "/")


def language_of(tag: str) -> str:
    """ISO code of a language by GPT-SoVITS' tag for it, or by itself; empty where it is none."""
    lower = tag.lower()
    return LANGUAGE_TAGS.get(lower) or (lower if _CODE.fullmatch(lower) else "")


def read_ljspeech(source: Source) -> Entries:
    """LJSpeech: a line is `name|text` or `name|text|normalised text`; the recording is `wavs/name.wav` or the like."""
    there = set(recordings(source.walk()))

    def entry(where: str, line: str) -> Entry:
        name, *texts = (field.strip() for field in line.split("|"))
        if len(texts) not in (1, 2):
            raise Rejected("scan", f"{len(texts) + 1} fields between bars instead of name|text|normalised text")
        candidates = [f"wavs/{name}{suffix}" for suffix in AUDIO_SUFFIXES]
        audio = next(filter(there.__contains__, candidates), candidates[0])
        return Entry(where=where, audio=audio, speaker=intern(source.root.name), text=texts[-1] or texts[0], name=name)

    return _parsed(source, "metadata.csv", entry)


def read_kaldi(source: Source) -> Entries:
    """A Kaldi data directory: `text`, `wav.scp`, and `segments`, `utt2spk`, `utt2lang` and, our own, `utt2phones` where
    there are any.

    An entry of wav.scp that is a command is never run: it is rejected.
    """
    recordings = yield from _table(source, "wav.scp")
    segments = yield from _table(source, "segments")
    speakers = yield from _table(source, "utt2spk")
    languages = yield from _table(source, "utt2lang")
    phones = yield from _table(source, "utt2phones")
    unheard, unread = dict(recordings), dict(segments)

    def entry(where: str, line: str) -> Entry:
        name, *text = line.split(maxsplit=1)
        recording, seconds = name, None
        if segments:
            unread.pop(name, None)
            recording, seconds = _segment(segments, name)
        if recording not in recordings:
            raise Rejected("scan", f"text without audio: wav.scp has no {recording}")
        unheard.pop(recording, None)
        return Entry(
            where=where,
            audio=_no_command(recordings[recording]),
            speaker=intern(speakers.get(name, source.root.name)),
            language=LANGUAGE_TAGS.get(languages.get(name, "").lower(), languages.get(name, "").lower()),
            text="".join(text),
            phones=phones.get(name, ""),
            seconds=seconds,
            alignment=None if seconds is None else "",
            name=name,
            recording=recording,
        )

    yield from _parsed(source, "text", entry)
    for name in unread:
        yield Reject(name, "scan", "segment without text: no line of `text` begins with its name")
    for recording, audio in unheard.items():
        problem = "audio without text: no line of `text` leads to this recording of wav.scp"
        yield Entry(where=f"wav.scp: {recording}", audio=audio, speaker="", problem=problem)


def _segment(segments: dict[str, str], name: str) -> tuple[str, tuple[float, float]]:
    if name not in segments:
        raise Rejected("scan", f"text without audio: segments has no {name}")
    try:
        recording, start, stop = segments[name].split()
        seconds = float(start), float(stop)
    except ValueError:
        raise Rejected("scan", f"segments gives {name!r} as {segments[name]!r}, not as recording, start, end") from None
    return recording, (seconds[0], inf if seconds[1] == -1 else seconds[1])


def _no_command(extended_filename: str) -> str:
    if "|" in (extended_filename[:1], extended_filename[-1:]):
        raise Rejected(
            "scan",
            f"wav.scp gives a command, {extended_filename[:60]!r}, and none that comes with a corpus is run:"
            " write its output to a file and name that",
        )
    return extended_filename


def read_tree(source: Source) -> Entries:
    """Recordings anywhere in a folder, each with a .txt, .lab or .TextGrid of its name beside it.

    The speaker is the first folder of the path, or the corpus folder's name. A .TextGrid gives the alignment, and
    the text where nothing else does; a .lab is either a text or an alignment.
    """
    for item in source.walk():
        if isinstance(item, Reject):
            yield item
            continue
        folder, names = item
        speaker = intern(folder.partition("/")[0] or source.root.name)
        by_stem: dict[str, list[str]] = {}
        for name in names:
            by_stem.setdefault(os.path.splitext(name)[0], []).append(join(folder, name))
        for paths in by_stem.values():
            yield from _recordings(paths, speaker)


def _recordings(paths: list[str], speaker: str) -> Entries:
    """Of the files of one name: every recording, with the text that they share."""
    texts = sorted((p for p in paths if suffix(p) in TEXTS), key=lambda path: TEXTS.index(suffix(path)))
    recordings = [path for path in paths if suffix(path) in AUDIO_SUFFIXES]
    if texts and not recordings:
        yield Reject(texts[0], "scan", f"text without audio: no {', '.join(AUDIO_SUFFIXES)} of its name beside it")
    for audio in recordings:
        yield Entry(
            where=audio,
            audio=audio,
            speaker=speaker,
            text_file=texts[0] if texts else "",
            alignment=next((path for path in reversed(texts) if suffix(path) in TIMED), ""),
            problem="" if texts else "audio without text: no .txt, .lab or .TextGrid of its name beside it",
        )


def _parsed(source: Source, file: str, entry: Callable[[str, str], Entry]) -> Entries:
    """The entry of every line, `entry(where, line)`, or why there is none."""
    for where, line in _lines(source, file):
        try:
            yield line if isinstance(line, Reject) else entry(where, line)
        except Rejected as error:
            yield Reject(where, "scan", error.reason)


def _table(source: Source, file: str) -> Generator[Reject, None, dict[str, str]]:
    """Kaldi's maps: the first word of a line to the rest of it. Empty where the file is not there."""
    table: dict[str, str] = {}
    for where, line in _lines(source, file) if source.exists(file) else ():
        if isinstance(line, Reject):
            yield line
            continue
        key, *value = line.split(maxsplit=1)
        if not value:
            yield Reject(where, "scan", f"nothing after the name {key!r}")
        elif key in table:
            yield Reject(where, "scan", f"{key} for the second time; the first counts")
        else:
            table[key] = value[0].strip()
    return table


def _lines(source: Source, file: str) -> Iterator[tuple[str, str | Reject]]:
    """Where, and the line, of every line that is not blank; a line that is not UTF-8 is a reject of its own."""
    try:
        data = (source.root / file).read_bytes()
    except OSError as error:
        raise CorpusError(f"{source.root / file} cannot be read: {error.strerror}") from None
    for number, raw in enumerate(io.BytesIO(data), 1):
        where = f"{file}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield where, Reject(where, "scan", f"not UTF-8 from byte {error.start + 1} on: save it as UTF-8")
            continue
        if line.strip():
            yield where, line.rstrip("\r\n")
