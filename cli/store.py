"""`store`: look at a feature store, check it and repair it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import bench, import_export, output, report

if TYPE_CHECKING:
    from headrace.store.integrity.part_checks import Problem
    from headrace.store.integrity.repair import Repair
    from headrace.store.reader import Store
    from headrace.store.storage import StoragePath


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look at a feature store, check it and repair it. Nothing but `repair` changes it."""


main.add_command(import_export.import_prepared)
main.add_command(import_export.export)
main.add_command(bench.bench_store)
main.add_command(report.report)

path_argument = click.argument("path", metavar="STORE", type=output.PLACE)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")


@main.command()
@path_argument
@json_option
@output.command
def info(path: StoragePath, as_json: bool) -> None:
    """Tell what is in STORE."""
    from headrace import store
    from headrace.cli.tables import print_info

    opened = store.open(path)
    report = _describe(opened)
    if as_json:
        output.emit_json(report)
    else:
        print_info(opened, report)


def _describe(opened: Store) -> dict[str, Any]:
    return {
        "preset": opened.attributes["preset"],
        "sample_rate": opened.sample_rate,
        "hop": opened.hop,
        "utterances": len(opened),
        "hours": opened.hours,
        "parts": len(opened.parts),
        "parts_planned": sum(member.attributes["plan"]["parts"] for member in opened.members),
        "complete": opened.complete,
        "rejects": sum(len(_lines(member.path / "rejects.jsonl")) for member in opened.members),
        "speakers": dict(Counter(opened.speakers.tolist()).most_common()),
        "languages": dict(Counter(opened.languages.tolist()).most_common()),
        "aligned": int(opened.column("aligned").sum()),
        "fingerprint": opened.fingerprint,
        "reading": opened.reading,
        "features": [_describe_feature(opened, name) for name in opened.features],
    }


def _describe_feature(opened: Store, name: str) -> dict[str, Any]:
    import numpy as np

    spec = opened.features[name]
    rows = int(opened.lengths(spec.axis).sum(dtype=np.int64))
    size = rows * np.dtype(spec.dtype).itemsize * (spec.channels or 1)
    return spec.to_json() | {"row": spec.channels or "scalar", "rows": rows, "bytes": size, "size": output.size(size)}


def _lines(path: StoragePath) -> list[str]:
    return path.read_bytes().decode().splitlines() if path.exists() else []


@main.command()
@path_argument
@click.option("--quick", is_flag=True, help="Compare the sizes of features' files instead of reading them.")
@json_option
@output.command
def verify(path: StoragePath, quick: bool, as_json: bool) -> int:
    """Check every checksum and every law of STORE. Exits with 1 where anything is wrong."""
    from headrace.cli.progress import PartsProgress
    from headrace.store.integrity.verify import verify as find_problems
    from headrace.store.layout import sealed_parts

    with PartsProgress("checked", quiet=as_json) as watch:
        problems = list(find_problems(path, quick=quick, watch=watch))
    parts = len(sealed_parts(path))
    if as_json:
        output.emit_json({"parts": parts, "problems": [_problem(problem) for problem in problems]})
    else:
        for problem in problems:
            click.echo(f"{problem.where}: {problem.what}")
        click.echo(f"{parts} parts checked, {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    return 1 if problems else 0


def _problem(problem: Problem) -> dict[str, Any]:
    return {"where": problem.where, **asdict(problem)}


@main.command()
@path_argument
@click.option("--dry-run", is_flag=True, help="Say what would be dropped; change nothing.")
@json_option
@output.command
def repair(path: StoragePath, dry_run: bool, as_json: bool) -> int:
    """Drop what is damaged in STORE, and tell what makes it again. Exits with 1 where dropping does not help."""
    from headrace.cli.progress import PartsProgress
    from headrace.store.integrity.repair import repair as drop_damage

    with PartsProgress("checked", quiet=as_json) as watch:
        done = drop_damage(path, dry_run=dry_run, watch=watch)
    if as_json:
        problems = [_problem(problem) for problem in done.problems]
        output.emit_json({**asdict(done), "dry_run": dry_run, "problems": problems})
    else:
        _print_repair(done, "would be dropped" if dry_run else "dropped")
    return 1 if done.unhelped else 0


def _print_repair(done: Repair, dropped: str) -> None:
    for problem in done.problems:
        click.echo(f"{problem.where}: {problem.what}")
    for number in done.parts:
        click.echo(f"part {number:05d}: {dropped}")
    for number, name in done.arrays:
        click.echo(f"part {number:05d} {name}: {dropped}")
    if not done.problems:
        click.echo("nothing is damaged")
    for command in done.commands:
        click.echo(f"make it again with: {command}")


@main.command()
@path_argument
@click.argument("utterance", metavar="UTT")
@click.option("--out", type=output.HERE, help="PNG to write; else named after UTT, here.")
@output.command
def show(path: StoragePath, utterance: str, out: Path | None) -> None:
    """Draw waveform, mel and phones of the utterance UTT (an id, or a number) of STORE into a PNG."""
    from headrace import store
    from headrace.featurize.report.utterance_plot import draw_utterance

    opened = store.open(path)
    number = int(utterance) if utterance.isdigit() and int(utterance) < len(opened) else opened.find(utterance)
    target = out or Path(opened.ids[number].replace("/", "_")).with_suffix(".png")
    draw_utterance(opened, number, target)
    click.echo(str(target))
