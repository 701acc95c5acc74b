"""What a build costs beside the decoding that nobody can save, and beside lhotse.

    python -m benchmarks.build CORPUS [--hours H] [--rounds N]

The corpus' speech becomes 44.1 kHz stereo recordings (two channels of different level and noise, so that a codec has
something to do) in flac, wav, ogg and mp3. On the flac files, one core, CPU time, all engines in turn in every round:

- decoding, downmixing and resampling alone: soundfile, 0.5 (l + r), soxr HQ;
- `featurize build`, wave, mel and mfcc, into sealed parts of up to an hour (as in any corpus over 16 hours), synced to
  disk: the work of a worker, without its start;
- lhotse's compute-and-store of Fbank and of Mfcc, at the same rate, with the storage it proposes.

Then what each stage takes, by format; and how whole builds, process starts included, go with one worker and with two.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile
import soxr

from benchmarks import report
from headrace.featurize.corpus import scanner
from headrace.featurize.pipeline.build import BuildConfig, plan_parts, scan
from headrace.featurize.pipeline.part_worker import process_part
from headrace.featurize.pipeline.presets import PRESETS
from headrace.store.schema import Utterance
from headrace.store.writer import create_store

PRESET = PRESETS["gpt-sovits-v2"]
RATE = 44_100
FEATURES = ("wave", "mel", "mfcc")
FORMATS = {"flac": "PCM_16", "wav": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


class Quiet:
    """An observer that looks away."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **options: None


def stereo(folder: Path, seed: int = 0) -> Iterator[np.ndarray]:
    """The corpus' speech in recordings of 6 s or more, as read speech has them: (samples, 2) float32 at 44.1 kHz, the
    channels 6 dB apart, each over noise at -66 dB."""
    random, pieces = np.random.default_rng(seed), []
    for item in scanner.scan(folder):
        if isinstance(item, Utterance):
            samples, rate = soundfile.read(folder / item.audio, dtype="float32", always_2d=True)
            pieces.append(soxr.resample(samples[:, 0], rate, RATE, quality="HQ"))
        if sum(map(len, pieces)) >= 6 * RATE:
            mono = np.concatenate(pieces)
            noise = random.normal(0, 5e-4, (len(mono), 2)).astype(np.float32)
            yield 0.9 * mono[:, None] * np.array([1.0, 0.5], np.float32) + noise
            pieces.clear()


def write_corpora(folder: Path, out: Path, hours: float) -> float:
    """The same recordings in every format, each in its own corpus, the speech repeated until it is long enough.

    Returns:
        Hours written.
    """
    seconds, number = 0.0, 0
    while seconds < hours * 3600:
        for samples in stereo(folder, seed=number):
            for name, subtype in FORMATS.items():
                path = out / name / "wavs" / f"{number:06d}.{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                encode(path, samples, subtype)
            seconds += len(samples) / RATE
            number += 1
            if seconds >= hours * 3600:
                break
    for name in FORMATS:
        lines = (f"{path}|nobody|EN|some words" for path in sorted((out / name / "wavs").iterdir()))
        (out / name / "corpus.list").write_text("\n".join(lines), encoding="utf-8")
    return seconds / 3600


def encode(path: Path, samples: np.ndarray, subtype: str) -> None:
    """Write samples at RATE as a recording."""
    with soundfile.SoundFile(path, "w", RATE, samples.shape[1], subtype) as file:
        for start in range(0, len(samples), RATE):  # libsndfile's Vorbis encoder crashes on large writes
            file.write(samples[start : start + RATE])


def decode_alone(flac: Path, _: Path) -> None:
    for path in sorted((flac / "wavs").iterdir()):
        samples, rate = soundfile.read(path, dtype="float32")
        soxr.resample(0.5 * (samples[:, 0] + samples[:, 1]), rate, PRESET.spectral.sample_rate, quality="HQ")


def ours(source: Path, scratch: Path) -> dict[str, float]:
    """Every part of a build, in this process. Returns seconds by stage."""
    config = BuildConfig(corpus=source, out=scratch / "store", preset=PRESET, features=FEATURES, part_hours=1)
    found = scan(config, Quiet())
    assert not found.rejects, found.rejects[:3]
    tasks = plan_parts(found, config)
    create_store(config.out, {})
    stages: dict[str, float] = {}
    for task in tasks:
        done = process_part(task)
        assert not done.rejects, done.rejects[:3]
        for stage, seconds in done.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    return stages


