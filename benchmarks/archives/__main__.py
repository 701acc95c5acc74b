"""How fast builds from archives are, beside that from the folder that they were packed from.

    python -m benchmarks.archives CORPUS [--hours H] [--rounds N]

The corpus' speech becomes 44.1 kHz stereo FLAC with a JSON beside each recording: a folder, shards of WebDataset, a
deflated zip, Lhotse Shar, Parquet and Arrow. Each is scanned and built (wave, mel and mfcc) on one core, its parts one
after the other, all forms in turn in every round.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks import report
from benchmarks.archives import pack_arrow, pack_parquet, pack_shar, pack_tars, pack_zip
from benchmarks.build import FEATURES, PRESET, RATE, encode, ours, stereo

SHARD = 100
"""Recordings of a shard or a file."""
FORMS: dict[str, Callable[[Path, Path], Path]] = {
    "folder": lambda folder, _: folder,
    "WebDataset tars": lambda folder, out: pack_tars(folder, out, SHARD),
    "deflated zip": lambda folder, out: pack_zip(folder, out.with_suffix(".zip"), zipfile.ZIP_DEFLATED),
    "Lhotse Shar": lambda folder, out: pack_shar(folder, out, SHARD),
    "Parquet": lambda folder, out: pack_parquet(folder, out, SHARD, SHARD),
    "Arrow": lambda folder, out: pack_arrow(folder, out, SHARD, SHARD),
}


def write_folder(speech: Path, out: Path, hours: float) -> float:
    """Write recordings with a JSON each until they last long enough, and return the hours."""
    seconds, number = 0.0, 0
    out.mkdir()
    while seconds < hours * 3600:
        for samples in stereo(speech, seed=number):
            encode(out / f"{number:06}.flac", samples, "PCM_16")
            document = {"text": "Some words.", "speaker": f"s{number % 3}", "language": "en"}
            (out / f"{number:06}.json").write_text(json.dumps(document), encoding="utf-8")
            seconds, number = seconds + len(samples) / RATE, number + 1
            if seconds >= hours * 3600:
                break
    return seconds / 3600


def seconds_of(corpus: Path, scratch: Path) -> tuple[float, float]:
    """Return the wall and the CPU seconds of scanning and building a corpus, as if for the first time."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for file in [corpus] if corpus.is_file() else corpus.rglob("*"):
        file.touch()  # what a scan kept of an archive in an earlier round is not used again
    wall, cpu = time.perf_counter(), time.process_time()
    ours(corpus, scratch)
    return time.perf_counter() - wall, time.process_time() - cpu


@click.command()
@click.argument("speech", metavar="CORPUS", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--hours", default=0.5, show_default=True, help="Of audio to measure on.")
@click.option("--rounds", default=5, show_default=True)
def main(speech: Path, hours: float, rounds: int) -> None:
    """Write results/archives.md and results/archives.json."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        hours = write_folder(speech, scratch / "folder", hours)
        corpora = {form: pack(scratch / "folder", scratch / form) for form, pack in FORMS.items()}
        spent: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
        seconds_of(scratch / "folder", scratch / "warm")
        for _ in range(rounds):
            for form, corpus in corpora.items():
                spent[form].append(seconds_of(corpus, scratch / "out"))
    rows = []
    for form, values in spent.items():
        of_folder = [folder[1] / own[1] for folder, own in zip(spent["folder"], values, strict=True)]
        wall, cpu = (statistics.median(value[n] for value in values) / hours for n in (0, 1))
        rows.append((form, wall, cpu, statistics.median(of_folder), f"{min(of_folder):.2f} to {max(of_folder):.2f}"))
    head = ("corpus", "s per hour of audio", "CPU-s per hour of audio", "rate / folder's", "spread")
    markdown = (
        f"44.1 kHz stereo FLAC to {', '.join(FEATURES)} at {PRESET.name}, scan included: {hours:.2f} h of speech, one "
        f"core, {SHARD} recordings a shard, medians of {rounds} rounds. Rates are those of CPU time, in the same "
        f"round.\n\n{report.table(head, rows)}"
    )
    click.echo(markdown)
    report.save("archives", markdown, {"hours": hours, "rows": [dict(zip(head, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
