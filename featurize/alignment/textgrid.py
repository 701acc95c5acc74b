"""Read TextGrids of Praat and of aligners, in the long or the short text format, in UTF-8 or UTF-16.

Praat itself is not used, because damaged files crash it and with it the process. Praat's manual describes the format
(Boersma and Weenink, "TextGrid file formats"): free-standing numbers, quoted texts and flags count, in this order.
Everything else is only for people to read.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from headrace.featurize.alignment.intervals import Alignment, Tier
from headrace.featurize.alignment.label_files import (
    END_TOLERANCE_S,
    PHONE_TIERS,
    WORD_TIERS,
    Interval,
    check_bounds,
    empty_tier,
    make_tier,
    parse_number,
    read_text,
    word_indices,
)
from headrace.featurize.alignment.phone_labels import are_phones_for_certain
from headrace.store.errors import Rejected

_TOKEN = re.compile(
    r"""  "(?P<text> [^"]* (?: "" [^"]* )* )" (?!")
        | (?P<flag> <[a-z]+> )
        | (?P<number> [-+]?\d [^\s"]* )
        | \s+ | ![^\n]* | [^\s"!] [^\s"]*""",
    re.VERBOSE,
)
"""The last three alternatives are ignored."""
_HEADER = "ooTextFile"


class TextGrid(NamedTuple):
    """The content of a TextGrid, with its times in seconds."""

    tiers: list[tuple[str, Tier]]
    """Interval tiers with their names, without the intervals that have no label."""
    point_tiers: int
    """Number of point tiers, which are not read."""
    start: float
    end: float


def read_textgrid(path: Path, start_s: float, stop_s: float) -> Alignment:
    """Read phones and words of a TextGrid.

    Tiers are found by name, in any case: phones, phone, phonemes, segments, ... and words, word. A speaker may stand in
    front, as the Montreal Forced Aligner writes it ("anna - phones"). If the only tier is one of words, the tier of
    phones is empty.

    Args:
        path: of the file.
        start_s, stop_s: the part of the TextGrid's time that the audio covers. Returned times count from `start_s`.
    Raises:
        Rejected: stage "align"; the file is not a TextGrid, has no tier of phones or two, has intervals that overlap or
            lie outside of the audio, or does not fit the audio's duration.
    """
    grid = parse(path)
    if abs(grid.start - start_s) > END_TOLERANCE_S or abs(grid.end - stop_s) > END_TOLERANCE_S:
        extent = f"runs from {grid.start:.3f} to {grid.end:.3f} s"
        raise Rejected("align", f"{path.name} {extent}, the audio from {start_s:.3f} to {stop_s:.3f} s")
    phones, words = _find_tier(grid, PHONE_TIERS, path), _find_tier(grid, WORD_TIERS, path)
    if phones is None and (words is None or len(grid.tiers) + grid.point_tiers > 1):
        names = ", ".join(name for name, _ in grid.tiers) or "none"
        raise Rejected("align", f"{path.name} has no tier of phones; its tiers of intervals: {names}")
    tiers = [tier or empty_tier() for tier in (phones, words)]
    for tier in tiers:
        check_bounds(path.name, tier, start_s, stop_s)
    shifted = [Tier(tier.labels, tier.starts_s - start_s, tier.ends_s - start_s) for tier in tiers]
    return Alignment(shifted[0], shifted[1], grid.end - start_s)


def read_transcript(path: Path) -> str:
    """Return the text of a TextGrid: the labels of its tier of words, joined by spaces.

    Raises:
        Rejected: stage "align"; the file is not a TextGrid, has no tier of words, or one that holds phones.
    """
    words = _find_tier(parse(path), WORD_TIERS, path)
    if words is None:
        raise Rejected("align", f"{path.name} has no tier of words to take the text from")
    labels = [words.labels[n] for n in word_indices(words)]
    if are_phones_for_certain(labels):
        raise Rejected("align", f"{path.name} has phones, not words, in its tier of words: put a .txt beside it")
    return " ".join(labels)


def parse(path: Path) -> TextGrid:
    """Parse a TextGrid.

    Raises:
        Rejected: stage "align"; the file is not a TextGrid, or is damaged.
    """
    reader = _Reader(path.name, read_text(path))
    if not reader.next("text").startswith(_HEADER) or reader.next("text") != "TextGrid":
        reader.fail("it is not a TextGrid in text format: let Praat save it as one")
    start, end = reader.number(), reader.number()
    tiers: list[tuple[str, Tier] | None] = []
    if reader.next("flag") == "<exists>":
        tiers = [_read_tier(reader, path) for _ in range(reader.count())]
    return TextGrid([tier for tier in tiers if tier], tiers.count(None), start, end)


def _read_tier(reader: _Reader, path: Path) -> tuple[str, Tier] | None:
    """Read the next tier. Return its name and intervals, or None if it is a point tier."""
    kind, name = reader.next("text"), reader.next("text")
    reader.number(), reader.number()
    has_points = kind == "TextTier"
    if not has_points and kind != "IntervalTier":
        reader.fail(f"a tier is a {kind[:40]!r}, not of intervals or points")
    intervals = []
    for _ in range(reader.count()):
        start = reader.number()
        intervals.append(Interval(start, start if has_points else reader.number(), reader.next("text").strip()))
    if has_points:
        return None
    return name, make_tier(f"{path.name}: {name}", (interval for interval in intervals if interval.label))


class _Reader:
    """Reads the values of a text format one after the other."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text, self._position = name, text, 0

    def next(self, kind: Literal["text", "number", "flag"]) -> str:
        """Return the next value. Raise Rejected if it is of another kind."""
        while (match := _TOKEN.match(self._text, self._position)) and not match.lastgroup:
            self._position = match.end()
        if not match or match.lastgroup != kind:
            self.fail(f"a {kind} was expected" + (", and it ends" if self._position == len(self._text) else ""))
        self._position = match.end()
        return match[kind].replace('""', '"')

    def number(self) -> float:
        text = self.next("number")
        value = parse_number(text)
        if value is None or not math.isfinite(value):
            self.fail(f"{text[:40]!r} is not a time")
        return value

    def count(self) -> int:
        value = self.number()
        if value < 0 or value % 1:
            self.fail(f"{value:g} is not a count")
        return int(value)

    def fail(self, reason: str) -> NoReturn:
        """Raise Rejected with the current line and a reason."""
        line = self._text.count("\n", 0, self._position) + 1
        raise Rejected("align", f"{self._name} cannot be read from line {line} on: {reason}")


def _find_tier(grid: TextGrid, names: frozenset[str], path: Path) -> Tier | None:
    """Return the tier whose name is one of `names`, or None. Raise Rejected if there are several."""
    found = [(name, tier) for name, tier in grid.tiers if name.rpartition(" - ")[2].strip().casefold() in names]
    if len(found) > 1:
        listed = ", ".join(name for name, _ in found)
        raise Rejected("align", f"{path.name} has {len(found)} tiers of one kind ({listed}): keep one")
    return found[0][1] if found else None
