"""How far last phones are off in reverberant rooms, with and without the rooms' decays.

    python -m benchmarks.reverberation FOLDER [--store STORE ENDS ...] [--save]

A corpus spoken by espeak-ng, whose times are exact, is put into simulated rooms: noise that decays, as loud as the
direct sound (Polack 1988). Of a store of real recordings, the ends of last phones are compared with a list: lines of
an id, a space and seconds, as read from spectrograms, say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import click
import numpy as np

from benchmarks import report
from benchmarks.align import call
from headrace import store
from headrace.featurize.features.derived import SILENT, Part
from headrace.featurize.forced_alignment import rooms
from headrace.featurize.forced_alignment.hmm_aligner import MARKS, SYMBOLS, HmmAlign
from headrace.featurize.quality.corpus_statistics import parts

HEAD = ("recordings", "decays", "last ends", "median, ms", "within 100 ms", "early", "onsets within 50 ms")
ROOMS = (0.0, 0.8, 1.2, 1.9)
"""Reverberation times in seconds."""
CUT = 0.7
"""Share of the reverberation time after which a recording is cut off."""
NEVER = 2.0
"""A share of utterances that no speaker reaches."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--store", "stores", multiple=True, nargs=2, type=click.Path(path_type=Path, exists=True))
@click.option("--minutes", default=12, show_default=True, help="Of speech by espeak-ng.")
@click.option("--save", is_flag=True, help="Keep the table in benchmarks/results/ too.")
def main(folder: Path, stores: Sequence[tuple[Path, Path]], minutes: int, save: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "EXACT").exists():
        call("python", "-m", "benchmarks.speak", folder / "exact", "--minutes", minutes)
        call("featurize", "build", folder / "exact", "--out", folder / "EXACT", "--features", "wave,phones")
    rows = [row for rt60 in ROOMS for row in simulated(folder / "EXACT", rt60)]
    rows += [row for path, ends in stores for row in recorded(path, ends)]
    markdown = report.table(HEAD, rows)
    click.echo(markdown)
    if save:
        report.save("reverberation", markdown, {"rows": rows})


def simulated(path: Path, rt60: float) -> Iterator[tuple[str, ...]]:
    """With the exact times of the dry recordings as the truth."""
    dry = list(parts(store.open(path)))
    truth = [ends for part in dry for ends in part.utterances("phone_end")]
    wet = [with_waves(part, [in_room(wave, rt60, rate_of(part)) for wave in part.utterances("wave")]) for part in dry]
    for decays, times in both_ways(wet):
        onsets, ends = [], []
        for sounds, own, exact in zip(sounding(dry), times, truth, strict=True):
            onsets += (own[sounds, 0] - np.append(0, exact[:-1])[sounds]).tolist()
            ends.append(own[sounds, 1][-1] - exact[sounds][-1])
        name = f"espeak-ng, RT60 {rt60:g} s" if rt60 else "espeak-ng, dry"
        within = f"{(np.abs(onsets) <= 0.05 * rate_of(dry[0])).mean():.1%}"
        yield (name, decays, *row(np.array(ends) / rate_of(dry[0])), within)


def recorded(path: Path, ends: Path) -> Iterator[tuple[str, ...]]:
    """With a list of ends as the truth."""
    lines = (line.rsplit(maxsplit=1) for line in ends.read_text(encoding="utf-8").splitlines())
    truth = {name: float(seconds) for name, seconds in lines}
    own_parts = [with_waves(part, list(part.utterances("wave"))) for part in parts(store.open(path))]
    ids = [name for part in own_parts for name in part.strings("id")]
    for decays, times in both_ways(own_parts):
        late = [
            own[sounds, 1][-1] / rate_of(own_parts[0]) - truth[name]
            for name, sounds, own in zip(ids, sounding(own_parts), times, strict=True)
            if name in truth and own[0, 0] >= 0
        ]
        yield (path.name, decays, *row(np.array(late)), "")


def row(late_s: np.ndarray) -> tuple[str, ...]:
    shares = (abs(late_s) <= 0.1).mean(), (late_s < -0.1).mean()
    return (f"{len(late_s):,}", f"{1000 * np.median(late_s):.0f}", *(f"{share:.0%}" for share in shares))


def both_ways(some: Sequence[Part]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the times (P, 2) of all utterances, learned and aligned without and with the decays of rooms."""
    for decays, share in (("no", NEVER), ("yes", rooms.REVERBERANT)):
        with mock.patch.object(rooms, "REVERBERANT", share):
            learned = HmmAlign().learn(some, SILENT)
            model = [replace(part, learned=lambda _, learned=learned: learned) for part in some]
            yield decays, [times for part in model for times in HmmAlign().rows(part)]


def with_waves(part: Part, waves: Sequence[np.ndarray]) -> Part:
    """A part with other waveforms, and phones whose times are not known."""
    unknown = [np.full(len(some), -1, np.int32) for some in part.utterances("phones")]
    own = {"wave": waves, "phone_end": unknown}
    return replace(part, utterances=lambda name: own[name] if name in own else part.utterances(name))


def rate_of(part: Part) -> int:
    return int(part.specs["wave"].recipe["sample_rate"])


def sounding(some: Sequence[Part]) -> list[np.ndarray]:
    """Which phones of each utterance sound."""
    phones = [own for part in some for own in part.utterances("phones")]
    return [np.array([SYMBOLS[phone] not in MARKS for phone in own]) for own in phones]


def in_room(wave: np.ndarray, rt60: float, rate: int) -> np.ndarray:
    """A recording (T, hop) int16 in a room, cut off before the room is silent."""
    if not rt60:
        return wave
    random, dry = np.random.default_rng(0), wave.reshape(-1) / 32768
    response = random.normal(size=round(rt60 * rate))
    response *= 10 ** (-3 * np.arange(len(response)) / len(response))
    response[: round(0.003 * rate)] = 0
    response /= np.sqrt(response @ response)
    response[0] = 1
    size = 1 << (len(dry) + len(response)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(response, size), size)
    wet = wet[: (len(dry) + round(CUT * len(response))) // wave.shape[1] * wave.shape[1]]
    noisy = 0.5 * wet / abs(wet).max() + 3e-5 * random.normal(size=len(wet))
    return np.rint(32767 * noisy).astype(np.int16).reshape(-1, wave.shape[1])


if __name__ == "__main__":
    main()
