"""Read times of phones and words from `.lab` files and lines of CTM, and check intervals of any format.

An alignment from a file that has many utterances' is carried in the utterance itself, as JSON: the worker that makes
its part needs no further files, and a store notices when the alignment changes. It takes about 25 bytes per phone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headrace.featurize.alignment.intervals import ROUNDING_S, Alignment, Tier
from headrace.store.errors import Rejected, rejected_file
from headrace.store.storage import read_file

PHONE_TIERS = frozenset({"phones", "phone", "phonemes", "phoneme", "segments", "segment"})
WORD_TIERS = frozenset({"words", "word"})
END_TOLERANCE_S = 0.05
"""Seconds by which an alignment's end may differ from the audio's. Aligners round to their frames, 10 to 25 ms."""
MAX_BYTES = 1 << 26
"""Maximum size of one utterance's file: 64 MB are a day of speech."""
NON_WORD_LABELS = frozenset({"", "sil", "sp", "spn", "pau", "<eps>", "<sil>", "<unk>", "<s>", "</s>"})
"""Labels, in lower case, of intervals of a word tier that are not a word, or an unknown one."""

_HTK_UNITS_PER_S = 10**7
_MIN_HTK_END = 100_000
"""In HTK's units of 100 ns: 10 ms. Smaller whole numbers are words of a text, unless each begins where one ended."""
_UNITS = {"seconds without decimal points": 1, "milliseconds": 1e3, "microseconds": 1e6}
_SAMPLE_RATES = (8_000, 48_000)
_MIN_SHARE = 0.2
"""Of the audio, that times in HTK's units reach into it. What ends before is in another unit."""
_CONTEXT = re.compile(r"[^\^]+\^[^-]+-(.+?)\+")
"""A full-context label of HTS, with the phone between its neighbours."""
_LHOTSE_LINE = re.compile(r"\.jsonl(\.gz)?:\d+$")
_STATE = re.compile(r"(.+)\[(\d)\]")
"""A label of HTS for one state of a phone."""
_POSITION = re.compile(r"(?<=.)_[BIES]$")
"""Kaldi's suffix of a phone for its position in the word."""


