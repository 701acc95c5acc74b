"""How well `featurize split` finds known utterances in long recordings.

    python -m benchmarks.segmentation CORPUS FOLDER [--minutes M] [--save]

The recordings of CORPUS, a GPT-SoVITS list, are put into a long one, in random order, with pauses of 0.8 to 2.5 s
between them and noise of a falling spectrum under all of it. Where an utterance begins and ends is where its samples
first and last reach a hundredth of its peak. Recordings of less than a tenth of the corpus' level (its texts say
"silence", say) are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import soundfile

from benchmarks import report
from headrace.featurize.corpus import scanner
from headrace.featurize.segmentation import segment_list
from headrace.store.schema import Utterance

HEAD = ("speech to noise, dB", "utterances", "segments", "in no segment", "cut", "ends within 100 ms")
LONGEST_S = 14.0
PAUSES_S = 0.8, 2.5
REACHED = 0.01


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--minutes", default=40, show_default=True)
@click.option("--save", is_flag=True, help="Keep the table in benchmarks/results/ too.")
def main(corpus: Path, folder: Path, minutes: int, save: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pieces, rate = utterances(corpus)
    rows = [measured(pieces, rate, minutes, noise_db, folder) for noise_db in (None, 60, 50, 40, 30, 20)]
    markdown = report.table(HEAD, rows)
    click.echo(markdown)
    if save:
        report.save("segmentation", markdown, {"rows": rows})


def utterances(corpus: Path) -> tuple[list[np.ndarray], int]:
    """The recordings of a corpus that are short enough, without the silence around them, and their sample rate."""
    pieces, rates = list[np.ndarray](), set[int]()
    for item in scanner.scan(corpus):
        if isinstance(item, Utterance) and item.seconds < LONGEST_S:
            wave, rate = soundfile.read(corpus.parent / item.audio, dtype="float32")
            reached = np.flatnonzero(np.abs(wave) >= REACHED * np.abs(wave).max())
            pieces.append(wave[reached[0] : reached[-1] + 1])
            rates.add(rate)
    levels = np.array([np.sqrt(np.mean(piece**2)) for piece in pieces])
    if len(rates) != 1:
        raise SystemExit(f"The recordings have {len(rates)} sample rates, where there must be one.")
    return [piece for piece, level in zip(pieces, levels, strict=True) if level > np.median(levels) / 10], rates.pop()


def recording(pieces: list[np.ndarray], rate: int, minutes: int, noise_db: int | None) -> tuple[np.ndarray, np.ndarray]:
    """A long recording, and (U, 2) start and end of each utterance in it, in seconds."""
    random = np.random.default_rng(7)
    parts, times, samples, order = list[np.ndarray](), list[tuple[float, float]](), 0, list[int]()
    while samples < minutes * 60 * rate:
        order = order or random.permutation(len(pieces)).tolist()
        pause = np.zeros(round(random.uniform(*PAUSES_S) * rate), np.float32)
        piece = pieces[order.pop()]
        samples += len(pause) + len(piece)
        parts += [pause, piece]
        times.append(((samples - len(piece)) / rate, samples / rate))
    wave = np.concatenate([*parts, np.zeros(rate, np.float32)])
    if noise_db is not None:
        noise = np.convolve(random.normal(size=len(wave)), 0.9 ** np.arange(100), "same")
        level = np.sqrt(np.mean(np.concatenate(parts[1::2]) ** 2))
        wave += (level * 10 ** (-noise_db / 20) * noise / noise.std()).astype(np.float32)
    return np.clip(wave, -1, 1), np.array(times)


def measured(pieces: list[np.ndarray], rate: int, minutes: int, noise_db: int | None, folder: Path) -> list[object]:
    """A row of the table, of one recording that is cut with no option."""
    wave, known = recording(pieces, rate, minutes, noise_db)
    audio, listed = folder / "long.flac", folder / "long.tsv"
    soundfile.write(audio, wave, rate)
    command = [sys.executable, "-m", "headrace.featurize", "split", str(audio), "--out", str(listed), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = np.array([[row.start, row.end] for row in segment_list.read(listed)])
    holders = [int(((found[:, 0] < end) & (found[:, 1] > start)).sum()) for start, end in known]
    off = [np.abs(ends[:, None] - exact).min(axis=1) for ends, exact in zip(found.T, known.T, strict=True)]
    return [
        "no noise" if noise_db is None else noise_db,
        len(known),
        json.loads(done.stdout)["segments"],
        holders.count(0),
        sum(count > 1 for count in holders),
        f"{np.mean(np.concatenate(off) <= 0.1):.2%}",
    ]


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.segmentation")
