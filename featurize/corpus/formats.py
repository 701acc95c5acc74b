"""Read the entries of a corpus in any supported format. Reads lines and listings, and no audio.

A reader is a generator over a corpus, in the order of its lines or, for a tree, of its sorted paths. It yields a
`Reject` for what it cannot parse. `headrace.featurize.corpus.validate` checks for all formats whether a recording
exists and is usable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from sys import intern

from headrace.featurize.files.folders import AUDIO_SUFFIXES, join, recordings, suffix
from headrace.featurize.files.source import Source, open_whole, read_lines
from headrace.featurize.text.languages.language_tags import LANGUAGE_TAGS, language_code
from headrace.store.errors import CorpusError, Rejected, rejecting
from headrace.store.schema import Reject

TRANSCRIPT_SUFFIXES = (".txt", ".lab", ".textgrid")
"""Suffixes of transcripts in a tree, in lower case. If several have one name, the first in this order is the text."""
ALIGNMENT_SUFFIXES = (".lab", ".textgrid")
"""Suffixes of transcripts that may be an alignment."""
FORMATS = ("list", "ljspeech", "kaldi", "tree", "lhotse")
_PATH_QUOTES = " '\"\u202a"  # which a path pasted from Windows may be enclosed in


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One utterance as a corpus describes it, not yet validated."""

    location: str
    """File and line of the description; in a tree, the recording's path."""
    audio: str
    """POSIX path, absolute or relative to the corpus folder."""
    speaker: str
    language: str = ""
    """ISO code; empty if the corpus does not give it."""
    text: str = ""
    text_file: str = ""
    """Path of the file that contains the text, relative to the corpus folder, if no line gives the text."""
    phones: str = ""
    """Symbol names separated by spaces, if the corpus gives them."""
    alignment: str | None = None
    """Path of a TextGrid or a `.lab` with times, relative to the corpus folder, or an alignment in the form of
    `label_files.to_json`. Empty: the utterance has none. None: one may lie beside the recording."""
    name: str = ""
    """Name of the utterance in the corpus, if it is not the recording's path."""
    recording: str = ""
    """Name of the recording in the corpus, of which the utterance is a segment."""
    seconds: tuple[float, float] | None = None
    """Start and end of a segment, infinite for the recording's end; None for the whole recording."""
    problem: str = ""
    """Why the entry cannot be an utterance, if the reader already knows."""


Entries = Iterator[Entry | Reject]


def read_list(source: Source, file: str) -> Entries:
    """Read a list of GPT-SoVITS. A line is `path|speaker|language|text`.

    Two more fields are optional: `|phones`, symbols separated by spaces, and `|alignment`, a path.
    """

    def parse(location: str, line: str) -> Entry:
        fields = [field.strip() for field in line.split("|")]
        has_alignment = len(fields) > 4 and suffix(fields[-1]) in ALIGNMENT_SUFFIXES
        alignment = _clean_path(fields.pop()) if has_alignment else None
        phones = fields.pop() if len(fields) == 5 else ""
        if len(fields) != 4:
            raise Rejected("scan", f"{len(fields)} fields between bars instead of path|speaker|language|text")
        path, speaker, tag, text = fields
        if not path:
            raise Rejected("scan", "no path before the first bar")
        language, known = language_code(tag), ", ".join(LANGUAGE_TAGS)
        return Entry(
            location=location,
            audio=_clean_path(path),
            speaker=intern(speaker or source.root.name),
            language=language,
            text=text,
            phones=phones,
            alignment=alignment,
            problem="" if language else f"language tag {tag!r} is none of {known}, nor a code as de or pt-BR",
        )

    return _parse_lines(source, file, parse)


def _clean_path(path: str) -> str:
    return path.strip(_PATH_QUOTES).replace("\\", "/")


def read_ljspeech(source: Source) -> Entries:
    """Read LJSpeech. A line is `name|text` or `name|text|normalised text`, and the recording `wavs/name.wav`.

    Recordings may have any suffix of AUDIO_SUFFIXES.
    """
    existing = set(recordings(source.walk()))

    def parse(location: str, line: str) -> Entry:
        name, *texts = (field.strip() for field in line.split("|"))
        if len(texts) not in (1, 2):
            raise Rejected("scan", f"{len(texts) + 1} fields between bars instead of name|text|normalised text")
        candidates = [f"wavs/{name}{suffix}" for suffix in AUDIO_SUFFIXES]
        audio = next(filter(existing.__contains__, candidates), candidates[0])
        speaker = intern(source.root.name)
        return Entry(location=location, audio=audio, speaker=speaker, text=texts[-1] or texts[0], name=name)

    return _parse_lines(source, "metadata.csv", parse)


