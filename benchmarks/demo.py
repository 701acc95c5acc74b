"""From nothing to a model in training, with the commands that a user would type.

    python -m benchmarks.demo FOLDER

Speaks a corpus with espeak-ng, builds a store from it, looks at it, trains on it for a while, and prints one table.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click

from benchmarks import report
from headrace import store
from headrace.train.measure.throughput import bench

MINUTES, STEPS = 12, 60


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--minutes", default=MINUTES, show_default=True, help="Speech to make.")
@click.option("--steps", default=STEPS, show_default=True, help="Training steps.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--save", is_flag=True, help="Keep the table in benchmarks/results/ too.")
def main(folder: Path, minutes: int, steps: int, device: str, save: bool) -> None:
    started = time.perf_counter()
    names = ("corpus", "STORE", "RUN", "utterance.png", "bench.png")
    corpus, built, run, picture, waits = (folder / name for name in names)
    call("python", "-m", "benchmarks.speak", corpus, "--minutes", minutes)
    call("featurize", "scan", corpus)
    call("featurize", "build", corpus, "--out", built, "--device", device)
    call("store", "verify", built)
    call("store", "info", built)
    call("store", "show", built, len(store.open(built)) // 4, "--out", picture)
    resume = ["--resume"] if (run / "checkpoints").exists() else []
    call("train", "run", built, "--stage", "sovits", "--preset", "tiny", "--out", run,
         "--max-steps", steps, "--device", device, *resume)  # fmt: skip
    call("train", "bench", built, "--stage", "sovits", "--preset", "tiny", "--device", device,
         "--steps", 8, "--png", waits)  # fmt: skip
    click.echo(f"\nMade in {time.perf_counter() - started:.0f} s:")
    for path, what in (
        (corpus, "speech with transcripts and TextGrids"),
        (built, "feature store"),
        (picture, "one utterance of it"),
        (run / "metrics.jsonl", "a line for every training step"),
        (run / "curves.png", "the same as a picture"),
        (waits, "whether training waits for data"),
        (run / "checkpoints", "where `train run --resume` goes on"),
    ):
        click.echo(f"  {path!s:28} {what}")
    rows = results(built, run)
    markdown = report.table(("what", "measured"), rows)
    click.echo(f"\n{markdown}")
    if save:
        report.save("demo", markdown, {"minutes": minutes, "steps": steps, "device": device, **dict(rows)})


def call(*command: object) -> None:
    """Run a command of this environment, shown as a user would type it."""
    words = [str(word) for word in command]
    click.echo(f"\n$ {shlex.join(words)}")
    done = subprocess.run([str(Path(sys.executable).parent / words[0]), *words[1:]], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def results(built: Path, run: Path) -> list[tuple[str, str]]:
    """What was measured: the build's rate, the stream's rates, and what training waited for."""
    account = json.loads((built / "build.json").read_text(encoding="utf-8"))
    rates = bench(built, ("wave", "mel", "mfcc", "phones"), cold=False)["warm"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "step_s" in line]
    waited, spent = sum(line["wait_s"] for line in steps), sum(line["step_s"] for line in steps)
    build_rate = f"{account['hours_per_second']:.4f}" if account["hours_built"] else "all parts were sealed already"
    return [
        ("build: hours of audio per second", build_rate),
        ("stream: utterances per second", f"{rates['utterances_per_s']:,.0f}"),
        ("stream: frames per second", f"{rates['frames_per_s']:,.0f}"),
        ("stream: GB per second", f"{rates['gb_per_s']:.2f}"),
        ("training: seconds per step", f"{spent / len(steps):.3f}"),
        ("training: share of a step spent waiting for data", f"{waited / spent:.2%}"),
    ]


if __name__ == "__main__":
    main()
