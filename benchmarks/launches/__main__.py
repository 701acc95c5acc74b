"""Kernels that an update launches, beside GPT-SoVITS' own update.

    python -m benchmarks.launches UPSTREAM [--site DIR] [--no-compiled]

UPSTREAM is a copy of GPT-SoVITS, DIR a folder of packages that it needs and that are not installed here. Both sides are
counted alike, see `benchmarks.launches`, in float32 and with dropout. Sizes of the published models; numbers of kernels
hardly depend on the lengths of utterances. Ours is counted as it is, with compiled blocks, and with captured passes.
Each runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks import launches, report
from benchmarks.launches.fused import CompiledKernels, CountedGraph
from benchmarks.step_sides import Case, ours, upstream
from headrace.train.stages.cuda_graphs import WARM_UPS

KINDS: dict[str, dict[str, bool]] = {
    "ours": {}, "ours, compiled": {"compiled": True}, "ours, graphs": {"graphs": True}, "upstream": {}
}  # fmt: skip
"""Kinds of updates to options of a `Case`."""
STAGES = {"sovits": "SoVITS v2", "gpt": "GPT v2, an update of 4 batches"}


def counted(kind: str, case: Case) -> dict[str, Any]:
    """Count an update, in this process."""
    kernels = CompiledKernels()
    with launches.as_on_cuda(), kernels.counted():
        update = upstream(case) if kind == "upstream" else ours(case, CountedGraph)
        for _ in range(WARM_UPS + 1 if case.graphs else 0):
            update()
        update()  # the first one, or the first that replays
        before = kernels.launches, CountedGraph.replays
        with launches.LaunchCounter() as found:
            update()
    generated, replays = kernels.launches - before[0], CountedGraph.replays - before[1]
    return {
        "launches": found.total + generated + replays,
        "generated": generated,
        "graphs": replays,
        "captured": CountedGraph.kernels,
        "synchronisations": found.synchronisations.total(),
        "by_operator": dict(found.launches.most_common()),
    }


def counted_apart(kind: str, case: Case) -> dict[str, Any]:
    """Count an update of a kind, in a process of its own."""
    file = case.weights.with_suffix(".json")
    file.write_text(json.dumps(replace(case, **KINDS[kind]).to_json()))
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.launches", "--kind", kind, str(file)]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    return found


def rows(name: str, found: dict[str, dict[str, Any]]) -> list[tuple[Any, ...]]:
    """One for each kind."""
    whole = found["upstream"]["launches"]
    return [
        (name, kind, of["launches"], of["launches"] / whole, of["generated"], of["graphs"], of["synchronisations"])
        for kind, of in found.items()
    ]


@click.command()
@click.argument("upstream_or_case", type=click.Path(exists=True, path_type=Path))
@click.option("--site", type=click.Path(exists=True, path_type=Path), help="Folder of packages not installed here.")
@click.option("--compiled/--no-compiled", default=True, help="Compile too, which takes a quarter of an hour.")
@click.option("--kind", type=click.Choice(list(KINDS)), hidden=True)
def main(upstream_or_case: Path, site: Path | None, compiled: bool, kind: str | None) -> None:
    if kind:
        data = json.loads(upstream_or_case.read_text())
        click.echo(json.dumps(counted(kind, Case(**data | {"weights": Path(data["weights"])}))))
        return
    kinds = [one for one, options in KINDS.items() if compiled or not options.get("compiled")]
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for stage, name in STAGES.items():
            case = Case(
                stage=stage, utterances=2, phones=20, frames=64, weights=Path(folder) / "weights.pt", as_on_cuda=True,
                upstream=str(upstream_or_case), site=str(site or ""),
            )  # fmt: skip
            made[name] = {one: counted_apart(one, case) for one in kinds}
    head = ("an update, float32", "side", "launches", "to upstream's", "generated", "graphs", "synchronisations")
    text = report.table(head, [row for name, found in made.items() for row in rows(name, found)])
    click.echo(text)
    report.save("launches", text, {"found": made})


if __name__ == "__main__":
    main()