def read_kaldi(source: Source) -> Entries:
    """Read a Kaldi data directory: `text` and `wav.scp`, and optionally `segments`, `utt2spk` and `utt2lang`.

    `utt2phones`, which Kaldi does not have, gives phones. A command in wav.scp is not run: the entry is rejected.
    """
    recordings = yield from _read_table(source, "wav.scp")
    segments = yield from _read_table(source, "segments")
    speakers = yield from _read_table(source, "utt2spk")
    languages = yield from _read_table(source, "utt2lang")
    phones = yield from _read_table(source, "utt2phones")
    unused_recordings, unused_segments = dict(recordings), dict(segments)

    def parse(location: str, line: str) -> Entry:
        name, *text = line.split(maxsplit=1)
        recording, seconds = name, None
        if segments:
            unused_segments.pop(name, None)
            recording, seconds = _parse_segment(segments, name)
        if recording not in recordings:
            raise Rejected("scan", f"text without audio: wav.scp has no {recording}")
        unused_recordings.pop(recording, None)
        return Entry(
            location=location,
            audio=_reject_command(recordings[recording]),
            speaker=intern(speakers.get(name, source.root.name)),
            language=language_code(languages.get(name, "")) or languages.get(name, ""),
            text="".join(text),
            phones=phones.get(name, ""),
            seconds=seconds,
            alignment=None if seconds is None else "",
            name=name,
            recording=recording,
        )

    yield from _parse_lines(source, "text", parse)
    for name in unused_segments:
        yield Reject(name, "scan", "segment without text: no line of `text` begins with its name")
    for recording, audio in unused_recordings.items():
        problem = "audio without text: no line of `text` leads to this recording of wav.scp"
        yield Entry(location=f"wav.scp: {recording}", audio=audio, speaker="", problem=problem)


def _parse_segment(segments: dict[str, str], name: str) -> tuple[str, tuple[float, float]]:
    if name not in segments:
        raise Rejected("scan", f"text without audio: segments has no {name}")
    try:
        recording, start, stop = segments[name].split()
        seconds = float(start), float(stop)
    except ValueError:
        raise Rejected("scan", f"segments gives {name!r} as {segments[name]!r}, not as recording, start, end") from None
    return recording, (seconds[0], inf if seconds[1] == -1 else seconds[1])


def _reject_command(extended_filename: str) -> str:
    if "|" in (extended_filename[:1], extended_filename[-1:]):
        raise Rejected(
            "scan",
            f"wav.scp gives a command, {extended_filename[:60]!r}, and commands of a corpus are not run:"
            " write its output to a file and name that",
        )
    return extended_filename


def read_tree(source: Source) -> Entries:
    """Read recordings anywhere in a folder, each with a .txt, .lab or .TextGrid of its name beside it.

    The speaker is the first folder of the path, or the corpus folder's name. A .TextGrid gives the alignment, and
    the text if nothing else does. A .lab is either a text or an alignment.
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
            yield from _recordings_of_stem(paths, speaker)


def _recordings_of_stem(paths: list[str], speaker: str) -> Entries:
    """Yield an entry for every recording among the files of one stem, with the text that they share."""
    texts = sorted(
        (p for p in paths if suffix(p) in TRANSCRIPT_SUFFIXES), key=lambda path: TRANSCRIPT_SUFFIXES.index(suffix(path))
    )
    recordings = [path for path in paths if suffix(path) in AUDIO_SUFFIXES]
    if texts and not recordings:
        yield Reject(texts[0], "scan", f"text without audio: no {', '.join(AUDIO_SUFFIXES)} of its name beside it")
    for audio in recordings:
        yield Entry(
            location=audio,
            audio=audio,
            speaker=speaker,
            text_file=texts[0] if texts else "",
            alignment=next((path for path in reversed(texts) if suffix(path) in ALIGNMENT_SUFFIXES), ""),
            problem="" if texts else "audio without text: no .txt, .lab or .TextGrid of its name beside it",
        )


def _parse_lines(source: Source, file: str, parse: Callable[[str, str], Entry]) -> Entries:
    """Yield `parse(location, line)` of every line, or a reject."""
    for location, line in _read_lines(source, file):
        try:
            with rejecting("scan"):
                entry = line if isinstance(line, Reject) else parse(location, line)
            yield entry
        except Rejected as error:
            yield Reject(location, "scan", error.reason)


def _read_table(source: Source, file: str) -> Generator[Reject, None, dict[str, str]]:
    """Read a table of Kaldi: the rest of every line by its first word. It is empty if the file does not exist."""
    table: dict[str, str] = {}
    for location, line in _read_lines(source, file) if source.exists(file) else ():
        if isinstance(line, Reject):
            yield line
            continue
        key, *value = line.split(maxsplit=1)
        if not value:
            yield Reject(location, "scan", f"nothing after the name {key!r}")
        elif key in table:
            yield Reject(location, "scan", f"{key} for the second time; the first counts")
        else:
            table[key] = value[0].strip()
    return table


def _read_lines(source: Source, file: str) -> Iterator[tuple[str, str | Reject]]:
    """Yield the location and the content of every line that is not blank, or a reject if it is not UTF-8."""
    try:
        with open_whole(source.root, file) as data:
            yield from _decode_lines(file, read_lines(data, file))
    except OSError as error:
        raise CorpusError(f"{source.root / file} cannot be read: {error.strerror}") from None


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
