"""TextGrids as Praat and aligners write them: either text form, in UTF-8 or UTF-16.

Read here and not by Praat, which damaged files bring down, and the process with it. Boersma and Weenink describe the
form in Praat's manual, "TextGrid file formats": what counts are numbers, texts in quotes and flags that stand free, in
order; all else is there for people to read.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from headrace.featurize.alignment.intervals import Alignment, Tier
from headrace.featurize.alignment.label_files import (
    PHONE_TIERS,
    TOLERANCE_S,
    WORD_TIERS,
    Row,
    check_inside,
    decoded,
    no_words,
    number,
    said,
    tier_of,
)
from headrace.store.errors import Rejected

_TOKEN = re.compile(
    r"""  "(?P<text> [^"]* (?: "" [^"]* )* )" (?!")
        | (?P<flag> <[a-z]+> )
        | (?P<number> [-+]?\d [^\s"]* )
        | \s+ | ![^\n]* | [^\s"!] [^\s"]*""",
    re.VERBOSE,
)
"""The last three are there for people."""
_HEADER = "ooTextFile"


class TextGrid(NamedTuple):
    """What one holds, in seconds on its own clock."""

    tiers: list[tuple[str, Tier]]
    """Of intervals, with their names; intervals without a label are left out."""
    others: int
    """Tiers of points."""
    start: float
    end: float


def read_textgrid(path: Path, start_s: float, stop_s: float) -> Alignment:
    """Phones and words of a TextGrid.

    Tiers are known by name, in any case: phones, phone, phonemes, segments, ...; words, word; with a speaker in
    front as the Montreal Forced Aligner writes them ("anna - phones"). Of a TextGrid that has no tiers but one of words
    the phones are empty.

    Args:
        start_s, stop_s: the time, on the TextGrid's clock, that the audio covers; times are returned from start_s on.
    Raises:
        Rejected: stage "align"; no TextGrid, two tiers of phones or none, intervals that overlap or lie outside, or a
            TextGrid that is not of this audio by its length.
    """
    grid = parse(path)
    if abs(grid.start - start_s) > TOLERANCE_S or abs(grid.end - stop_s) > TOLERANCE_S:
        runs = f"runs from {grid.start:.3f} to {grid.end:.3f} s"
        raise Rejected("align", f"{path.name} {runs}, the audio from {start_s:.3f} to {stop_s:.3f} s")
    phones, words = _tier(grid, PHONE_TIERS, path), _tier(grid, WORD_TIERS, path)
    if phones is None and (words is None or len(grid.tiers) + grid.others > 1):
        named = ", ".join(name for name, _ in grid.tiers) or "none"
        raise Rejected("align", f"{path.name} has no tier of phones; its tiers of intervals: {named}")
    tiers = [tier or no_words() for tier in (phones, words)]
    for tier in tiers:
        check_inside(path.name, tier, start_s, stop_s)
    moved = [Tier(tier.labels, tier.starts_s - start_s, tier.ends_s - start_s) for tier in tiers]
    return Alignment(moved[0], moved[1], grid.end - start_s)


def read_words(path: Path) -> str:
    """The text of a TextGrid: the labels of its tier of words. Raises Rejected("align") where there is none."""
    words = _tier(parse(path), WORD_TIERS, path)
    if words is None:
        raise Rejected("align", f"{path.name} has no tier of words to take the text from")
    return " ".join(words.labels[n] for n in said(words))


def parse(path: Path) -> TextGrid:
    """
    Raises:
        Rejected: stage "align"; no TextGrid, or a damaged one.
    """
    values = _Values(path.name, decoded(path))
    if not values.next("text").startswith(_HEADER) or values.next("text") != "TextGrid":
        values.refuse("no TextGrid in text form is that: let Praat save it as one")
    start, end = values.number(), values.number()
    tiers: list[tuple[str, Tier] | None] = []
    if values.next("flag") == "<exists>":
        tiers = [_read_tier(values, path) for _ in range(values.count())]
    return TextGrid([tier for tier in tiers if tier], tiers.count(None), start, end)


def _read_tier(values: _Values, path: Path) -> tuple[str, Tier] | None:
    """None of a tier of points."""
    kind, name = values.next("text"), values.next("text")
    values.number(), values.number()
    points = kind == "TextTier"
    if not points and kind != "IntervalTier":
        values.refuse(f"a tier is a {kind[:40]!r}, not of intervals or points")
    rows = []
    for _ in range(values.count()):
        start = values.number()
        rows.append(Row(start, start if points else values.number(), values.next("text").strip()))
    return None if points else (name, tier_of(f"{path.name}: {name}", (row for row in rows if row.label)))


class _Values:
    """The values of a text form, one after the other."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text, self._position = name, text, 0

    def next(self, kind: Literal["text", "number", "flag"]) -> str:
        while (found := _TOKEN.match(self._text, self._position)) and not found.lastgroup:
            self._position = found.end()
        if not found or found.lastgroup != kind:
            self.refuse(f"a {kind} was expected" + (", and it ends" if self._position == len(self._text) else ""))
        self._position = found.end()
        return found[kind].replace('""', '"')

    def number(self) -> float:
        text = self.next("number")
        value = number(text)
        if value is None or not math.isfinite(value):
            self.refuse(f"{text[:40]!r} is no time")
        return value

    def count(self) -> int:
        value = self.number()
        if value < 0 or value % 1:
            self.refuse(f"{value:g} is no count")
        return int(value)

    def refuse(self, reason: str) -> NoReturn:
        line = self._text.count("\n", 0, self._position) + 1
        raise Rejected("align", f"{self._name} cannot be read from line {line} on: {reason}")


def _tier(grid: TextGrid, names: frozenset[str], path: Path) -> Tier | None:
    found = [(name, tier) for name, tier in grid.tiers if name.rpartition(" - ")[2].strip().casefold() in names]
    if len(found) > 1:
        named = ", ".join(name for name, _ in found)
        raise Rejected("align", f"{path.name} has {len(found)} tiers of the kind ({named}): keep one")
    return found[0][1] if found else None
