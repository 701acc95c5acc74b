"""How long a store of a million utterances takes to open, and to its first batch.

    python -m benchmarks.opening FOLDER [--utterances N] [--rounds N]

Utterances of log-normal length, 5 s in the median, with nothing but phones: what counts here are their number and that
of their parts. Each round is a new process that has imported what it needs, and opens the store for the first time.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import click

from benchmarks import reading, report

SCRIPT = """
import sys, time
import numpy as np
from headrace import store
import headrace.store.reader
from headrace.train.data.stream import Stream, StreamConfig

begun = time.perf_counter()
opened = store.open(sys.argv[1])
print(time.perf_counter() - begun)
config = StreamConfig(batch_frames=9600, max_utterances=75)
with Stream(opened, ("phones",), np.arange(len(opened)), config) as stream:
    next(stream)
    print(time.perf_counter() - begun)
"""
HEAD = ("utterances", "open, s", "first batch, s", "slowest first batch, s")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--utterances", default=1_000_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(folder: Path, utterances: int, rounds: int) -> None:
    if not folder.exists():
        reading.make(folder, utterances, features=("phones",))
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    printed = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(rounds)]
    opened, first = zip(*(map(float, some.split()) for some in printed), strict=True)
    rows = [(utterances, statistics.median(opened), statistics.median(first), max(first))]
    markdown = report.table(HEAD, rows)
    click.echo(markdown)
    report.save("opening", markdown, {"rows": [dict(zip(HEAD, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
