"""How far the learned aligner is off, and how well it tells wrong texts from right ones.

    python -m benchmarks.align FOLDER [--corpus CORPUS] [--save]

A corpus spoken by espeak-ng, whose times are exact, is built without them and aligned by what is learned from it alone.
Of recordings with a list of English texts (--corpus), word onsets are compared with pocketsphinx's, where that is
installed, and first words with where the energy rises; a fifth of the texts are swapped, which the confidence has to
find; ten utterances are drawn.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from difflib import SequenceMatcher
from pathlib import Path

import click
import numpy as np
import soxr

from benchmarks import report
from headrace import store
from headrace.featurize.forced_alignment.hmm_aligner import MARKS
from headrace.featurize.report.utterance_plot import draw_utterance
from headrace.featurize.text.symbols import TABLES
from headrace.store import alignment
from headrace.store.reader import Store

HEAD = ("onsets", "against", "compared", "median, ms", "within 20 ms", "within 50 ms", "within 100 ms")
FALSE_ALARMS, SWAPPED, PICTURES = 0.05, 0.2, 10
FRONT_S, BACK_S = 0.2, 0.3
"""Faint noise around an utterance, without which pocketsphinx aligns a quarter fewer of them."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--corpus", type=click.Path(path_type=Path, exists=True), help="A GPT-SoVITS list of recordings.")
@click.option("--minutes", default=12, show_default=True, help="Of speech by espeak-ng.")
@click.option("--save", is_flag=True, help="Keep table and pictures in benchmarks/results/ too.")
def main(folder: Path, corpus: Path | None, minutes: int, save: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows, notes = spoken(folder, minutes)
    if corpus:
        rows += recorded(folder, corpus, notes)
        swapped(folder, corpus, notes)
        draw(store.open(folder / "RECORDED"), report.RESULTS / "align" if save else folder / "pictures")
    markdown = "\n".join([report.table(HEAD, rows), "", *(f"- {note}" for note in notes)])
    click.echo(markdown)
    if save:
        report.save("align", markdown, {"rows": rows, "notes": notes})


def call(*words: object) -> None:
    """Run a command of this environment."""
    subprocess.run([str(Path(sys.executable).parent / str(words[0])), *map(str, words[1:])], check=True)


def aligned(corpus: Path, built: Path, notes: list[str]) -> Store:
    """A store of a corpus with `align` and `confidence`; what was begun before is finished."""
    if not (built / "add.json").exists():
        call("featurize", "build", corpus, "--out", built, "--follow-outside", "--features", "wave,mel,phones")
        call("featurize", "add", built, "align,confidence")
    opened, took = store.open(built), json.loads((built / "add.json").read_text())["added"]
    seconds = took["align"]["learn_seconds"], took["align"]["seconds"], took["confidence"]["seconds"]
    learned, applied, scored = (f"{some:.0f} s" for some in seconds)
    lengths = f"{built.name}: {opened.hours * 60:.1f} min in {len(opened)} utterances"
    notes.append(f"{lengths}: models learned in {learned}, applied in {applied}, confidence in {scored}")
    return opened


def timed_phones(opened: Store, number: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Phones without stress, where each begins, in seconds, and whether it is the first of a word."""
    segments = alignment.read_segments(opened, number)
    if segments is None:
        return [], np.empty(0), np.empty(0, bool)
    names = [TABLES["headrace-ipa"][phone] for phone in opened.read("phones", number)]
    starts = segments.starts[segments.phones != alignment.SILENCE] / opened.sample_rate
    first = np.diff(opened.read("phone_word", number), prepend=-1) != 0
    spoken = np.array([name not in MARKS for name in names])
    return [name.rstrip("012") for name in names if name not in MARKS], starts[spoken], first[spoken]


def row(onsets: str, against: str, errors_s: Iterable[float]) -> tuple[str, ...]:
    distance = 1000 * np.abs(list(errors_s))
    shares = [f"{(distance <= limit).mean():.1%}" for limit in (20, 50, 100)]
    return (onsets, against, f"{len(distance):,}", f"{np.median(distance):.1f}", *shares)


def spoken(folder: Path, minutes: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Against espeak-ng's own times, of the phones that it says as the dictionary does."""
    call("python", "-m", "benchmarks.speak", folder / "exact", "--minutes", minutes)
    texts_only = shutil.ignore_patterns("*.TextGrid", "spoken.json")
    shutil.copytree(folder / "exact", folder / "spoken", ignore=texts_only, dirs_exist_ok=True)
    call("featurize", "build", folder / "exact", "--out", folder / "EXACT", "--features", "wave,phones")
    exact, notes = store.open(folder / "EXACT"), list[str]()
    found = aligned(folder / "spoken", folder / "SPOKEN", notes)
    errors, word = [], []
    for number, name in enumerate(found.ids):
        own, truth = timed_phones(found, number), timed_phones(exact, exact.find(name))
        for a, b, length in SequenceMatcher(None, own[0], truth[0], autojunk=False).get_matching_blocks():
            errors += (own[1][a : a + length] - truth[1][b : b + length]).tolist()
            word += own[2][a : a + length].tolist()
    of_words = np.array(errors)[np.array(word)]
    return [row("phones", "espeak-ng's own", errors), row("words", "espeak-ng's own", of_words)], notes


def recorded(folder: Path, corpus: Path, notes: list[str]) -> list[tuple[str, ...]]:
    """Against pocketsphinx and the energy."""
    found = aligned(corpus, folder / "RECORDED", notes)
    sphinx, energy = list[float](), list[float]()
    aligner = sphinx_aligner()
    for number in range(len(found)):
        _, starts, first = timed_phones(found, number)
        wave = found.read("wave", number).reshape(-1)
        if not len(starts):
            continue
        rise = energy_onset(wave, found.sample_rate)
        energy += [] if rise is None else [starts[0] - rise]
        words = re.findall(r"[a-z']+", str(found.texts[number]).lower())
        if aligner and len(words) == first.sum() and all(map(aligner.lookup_word, words)):
            onsets = sphinx_onsets(aligner, wave, found.sample_rate, words)
            sphinx += [] if onsets is None else (starts[first] - onsets).tolist()
    rows = [row("words", "pocketsphinx", sphinx)] if sphinx else []
    return [*rows, row("first words", "the energy's rise", energy)]


def energy_onset(wave: np.ndarray, rate: int) -> float | None:
    """Where the level first comes within 30 dB of the loudest 10 ms, in seconds; None where it does at once."""
    step = rate // 100
    frames = wave[: len(wave) // step * step].reshape(-1, step).astype(np.float64)
    decibel = 10 * np.log10((frames**2).mean(1) + 1)
    first = int(np.argmax(decibel > decibel.max() - 30))
    return first * 0.01 if first else None


def sphinx_aligner():
    """None where it is not installed."""
    try:
        from pocketsphinx import Decoder
    except ImportError:
        return None
    return Decoder(lm=None, samprate=16000, loglevel="FATAL")


def sphinx_onsets(aligner, wave: np.ndarray, rate: int, words: list[str]) -> np.ndarray | None:
    """Seconds at which words begin, or None where they are not found."""
    sound = soxr.resample(wave.astype(np.float32), rate, 16000)
    noise = np.random.default_rng(0).normal(0, 8, round((FRONT_S + BACK_S) * 16000) + len(sound))
    front = round(FRONT_S * 16000)
    noise[front : front + len(sound)] += sound
    try:
        aligner.set_align_text(" ".join(words))
        aligner.start_utt()
        aligner.process_raw(noise.clip(-32768, 32767).astype(np.int16).tobytes(), full_utt=True)
        aligner.end_utt()
        found = [(re.sub(r"\(\d+\)", "", s.word), s.start_frame) for s in aligner.seg() or ()]
    except RuntimeError:
        return None
    onsets = [frame / 100 - FRONT_S for word, frame in found if not word.startswith(("<", "["))]
    return np.array(onsets) if len(onsets) == len(words) else None


def swapped(folder: Path, corpus: Path, notes: list[str]) -> None:
    """A fifth of the texts belong to other recordings, in training too: how many does the confidence find?"""
    lines = next(corpus.glob("*.list")).read_text(encoding="utf-8").splitlines()
    entries = [line.split("|", 3) for line in lines]
    chosen = random.Random(0).sample(range(len(entries)), int(SWAPPED * len(entries)) // 2 * 2)
    wrong = set()
    for a, b in zip(chosen[::2], chosen[1::2], strict=True):
        if entries[a][3] != entries[b][3]:
            entries[a][3], entries[b][3] = entries[b][3], entries[a][3]
            wrong |= {entries[a][0], entries[b][0]}
    (folder / "swapped").mkdir(exist_ok=True)
    absolute = ("|".join([str((corpus / path).resolve()), *rest]) for path, *rest in entries)
    (folder / "swapped" / "corpus.list").write_text("\n".join(absolute) + "\n", encoding="utf-8")
    opened = aligned(folder / "swapped", folder / "SWAPPED", notes)
    scores = opened.per_utterance("confidence", object).astype(np.float64)
    bad = np.array([any(str(name).endswith(path) for path in wrong) for name in opened.ids])
    limit = np.quantile(scores[~bad], FALSE_ALARMS)
    notes.append(
        f"{bad.sum()} of {len(bad)} texts swapped, in training too: confidence < {limit:.2f} finds "
        f"{(scores[bad] < limit).mean():.1%} of them, at {FALSE_ALARMS:.0%} false alarms"
    )


def draw(opened: Store, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number in random.Random(0).sample(range(len(opened)), PICTURES):
        draw_utterance(opened, number, folder / f"{number:04d}.png")


if __name__ == "__main__":
    main()
