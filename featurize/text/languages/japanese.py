"""Read Japanese: OpenJTalk's phones, with marks where the pitch rises or falls and where accent phrases meet.

The marks (`[` up, `]` down) follow Kurihara, Seiyama and Kumano (2021), doi:10.1587/transinf.2020EDP7104. Upstream's
symbol table has none for the boundary of accent phrases: it is UNK there, and here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

from headrace.featurize.text.languages import english
from headrace.featurize.text.languages.frontend import (
    PUNCTUATION,
    Frontend,
    Reading,
    concatenate,
    normalise_marks,
    optional_dependencies,
    split_at_marks,
    token,
)
from headrace.featurize.text.languages.japanese_numbers import verbalise
from headrace.featurize.text.languages.japanese_ruby import drop_ruby
from headrace.featurize.text.languages.unread import keep_said, unread
from headrace.store.library_settings import quiet_onnxruntime

_BETWEEN = {"AccentPhraseBoundary": "UNK", "Pause": "_"}
_RISE, _FALL = "[", "]"
_SAID = re.compile(r"[^\W_]|[\s,.!?…・-]")
_ACCENTED = re.compile("[A-Za-z][\u0300-\u036f]+")
_LATIN_WORD = re.compile("((?<![A-Za-z])[A-Za-z][a-z]{2,}(?![A-Za-z]))")
_HYPHENATED = re.compile(r"(?<![A-Za-z-])[A-Za-z]+(?:-[A-Za-z]+)*(?:-[A-Za-zァ-ヺ]+)(?!-|[A-Za-z])")
_ITERATED = re.compile("([ぁ-ゖァ-ヺ])([ゝゞヽヾ])")
_SMALL = str.maketrans("ㇰㇱㇲㇳㇴㇵㇶㇷㇸㇹㇺㇻㇼㇽㇾㇿ", "クシストヌハヒフヘホムラリルレロ")


def normalise(text: str) -> str:
    """Leave out readings in brackets, and write what OpenJTalk does not read itself: signs, times, dates and such."""
    text = unicodedata.normalize("NFC", _ACCENTED.sub(lambda found: found[0][0], unicodedata.normalize("NFD", text)))
    text = _ITERATED.sub(_iterate, text.translate(_SMALL))
    return _HYPHENATED.sub(_join, verbalise(drop_ruby(text, _pronounce)))


def _join(found: re.Match[str]) -> str:
    """Write a word with hyphens, at which nobody pauses, as one word if OpenJTalk knows that, else as several."""
    joined = found[0].replace("-", "")
    return found[0].replace("-", " ") if joined.isascii() and _is_spelled(joined) else joined


def _iterate(found: re.Match[str]) -> str:
    """Write the kana that an iteration mark stands for, voiced or not as the mark."""
    kana = unicodedata.normalize("NFD", found[1])[0]
    return found[1] + unicodedata.normalize("NFC", kana + ("\u3099" if found[2] in "ゞヾ" else ""))


def read(text: str) -> Reading:
    """Convert normalised Japanese to phones."""
    kept = keep_said(normalise_marks(text), _SAID, "Japanese")
    return concatenate(reading for piece in split_at_marks(kept) for reading in _read_piece(piece))


def _read_piece(piece: str) -> Iterator[Reading]:
    """Yield the readings of a stretch without punctuation, or of a mark."""
    if piece in PUNCTUATION:
        yield token(piece, [piece])
        return
    for words in re.split(r"(\s+)", piece):
        if not words or words.isspace():
            yield token(words)
            continue
        for part in _LATIN_WORD.split(words):
            if _LATIN_WORD.fullmatch(part) and _is_spelled(part):
                yield english.read(english.normalise(part))
            elif part:
                yield from _read_words(part)


@lru_cache(maxsize=1 << 14)
def _is_spelled(word: str) -> bool:
    """Return whether OpenJTalk does not know a word in Latin letters, and would say its letters."""
    return any(entry["pos"] == "フィラー" for entry in _openjtalk().run_frontend(word))


def _read_words(text: str) -> Iterator[Reading]:
    """Yield the reading of each word. Phones that OpenJTalk cannot place belong to the word before."""
    mapping = _openjtalk().g2p_mapping_prosody(text)
    _check_read(text, mapping)
    entries = [(number, entry) for number, word in enumerate(mapping) for entry in word["phonemes"]]
    begun: list[int] = [0]
    for word in mapping[1:]:
        begun.append(min(max(begun[-1], word["char_span"][0]), len(text) - 1))
    phones: dict[int, list[str]] = {0: []}
    entries = [(start, entry) for start, word in zip(begun, mapping, strict=True) for entry in word["phonemes"]]
    for (start, entry), (_, following) in pairwise([*entries, (0, {"kind": "End"})]):
        phones.setdefault(start, []).extend(_symbols(entry, following))
    for start, stop in pairwise([*phones, len(text)]):
        yield token(text[start:stop], phones[start])


def _check_read(text: str, mapping: list[dict[str, Any]]) -> None:
    """Raise Rejected if OpenJTalk reads nothing in a word: its dictionary lacks a letter."""
    for word in mapping:
        silent = not any(entry["kind"] == "Phoneme" and entry["phoneme"] != "unk" for entry in word["phonemes"])
        start, stop = word["char_span"]
        letters = [
            place for place in range(start, min(stop, len(text))) if text[place].isalnum() and text[place] != "ー"
        ]
        if silent and letters:
            raise unread(text, letters[0], "Japanese")


def _pronounce(text: str) -> list[tuple[str, str, bool]]:
    """Return the words of a text, each with its pronunciation in katakana and whether it is a person's name."""
    return [(word["string"], word["pron"], word["pos_group2"] == "人名") for word in _openjtalk().run_frontend(text)]


@cache
def _openjtalk() -> Any:
    quiet_onnxruntime()
    with optional_dependencies("ja"):
        import onnxruntime  # noqa: F401  without it pyopenjtalk reads 何 by a dictionary only, and warns
        import pyopenjtalk
    return pyopenjtalk


def _symbols(entry: Mapping[str, Any], following: Mapping[str, Any]) -> list[str]:
    """Return the symbols of a phone, or of what is between phones, given the entry that follows."""
    if entry["kind"] != "Phoneme":
        return [_BETWEEN[entry["kind"]]] if following["kind"] == "Phoneme" else []
    phone = entry["phoneme"]
    name = phone.lower() if phone in "AIUEO" else phone  # a devoiced vowel is written as a vowel
    change = (entry["pitch"], following.get("pitch", entry["pitch"]))
    return [name, *{("Low", "High"): [_RISE], ("High", "Low"): [_FALL]}.get(change, [])]


FRONTEND = Frontend(
    language="ja",
    scripts=frozenset({"Han", "Kana"}),
    borrowed_scripts=frozenset({"Latin"}),
    libraries=("pyopenjtalk-plus", "sudachidict_core"),
    version=4,
    normalise=normalise,
    read=read,
)
