"""Read recordings that are annotated with ELAN: `.eaf` files, whose annotations are utterances.

The annotations of each tier without a parent are read: tiers below one divide, translate or gloss it. The format is
described by its schema, https://www.mpi.nl/tools/elan/EAFv3.0.xsd.
"""

from __future__ import annotations

import posixpath
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from sys import intern
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.files.folders import AUDIO_SUFFIXES, join, suffix
from headrace.featurize.files.source import Source
from headrace.featurize.text.languages.language_tags import language_code
from headrace.store.errors import Rejected, rejected_file, rejecting
from headrace.store.schema import Reject

SUFFIX = ".eaf"
MAX_BYTES = 1 << 26
TOUCHING_S = 0.05
"""Annotations of two tiers may overlap by this much: they are drawn by hand."""


class _Annotation(NamedTuple):
    start: float
    """Seconds of the recording."""
    end: float
    tier: str
    speaker: str
    language: str
    text: str


def read_elan(source: Source) -> Entries:
    """Read every `.eaf` in a folder: an utterance for each annotation, of the recording that the file names.

    The speaker is the tier's participant, or the tier. Where two tiers have annotations at once, both are rejected.
    """
    for item in source.walk():
        if isinstance(item, Reject):
            yield item
            continue
        folder, names = item
        for file in (join(folder, name) for name in names if suffix(name) == SUFFIX):
            try:
                with rejecting("scan"):
                    entries = [*_entries(source, file)]
                yield from entries
            except Rejected as error:
                yield Reject(file, "scan", error.reason)


def _entries(source: Source, file: str) -> Iterator[Entry]:
    root = _parse(source, file)
    audio = _recording(source, file, root)
    annotations = sorted(_annotations(root))
    tiers: dict[str, list[_Annotation]] = {}
    for annotation in annotations:
        tiers.setdefault(annotation.tier, []).append(annotation)
    for number, annotation in enumerate(annotations, 1):
        other = next((name for name in tiers if name != annotation.tier and _is_met(annotation, tiers[name])), "")
        yield Entry(
            location=f"{file}:{number}",
            audio=audio,
            speaker=intern(annotation.speaker),
            language=annotation.language,
            text=annotation.text,
            alignment="",
            name=audio,
            seconds=(annotation.start, annotation.end),
            problem=f"the tier {other!r} has an annotation at the same time: whose voice it is must be clear"
            if other
            else "",
        )


def _is_met(annotation: _Annotation, others: list[_Annotation]) -> bool:
    """Return whether one of the annotations of another tier, which do not overlap, overlaps this one."""
    before = bisect_left(others, annotation.end - TOUCHING_S, key=lambda other: other.start)
    return before > 0 and others[before - 1].end > annotation.start + TOUCHING_S


def _parse(source: Source, file: str) -> ElementTree.Element:
    if source.size(file) > MAX_BYTES:
        raise Rejected("scan", f"it has more than {MAX_BYTES >> 20} MB: no annotation of a recording is that long")
    try:
        with source.open(file) as opened:
            data = opened.read()
    except OSError as error:
        raise rejected_file(error, "scan", f"it cannot be read: {error.strerror}") from None
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise Rejected("scan", "it declares a type or entities, which ELAN does not: save it with ELAN")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Rejected("scan", f"it is not XML: {error}") from None
    if root.tag != "ANNOTATION_DOCUMENT":
        raise Rejected("scan", "it is no document of ELAN: its root is not ANNOTATION_DOCUMENT")
    return root


def _recording(source: Source, file: str, root: ElementTree.Element) -> str:
    """Return the recording of a file: the one of its name beside it, or the first that it names and that is there."""
    folder, stem = posixpath.dirname(file), file[: -len(SUFFIX)]
    named = [
        unquote(url.removeprefix("file://").removeprefix("file:"))
        for media in root.iter("MEDIA_DESCRIPTOR")
        for key in ("RELATIVE_MEDIA_URL", "MEDIA_URL")
        if (url := media.get(key, "")) and suffix(url) in AUDIO_SUFFIXES
    ]
    relative = [path if path.startswith("/") else posixpath.normpath(join(folder, path)) for path in named]
    beside = [join(folder, posixpath.basename(path)) for path in named] + [stem + end for end in AUDIO_SUFFIXES]
    there = next(filter(source.exists, (*relative, *beside)), "")
    if not (there or relative):
        raise Rejected(
            "scan", f"it names no recording, and none of its name lies beside it ({', '.join(AUDIO_SUFFIXES)})"
        )
    return there or relative[0]


def _annotations(root: ElementTree.Element) -> Iterator[_Annotation]:
    header = root.find("HEADER")
    unit = header.get("TIME_UNITS", "milliseconds") if header is not None else "milliseconds"
    if unit != "milliseconds":
        raise Rejected("scan", f"its times are in {unit[:40]!r}, not in milliseconds: save it with ELAN")
    slots = {slot.get("TIME_SLOT_ID", ""): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    languages = {lang.get("LANG_ID", ""): _code(lang) for lang in root.iter("LANGUAGE")}
    for tier in root.iter("TIER"):
        if tier.get("PARENT_REF"):
            continue
        name = tier.get("TIER_ID", "")
        speaker = tier.get("PARTICIPANT", "").strip() or name
        for annotation in tier.iter("ALIGNABLE_ANNOTATION"):
            start, end = (_seconds(slots, annotation.get(f"TIME_SLOT_REF{n}", "")) for n in (1, 2))
            value = annotation.findtext("ANNOTATION_VALUE") or ""
            text = " ".join(value.split())
            yield _Annotation(start, end, name, speaker, languages.get(tier.get("LANG_REF", ""), ""), text)


def _code(language: ElementTree.Element) -> str:
    """Return the code of a language: its ID is one of ISO 639-3, or its definition ends in one."""
    definition = language.get("LANG_DEF", "").rpartition("/")[2]
    return next(filter(None, map(language_code, filter(None, (language.get("LANG_ID", ""), definition)))), "")


def _seconds(slots: Mapping[str, str | None], slot: str) -> float:
    value = slots.get(slot)
    if value is None or not value.strip().isdecimal():
        raise Rejected("scan", f"its time {slot[:40]!r} has no value: give every annotation a start and an end")
    return int(value) / 1000
