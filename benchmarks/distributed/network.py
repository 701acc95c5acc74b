"""Seconds of an update over a slow network: gradients in 32 and in 16 bits, sent during the backward pass or after it.

    python -m benchmarks.distributed.network [--rate 400mbit] [--delay 2] [--rounds 12]

Two network namespaces of this machine are two nodes, with a cable of some rate and delay between them. It needs root,
`ip`, `tc` and TAP devices. A process in each trains a gpt of 23 M parameters on the CPU, over gloo. Each round makes
one update in every way, in turn, so that whatever else the machine does falls on all of them; ratios are of one round.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import report
from benchmarks.distributed import run_pair
from benchmarks.distributed.cable import two_nodes

LAYERS = 6
CODES = (60, 80, 100)
"""Numbers of codes of the utterances of each process."""
WAYS = tuple(product(("fp32", "bf16"), (False, True)))
"""Format of the sums, and whether they overlap the backward pass."""
HEAD = ("--reduce", "sent", "MB", "s per update", "of fp32 after the backward pass", "least s per update")


def work(out: Path, rounds: int) -> None:
    """Train as one of the two processes, and write what each update took."""
    from headrace.train import distributed
    from headrace.train.distributed import ReductionOptions
    from headrace.train.models.gpt_config import GptConfig
    from headrace.train.precision import DTYPES
    from tests.helpers.gpt_steps import gpt_stage, text_batch

    torch.set_num_threads(1)
    with distributed.process_group():
        stage = gpt_stage(GptConfig(layers=LAYERS, dropout=0.0))
        stage.allocate()
        batch, taken = text_batch(list(CODES), seed=distributed.rank()), list[list[float]]()
        size = sum(parameter.nbytes for parameter in stage.model.parameters() if parameter.requires_grad)
        for number in range(rounds + 1):
            taken.append([])
            for way in range(len(WAYS)):
                at = (way + number) % len(WAYS)  # none of them is always the first
                name, overlap = WAYS[at]
                stage._gradients._options = ReductionOptions(dtype=DTYPES[name], overlap=overlap)
                distributed.all_gather(None)
                start = time.perf_counter()
                stage.step([batch])
                taken[-1].append(time.perf_counter() - start)
            taken[-1] = [taken[-1][(at - number) % len(WAYS)] for at in range(len(WAYS))]
        rank = distributed.rank()
    (out / f"rank-{rank}.json").write_text(json.dumps({"bytes": size, "seconds": taken[1:]}))


def rows_of(ranks: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return the rows of the table: an update has taken what it took the slower process."""
    seconds = [
        [max(both) for both in zip(*of_round, strict=True)]
        for of_round in zip(*(rank["seconds"] for rank in ranks), strict=True)
    ]
    rows = []
    for at, (name, overlap) in enumerate(WAYS):
        of_way = [of_round[at] for of_round in seconds]
        ratio = statistics.median(of_round[at] / of_round[0] for of_round in seconds)
        size = ranks[0]["bytes"] / 1e6 / (1 if name == "fp32" else 2)
        when = "during the backward pass" if overlap else "after it"
        rows.append((name, when, round(size), statistics.median(of_way), f"{ratio:.2f}", min(of_way)))
    return rows


@click.command()
@click.option("--rate", default="400mbit", show_default=True, help="Of the cable, as tc knows it.")
@click.option("--delay", default=2.0, show_default=True, help="Milliseconds from one end to the other.")
@click.option("--rounds", default=12, show_default=True)
@click.option("--worker", hidden=True)
def main(rate: str, delay: float, rounds: int, worker: str | None) -> None:
    """Measure, print and save the table."""
    if worker:
        work(Path(worker), rounds)
        return
    with tempfile.TemporaryDirectory() as folder, two_nodes(rate, delay / 1000) as names:
        prefixes = [("ip", "netns", "exec", name, "env", "GLOO_SOCKET_IFNAME=cable") for name in names]
        arguments = ("--worker", folder, "--rounds", str(rounds))
        run_pair("benchmarks.distributed.network", arguments, "10.77.0.1", 29500, prefixes)
        rows = rows_of([json.loads((Path(folder) / f"rank-{rank}.json").read_text()) for rank in range(2)])
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    markdown = report.table(HEAD, rows) + (
        f"\n\nTwo nodes, {rate} and {delay:g} ms between them; {rounds} rounds, medians. Load of the machine, whose "
        f"cores the cable uses too: {load}."
    )
    click.echo(markdown)
    found = {
        "rate": rate,
        "delay_ms": delay,
        "rounds": rounds,
        "rows": [dict(zip(HEAD, row, strict=True)) for row in rows],
    }
    report.save("network", markdown, found)


if __name__ == "__main__":
    main()
