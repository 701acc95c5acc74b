"""Whether tuning finds better options than the defaults, by more than seeds differ.

    python -m benchmarks.tuning STORE FOLDER

Twenty trials of a short run are killed (SIGKILL) on the way and continued. The options found and the defaults are then
trained with five other seeds each, for as many frames. A population of four is trained in twenty parts of such a run.
The pictures go to benchmarks/results/. The same command continues what was stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks import report
from headrace.train.monitoring import metrics

SEEDS = range(1, 6)
"""Seeds of the runs that are compared; the search had 0."""
PATHS = ("tuning", "run", "config", "table", "picture")
HEAD = ("what", "validation loss", "from", "to")


def train(*words: object) -> None:
    """Run a command of `train` to its end."""
    subprocess.run([sys.executable, "-m", "headrace.train", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def killed_and_continued(command: Sequence[object], out: Path, trials: int) -> tuple[dict[str, Any], int]:
    """Tune, kill the command once half of the trials have ended, and continue it. Returns its result, and how many."""
    log, note = out.with_suffix(".log"), out.with_suffix(".killed")
    words = [sys.executable, "-m", "headrace.train", *map(str, command), "--json"]
    if not note.exists():
        with log.open("wb") as output:
            process = subprocess.Popen(words, stdout=output)
        while len(log.read_bytes().splitlines()) < trials // 2:
            if process.poll() is not None:
                raise click.ClickException(f"it ended early, with exit code {process.returncode}")
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        note.write_text(str(len(log.read_bytes().splitlines())))
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]), int(note.read_text())


def losses(store: Path, folder: Path, name: str, config: Sequence[object], metric: str) -> list[float]:
    """Train a config with each of the seeds, and return the last validation of each."""
    found = []
    for seed in SEEDS:
        out = folder / f"{name}-{seed}"
        if not (out / "curves.png").exists():  # what was finished by a benchmark that was stopped
            train("run", store, "--out", out, *config, "--seed", seed, *(["--resume"] if out.exists() else []))
        validations = [record for record in metrics.read(out / "metrics.jsonl") if record["split"] == "validation"]
        found.append(validations[-1][metric])
    return found


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--stage", type=click.Choice(["sovits", "gpt"]), default="gpt", show_default=True)
@click.option("--trials", default=20, show_default=True)
@click.option("--max-steps", default=36, show_default=True)
@click.option("--batch-frames", default=800, show_default=True)
def main(store: Path, folder: Path, stage: str, trials: int, max_steps: int, batch_frames: int) -> None:
    """Measure, print and save the table."""
    folder.mkdir(parents=True, exist_ok=True)
    base = ("--stage", stage, "--preset", "tiny", "--device", "cpu", "--batch-frames", batch_frames)
    steps = ("--max-steps", max_steps)
    command = ("tune", store, "--out", folder / "trials", *base, *steps, "--trials", trials)
    found, ended = killed_and_continued(command, folder / "trials", trials)
    metric = found["metric"]

    defaults = losses(store, folder, "default", (*base, *steps, "--validate-every", max_steps), metric)
    tuned = losses(store, folder, "tuned", ("--config", found["config"]), metric)
    population = ("tune", store, "--out", folder / "population", *base, *steps, "--trials", trials, "--population", 4)
    lineage, _ = killed_and_continued(population, folder / "population", trials)

    rows = [
        ("defaults, seeds 1 to 5", statistics.fmean(defaults), min(defaults), max(defaults)),
        (f"best of {trials} trials, seeds 1 to 5", statistics.fmean(tuned), min(tuned), max(tuned)),
        ("population of 4, its best member, seed 0", *[lineage["value"]] * 3),
    ]
    what = (
        f"Stage {stage}, preset tiny, {max_steps} steps of {batch_frames} frames, or about as many in other batches. "
    )
    found |= {"killed_after": ended, "seeds": tuned, "default_seeds": defaults}
    markdown = f"{report.table(HEAD, rows)}\n\n{what}{describe(found, lineage)}"
    click.echo(markdown)
    report.save("tuning", markdown, {"search": without_paths(found), "population": without_paths(lineage)})
    shutil.copyfile(found["picture"], report.RESULTS / "tuning.png")
    shutil.copyfile(lineage["picture"], report.RESULTS / "lineage.png")


def without_paths(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without the files that it names."""
    return {name: value for name, value in result.items() if name not in PATHS}


def describe(found: dict[str, Any], lineage: dict[str, Any]) -> str:
    """Return what the search and the population were, in words."""
    defaults, tuned = found["default_seeds"], found["seeds"]
    gain, spread = statistics.fmean(defaults) - statistics.fmean(tuned), max(defaults) - min(defaults)
    options = ", ".join(f"{name} {value:.4g}" for name, value in found["options"].items())
    than = "larger" if gain > spread else "not larger"
    return (
        f"{found['complete']} trials were completed, {found['pruned']} pruned, {found['failed']} failed; the search "
        f"was killed after {found['killed_after']} and continued. It found {options}. The means differ by {gain:.3g}, "
        f"the defaults among themselves by {spread:.3g}: the gain is {than} than the spread. The population copied "
        f"{lineage['copies']} times in {lineage['generations']} generations."
    )


if __name__ == "__main__":
    main()
