"""Memory of processes that share a model, against that of one that has it whole.

    python -m benchmarks.distributed.sharing [--processes 4] [--models gpt:v2,sovits:v2,gpt:large]

Processes of this machine make two updates on the CPU, over gloo, of each model and by each form. What is measured is
the memory that a process takes at most, by the kernel's count, beyond what it took before it made the model: while it
makes and shares out the model, and in the second update, whose utterances are so short that weights, gradients and
optimisers are most of it. Weights and moments by themselves are counted. Memory that is freed goes back to the system
at once: glibc keeps it otherwise, and a process then seems to hold all blocks that it has gathered.

Of a model that one process of this machine has no room for, that process counts as its weights, gradients and moments:
16 bytes a parameter, and no activations.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import report

HEAD = (
    "model",
    "M parameters",
    "--parallel",
    "processes",
    "MB of weights and moments",
    "MB at the start",
    "MB in an update",
    "of one process",
)


LARGEST = 200_000_000
"""Parameters of a model that one process trains here."""
BYTES = 16
"""Of weight, gradient and two moments."""


def work(out: Path, stage: str, preset: str, form: str) -> None:
    """Train as one of the processes, and write what memory it took."""
    from headrace.train import distributed
    from headrace.train.distributed import ReductionOptions
    from headrace.train.distributed.replicas import named_tensors
    from headrace.train.models.presets import PRESETS
    from headrace.train.parallel_form import parse_form
    from tests.helpers.gpt_steps import gpt_stage, text_batch
    from tests.helpers.sovits_steps import sovits_stage, speech_batch

    torch.set_num_threads(1)

    def make(name: str) -> Any:
        options = ReductionOptions(form=parse_form(form))
        if stage == "gpt":
            return gpt_stage(replace(PRESETS[name].gpt, dropout=0.0), reduction=options)
        return sovits_stage(replace(PRESETS[name].sovits, ssl_channels=60, symbols=732), reduction=options)

    with distributed.process_group():
        batch = text_batch([6]) if stage == "gpt" else speech_batch([33])
        warm = make("tiny")
        warm.allocate()
        warm.step([batch])
        del warm
        before = _peak()
        made = make(preset)
        networks = [module for module in vars(made).values() if isinstance(module, torch.nn.Module)]
        parameters = sum(p.numel() for network in networks for p in network.parameters())
        made.allocate()
        start = _peak()
        made.step([batch])
        _peak()
        made.step([batch])
        update = _peak()
        distributed.all_gather(None)
        state = sum(tensor.nbytes for _, tensor in named_tensors(made.held_state()[1]))
        found = {"parameters": parameters, "state": state, "start": start - before, "update": update - before}
        (out / f"rank-{distributed.rank()}.json").write_text(json.dumps(found))


def _peak() -> int:
    """Return the most bytes that this process had since the last call."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def measure(stage: str, preset: str, form: str, processes: int) -> dict[str, int]:
    """Return parameters, and the most memory of any of the processes, in bytes."""
    from tests.train.distributed.ranks import run_ranks

    with tempfile.TemporaryDirectory() as folder:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # glibc would keep what blocks give back for the next ones
        arguments = ("--worker", folder, "--stage", stage, "--preset", preset, "--form", form)
        run_ranks("benchmarks.distributed.sharing", processes, *arguments)
        ranks = [json.loads((Path(folder) / f"rank-{rank}.json").read_text()) for rank in range(processes)]
    return {name: max(rank[name] for rank in ranks) for name in ranks[0]}


def forms(name: str, preset: str, processes: int) -> list[tuple[str, int]]:
    """Return the forms in which a model is measured, and the processes of each."""
    if preset == "large":
        return [("fsdp", processes)]
    of_layers = [("tp:2", 2), (f"tp:{processes}", processes), ("pp:2", 2), (f"pp:{processes}", processes)]
    shared = [("dp", 1), ("fsdp", processes), (f"hsdp:2x{processes // 2}", processes)]
    return [*shared, *(of_layers if name == "gpt" else [])]


@click.command()
@click.option("--processes", default=4, show_default=True)
@click.option("--models", default="gpt:v2,sovits:v2,gpt:large", show_default=True)
@click.option("--worker", hidden=True)
@click.option("--stage", hidden=True)
@click.option("--preset", hidden=True)
@click.option("--form", hidden=True)
def main(processes: int, models: str, worker: str | None, stage: str, preset: str, form: str) -> None:
    """Measure, print and save the table."""
    if worker:
        work(Path(worker), stage, preset, form)
        return
    rows, found = [], []
    for model in models.split(","):
        name, _, sizes = model.partition(":")
        one = 0
        for way, count in forms(name, sizes, processes):
            made = measure(name, sizes, way, count)
            whole = made["parameters"] <= LARGEST
            one = one or (made["update"] if whole else BYTES * made["parameters"])
            row = (f"{name} {sizes}", f"{made['parameters'] / 1e6:.1f}", way, count, round(made["state"] / 1e6))
            ratio = f"{made['update'] / one:.2f}" + ("" if whole else " of its 16 bytes a parameter")
            rows.append((*row, *(round(made[at] / 1e6) for at in ("start", "update")), ratio))
            found.append({"stage": name, "preset": sizes, "form": way, "processes": count, **made})
            click.echo(rows[-1])
    markdown = report.table(HEAD, rows)
    click.echo(markdown)
    report.save("sharing", markdown, {"rows": found})


if __name__ == "__main__":
    main()
