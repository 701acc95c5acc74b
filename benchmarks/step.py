"""A training step beside GPT-SoVITS' own: time, and peak memory.

    python -m benchmarks.step UPSTREAM [--site DIR] [--rounds N] [--threads N] [--memory]

UPSTREAM is a copy of GPT-SoVITS, DIR a folder of packages that it needs and that are not installed here. Each side runs
in a process of its own; in every round first one, then the other makes a step, while the other waits. Ours reads waves
and makes its spectrograms within the step, upstream's spectrograms are made before it begins.

With --memory: the decoder's peak memory at the longest that upstream takes, 54 s of audio and 540 phones, in batches of
eight, with one layer and with two. Layers are alike, so two points tell what all 24 take, which is more than most
machines have.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks import report
from benchmarks.step_sides import Case

SIDES = ("ours", "upstream")
LAYERS = 24
"""Of the published decoder."""
MEMORY = (
    "Peak memory of a process that makes one step of the decoder, float32, with dropout: measured with one layer and "
    f"with two; the {LAYERS} of the published decoder by a line through both points."
)
Process = subprocess.Popen[str]


@contextmanager
def started(side: str, case: Case) -> Iterator[Process]:
    """A side whose first step is done."""
    file = case.weights.with_suffix(".json")
    file.write_text(json.dumps(case.to_json()))
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.step_sides", side, str(file)]
    quiet = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}  # who waits must not spin
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet) as process:
        try:
            while said(process) != "warm":
                pass
            yield process
        finally:
            process.kill()


def said(process: Process) -> Any:
    """Its next line; what its libraries print is none."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            return json.loads(line)
        except ValueError:
            continue
    raise RuntimeError("a side ended before its time: its error is above")


def step(process: Process) -> dict[str, float]:
    assert process.stdin is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    made: dict[str, float] = said(process)
    return made


def peak(process: Process) -> float:
    """GB, of the whole process."""
    assert process.stdin is not None
    process.stdin.close()
    return float(said(process)["peak"] / 1e9)


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Of each side the steps, a round each, and the peak memory."""
    with ExitStack() as stack:
        sides = {side: stack.enter_context(started(side, case)) for side in SIDES}
        steps: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for number in range(rounds):
            for side in SIDES if number % 2 else reversed(SIDES):
                steps[side].append(step(sides[side]))
        return {"steps": steps, "peak_gb": {side: peak(process) for side, process in sides.items()}}


def rows(name: str, found: dict[str, Any]) -> list[tuple[Any, ...]]:
    """One for each side."""
    made = []
    for side in SIDES:
        seconds = {key: [one[key] for one in found["steps"][side]] for key in ("wall_s", "cpu_s")}
        ratios = [
            statistics.median(
                a[key] / b[key] for a, b in zip(*(found["steps"][s] for s in (side, "upstream")), strict=True)
            )
            for key in seconds
        ]
        wall = seconds["wall_s"]
        memory = found["peak_gb"][side]
        made.append((
            name, side, statistics.median(wall), f"{min(wall):.3g} to {max(wall):.3g}", ratios[0],
            statistics.median(seconds["cpu_s"]), ratios[1], memory, memory / found["peak_gb"]["upstream"],
        ))  # fmt: skip
    return made


def cases(weights: Path, common: dict[str, Any], stage: str) -> Iterator[tuple[str, Case]]:
    two = Case(stage=stage, utterances=2, phones=60, frames=200, weights=weights, **common)
    if stage == "sovits":
        yield "SoVITS v2, 2 x 4 s", two
        return
    yield "GPT v2, 2 x 4 s, an update of 4 batches", two
    yield "GPT v2, 2 x 4 s, an update of 1 batch", replace(two, accumulate=1)


def memory(weights: Path, common: dict[str, Any]) -> dict[str, list[float]]:
    """GB with one layer and with two."""
    longest = Case(stage="gpt", utterances=8, phones=540, frames=2700, accumulate=1, weights=weights, **common)
    kinds: dict[str, dict[str, bool]] = {"ours": {}, "ours, --recompute": {"recompute": True}, "upstream": {}}
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for layers in (1, 2):
        for name, kind in kinds.items():
            with started(name.split(",")[0], replace(longest, layers=layers, **kind)) as process:
                found[name].append(peak(process))
    return found


def memory_table(found: dict[str, list[float]]) -> str:
    whole = {name: one + (LAYERS - 1) * (two - one) for name, (one, two) in found.items()}
    made = [
        (name, one, two, two - one, whole[name], whole[name] / whole["upstream"]) for name, (one, two) in found.items()
    ]
    head = ("GPT, 8 x 54 s", "1 layer, GB", "2 layers, GB", "a layer, GB", f"{LAYERS} layers, GB", "to upstream's")
    return report.table(head, made)


@click.command()
@click.argument("upstream", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--site", type=click.Path(exists=True, path_type=Path), help="Folder of packages not installed here.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--threads", default=os.cpu_count(), show_default=True)
@click.option("--memory", "weighed", is_flag=True, help="The decoder's peak memory instead.")
@click.option("--stage", "stages", multiple=True, type=click.Choice(["sovits", "gpt"]), default=("sovits", "gpt"))
def main(upstream: Path, site: Path | None, rounds: int, threads: int, weighed: bool, stages: tuple[str, ...]) -> None:
    common = {"upstream": str(upstream), "site": str(site or ""), "threads": threads}
    if weighed:
        with tempfile.TemporaryDirectory() as folder:
            points = memory(Path(folder) / "weights.pt", common)
        text = f"{MEMORY}\n\n{memory_table(points)}"
        click.echo(text)
        report.save("step-memory", text, {"peak_gb": points})
        return
    head = ("step", "side", "wall s", "range", "to upstream's", "CPU s", "to upstream's", "peak GB", "to upstream's")
    for stage in stages:
        with tempfile.TemporaryDirectory() as folder:
            made = {name: measured(case, rounds) for name, case in cases(Path(folder) / "weights.pt", common, stage)}
        table = report.table(head, [row for name, found in made.items() for row in rows(name, found)])
        text = f"Float32, {threads} threads, {rounds} rounds; medians, and medians of the rounds' ratios.\n\n{table}"
        click.echo(text)
        report.save(f"step-{stage}", text, {"threads": threads, "found": made})


if __name__ == "__main__":
    main()
