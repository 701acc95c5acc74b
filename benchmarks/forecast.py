"""Whether `train plan` tells the memory that a run takes: what it says, beside what its own process came to.

    python -m benchmarks.forecast STORE [--preset tiny] [--preset v2] [--batch-frames 1600]

STORE has what both stages read. Each line is a process of its own, which makes the steps that it measures: from the
shortest utterances of a store to the longest. Linux.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks import report
from headrace.train.config_sections import PRESETS, STAGES
from headrace.train.measure.forecast import GIB, SPARE

AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_WAIT_POLICY": "PASSIVE"}
"""Has the C library give back memory when it is freed, so that the process is as large as what it uses."""
SCRIPT = """
import json, resource, sys, torch
from pathlib import Path
from headrace.train.config import RunConfig
from headrace.train.measure.forecast import forecast
from headrace.train.monitoring.observer import CompositeObserver

options = json.loads(sys.argv[1])

def peak():
    if options["device"] == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
found = forecast(RunConfig.from_options(out=Path("RUN"), **options), 1, CompositeObserver())
print(json.dumps({"state": found["state_gib"], "step": found["step_gib"], "bytes": peak() - before}))
"""
HEAD = ("run", "weights and optimiser, GiB", "step, GiB", f"told: both, the step x {SPARE}", "process, GiB", "to told")


def measured(device: str = "cpu", **options: Any) -> dict[str, float]:
    """Return GiB of `train plan`, and the bytes that its own steps took at most: of the process, or of the device."""
    options["device"] = device
    command = [sys.executable, "-c", SCRIPT, json.dumps(options)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | AT_ONCE)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def row(name: str, found: dict[str, float]) -> tuple[Any, ...]:
    told, process = found["state"] + SPARE * found["step"], found["bytes"] / GIB
    return name, found["state"], found["step"], told, process, process / told


@click.command()
@click.argument("store", type=click.Path(exists=True, path_type=Path))
@click.option("--preset", "presets", multiple=True, type=click.Choice(PRESETS), default=("tiny", "v2"))
@click.option("--batch-frames", default=1600, show_default=True)
def main(store: Path, presets: tuple[str, ...], batch_frames: int) -> None:
    rows = []
    for preset in presets:
        for stage in STAGES:
            for recompute in (False, True):
                options = {
                    "stage": stage,
                    "preset": preset,
                    "batch_frames": batch_frames,
                    "activation_checkpointing": recompute,
                }
                name = f"{stage} {preset}{', --recompute' if recompute else ''}"
                rows.append(row(name, measured(store=str(store), **options)))
                click.echo(rows[-1])
    table = report.table(HEAD, rows)
    report.save(
        "forecast", table, {"batch_frames": batch_frames, "rows": [dict(zip(HEAD, r, strict=True)) for r in rows]}
    )


if __name__ == "__main__":
    main()
