"""Call espeak-ng through ctypes: convert text to IPA, or synthesise it with the exact time of every phone.

The package `espeakng-loader` brings the library and its data; nothing else needs to be installed. espeak-ng keeps its
state in globals: each process initialises it once, and one thread at a time calls it.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import shutil
import sys
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_int, c_long, c_short, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.featurize.text import espeak_process
from headrace.store.errors import HeadraceError, Rejected

if TYPE_CHECKING:
    import numpy as np

# Names and values of espeak-ng 1.52's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE = 0x0001 | 0x0002 | 0x8000  # phoneme events, named in IPA; report failure instead of exit()
_CHARS_UTF8 = 1
_PHONEMES_IPA = 0x02
_EVENT_END, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_PARAMETER_RATE, _PARAMETER_PITCH = 1, 3


class _EventId(ctypes.Union):
    _fields_ = (("number", c_int), ("name", c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", c_int),
        ("unique_identifier", c_uint),
        ("text_position", c_int),
        ("length", c_int),
        ("audio_position", c_int),
        ("sample", c_int),
        ("user_data", c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_Event))
_lock = threading.Lock()
_voice: list[str] = []
"""The voice that is set, if one is."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A phone or word that begins at sample `start` and lasts until the next one."""

    name: str
    start: int


@dataclass(frozen=True, slots=True)
class Speech:
    """Synthesised speech with the times of its phones and words."""

    samples: np.ndarray
    """(S,) int16."""
    sample_rate: int
    phones: tuple[Mark, ...]
    """IPA with stress; an empty name is a pause. Times are exact to the sample; a stop begins at its burst."""
    words: tuple[Mark, ...]
    """Words of the text, split at white space. Where espeak-ng runs several together, one entry holds them all."""


@cache
def voices() -> dict[str, str]:
    """Return espeak-ng's voices by the tags of the languages that they speak, in lower case.

    A voice is named by its file. One without its dictionary, which a distribution may leave out, reads nothing and is
    not among them. Nor are languages for which a voice is only a makeshift, which espeak-ng gives a priority.
    """
    import espeakng_loader

    data, found = Path(espeakng_loader.get_data_path()), dict[str, str]()
    files = sorted(file for file in (data / "lang").rglob("*") if file.is_file())
    described = [(file.name.lower(), file.read_text(encoding="utf-8", errors="replace").splitlines()) for file in files]
    readable = [(name, lines) for name, lines in described if (data / f"{_dictionary(name, lines)}_dict").is_file()]
    for name, lines in readable:
        for keyword, *values in filter(None, map(str.split, lines)):
            if keyword == "language" and len(values) == 1:
                found.setdefault(values[0].lower(), name)
    return found | {name: name for name, _ in readable}


def _dictionary(voice: str, lines: list[str]) -> str:
    """Return the name of a voice's dictionary: the one that its file names, or that of its language."""
    named = (line.split()[1] for line in lines if line.startswith("dictionary "))
    return next(named, voice.partition("-")[0])


def to_ipa(text: str, voice: str = "en-us", separator: str = "_") -> str:
    """Convert text to IPA with stress, a separator between phones and spaces between words.

    The result is empty if nothing in the text is spoken. Some phones of some voices have an underscore in their names.

    Raises:
        Rejected: stage "text"; espeak-ng breaks off at this text.
        HeadraceError: espeak-ng has no such voice.
    """
    try:
        return espeak_process.ask(text, voice, separator)
    except espeak_process.Ended:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise Rejected("text", f"espeak-ng, which reads {voice}, breaks off at {shown!r}: take it out") from None


def serve() -> None:
    """Convert texts for the process that asks, until it asks no more."""
    espeak_process.serve(_to_ipa, sys.stdin, sys.stdout)


def _to_ipa(text: str, voice: str, separator: str) -> str:
    """Convert text to IPA in this process."""
    with _lock:
        library = _library()
        _set_voice(library, voice)
        unread = c_char_p(_utf8(text))
        clauses = []
        while unread.value is not None:
            mode = _PHONEMES_IPA | ord(separator) << 8
            clause = library.espeak_TextToPhonemes(ctypes.byref(unread), _CHARS_UTF8, mode)
            clauses.append((clause or b"").decode())
    return " ".join(clause for clause in clauses if clause)


