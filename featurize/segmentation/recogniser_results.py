"""Read what speech recognisers wrote: texts with their times in a recording.

    Whisper, faster-whisper, WhisperX, OpenAI   segments (start, end, text, words), words
    whisper.cpp                                 transcription (offsets in ms, text)
    Transformers                                chunks (timestamp, text)
    FunASR                                      sentence_info (start, end, timestamp in ms), timestamp in ms, text
    NeMo, and one's own                         audio_filepath, offset, duration or start, end; pred_text or text

A file holds one JSON document, or one a line. Which recording it is about is said by a key such as `key` or
`audio_filepath`, or by the file's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from headrace.featurize.text.languages.language_tags import language_code
from headrace.store.errors import Rejected, UsageError, rejecting
from headrace.store.schema import Reject

SUFFIXES = (".json", ".jsonl")
RECORDING_KEYS = ("key", "audio_filepath", "audio_path", "audio", "file", "file_name", "filename", "path", "wav", "id")
TEXT_KEYS = ("pred_text", "text", "transcript", "transcription", "sentence")
MAX_BYTES = 1 << 30
"""Largest file that is read: a day of words with their times takes 20 MB."""
_SPECIAL = re.compile(r"<\|([^|<>]*)\|>")
"""Tokens of Whisper and SenseVoice, such as `<|zh|>`, `<|NEUTRAL|>` and `<|2.40|>`."""
_WIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f]")
_TOKEN = re.compile(rf"{_WIDE.pattern}|[^\W_]+(?:['’\-.][^\W_]+)*")
"""What FunASR gives a time to: a character of Chinese or Japanese, or a word."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A text and when it is spoken, in seconds of the recording."""

    start: float
    end: float
    text: str
    """With the space before it, if it is written with one."""
    is_word: bool = False
    """A word or a character, which is in one segment; not a sentence, which may be in several."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a recogniser found in a recording, or in a part of it."""

    location: str
    """File and line."""
    recording: str
    """Its path or name, as the result has it."""
    pieces: Sequence[Piece]
    """Empty if the result gives no times."""
    text: str
    language: str
    """Code; empty if the result has none."""


def read(path: Path) -> Iterator[Result | Reject]:
    """Yield the results in a file, or in all files of a folder.

    Raises:
        UsageError: there is no such file, or none in the folder.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not path.exists() or not files:
        raise UsageError(f"There is no result of a recogniser at {path}: give a .json or .jsonl, or a folder of them.")
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        for location, document in _documents(file, name):
            try:
                if isinstance(document, Reject):
                    raise Rejected("scan", document.reason)
                with rejecting("scan"):
                    result = _parse(location, document, file.stem)
                yield result
            except Rejected as error:
                yield Reject(location, "scan", error.reason)


def joined(texts: Iterable[str]) -> str:
    """Join the texts of pieces, which bring the spaces between them, to one line."""
    return " ".join("".join(texts).split())


def _documents(file: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the documents in a file with their places."""
    try:
        if file.stat().st_size > MAX_BYTES:
            yield name, Reject(name, "scan", f"it has more than {MAX_BYTES >> 30} GB: give one recording a line")
            return
        text = file.read_text("utf-8-sig")
    except OSError as error:
        yield name, Reject(name, "scan", f"it cannot be read: {error.strerror}")
        return
    except UnicodeDecodeError as error:
        yield name, Reject(name, "scan", f"not UTF-8 from byte {error.start + 1} on: save it as UTF-8")
        return
    whole = _json(text) if file.suffix.lower() == ".json" else None
    if whole is not None:
        yield from ((name, document) for document in (whole if isinstance(whole, list) else [whole]))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            document = _json(line)
            for one in document if isinstance(document, list) else [document]:
                yield f"{name}:{number}", one


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parse(location: str, document: Any, stem: str) -> Result:
    if not isinstance(document, Mapping):
        raise Rejected("scan", "not a JSON object: a result is one, in a .json, or on a line of a .jsonl")
    recording = next((str(document[key]) for key in RECORDING_KEYS if isinstance(document.get(key), str)), stem)
    text = next((document[key] for key in TEXT_KEYS if isinstance(document.get(key), str)), "")
    pieces = [
        replace(piece, text=stripped)
        for piece in _pieces(document, text)
        if (stripped := _SPECIAL.sub("", piece.text)).strip()
    ]
    if not pieces and not text.strip():
        raise Rejected("scan", f"it has no text: none of {', '.join(TEXT_KEYS)}, segments, chunks or sentence_info")
    try:
        "".join((recording, text, *(piece.text for piece in pieces))).encode()
    except UnicodeEncodeError:
        raise Rejected("scan", "its text holds half of a surrogate pair, which is no character") from None
    return Result(location, recording, pieces, joined([_SPECIAL.sub("", text)]), _language(document, text))


