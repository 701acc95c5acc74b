"""Read Kaldi's data directories."""

from __future__ import annotations

import re
from collections.abc import Generator
from math import inf
from sys import intern

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.corpus.formats.lines import parse_lines, read_lines
from headrace.featurize.files.source import Source
from headrace.featurize.text.languages.language_tags import language_code
from headrace.store.errors import Rejected
from headrace.store.schema import Reject

_FILE = r"""(?P<file>[^\s'"|<>;&$`(){}*?-][^\s'"|<>;&$`(){}*?]*|'[^']+'|"[^"$`\\]+")"""
_DECODERS = tuple(
    re.compile(rf"(?:\S*/)?{command}\s*\|")
    for command in (
        rf"flac(?: -(?:c|d|s|cd|dc|cds|dcs)| --(?:decode|stdout|silent))+ {_FILE}",
        rf"sph2pipe(?: -f (?:wav|rif)| -p| -c (?P<from_1>[12]))* {_FILE}",
        rf"sox {_FILE}(?: -t wav(?:pcm)?)? -(?: -t wav)?(?: remix (?P<from_1>[1-9]\d?))?",
        rf"ffmpeg(?: -(?:nostdin|hide_banner|y|v \w+|loglevel \w+))* -i {_FILE}"
        r"(?: -map_channel 0\.0\.(?P<from_0>\d\d?))? -f wav (?:-|pipe:1)",
        rf"(?:opusdec|oggdec) {_FILE} (?:-|-o -)",
        rf"cat {_FILE}",
    )
)
"""Commands that write the whole sound of one file, or of one channel of it, unchanged, as a WAV."""


def read_kaldi(source: Source) -> Entries:
    """Read a Kaldi data directory: `text` and `wav.scp`, and optionally `segments`, `utt2spk` and `utt2lang`.

    `utt2phones`, which Kaldi does not have, gives phones. A command in wav.scp is not run. If all that it does is to
    decode one file (`flac -c -d -s a.flac |`), or a channel of one (`sph2pipe -f wav -p -c 1 a.sph |`), that is read;
    else the entry is rejected.
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
        audio, channel = _audio_file(recordings[recording])
        return Entry(
            location=location,
            audio=audio,
            channel=channel,
            speaker=intern(speakers.get(name, source.root.name)),
            language=language_code(languages.get(name, "")) or languages.get(name, ""),
            text="".join(text),
            phones=phones.get(name, ""),
            seconds=seconds,
            alignment=None if seconds is None else "",
            name=name,
            recording=recording,
        )

    yield from parse_lines(source, "text", parse)
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


def _audio_file(extended_filename: str) -> tuple[str, int]:
    """Return the file that wav.scp names, also as the only input of a command that does nothing but decode it, and the
    channel that the command takes of it, or -1."""
    if "|" not in (extended_filename[:1], extended_filename[-1:]):
        return extended_filename, -1
    match = next(filter(None, (pattern.fullmatch(extended_filename) for pattern in _DECODERS)), None)
    if not match:
        raise Rejected(
            "scan",
            f"wav.scp gives a command, {extended_filename[:60]!r}, and commands of a corpus are not run:"
            " write its output to a file and name that",
        )
    groups = match.groupdict()
    channel = int(groups["from_1"]) - 1 if groups.get("from_1") else int(groups.get("from_0") or -1)
    return match["file"].strip("'\""), channel


def _read_table(source: Source, file: str) -> Generator[Reject, None, dict[str, str]]:
    """Read a table of Kaldi: the rest of every line by its first word. It is empty if the file does not exist."""
    table: dict[str, str] = {}
    for location, line in read_lines(source, file) if source.exists(file) else ():
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