class Interval(NamedTuple):
    """A labelled interval, in seconds."""

    start: float
    end: float
    label: str

    @property
    def middle(self) -> float:
        """The time halfway between start and end."""
        return (self.start + self.end) / 2


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 if it begins with a byte order mark.

    Raises:
        Rejected: stage "align"; the file cannot be read, has another encoding, or is too large.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Rejected("align", f"{path.name} has more than {MAX_BYTES >> 20} MB: no utterance is that long")
        data = read_file(path)
    except OSError as error:
        raise rejected_file(error, "align", f"{path.name} cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        position = f"from byte {error.start + 1} on"
        raise Rejected("align", f"{path.name} is neither UTF-8 nor UTF-16 {position}: save it as UTF-8 text") from None


def make_tier(location: str, intervals: Iterable[Interval]) -> Tier:
    """Return intervals as a tier.

    Args:
        location: of the intervals, for messages.
        intervals: in order.
    Raises:
        Rejected: stage "align"; an interval ends before it starts, is not finite, or overlaps with the one before.
    """
    items = list(intervals)
    previous_end = -math.inf
    for start, end, label in items:
        if not -math.inf < start <= end < math.inf:
            raise Rejected("align", f"{location}: {label[:40]!r} runs from {start:g} to {end:g} s")
        if start < previous_end - ROUNDING_S:
            overlap = f"{label[:40]!r} at {start:g} s with one to {previous_end:g} s"
            raise Rejected("align", f"{location}: intervals overlap, {overlap}")
        previous_end = end
    starts, ends, labels = zip(*items, strict=True) if items else ((), (), ())
    return Tier(labels, np.asarray(starts, float), np.asarray(ends, float))


def empty_tier() -> Tier:
    """Return a tier without intervals."""
    return make_tier("", ())


def word_indices(words: Tier) -> list[int]:
    """Return the indices of the intervals of a word tier that are words, and not silence or an unknown word."""
    return [n for n, label in enumerate(words.labels) if label.casefold() not in NON_WORD_LABELS]


def check_bounds(location: str, tier: Tier, start_s: float, stop_s: float) -> None:
    """Raise Rejected, stage "align", if a tier begins before or ends after the audio."""
    if tier.labels and (tier.starts_s[0] < start_s - END_TOLERANCE_S or tier.ends_s[-1] > stop_s + END_TOLERANCE_S):
        extent = f"{tier.starts_s[0]:.3f} to {tier.ends_s[-1]:.3f} s"
        raise Rejected("align", f"{location} has intervals from {extent}, outside of {start_s:.3f} to {stop_s:.3f} s")


def make_alignment(location: str, phones: Tier, words: Tier, duration_s: float) -> Alignment:
    """Return the alignment of an utterance.

    If the last phone ends within END_TOLERANCE_S of the audio's end, no silence follows it.

    Args:
        location: of the intervals, for messages.
        phones, words: with times from the audio's first sample on.
        duration_s: of the audio.
    Raises:
        Rejected: stage "align"; a tier ends after the audio.
    """
    for tier in (phones, words):
        check_bounds(location, tier, 0.0, duration_s)
    end = phones.ends_s[-1] if phones.labels else 0.0
    return Alignment(phones, words, end if abs(end - duration_s) <= END_TOLERANCE_S else duration_s)


def to_json(location: str, phones: Iterable[Interval], words: Iterable[Interval]) -> str:
    """Return an alignment in the form that an utterance carries, or an empty string if there are no intervals."""
    content = {"where": location, "phones": [*phones], "words": [*words]}
    is_empty = not content["phones"] and not content["words"]
    return "" if is_empty else json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def is_json(alignment: str) -> bool:
    """Return whether an utterance's alignment is the alignment itself and not the path of a file."""
    return alignment.startswith('{"where":')


def source_of(alignment: str) -> str:
    """Return what kind of source an utterance's alignment is from: TextGrid, lab, CTM, Lhotse, or a cut at pauses."""
    location = str(json.loads(alignment)["where"]) if is_json(alignment) else alignment
    if not is_json(alignment) or location.casefold().endswith((".lab", ".textgrid")):  # as JSON, it is of an archive
        return "lab" if location.casefold().endswith(".lab") else "TextGrid"
    if location.startswith("CTM: "):
        return "CTM"
    return "Lhotse" if _LHOTSE_LINE.search(location) else "cut at pauses"


def from_json(alignment: str, duration_s: float) -> Alignment:
    """Return the alignment that `to_json` wrote.

    Args:
        alignment: the JSON.
        duration_s: of the audio.
    Raises:
        Rejected: stage "align"; as in `make_tier` and `make_alignment`, or a file of the corpus has a name like this.
    """
    try:
        content = json.loads(alignment)
        location = str(content["where"])
        phones, words = (
            make_tier(location, (Interval(float(start), float(end), str(label)) for start, end, label in content[name]))
            for name in ("phones", "words")
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise Rejected("align", f"{alignment[:40]!r} is no alignment: name the file differently") from None
    return make_alignment(location, phones, words, duration_s)


def has_times(lab: str) -> bool:
    """Return whether the content of a `.lab` is an alignment, by its first lines. Otherwise it is a text."""
    lines = [line.split() for line in lab.splitlines() if line.strip()]
    if ["#"] in lines:
        lines = lines[lines.index(["#"]) + 1 :]
        return bool(lines) and all(map(_begins_with_times, lines[:2]))
    if not lines or not all(map(_begins_with_times, lines[:2])):
        return False
    if len(lines) == 1 and (len(lines[0]) > 3 or float(lines[0][0]) > float(lines[0][1])):
        return False
    last = max((fields for fields in lines if _begins_with_times(fields)), key=lambda fields: float(fields[1]))[1]
    return not last.isdigit() or float(last) >= _MIN_HTK_END or _follow_one_another(lines)


def _follow_one_another(lines: Sequence[Sequence[str]]) -> bool:
    """Return whether lines are start, end and label, and each starts where the one before ends."""
    timed = len(lines) > 1 and all(len(fields) == 3 and _begins_with_times(fields) for fields in lines)
    return timed and all(before[1] == fields[0] for before, fields in pairwise(lines))


def read_lab(path: Path, duration_s: float) -> Alignment:
    """Read the phones of a `.lab` with times.

    HTK: `start end label`, in whole units of 100 ns, or in seconds if any time has a decimal point. Festival: after a
    line `#`, `end colour label`, in seconds. A full-context label is reduced to its phone, and the states of a phone
    are merged.

    Args:
        path: of the file.
        duration_s: of the audio.
    Raises:
        Rejected: stage "align"; a line is malformed, intervals overlap or end after the audio, or times are in another
            unit.
    """
    tier, in_htk_units = _parse_lab(path.name, read_text(path))
    if in_htk_units and tier.labels and tier.ends_s[-1] < _MIN_SHARE * duration_s:
        _check_unit(path.name, round(tier.ends_s[-1] * _HTK_UNITS_PER_S), duration_s)
    return make_alignment(path.name, tier, empty_tier(), duration_s)


def lab_labels(name: str, lab: str) -> tuple[str, ...]:
    """Return the labels of a `.lab` with times, in order. Raises Rejected as `read_lab` does."""
    return _parse_lab(name, lab)[0].labels


def _parse_lab(name: str, lab: str) -> tuple[Tier, bool]:
    """Return the intervals of a `.lab`, and whether its times are in HTK's units."""
    lines = [line.split() for line in lab.splitlines()]
    header_lines = lines.index(["#"]) + 1 if ["#"] in lines else 0
    rows = []
    for number, fields in enumerate(lines[header_lines:], header_lines + 1):
        if fields and not _begins_with_times(fields):
            raise Rejected("align", f"{name}:{number}: {' '.join(fields)[:40]!r} is not start, end and label")
        if fields:
            rows.append(fields)
    in_htk_units = not header_lines and all(time.isdigit() for fields in rows for time in fields[:2])
    units_per_s = _HTK_UNITS_PER_S if in_htk_units else 1
    intervals = _festival_intervals(rows) if header_lines else _htk_intervals(rows, units_per_s)
    return make_tier(name, _merge_states(intervals)), in_htk_units


def _check_unit(name: str, last: int, duration_s: float) -> None:
    """Raise Rejected if the last time of a file, in whole numbers, fits the audio in another unit than 100 ns."""
    per_s = last / duration_s
    fitting = [unit for unit, count in _UNITS.items() if count / 2 <= per_s <= count * 1.1]
    if not fitting and _SAMPLE_RATES[0] / 2 <= per_s <= _SAMPLE_RATES[1] * 1.1:
        fitting = ["samples"]
    if fitting:
        found = f"{name} ends at {last}, which fits its {duration_s:g} s in {fitting[0]}"
        raise Rejected("align", f"{found}: write its times in seconds with decimal points, or in units of 100 ns")


def _htk_intervals(rows: Iterable[Sequence[str]], units_per_s: int) -> Iterator[Interval]:
    return (Interval(float(start) / units_per_s, float(end) / units_per_s, label) for start, end, label, *_ in rows)


def _festival_intervals(rows: Iterable[Sequence[str]]) -> Iterator[Interval]:
    previous_end = 0.0
    for end, _, label, *_ in rows:
        yield Interval(previous_end, float(end), label)
        previous_end = float(end)


def _merge_states(intervals: Iterable[Interval]) -> Iterator[Interval]:
    """Reduce full-context labels to their phones, and merge the intervals of one phone's states."""
    previous, previous_state = None, 0
    for start, end, label in intervals:
        match = _STATE.fullmatch(label)
        phone, state = (match[1], int(match[2])) if match else (label, 0)
        context = _CONTEXT.match(phone)
        interval = Interval(start, end, context[1] if context else phone)
        if previous and 0 < previous_state < state and interval.label == previous.label:
            interval = Interval(previous.start, end, interval.label)
        elif previous:
            yield previous
        previous, previous_state = interval, state
    if previous:
        yield previous


def _begins_with_times(fields: Sequence[str]) -> bool:
    return len(fields) > 2 and parse_number(fields[0]) is not None and parse_number(fields[1]) is not None


def parse_number(text: str) -> float | None:
    """Return a number, or None if the text is not one."""
    try:
        return float(text)
    except ValueError:
        return None


def parse_ctm_line(location: str, line: str) -> Interval:
    """Parse a line of a CTM after its name: `channel start duration label [confidence]`, as NIST and Kaldi write it.

    Args:
        location: of the line, for messages.
        line: without the name.
    Raises:
        Rejected: stage "align"; the line is malformed.
    """
    fields = line.split()
    start, duration = (parse_number(field) for field in fields[1:3]) if len(fields) in (4, 5) else (None, None)
    if start is None or duration is None:
        raise Rejected("align", f"{location}: {line[:40]!r} is not channel, start, duration and label")
    return Interval(start, start + duration, _POSITION.sub("", fields[3]))