def speak(text: str, voice: str = "en-us", rate_wpm: int = 175, pitch: int = 50) -> Speech:
    """Synthesise `text`.

    The samples depend a little on what the process synthesised before, because the phase of the glottal wave carries
    over. The same calls in a fresh process give the same samples.

    Args:
        text: to synthesise.
        voice: name of the voice, optionally with a variant after a plus sign, as in `en-us+f2`.
        rate_wpm: words per minute, 80 to 450.
        pitch: 0 to 100.
    Raises:
        HeadraceError: espeak-ng has no such voice, or fails.
    """
    blocks: list[bytes] = []
    phones: list[Mark] = []
    words: list[tuple[int, int]] = []

    def collect(samples: ctypes._Pointer[c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if samples and count:
            blocks.append(ctypes.string_at(samples, 2 * count))
        for event in _until_end(events):
            if event.type == _EVENT_PHONEME:
                name = event.id.string.decode(errors="ignore")  # 8 bytes; one vowel with its stress takes 9
                phones.append(Mark(name, event.sample))
            elif event.type == _EVENT_WORD:
                words.append((event.text_position - 1, event.sample))
        return 0

    callback, encoded = _Callback(collect), _utf8(text)
    with _lock:
        library = _library()
        _set_voice(library, voice)
        library.espeak_SetParameter(_PARAMETER_RATE, rate_wpm, 0)
        library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)
        library.espeak_SetSynthCallback(callback)
        failed = library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _CHARS_UTF8, None, None)
        sample_rate = library.espeak_ng_GetSampleRate()
    if failed:
        raise HeadraceError(f"espeak-ng cannot say {text!r}: its error {failed}")
    import numpy as np  # not needed to read texts

    samples = np.frombuffer(b"".join(blocks), np.int16)
    return Speech(samples, sample_rate, tuple(_without_glides(phones)), tuple(_words(text, words)))


@cache
def _library() -> ctypes.CDLL:
    """Load and initialise the library. Call with the lock held."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Initialize.argtypes = (c_int, c_int, c_char_p, c_int)
    library.espeak_SetVoiceByName.argtypes = (c_char_p,)
    library.espeak_SetParameter.argtypes = (c_int, c_int, c_int)
    library.espeak_SetSynthCallback.argtypes = (_Callback,)
    library.espeak_TextToPhonemes.argtypes = (POINTER(c_char_p), c_int, c_int)
    library.espeak_TextToPhonemes.restype = c_char_p
    library.espeak_Synth.argtypes = (c_char_p, c_size_t, c_uint, c_int, c_uint, c_uint, c_void_p, c_void_p)
    library.espeak_ng_SetRandSeed.argtypes = (c_long,)
    data = _short_path(espeakng_loader.get_data_path())
    if library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(data), _INITIALIZE) <= 0:
        raise HeadraceError(f"espeak-ng cannot read its data in {data}: install espeakng-loader again")
    library.espeak_ng_SetRandSeed(0)  # its breath noise; seeded by the clock otherwise
    return library


def _short_path(folder: str) -> str:
    """Return a path to the folder that espeak-ng can use: it truncates paths at 160 bytes.

    On Linux an open folder has a short name. Elsewhere the folder (20 MB) is copied for the lifetime of the process.
    """
    if len(os.fsencode(folder)) < 150:
        return folder
    if os.path.isdir("/proc/self/fd"):
        return f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}"
    copy = tempfile.mkdtemp(prefix="headrace-espeak-")
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    return copy


def _set_voice(library: ctypes.CDLL, voice: str) -> None:
    """Let a voice read, unless it is the one that has read last: its dictionary takes milliseconds to load."""
    if _voice == [voice]:
        return
    _voice.clear()
    if library.espeak_SetVoiceByName(_utf8(voice)):
        raise HeadraceError(f"espeak-ng has no voice {voice!r}; en, en-us and en-us+f2 are some that it has")
    _voice.append(voice)


def _utf8(text: str) -> bytes:
    return text.replace("\0", " ").encode()


def _until_end(events: ctypes._Pointer[_Event]) -> Iterator[_Event]:
    number = 0
    while events[number].type != _EVENT_END:
        yield events[number]
        number += 1


def _without_glides(marks: list[Mark]) -> Iterator[Mark]:
    """Drop events of glides, as in *the end*: espeak-ng gives them no name, as it does pauses."""
    for before, mark, after in zip([Mark("", 0), *marks], marks, [*marks[1:], Mark("", 0)], strict=False):
        if mark.name or not after.name or before.name.strip("ˈˌ") not in {"i", "iː", "ɪ"}:
            yield mark


def _words(text: str, events: list[tuple[int, int]]) -> Iterator[Mark]:
    """Convert word events (position in the text, sample) to marks.

    A number makes several events, "of the" only one.
    """
    tokens = [(match.start(), match.group()) for match in re.finditer(r"\S+", text)]
    begun: dict[int, int] = {}
    for place, sample in events:
        begun.setdefault(max(0, bisect_right(tokens, place, key=itemgetter(0)) - 1), sample)
    for token, following in pairwise([*begun, len(tokens)]):
        yield Mark(" ".join(word for _, word in tokens[token:following]), begun[token])
