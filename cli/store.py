"""`store`: inspect, check, repair and exchange feature stores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import bench, import_export, output, quality_report
from headrace.cli.fence import Commands
from headrace.cli.options import LOCAL_PATH, json_option, option, store_argument

if TYPE_CHECKING:
    from headrace.store.integrity.part_checks import Problem
    from headrace.store.integrity.repair import RepairReport
    from headrace.store.rejects import Account
    from headrace.store.storage import StoragePath


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Inspect, check and repair feature stores; import and export them.

    Only `repair` changes a store that exists.
    """


main.add_command(import_export.import_prepared)
main.add_command(import_export.export)
main.add_command(bench.bench_store)
main.add_command(quality_report.report)


@main.command()
@store_argument
@json_option
@output.handle_errors
def info(path: StoragePath, as_json: bool) -> None:
    """Describe what STORE contains."""
    from headrace import store
    from headrace.cli.tables import print_info
    from headrace.store.summary import summarize

    opened = store.open(path)
    summary = summarize(opened)
    if as_json:
        output.print_json(summary)
    else:
        print_info(opened, summary)


@main.command()
@store_argument
@option("--quick", is_flag=True, help="Compare the sizes of the features' files instead of reading them.")
@json_option
@output.handle_errors
def verify(path: StoragePath, quick: bool, as_json: bool) -> int:
    """Check every checksum and invariant of STORE. Exits with code 1 if anything is wrong."""
    from headrace.cli.progress import PartsProgress
    from headrace.store.integrity.foreign import find_foreign
    from headrace.store.integrity.verify import verify as find_problems
    from headrace.store.layout import sealed_parts

    with PartsProgress("checked", quiet=as_json) as progress:
        problems = list(find_problems(path, quick=quick, watch=progress))
    parts, foreign, found = len(sealed_parts(path)), find_foreign(path, _features(path)), _account(path)
    if as_json:
        told = {"parts": parts, "problems": [_problem(problem) for problem in problems], "foreign": foreign}
        output.print_json(told | (asdict(found) if found else {}))
    else:
        for problem in problems:
            output.print_line(f"{problem.where}: {problem.what}")
        _print_foreign(foreign)
        if found:
            click.echo(_describe_account(found))
        click.echo(f"{parts} parts checked, {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    return 1 if problems else 0


def _account(path: StoragePath) -> Account | None:
    """Return the account of a store; None where its root, a seal or the record of the scan is damaged."""
    from headrace.store.errors import StoreError
    from headrace.store.layout import sealed_parts
    from headrace.store.rejects import account
    from headrace.store.root_attributes import read_attributes

    try:
        return account(path, read_attributes(path), sealed_parts(path))
    except StoreError:
        return None


def _describe_account(found: Account) -> str:
    counts = f"{found.stored:,} utterances stored, {found.rejected:,} rejected"
    if found.listed is None:
        return f"{counts}; how many the corpus listed is not recorded, which the next featurize build does"
    missing = found.listed - found.stored - found.rejected
    return f"{counts}, of {found.listed:,} listed" + (f": {missing:,} are missing" if missing else "")


def _features(path: StoragePath) -> list[str]:
    """Return the features that the root of a store names; none if it cannot be read."""
    from headrace.store.errors import StoreError
    from headrace.store.root_attributes import read_attributes

    try:
        return [spec["name"] for spec in read_attributes(path)["features"]]
    except StoreError:
        return []


def _print_foreign(names: Iterable[str]) -> None:
    for name in names:
        output.print_line(f"{name}: is not the store's, and is left alone")


def _problem(problem: Problem) -> dict[str, Any]:
    return {"where": problem.where, **asdict(problem)}


@main.command()
@store_argument
@option("--dry-run", is_flag=True, help="Print what would be removed, and change nothing.")
@json_option
@output.handle_errors
def repair(path: StoragePath, dry_run: bool, as_json: bool) -> int:
    """Remove what is damaged in STORE, and print how to rebuild it.

    Exits with code 1 if there are problems that removing does not solve.
    """
    from headrace.cli.progress import PartsProgress
    from headrace.store.integrity.repair import repair as remove_damaged

    with PartsProgress("checked", quiet=as_json) as progress:
        done = remove_damaged(path, dry_run=dry_run, watch=progress)
    if as_json:
        problems = [_problem(problem) for problem in done.problems]
        output.print_json({**asdict(done), "dry_run": dry_run, "problems": problems})
    else:
        _print_repair(done, "would be removed" if dry_run else "removed")
    return 1 if done.unrepairable else 0


def _print_repair(done: RepairReport, removed: str) -> None:
    for problem in done.problems:
        output.print_line(f"{problem.where}: {problem.what}")
    for number in done.parts:
        click.echo(f"part {number:05d}: {removed}")
    for number in done.kept:
        click.echo(f"part {number:05d}: is left, for what is not the store's in it: move that away and repair again")
    _print_foreign(done.foreign)
    for number, name in done.arrays:
        output.print_line(f"part {number:05d} {name}: {removed}")
    for name, written in (("parts/zarr.json", done.group), ("rejects.jsonl", done.rejects)):
        if written:
            click.echo(f"{name}: {removed.replace('removed', 'written again')}")
    if not done.problems:
        click.echo("nothing is damaged")
    for command in done.commands:
        output.print_line(f"rebuild it with: {command}")


@main.command()
@store_argument
@click.argument("utterance", metavar="UTTERANCE")
@option("--out", type=LOCAL_PATH, metavar="FILE", show_default="named after UTTERANCE", help="Write this PNG file.")
@output.handle_errors
def show(path: StoragePath, utterance: str, out: Path | None) -> None:
    """Plot waveform, mel and phones of an utterance of STORE.

    UTTERANCE is the id of an utterance, or its number.
    """
    from headrace import store
    from headrace.featurize.report.utterance_plot import draw_utterance, plot_name

    opened = store.open(path)
    number = opened.number_of(utterance)
    target = out or plot_name(str(opened.ids[number]))
    draw_utterance(opened, number, target)
    output.print_line(str(target))


if __name__ == "__main__":
    main(prog_name="store")
