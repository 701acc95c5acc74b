"""Export a store's alignment as TextGrids of Praat.

Times are samples over the sample rate, with all digits of a float64: reading them gives the same samples back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from headrace.featurize.alignment.words import spoken_words
from headrace.featurize.files.folders import AUDIO_SUFFIXES
from headrace.featurize.pipeline.presets import buildable_features
from headrace.featurize.text.symbols import TABLES
from headrace.store import alignment
from headrace.store.advice import command
from headrace.store.alignment import Segments
from headrace.store.errors import StoreError
from headrace.store.reader import Store
from headrace.store.storage.file_names import file_paths
from headrace.store.storage.output_files import output_folder

_SEGMENT = re.compile(r"#\d+-\d+$")


class Interval(NamedTuple):
    """Labelled, in seconds."""

    start: float
    end: float
    label: str


def export_textgrids(
    store: Store, out: Path, done: Callable[[int], None], *, incomplete: bool = False
) -> dict[str, Any]:
    """Write a TextGrid for every utterance with times, in folders as the recordings have them.

    Its tiers are `words`, where the store knows them, and `phones`. What has no duration is left out: Praat has no such
    interval. Pauses are intervals without a label.

    Args:
        done: told how many utterances are done so far.
        incomplete: export a store whose build is not finished, too.
    Returns:
        Counts; `unaligned` utterances have no TextGrid.
    Raises:
        UsageError: there is something at `out`.
        StoreError: the store is not complete, no utterance has times, or the disk is full.
    """
    if not incomplete:
        store.require_complete()
    written, frames, tiers = 0, 0, dict[str, None]()
    names = textgrid_names(store.ids.tolist())
    with output_folder(out) as draft:
        for number, name in enumerate(names):
            segments = alignment.read_segments(store, number)
            if segments is not None:
                found = tiers_of(store, number, segments)
                seconds = int(store.frames[number]) * store.hop / store.sample_rate
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_text(textgrid(found, seconds), encoding="utf-8", newline="\n")
                written += 1
                frames += int(store.frames[number])
                tiers |= dict.fromkeys(found)
            done(number + 1)
        if not written:
            raise StoreError(f"{store.path} has no times of phones: {times_remedy(store)}.")
    hours = frames * store.hop / store.sample_rate / 3600
    unaligned = len(store) - written
    return {"utterances": written, "hours": hours, "features": list(tiers), "unaligned": unaligned}


def times_remedy(store: Store) -> str:
    """Return how the utterances of a store that have no times can get them."""
    if "align" in store.features:
        return "align found none that fit; under `failed` in add.json or build.json of the store is why"
    if missing := {"wave", "phones"} - store.features.keys():
        wanted = ",".join(buildable_features([*store.features, *sorted(missing), "align"]))
        return f"build a store with them by featurize build CORPUS --out STORE --features {wanted}"
    return f"find them by {command('featurize add', store.path, 'align')}"


def textgrid_names(ids: Sequence[str]) -> list[str]:
    """Return the path of each utterance's TextGrid: that of its recording with another suffix, and never outside.

    Where file systems would take two for the same (of `a.wav` and `a.flac`), both have a digest of their id.
    """
    return file_paths(list(map(_textgrid_name, ids)), ids)


def _textgrid_name(id: str) -> str:
    segment = match[0] if (match := _SEGMENT.search(id)) else ""
    audio = PurePosixPath(id.removesuffix(segment))
    last = audio.stem if audio.suffix.lower() in AUDIO_SUFFIXES else audio.name
    return "/".join((*audio.parts[:-1], f"{last}{segment}.TextGrid"))


def textgrid(tiers: dict[str, list[Interval]], seconds: float) -> str:
    """Format tiers in Praat's long text form. Gaps become intervals without a label."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {seconds!r}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        whole = _without_gaps(intervals, seconds)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {seconds!r}", f"        intervals: size = {len(whole)}"]
        for place, (start, end, label) in enumerate(whole, 1):
            quoted = label.replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {start!r}"]
            lines += [f"            xmax = {end!r}", f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def _without_gaps(intervals: Iterable[Interval], seconds: float) -> list[Interval]:
    whole, end = [], 0.0
    for interval in (*intervals, Interval(seconds, seconds, "")):
        if interval.start > end:
            whole.append(Interval(end, interval.start, ""))
        if interval.end > interval.start:
            whole.append(interval)
        end = interval.end
    return whole


def tiers_of(store: Store, number: int, segments: Segments) -> dict[str, list[Interval]]:
    """Return the phone tier of an utterance, and its word tier if the store has words."""
    sounds = segments.phones != alignment.SILENCE
    starts, ends = segments.starts[sounds] / store.sample_rate, segments.ends[sounds] / store.sample_rate
    labels = [TABLES["headrace-ipa"][id].strip("/") for id in store.read("phones", number).tolist()]
    phones = list(map(Interval, starts.tolist(), ends.tolist(), labels))
    words = [
        Interval(phones[word.first].start, phones[word.stop - 1].end, word.label)
        for word in spoken_words(store, number)
    ]
    return {"words": words, "phones": phones} if words else {"phones": phones}
