"""Read published corpora in which every recording has its text in a file of its own."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable
from sys import intern
from typing import Any

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.files.folders import AUDIO_SUFFIXES, join, suffix
from headrace.featurize.files.source import Source
from headrace.featurize.text.languages.language_tags import language_code, unknown_tag
from headrace.store.errors import Rejected, rejected_file, rejecting
from headrace.store.schema import Reject

NORMALIZED, ORIGINAL = ".normalized.txt", ".original.txt"
VCTK_AUDIO = ("wav48_silence_trimmed", "wav48")
"""Folders of recordings, of release 0.92 and of earlier ones."""
_MICROPHONES = ("_mic1.flac", "_mic2.flac", ".wav")
MAX_TEXT_BYTES = 1 << 22
_WITHOUT_TEXT = "audio without text: no {} beside it"


def _entries(source: Source, describe: Callable[[str, str, set[str]], Entry | None]) -> Entries:
    """Yield what `describe` says of each recording, given its path, that without its suffix, and the names beside it.

    None leaves a recording out. What `describe` raises as Rejected is a reject of the recording.
    """
    for item in source.walk():
        if isinstance(item, Reject):
            yield item
            continue
        folder, names = item
        beside = set(names)
        for audio in (join(folder, name) for name in names if suffix(name) in AUDIO_SUFFIXES):
            try:
                with rejecting("scan"):
                    entry = describe(audio, audio[: -len(suffix(audio))], beside)
            except Rejected as error:
                yield Reject(audio, "scan", error.reason)
            else:
                yield from () if entry is None else (entry,)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def read_libritts(source: Source) -> Entries:
    """Read LibriTTS or LibriTTS-R: recordings with `.normalized.txt` beside them. Names begin with the speaker."""

    def describe(audio: str, stem: str, beside: set[str]) -> Entry:
        text = next((end for end in (NORMALIZED, ORIGINAL) if _name(stem) + end in beside), "")
        return Entry(
            location=audio,
            audio=audio,
            speaker=intern(_name(stem).partition("_")[0]),
            language="en",
            text_file=stem + text if text else "",
            problem="" if text else _WITHOUT_TEXT.format(f"{NORMALIZED} or {ORIGINAL}"),
        )

    return _entries(source, describe)


def read_vctk(source: Source) -> Entries:
    """Read VCTK: `txt/SPEAKER/NAME.txt` and `wav48_silence_trimmed/SPEAKER/NAME_mic1.flac`.

    Of the two microphones of release 0.92 the first is read, and the second where there is no first.
    """
    folder = next(filter(source.exists, VCTK_AUDIO), VCTK_AUDIO[0])
    for item in source.walk():
        if isinstance(item, Reject):
            yield item
            continue
        where, names = item
        top, _, speaker = where.partition("/")
        present = set(names)
        if top == folder:
            yield from (_vctk_entry(source, where, speaker, stem, present) for stem in _vctk_stems(names))
        elif top == "txt":
            audio_beside = set(source.names(f"{folder}/{speaker}"))
            for name in names:
                if suffix(name) == ".txt" and not any(name[:-4] + end in audio_beside for end in _MICROPHONES):
                    yield Reject(join(where, name), "scan", f"text without audio: none of its name in {folder}")


def _vctk_stems(names: list[str]) -> list[str]:
    stems = (name.removesuffix(end) for name in names for end in _MICROPHONES if name.endswith(end))
    return list(dict.fromkeys(stems))


def _vctk_entry(source: Source, where: str, speaker: str, stem: str, present: set[str]) -> Entry:
    audio = join(where, next(stem + end for end in _MICROPHONES if stem + end in present))
    text = f"txt/{speaker}/{stem}.txt"
    return Entry(
        location=audio,
        audio=audio,
        speaker=intern(speaker or source.root.name),
        language="en",
        text_file=text if source.exists(text) else "",
        problem="" if source.exists(text) else "audio without text: none of its name in txt/",
    )


def read_thchs30(source: Source) -> Entries:
    """Read THCHS-30: `data/A11_0.wav` and `data/A11_0.wav.trn`, whose first line is the text, word by word.

    Its folders of splits hold links to these recordings, and short `.trn` that only name the others: they are left out
    where that other one is in the corpus.
    """

    def describe(audio: str, stem: str, beside: set[str]) -> Entry | None:
        transcript, text, problem = f"{audio}.trn", "", _WITHOUT_TEXT.format(".wav.trn")
        if _name(transcript) in beside:
            first = next(iter(_read_text(source, transcript).splitlines()), "").strip()
            is_named = first.startswith("../")
            if is_named and source.exists(posixpath.normpath(join(transcript.rpartition("/")[0], first))):
                return None
            problem = "its .trn only names another, which is not in the corpus" if is_named else ""
            text = "" if is_named else "".join(first.split())
        speaker = intern(_name(stem).partition("_")[0])
        return Entry(location=audio, audio=audio, speaker=speaker, language="zh", text=text, problem=problem)

    return _entries(source, describe)


def read_emilia(source: Source) -> Entries:
    """Read Emilia: recordings, each with a `.json` of its name that has `text`, `speaker` and `language`."""

    def describe(audio: str, stem: str, beside: set[str]) -> Entry:
        if f"{_name(stem)}.json" not in beside:
            problem = _WITHOUT_TEXT.format(".json")
            return Entry(location=audio, audio=audio, speaker=source.root.name, problem=problem)
        document = read_json(source, f"{stem}.json")
        tag = str(document.get("language") or "")
        language = language_code(tag) if tag else ""
        return Entry(
            location=f"{stem}.json",
            audio=audio,
            speaker=intern(str(document.get("speaker") or source.root.name)),
            language=language,
            text=str(document.get("text") or "").strip(),
            name=str(document.get("id") or ""),
            problem=unknown_tag(tag),
        )

    return _entries(source, describe)


def read_json(source: Source, file: str) -> dict[str, Any]:
    """Return the JSON object in a file. Raises Rejected if it holds none."""
    try:
        document = json.loads(_read_text(source, file))
    except (ValueError, RecursionError):
        raise Rejected("scan", f"{_name(file)!r} is not JSON") from None
    if not isinstance(document, dict):
        raise Rejected("scan", f"{_name(file)!r} is not a JSON object")
    return document


def _read_text(source: Source, file: str) -> str:
    if source.size(file) > MAX_TEXT_BYTES:
        raise Rejected(
            "scan", f"{_name(file)!r} has {source.size(file):,} bytes: a text has at most {MAX_TEXT_BYTES:,}"
        )
    try:
        with source.open(file) as data:
            return data.read(MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected("scan", f"{_name(file)!r} is not UTF-8 from byte {error.start + 1} on") from None
    except OSError as error:
        raise rejected_file(error, "scan", f"{_name(file)!r} cannot be read: {error.strerror}") from None