def lhotse(source: Path, scratch: Path) -> None:
    from lhotse import CutSet, Fbank, FbankConfig, Mfcc, MfccConfig, MonoCut, MultiCut, Recording

    rate = PRESET.spectral.sample_rate
    recordings = [Recording.from_file(path) for path in sorted((source / "wavs").iterdir())]
    cuts = CutSet.from_cuts(
        (MultiCut if r.num_channels > 1 else MonoCut)(
            id=r.id, start=0, duration=r.duration, channel=list(range(r.num_channels)), recording=r
        ).to_mono(mono_downmix=True)
        for r in recordings
    ).resample(rate)
    hop = PRESET.spectral.hop / rate
    for extractor in (
        Fbank(FbankConfig(sampling_rate=rate, frame_shift=hop, num_filters=PRESET.spectral.n_mels)),
        Mfcc(MfccConfig(sampling_rate=rate, frame_shift=hop, num_ceps=PRESET.spectral.n_mfcc)),
    ):
        cuts.compute_and_store_features(extractor, scratch / extractor.name, num_jobs=1)


def cpu_seconds(work: Callable[[Path, Path], Any], source: Path) -> float:
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        start = time.process_time()
        work(source, Path(scratch))
        return time.process_time() - start


def end_to_end(flac: Path, hours: float, rounds: int) -> list[dict[str, Any]]:
    engines = {"decode, downmix, resample alone": decode_alone, "featurize": ours, "lhotse": lhotse}
    ours(flac, _fresh(flac.parent / "warm"))  # compiles and loads what stays loaded
    spent: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, work in engines.items():
            spent[name].append(cpu_seconds(work, flac) / hours)
    bare, theirs = spent["decode, downmix, resample alone"], spent["lhotse"]
    return [
        {
            "engine": name,
            "CPU-s per hour of audio": statistics.median(values),
            "spread": f"{min(values):.2f} to {max(values):.2f}",
            "/ decoding alone": _median_ratio(values, bare),
            "times lhotse's rate": _median_ratio(theirs, values),
        }
        for name, values in spent.items()
    ]


def _median_ratio(over: list[float], under: list[float]) -> float:
    """Of what was measured in the same round, one right after the other."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def by_stage(corpora: Path, hours: float, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for name in FORMATS:
        runs = [ours(corpora / name, _fresh(corpora / "stages")) for _ in range(rounds)]
        stages = {stage: statistics.median(run[stage] for run in runs) / hours for stage in runs[0]}
        rows.append({"format": name, **stages, "sum": sum(stages.values())})
    return rows


def scaling(flac: Path, rounds: int) -> list[dict[str, Any]]:
    """Whole commands, in wall time."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, values in rates.items():
            out = _fresh(flac.parent / "scaling") / "store"
            command = [sys.executable, "-m", "headrace.featurize", "build", str(flac), "--out", str(out), "--json"]
            options = ["--features", ",".join(FEATURES), "--workers", str(workers)]
            done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
            values.append(json.loads(done.stdout)["hours_per_second"])
    one = statistics.median(rates[1])
    return [
        {
            "workers": workers,
            "hours of audio per second": statistics.median(values),
            "spread": f"{min(values):.3f} to {max(values):.3f}",
            "/ one worker": statistics.median(values) / one,
        }
        for workers, values in rates.items()
    ]


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _table(rows: list[dict[str, Any]]) -> str:
    return report.table(list(rows[0]), [list(row.values()) for row in rows])


@click.command()
@click.argument("folder", metavar="CORPUS", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--hours", default=0.5, show_default=True, help="Of audio to measure on.")
@click.option("--rounds", default=5, show_default=True)
def main(folder: Path, hours: float, rounds: int) -> None:
    """Write results/build.md and results/build.json."""
    with tempfile.TemporaryDirectory() as scratch:
        corpora = Path(scratch)
        hours = write_corpora(folder, corpora, hours)
        costs = end_to_end(corpora / "flac", hours, rounds)
        stages = by_stage(corpora, hours, rounds)
        scales = scaling(corpora / "flac", rounds)
    markdown = "\n\n".join(
        (
            f"44.1 kHz stereo FLAC to {', '.join(FEATURES)} at {PRESET.name}: {hours:.2f} h of speech, one core, "
            f"medians of {rounds} rounds.",
            _table(costs),
            "Seconds per hour of audio by stage and format, in the worker.",
            _table(stages),
            "Whole `featurize build` commands on that FLAC corpus, starts included, wall time.",
            _table(scales),
        )
    )
    click.echo(markdown)
    report.save("build", markdown, {"hours": hours, "end_to_end": costs, "stages": stages, "scaling": scales})


if __name__ == "__main__":
    main()
