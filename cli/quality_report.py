"""`store report`: the quality of a corpus as an HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.cli import output
from headrace.cli.options import LOCAL_PATH, json_option, option, store_argument
from headrace.store.units import format_size

if TYPE_CHECKING:
    from headrace.store.storage import StoragePath


@click.command()
@store_argument
@option("--out", type=LOCAL_PATH, metavar="FILE", required=True, help="Write this HTML file, which needs no other.")
@option(
    "--max-recordings",
    type=click.IntRange(0),
    metavar="N",
    default=20_000,
    show_default=True,
    help="Analyse the audio of at most this many utterances.",
)
@option(
    "--mos",
    type=click.IntRange(0),
    metavar="N",
    default=100,
    show_default=True,
    help="Rate at most this many of them by DNSMOS, if speechmos is installed and STORE has no mos.",
)
@option(
    "--worst",
    type=click.IntRange(1, 500),
    metavar="N",
    default=50,
    show_default=True,
    help="List at most this many utterances by each measure.",
)
@json_option
@output.handle_errors
def report(path: StoragePath, out: Path, max_recordings: int, mos: int, worst: int, as_json: bool) -> None:
    """Report the quality of STORE as an HTML page.

    It shows outliers, to look at and to listen to, and the --where conditions that exclude them from training.
    """
    from headrace import store
    from headrace.cli.progress import PartsProgress
    from headrace.featurize.report import write_report

    units = {"read": "parts", "rated": "recordings", "drawn": "lists"}
    opened = store.open(path)
    made = write_report(
        opened,
        out,
        max_recordings=max_recordings,
        max_mos=mos,
        max_listed=worst,
        progress=lambda stage: PartsProgress(stage, quiet=as_json, what=units[stage]),
    )
    output.warn_incomplete(opened)
    if as_json:
        output.print_json(made.to_json())
    else:
        click.echo(f"{out}: {format_size(out.stat().st_size)}, {made.utterances:,} utterances, {len(made.lists)} lists")
