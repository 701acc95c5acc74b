"""Read Japanese: OpenJTalk's phones, with marks where the pitch rises or falls and where accent phrases meet.

The marks (`[` up, `]` down) follow Kurihara, Seiyama and Kumano (2021), doi:10.1587/transinf.2020EDP7104. Upstream's
symbol table has none for the boundary of accent phrases: it is UNK there, and here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from headrace.featurize.text.languages.frontend import (
    PUNCTUATION,
    Frontend,
    Reading,
    concatenate,
    normalise_marks,
    optional_dependencies,
    parse_pairs,
    split_at_marks,
    token,
)
from headrace.store.library_settings import quiet_onnxruntime

_BETWEEN = {"AccentPhraseBoundary": "UNK", "Pause": "_"}
_RISE, _FALL = "[", "]"
_CURRENCIES = parse_pairs("¥:円 $:ドル €:ユーロ £:ポンド ₩:ウォン")
_UNITS = parse_pairs(
    "%:パーセント ℃:度 °C:度 °:度 km/h:キロメートル毎時 km:キロメートル cm:センチメートル mm:ミリメートル "
    "m:メートル kg:キログラム mg:ミリグラム g:グラム ml:ミリリットル mL:ミリリットル l:リットル L:リットル "
    "GB:ギガバイト MB:メガバイト TB:テラバイト kHz:キロヘルツ Hz:ヘルツ kW:キロワット W:ワット"
)
_UNIT = re.compile(rf"(?<=\d)\s?({'|'.join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))})(?![A-Za-z])")
_RULES = (
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"(?<!\d)(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?!\d)"), r"\1年\2月\3日"),
    (re.compile(r"(?<!\d)([01]?\d|2[0-4]):([0-5]\d):([0-5]\d)(?!\d)"), r"\1時\2分\3秒"),
    (re.compile(r"(?<!\d)([01]?\d|2[0-4]):00(?!\d)"), r"\1時"),
    (re.compile(r"(?<!\d)([01]?\d|2[0-4]):([0-5]\d)(?!\d)"), r"\1時\2分"),
    (re.compile(r"(?<=[時分秒])0(?=\d[分秒])"), ""),
    (re.compile(r"(?<=年)0(?=\d月)|(?<=月)0(?=\d日)"), ""),
    (re.compile(r"(?<!\d)(\d+)/(\d+)(?!\d)"), r"\2分の\1"),
    (re.compile(r"(?<=\d)[~〜～-](?=\d)"), "から"),
    (re.compile(r"(?<![\w)])[-−](?=\d)"), "マイナス"),
    (re.compile(r"(?<=\d)\.(?=\d)"), "点"),
)
_CURRENCY = re.compile(rf"([{''.join(_CURRENCIES)}])\s?(\d+(?:点\d+)?)")


def normalise(text: str) -> str:
    """Write what OpenJTalk does not read itself: separators, dates, times, fractions, currencies, units."""
    for pattern, spoken in _RULES:
        text = pattern.sub(spoken, text)
    text = _CURRENCY.sub(lambda match: match[2] + _CURRENCIES[match[1]], text)
    return _UNIT.sub(lambda match: _UNITS[match[1]], text)


def read(text: str) -> Reading:
    """Convert normalised Japanese to phones."""
    kept = re.sub(r"[^\w\s,.!?…・-]|_", "", normalise_marks(text))
    return concatenate(reading for piece in split_at_marks(kept) for reading in _read_piece(piece))


def _read_piece(piece: str) -> Iterator[Reading]:
    """Yield the readings of a stretch without punctuation, or of a mark."""
    if piece in PUNCTUATION:
        yield token(piece, [piece])
        return
    for words in re.split(r"(\s+)", piece):
        yield from _read_words(words) if words and not words.isspace() else [token(words)]


def _read_words(text: str) -> Iterator[Reading]:
    """Yield the reading of each word. Phones that OpenJTalk cannot place belong to the word before."""
    quiet_onnxruntime()
    with optional_dependencies("ja"):
        import onnxruntime  # noqa: F401  without it pyopenjtalk reads 何 by a dictionary only, and warns
        import pyopenjtalk
    mapping = pyopenjtalk.g2p_mapping_prosody(text)
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
    version=1,
    normalise=normalise,
    read=read,
)
