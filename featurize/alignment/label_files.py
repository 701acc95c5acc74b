"""Times of phones and words from files: what all forms share, and those that are lines: `.lab`, CTM.

Alignments that one file has for many utterances are carried in the utterance itself, as JSON: whoever makes its part
needs no more files, and a store notices when they change. That takes some 25 bytes a phone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headrace.featurize.alignment.intervals import SLACK_S, Alignment, Tier
from headrace.store.errors import Rejected

PHONE_TIERS = frozenset({"phones", "phone", "phonemes", "phoneme", "segments", "segment"})
WORD_TIERS = frozenset({"words", "word"})
TOLERANCE_S = 0.05
"""How far from the audio's end an alignment may end. Aligners round to their frames, 10 to 25 ms."""
LARGEST = 1 << 26
"""Bytes of one utterance's file: 64 MB are a day of speech."""
NO_WORDS = frozenset({"", "sil", "sp", "spn", "pau", "<eps>", "<sil>", "<unk>", "<s>", "</s>"})
"""Labels of words, in lower case, where none is said, or nobody knows which."""

_HTK_UNITS = 10**7
"""Of 100 ns, in a second."""
_BRIEFEST = 100_000
"""In HTK's units, 10 ms: whole numbers below are words of a text."""
_CONTEXT = re.compile(r"[^\^]+\^[^-]+-(.+?)\+")
"""A full-context label of HTS: the phone stands between its neighbours."""
_STATE = re.compile(r"(.+)\[(\d)\]")
"""HTS' label of one state of a phone."""
_POSITION = re.compile(r"(?<=.)_[BIES]$")
"""What Kaldi adds to a phone for its place in the word."""


class Row(NamedTuple):
    """One interval, in seconds."""

    start: float
    end: float
    label: str

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


