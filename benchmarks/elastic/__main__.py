"""Seconds that a run loses when machines join it and leave it.

    python -m benchmarks.elastic STORE FOLDER [--epochs N]

Each machine is a torchrun of its own on this one, with one process on the CPU. A second machine joins; it leaves as a
spot machine does that is told (SIGTERM), and another one as one that is cut off (SIGKILL). No start may be lost to
joining, and every epoch has every utterance once.
"""

from __future__ import annotations

import signal
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import click

from benchmarks import report
from benchmarks.elastic import Job
from headrace import store as stores
from headrace.train.data.batch_plan import held_out

HEAD = ("change", "world", "lost, s", "steps done again", "restarts used")
Row = tuple[str, str, float, int, int]
"""A row below `HEAD`."""


def change(job: Job, name: str, act: Callable[[], object], done: Callable[[], bool]) -> Row:
    """Change the machines of a job, and measure until it trains on as before."""
    usual = statistics.median(_gaps(job.watch(_steps_later(job, 6))))
    repeated, failures = job.repeated, sum(machine.failures for machine in job.machines)
    act()
    times = job.watch(done) + job.watch(_steps_later(job, 4))
    used = sum(machine.failures for machine in job.machines) - failures
    world = "1 to 2" if "joins" in name else "2 to 1"
    return name, world, max(_gaps(times)) - usual, job.repeated - repeated, used


def _gaps(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def _steps_later(job: Job, steps: int) -> Callable[[], bool]:
    last = job.step + steps
    return lambda: job.step >= last


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--epochs", default=3, show_default=True)
def main(store: Path, folder: Path, epochs: int) -> None:
    """Measure, print and save the table."""
    options = ("--preset", "tiny", "--batch-frames", "600", "--max-epochs", str(epochs))
    with Job(store, folder, (*options, "--checkpoint-every", "10", "--validate-every", "0")) as job:
        job.join()
        job.watch(lambda: job.step > 3)
        rows = []
        for number in (signal.SIGTERM, signal.SIGKILL):
            starts = len(job.worlds())
            rows.append(change(job, "a machine joins", job.join, lambda starts=starts: len(job.worlds()) > starts))
            leave = partial(job.machines[-1].leave, number)
            rows.append(change(job, f"it leaves, {number.name}", leave, _steps_later(job, 10)))
        job.watch(lambda: not job.machines[0].running, limit=3000)
        code, counts = job.machines[0].process.returncode, job.epochs()
    opened = stores.open(store)
    held = int(held_out(map(str, opened.ids)).sum())
    markdown = report.table(HEAD, rows)
    markdown += (
        f"\nThe job ended with exit code {code}, after {len(counts)} epochs of "
        f"{', '.join(map(str, counts))} utterances; {held} of the {len(opened)} in the store are held out.\n"
    )
    click.echo(markdown)
    report.save("elastic", markdown, {"rows": [dict(zip(HEAD, row, strict=True)) for row in rows], "epochs": counts})


if __name__ == "__main__":
    main()