def _language(document: Mapping[str, Any], text: str) -> str:
    of_whisper_cpp = document.get("result")
    said = document.get("language") or (of_whisper_cpp.get("language") if isinstance(of_whisper_cpp, Mapping) else "")
    tag = said if isinstance(said, str) and said else next(iter(_SPECIAL.findall(text)), "")
    return language_code(tag) if tag else ""


def _pieces(document: Mapping[str, Any], text: str) -> Iterator[Piece]:
    """Yield the pieces of the finest kind that a document gives for all of it."""
    segments = _list(document, "segments")
    if segments and all(_list(segment, "words") for segment in segments):
        for segment in segments:
            yield from _words(_list(segment, "words"))
    elif words := _list(document, "words"):
        yield from _words(words)
    elif segments:
        yield from (_piece(segment, segment.get("start"), segment.get("end")) for segment in segments)
    elif chunks := _list(document, "chunks"):
        yield from (_piece(chunk, *_pair(chunk.get("timestamp"))) for chunk in chunks)
    elif parts := _list(document, "transcription"):
        for part in parts:
            offsets = part.get("offsets")
            offsets = offsets if isinstance(offsets, Mapping) else {}
            yield _piece(part, offsets.get("from"), offsets.get("to"), unit=1e-3)
    elif sentences := _list(document, "sentence_info"):
        for sentence in sentences:
            timed = _timed_tokens(str(sentence.get("text", "")), sentence.get("timestamp"))
            yield from timed or [_piece(sentence, sentence.get("start"), sentence.get("end"), unit=1e-3)]
    elif isinstance(document.get("timestamp"), list):
        yield from _timed_tokens(text, document["timestamp"])
    elif (start := document.get("offset", document.get("start"))) is not None:
        end = document.get("end")
        length = document.get("duration")
        ends = _seconds(start) + _seconds(length) if end is None else _seconds(end)
        yield Piece(_seconds(start), ends, _spaced(text))


def _list(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return the objects in a list, if a document has one."""
    value = document.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _piece(document: Mapping[str, Any], start: Any, end: Any, unit: float = 1.0) -> Piece:
    begins = _seconds(start) * unit
    return Piece(begins, begins if end is None else _seconds(end) * unit, _spaced(str(document.get("text", ""))))


def _spaced(text: str) -> str:
    """Return a text that stands by itself with the space before it."""
    return text if _WIDE.match(text) else f" {text}"


def _words(words: Sequence[Mapping[str, Any]]) -> Iterator[Piece]:
    """Yield words. One without times, as WhisperX leaves numbers, is spoken with the word before it."""
    texts = [str(word.get("word", word.get("text", ""))) for word in words]
    if not any(text[:1].isspace() for text in texts):  # of Whisper every word but a word's continuation has a space
        texts = [*map(_spaced, texts)]
    last = 0.0
    for word, text in zip(words, texts, strict=True):
        start = last
        if word.get("start") is not None and word.get("end") is not None:
            start, last = _seconds(word["start"]), _seconds(word["end"])
        yield Piece(start, last, text, is_word=True)


def _timed_tokens(text: str, timestamps: Any) -> list[Piece]:
    """Return the tokens of a text with their times in ms, each with the marks after it; nothing if they do not fit."""
    tokens = [*_TOKEN.finditer(_SPECIAL.sub("", text))]
    if not isinstance(timestamps, list) or len(timestamps) != len(tokens):
        return []
    text = _SPECIAL.sub("", text)
    ends = [token.start() for token in tokens[1:]] + [len(text)]
    starts = [0, *ends[:-1]]
    times = [_pair(pair) for pair in timestamps]
    return [
        Piece(_seconds(a) / 1000, _seconds(b) / 1000, text[start:end], is_word=True)
        for (a, b), start, end in zip(times, starts, ends, strict=True)
    ]


def _pair(value: Any) -> tuple[Any, Any]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise Rejected("scan", f"{str(value)[:40]!r} is not a start and an end")
    return value[0], value[1]


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise Rejected("scan", f"{str(value)[:40]!r} is not a time")
    return float(value)
