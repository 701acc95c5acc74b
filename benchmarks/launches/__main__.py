"""Kernels that an update launches, beside GPT-SoVITS' own update.

    python -m benchmarks.launches UPSTREAM [--site DIR]

UPSTREAM is a copy of GPT-SoVITS, DIR a folder of packages that it needs and that are not installed here. Both sides are
counted alike, see `benchmarks.launches`, in float32 and with dropout. Sizes of the published models; numbers of kernels
hardly depend on the lengths of utterances. Each side runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks import launches, report
from benchmarks.step import SIDES
from benchmarks.step_sides import Case, ours, upstream

STAGES = {"sovits": "SoVITS v2", "gpt": "GPT v2, an update of 4 batches"}


def counted(side: str, case: Case) -> dict[str, Any]:
    """Count an update of one side, in this process."""
    with launches.as_on_cuda():
        found = launches.count({"ours": ours, "upstream": upstream}[side](case))
    return {
        "launches": found.total,
        "synchronisations": found.synchronisations.total(),
        "by_operator": dict(found.launches.most_common()),
    }


def counted_apart(side: str, case: Case) -> dict[str, Any]:
    """Count an update of one side, in a process of its own."""
    file = case.weights.with_suffix(".json")
    file.write_text(json.dumps(case.to_json()))
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.launches", "--side", side, str(file)]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    return found


def rows(name: str, found: dict[str, dict[str, Any]]) -> list[tuple[Any, ...]]:
    """One for each side."""
    whole = found["upstream"]["launches"]
    return [(name, side, of["launches"], of["launches"] / whole, of["synchronisations"]) for side, of in found.items()]


@click.command()
@click.argument("upstream_or_case", type=click.Path(exists=True, path_type=Path))
@click.option("--site", type=click.Path(exists=True, path_type=Path), help="Folder of packages not installed here.")
@click.option("--side", type=click.Choice(SIDES), hidden=True)
def main(upstream_or_case: Path, site: Path | None, side: str | None) -> None:
    if side:
        data = json.loads(upstream_or_case.read_text())
        click.echo(json.dumps(counted(side, Case(**data | {"weights": Path(data["weights"])}))))
        return
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for stage, name in STAGES.items():
            case = Case(
                stage=stage, utterances=2, phones=20, frames=64, weights=Path(folder) / "weights.pt", as_on_cuda=True,
                upstream=str(upstream_or_case), site=str(site or ""),
            )  # fmt: skip
            made[name] = {one: counted_apart(one, case) for one in SIDES}
    head = ("an update, float32", "side", "launches", "to upstream's", "synchronisations")
    text = report.table(head, [row for name, found in made.items() for row in rows(name, found)])
    click.echo(text)
    report.save("launches", text, {"found": made})


if __name__ == "__main__":
    main()