def decoded(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 as its first bytes say.

    Raises:
        Rejected: stage "align"; it cannot be read, is in another encoding or too large.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise Rejected("align", f"{path.name} has more than {LARGEST >> 20} MB: no utterance is that long")
        data = path.read_bytes()
    except OSError as error:
        raise Rejected("align", f"{path.name} cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        at = f"from byte {error.start + 1} on"
        raise Rejected("align", f"{path.name} is neither UTF-8 nor UTF-16 {at}: save it as UTF-8 text") from None


def tier_of(where: str, rows: Iterable[Row]) -> Tier:
    """Intervals as a tier. Raises Rejected("align") where one is none, or they are not one after the other."""
    taken = list(rows)
    before = -math.inf
    for start, end, label in taken:
        if not -math.inf < start <= end < math.inf:
            raise Rejected("align", f"{where}: {label[:40]!r} runs from {start:g} to {end:g} s")
        if start < before - SLACK_S:
            raise Rejected(
                "align", f"{where}: intervals overlap, {label[:40]!r} at {start:g} s with one to {before:g} s"
            )
        before = end
    starts, ends, labels = zip(*taken, strict=True) if taken else ((), (), ())
    return Tier(labels, np.asarray(starts, float), np.asarray(ends, float))


def no_words() -> Tier:
    """Of an alignment that names none."""
    return tier_of("", ())


def said(words: Tier) -> list[int]:
    """Which intervals of a tier of words are words."""
    return [n for n, label in enumerate(words.labels) if label.casefold() not in NO_WORDS]


def check_inside(where: str, tier: Tier, start_s: float, stop_s: float) -> None:
    """Raise Rejected("align") where a tier goes beyond what the audio covers."""
    if tier.labels and (tier.starts_s[0] < start_s - TOLERANCE_S or tier.ends_s[-1] > stop_s + TOLERANCE_S):
        reach = f"{tier.starts_s[0]:.3f} to {tier.ends_s[-1]:.3f} s"
        raise Rejected("align", f"{where} has intervals from {reach}, outside of {start_s:.3f} to {stop_s:.3f} s")


def checked(where: str, phones: Tier, words: Tier, duration_s: float) -> Alignment:
    """An alignment from the audio's first sample on. Where it ends with the audio but for rounding, there is no silence
    after it.

    Raises:
        Rejected: stage "align"; it goes beyond the audio.
    """
    for tier in (phones, words):
        check_inside(where, tier, 0.0, duration_s)
    end = phones.ends_s[-1] if phones.labels else 0.0
    return Alignment(phones, words, end if abs(end - duration_s) <= TOLERANCE_S else duration_s)


def packed(where: str, phones: Iterable[Row], words: Iterable[Row]) -> str:
    """An alignment as an utterance carries it. Nothing where there are no intervals."""
    held = {"where": where, "phones": [*phones], "words": [*words]}
    found = held["phones"] or held["words"]
    return json.dumps(held, ensure_ascii=False, separators=(",", ":")) if found else ""


def is_packed(alignment: str) -> bool:
    """Whether it is an alignment itself, not the path of one."""
    return alignment.startswith('{"where":')


def unpacked(alignment: str, duration_s: float) -> Alignment:
    """Raises Rejected("align") as `tier_of` and `checked` do."""
    held = json.loads(alignment)
    where = held["where"]
    phones, words = (tier_of(where, (Row(*row) for row in held[name])) for name in ("phones", "words"))
    return checked(where, phones, words, duration_s)


def holds_times(lab: str) -> bool:
    """Whether the content of a `.lab` is an alignment, by its first lines; else it is a text."""
    lines = [line.split() for line in lab.splitlines() if line.strip()]
    if ["#"] in lines:
        lines = lines[lines.index(["#"]) + 1 :]
        return bool(lines) and all(map(_is_timed, lines[:2]))
    if len(lines) < 2 or not all(map(_is_timed, lines[:2])):
        return False
    last = max((fields for fields in lines if _is_timed(fields)), key=lambda fields: float(fields[1]))[1]
    return not last.isdigit() or int(last) >= _BRIEFEST


def read_lab(path: Path, duration_s: float) -> Alignment:
    """Phones of a `.lab` with times.

    HTK: `start end label`, in whole units of 100 ns, or in seconds where any time has a point. Festival: after a line
    that is `#`, `end colour label`, in seconds. Of a full-context label the phone is taken, and the states of one phone
    are one interval.

    Raises:
        Rejected: stage "align"; a line that is none, intervals that overlap or end after the audio.
    """
    lines = [line.split() for line in decoded(path).splitlines()]
    head = lines.index(["#"]) + 1 if ["#"] in lines else 0
    numbered = [(number, line) for number, line in enumerate(lines[head:], head + 1) if line]
    for number, fields in numbered:
        if not _is_timed(fields):
            raise Rejected("align", f"{path.name}:{number}: {' '.join(fields)[:40]!r} is not start, end and label")
    whole = not head and all(time.isdigit() for _, line in numbered for time in line[:2])
    timed = _festival(numbered) if head else _htk(numbered, _HTK_UNITS if whole else 1)
    return checked(path.name, tier_of(path.name, _phones(timed)), no_words(), duration_s)


def _htk(numbered: Iterable[tuple[int, Sequence[str]]], units: int) -> Iterator[Row]:
    return (Row(float(start) / units, float(end) / units, label) for _, (start, end, label, *_) in numbered)


def _festival(numbered: Iterable[tuple[int, Sequence[str]]]) -> Iterator[Row]:
    before = 0.0
    for _, (end, _, label, *_) in numbered:
        yield Row(before, float(end), label)
        before = float(end)


def _phones(rows: Iterable[Row]) -> Iterator[Row]:
    """What is one phone as one interval, by its name alone."""
    last, last_state = None, 0
    for start, end, label in rows:
        stated = _STATE.fullmatch(label)
        whole, state = (stated[1], int(stated[2])) if stated else (label, 0)
        context = _CONTEXT.match(whole)
        row = Row(start, end, context[1] if context else whole)
        if last and 0 < last_state < state and row.label == last.label:
            row = Row(last.start, end, row.label)
        elif last:
            yield last
        last, last_state = row, state
    if last:
        yield last


def _is_timed(fields: Sequence[str]) -> bool:
    return len(fields) > 2 and number(fields[0]) is not None and number(fields[1]) is not None


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def ctm_row(where: str, line: str) -> Row:
    """Of a CTM's line after the name: `channel start duration label [confidence]`, NIST's and Kaldi's form.

    Raises:
        Rejected: stage "align"; it is none.
    """
    fields = line.split()
    start, length = (number(field) for field in fields[1:3]) if len(fields) in (4, 5) else (None, None)
    if start is None or length is None:
        raise Rejected("align", f"{where}: {line[:40]!r} is not channel, start, duration and label")
    return Row(start, start + length, _POSITION.sub("", fields[3]))
