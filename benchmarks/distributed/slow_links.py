"""Seconds of a step over a slow link between two machines, and the loss after some steps, by how models are kept alike.

    python -m benchmarks.distributed.slow_links [--rate 1gbit] [--delay 5] [--rounds 2] [--steps 300] [--seeds 3]

Two network namespaces of this machine are two nodes with two processes each, and a cable of some rate and delay between
them. It needs root, `ip`, `tc` and TAP devices. The processes train a gpt of 12 M parameters on the CPU, over gloo: in
each round, eight steps in every way, in turn. Losses are those of the preset tiny of gpt, trained without the cable:
what is learned does not depend on it. Each seed has utterances of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import report
from benchmarks.distributed import run_processes
from benchmarks.distributed.cable import two_nodes

LAYERS = 3
CODES = (60, 80, 100)
"""Numbers of codes of the utterances of each process."""
EVERY = 8
"""Steps between two averages, and steps of a way in a round."""
WAYS = (("dp", "fp32", 0), ("dp", "bf16", 0), ("hsdp:2x2", "fp32", 0), ("dp", "fp32", EVERY))
"""`--parallel`, `--reduce` and `--average-every`."""
SENTENCES = [12, 15, 18, 24]
"""Numbers of codes of the utterances of each process, where losses are compared."""
HEAD = ("--parallel", "--reduce", "--average-every", "s per step", "of dp", "held-out loss", "least", "most")


def make(config: Any, way: tuple[str, str, int], optim: Any) -> Any:
    """Return a stage that trains in one of the ways."""
    from headrace.train.distributed import Machines, ReductionOptions
    from headrace.train.parallel_form import parse_form
    from headrace.train.precision import DTYPES
    from tests.helpers.gpt_steps import CPU, gpt_stage

    form, reduce, every = way
    machines = Machines.find(CPU) if every else None
    options = ReductionOptions(dtype=DTYPES[reduce], form=parse_form(form), machines=machines)
    stage = gpt_stage(config, optim, reduction=options)
    stage.allocate()
    return stage


def time_steps(rounds: int) -> list[list[float]]:
    """Return the seconds of a step, by round and way."""
    from headrace.train import distributed
    from headrace.train.models.gpt_config import GptConfig
    from headrace.train.stages.gpt_optimizer import GptOptimConfig
    from tests.helpers.gpt_steps import text_batch

    stages = [make(GptConfig(layers=LAYERS, dropout=0.0), way, GptOptimConfig()) for way in WAYS]
    batch, taken = text_batch(list(CODES), seed=distributed.rank()), list[list[float]]()
    for number in range(rounds + 1):
        of_round = [0.0] * len(WAYS)
        for turn in range(len(WAYS)):
            at = (turn + number) % len(WAYS)  # none of them is always the first
            distributed.all_gather(None)
            start = time.perf_counter()
            for _ in range(EVERY if number else 1):
                stages[at].step([batch])
            stages[at].average()
            of_round[at] = (time.perf_counter() - start) / EVERY
        taken.append(of_round)
    return taken[1:]


def losses(steps: int, seeds: int) -> list[list[float]]:
    """Return the loss on utterances that were not trained on, by way and seed."""
    return [[loss(way, steps, seed) for seed in range(seeds)] for way in WAYS]


def loss(way: tuple[str, str, int], steps: int, seed: int) -> float:
    """Return the loss after some steps in one of the ways."""
    from headrace.train import distributed
    from headrace.train.models.presets import PRESETS
    from headrace.train.stages.gpt_optimizer import GptOptimConfig
    from tests.helpers.gpt_steps import text_batch

    first = (seed + 1) * 1_000_000  # of the seeds of utterances
    stage = make(PRESETS["tiny"].gpt, way, replace(GptOptimConfig.for_preset("tiny"), total_steps=steps))
    for number in range(1, steps + 1):
        stage.step([text_batch(SENTENCES, seed=first + 4 * number + distributed.rank())])
        if way[2] and number % way[2] == 0:
            stage.average()
    stage.average()
    with stage.whole():
        return float(stage.validate(text_batch(SENTENCES * 8, seed=first))["loss"])


def work(out: Path, rounds: int, steps: int, seeds: int) -> None:
    """Train as one of the processes, and write what was measured."""
    from headrace.train import distributed

    torch.set_num_threads(1)
    with distributed.process_group():
        found = time_steps(rounds) if rounds else losses(steps, seeds)
        rank = distributed.rank()
    (out / f"rank-{rank}.json").write_text(json.dumps(found))


def measure(
    prefixes: Sequence[Sequence[str]], address: str, rounds: int = 0, steps: int = 0, seeds: int = 0
) -> list[Any]:
    """Return what each process measured."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("--worker", folder, "--rounds", str(rounds), "--steps", str(steps), "--seeds", str(seeds))
        run_processes("benchmarks.distributed.slow_links", arguments, address, 29500, prefixes, of_machine=2)
        return [json.loads((Path(folder) / f"rank-{rank}.json").read_text()) for rank in range(len(prefixes))]


@click.command()
@click.option("--rate", default="1gbit", show_default=True, help="Of the cable, as tc knows it.")
@click.option("--delay", default=5.0, show_default=True, help="Milliseconds from one end to the other.")
@click.option("--rounds", default=2, show_default=True)
@click.option("--steps", default=300, show_default=True, help="Before the losses are compared.")
@click.option("--seeds", default=3, show_default=True, help="Of the runs whose losses are compared.")
@click.option("--worker", hidden=True)
def main(rate: str, delay: float, rounds: int, steps: int, seeds: int, worker: str | None) -> None:
    """Measure, print and save the table."""
    if worker:
        work(Path(worker), rounds, steps, seeds)
        return
    with two_nodes(rate, delay / 1000) as names:
        enter = [("ip", "netns", "exec", name, "env", "GLOO_SOCKET_IFNAME=cable") for name in names for _ in range(2)]
        ranks = measure(enter, "10.77.0.1", rounds=rounds)
    seconds = [[max(of_way) for of_way in zip(*of_round, strict=True)] for of_round in zip(*ranks, strict=True)]
    learned = measure([()] * 4, "127.0.0.1", steps=steps, seeds=seeds)[0]
    rows = []
    for at, way in enumerate(WAYS):
        ratio = statistics.median(of_round[at] / of_round[0] for of_round in seconds)
        taken = statistics.median(of_round[at] for of_round in seconds)
        of_seeds = [f"{value:.4f}" for value in (statistics.mean(learned[at]), min(learned[at]), max(learned[at]))]
        rows.append((way[0], way[1], way[2] or "", taken, f"{ratio:.2f}", *of_seeds))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    markdown = report.table(HEAD, rows) + (
        f"\n\nTwo nodes of two processes, {rate} and {delay:g} ms between them; {rounds} rounds of {EVERY} steps, "
        f"medians. Losses after {steps} steps: mean, least and most of {seeds} seeds. Load of the machine, whose cores "
        f"the cable uses too: {load}."
    )
    click.echo(markdown)
    found = {"rate": rate, "delay_ms": delay, "rounds": rounds, "steps": steps, "losses": learned}
    report.save("slow-links", markdown, found | {"rows": [dict(zip(HEAD, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
