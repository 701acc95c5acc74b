"""A corpus spoken by espeak-ng, for demonstrations and load tests.

    python -m benchmarks.speak OUT --minutes 12 --seed 0

A folder per speaker; beside every recording its text, and a TextGrid with espeak-ng's own times. Lengths, voices,
file formats and sample rates vary as in found corpora. Equal arguments give equal bytes.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import soundfile
import soxr

from benchmarks.sentences import sentence
from headrace.featurize.text import espeak, ipa
from headrace.featurize.text.espeak import Mark, Speech


class Speaker(NamedTuple):
    name: str
    voice: str
    rate_wpm: int
    pitch: int


class Interval(NamedTuple):
    """Of a TextGrid, in samples."""

    start: int
    stop: int
    label: str


SPEAKERS = (
    Speaker("ada", "en-us+f2", 165, 55),
    Speaker("bram", "en-us+m3", 150, 38),
    Speaker("cleo", "en+f4", 178, 60),
    Speaker("dov", "en-us-nyc+m1", 160, 45),
    Speaker("edda", "en-us+Annie", 170, 50),
    Speaker("finn", "en-gb-x-rp+m7", 145, 42),
    Speaker("gwen", "en-us+klatt2", 172, 52),
)
SHORTEST_S, LONGEST_S = 0.6, 20.0
"""What lies outside is said and not kept."""
FORMATS = (("wav", 1), ("wav", 1), ("flac", 1), ("flac", 1), ("wav", 2), ("flac", 2))
"""Suffix and channels. One channel comes at espeak-ng's 22.05 kHz, two at 44.1 kHz."""


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--minutes", default=12.0, show_default=True, help="Speech to make, at least.")
@click.option("--seed", default=0, show_default=True)
def main(out: Path, minutes: float, seed: int) -> None:
    """Speak a corpus into the folder OUT."""
    made_of, card = {"minutes": minutes, "seed": seed}, out / "spoken.json"
    if card.exists() and json.loads(card.read_text())["made_of"] == made_of:
        click.echo(f"{out} is spoken already")
        return
    if out.exists():
        raise click.UsageError(f"{out} holds something else: remove it or name another folder")
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    started = time.perf_counter()
    seconds = speak_corpus(unfinished, minutes * 60, random.Random(seed))
    summary = (
        f"spoke {sum(seconds) / 60:.1f} minutes: {len(seconds)} utterances of {len(SPEAKERS)} speakers,"
        f" {min(seconds):.1f} to {max(seconds):.1f} s, in {time.perf_counter() - started:.1f} s"
    )
    (unfinished / card.name).write_text(json.dumps({"made_of": made_of}) + "\n")
    unfinished.rename(out)
    click.echo(f"{summary}: {out}")


def speak_corpus(folder: Path, total_s: float, random: random.Random) -> list[float]:
    """Utterances until they last `total_s`. Returns their lengths, seconds."""
    seconds: list[float] = []
    for number in count():
        if sum(seconds) >= total_s:
            return seconds
        speaker = random.choice(SPEAKERS)
        text = sentence(random)
        speech = espeak.speak(text, speaker.voice, speaker.rate_wpm, speaker.pitch)
        if not SHORTEST_S <= len(speech.samples) / speech.sample_rate <= LONGEST_S:
            continue
        stem = folder / speaker.name / f"{number:04d}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        seconds.append(write_recording(stem, speech, *random.choice(FORMATS)))
        stem.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
        stem.with_suffix(".TextGrid").write_text(textgrid(speech), encoding="utf-8")


def write_recording(stem: Path, speech: Speech, suffix: str, channels: int) -> float:
    """Write one file. Returns its length in seconds, which is the speech's."""
    samples, rate = speech.samples, speech.sample_rate
    if channels == 2:
        doubled = soxr.resample(samples.astype(np.float32), rate, 2 * rate, quality="HQ")
        assert len(doubled) == 2 * len(samples)
        samples = np.rint(np.stack([0.9 * doubled, 0.7 * doubled], axis=1)).clip(-32768, 32767).astype(np.int16)
        rate *= 2
    soundfile.write(stem.with_suffix(f".{suffix}"), samples, rate, subtype="PCM_16")
    return len(samples) / rate


def textgrid(speech: Speech) -> str:
    """The TextGrid of an utterance, tiers `words` and `phones` (ARPAbet), in Praat's long text form.

    Times are samples over sample rate, written so that they read back as the same float64.
    """
    stop, rate = len(speech.samples), speech.sample_rate
    marks = [*closures(speech), Mark("", stop)]
    tiers = {"words": word_intervals(speech, marks), "phones": phone_intervals(marks)}
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {stop / rate!r}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        filled = list(with_pauses(intervals, stop))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {stop / rate!r}", f"        intervals: size = {len(filled)}"]
        for n, interval in enumerate(filled, 1):
            lines += [f"        intervals [{n}]:", f"            xmin = {interval.start / rate!r}"]
            lines += [f"            xmax = {interval.stop / rate!r}", f'            text = "{interval.label}"']
    return "\n".join(lines) + "\n"


def closures(speech: Speech) -> list[Mark]:
    """espeak-ng's phones and pauses, with the stops where they begin.

    espeak-ng marks a stop at its burst. The silence before is its closure: within a clause, samples of exactly zero
    in front of a phone belong to that phone.
    """
    marks = list(speech.phones)
    for number, (before, mark) in enumerate(pairwise(speech.phones), 1):
        heard = np.flatnonzero(speech.samples[before.start : mark.start])
        if before.name and mark.name and len(heard):
            marks[number] = Mark(mark.name, before.start + int(heard[-1]) + 1)
    return marks


def phone_intervals(marks: list[Mark]) -> list[Interval]:
    """Phones in ARPAbet.

    espeak-ng runs some phones into the one before, as the l of *wheels*, and marks them as of no length. They share
    its interval evenly, as do the phones that are one in IPA and several in ARPAbet (the vowel of *fire*).
    """
    intervals: list[Interval] = []
    for mark, following in pairwise(marks):
        if mark.name and following.start > mark.start:
            intervals.append(Interval(mark.start, following.start, mark.name))
        elif mark.name:
            intervals[-1] = intervals[-1]._replace(label=f"{intervals[-1].label}_{mark.name}")
    return [part for interval in intervals for part in in_arpabet(interval)]


def in_arpabet(interval: Interval) -> Iterator[Interval]:
    names = ipa.to_arpabet(interval.label)
    bounds = [interval.start + (interval.stop - interval.start) * n // len(names) for n in range(len(names) + 1)]
    for name, (start, stop) in zip(names, pairwise(bounds), strict=True):
        yield Interval(start, stop, name)


def word_intervals(speech: Speech, marks: list[Mark]) -> list[Interval]:
    """Words, each from the begin of its first phone to the end of its last."""
    phones = [number for number, mark in enumerate(speech.phones) if mark.name]
    starts = [speech.phones[number].start for number in phones]
    firsts = [bisect_left(starts, word.start) for word in speech.words]
    intervals = []
    for word, (first, following) in zip(speech.words, pairwise([*firsts, len(phones)]), strict=True):
        last = phones[following - 1]
        intervals.append(Interval(marks[phones[first]].start, marks[last + 1].start, word.name))
    return intervals


def with_pauses(intervals: list[Interval], stop: int) -> Iterator[Interval]:
    """The same without gaps, as a TextGrid must be."""
    at = 0
    for interval in (*intervals, Interval(stop, stop, "")):
        if interval.start > at:
            yield Interval(at, interval.start, "")
        if interval.stop > interval.start:
            yield interval
        at = interval.stop


if __name__ == "__main__":
    main()
