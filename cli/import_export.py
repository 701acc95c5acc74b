"""`store import` and `store export`: exchange with GPT-SoVITS, Lhotse and Praat."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output
from headrace.cli.options import (
    FILE,
    LOCAL_PATH,
    STORAGE_PATH,
    json_option,
    option,
    scheduler_option,
    split_names,
    store_argument,
    strict_option,
    workers_option,
)
from headrace.cli.progress import LINE_EVERY_S
from headrace.store.advice import command
from headrace.store.units import format_hours

if TYPE_CHECKING:
    from headrace.store.storage import StoragePath


@click.command("import")
@click.argument("folder", metavar="DIR", type=FILE)
@option("--out", type=STORAGE_PATH, required=True, help="Write the store here.")
@option(
    "--features",
    default="",
    metavar="NAMES",
    show_default="all that DIR holds",
    help="Import these features, separated by commas; mel and mfcc are computed if they are named.",
)
@option("--list", "list_file", type=FILE, metavar="FILE", help="Read speakers and languages from this .list file.")
@workers_option("one per CPU")
@scheduler_option
@strict_option
@json_option
@output.handle_errors
def import_prepared(folder: Path, out: StoragePath, features: str, strict: bool, as_json: bool, **options: Any) -> int:
    """Import DIR, which GPT-SoVITS prepared for training.

    Features that may be there are wave, phones, content, bert, semantic and speaker_vector. They are imported as they
    are. An import that was interrupted is resumed: parts that are finished are skipped.
    """
    from headrace.cli.progress import BuildProgress
    from headrace.cli.tables import print_build
    from headrace.featurize.exchange.import_gpt_sovits import ImportConfig, import_directory

    config = ImportConfig(folder=folder, out=out, features=split_names(features), **options)
    with BuildProgress(quiet=as_json) as progress:
        account = import_directory(config, progress)
    if as_json:
        output.print_json(account)
    else:
        print_build(out, account)
        _print_missing(out, account["features"])
    return output.STRICT_EXIT if strict and account["rejects"] else 0


def _print_missing(out: StoragePath, features: list[str]) -> None:
    """Tell which features the store lacks, and how to add them."""
    missing = [name for name in ("mel", "mfcc") if name not in features]
    if missing:
        wanted = ",".join([*features, *missing])
        click.echo(f"without {' and '.join(missing)}; with them: store import DIR --out OTHER --features {wanted}")
    click.echo(f"f0: {command('featurize add', out, 'f0')}")


@click.command()
@store_argument
@option(
    "--to",
    "form",
    type=click.Choice(["gpt-sovits", "lhotse", "textgrid"]),
    required=True,
    help="Write what GPT-SoVITS, Lhotse or Praat reads.",
)
@option("--out", type=LOCAL_PATH, metavar="DIR", required=True, help="Write into this folder, which must not exist.")
@option("--incomplete", is_flag=True, help="Export what is there, although the build of STORE is not finished.")
@json_option
@output.handle_errors
def export(path: StoragePath, form: str, out: Path, incomplete: bool, as_json: bool) -> None:
    """Export STORE for GPT-SoVITS, Lhotse or Praat.

    \b
    gpt-sovits  the directory that its preparation writes
    lhotse      manifests, recordings and arrays
    textgrid    a TextGrid of words and phones for each utterance
    """
    from headrace import store
    from headrace.featurize.exchange import export_gpt_sovits, export_lhotse, export_textgrid

    opened = store.open(path)
    give = {
        "gpt-sovits": export_gpt_sovits.export_directory,
        "lhotse": export_lhotse.export_cuts,
        "textgrid": export_textgrid.export_textgrids,
    }[form]
    account = give(opened, out, _ExportProgress(len(opened), quiet=as_json), incomplete=incomplete)
    output.warn_incomplete(opened)
    if as_json:
        output.print_json(account)
        return
    click.echo(f"{out}: {account['utterances']:,} utterances, {format_hours(account['hours'])}")
    click.echo(f"with {', '.join(account['features'])}")
    if account.get("missing"):
        click.echo(f"without {', '.join(account['missing'])}: the store has none")
    if account.get("unaligned"):
        click.echo(f"{account['unaligned']:,} utterances without times: {export_textgrid.times_remedy(opened)}")


class _ExportProgress:
    """Print now and then how many utterances are written."""

    def __init__(self, count: int, *, quiet: bool) -> None:
        self._count, self._quiet, self._printed = count, quiet, time.monotonic()

    def __call__(self, done: int) -> None:
        if not self._quiet and time.monotonic() - self._printed >= LINE_EVERY_S:
            self._printed = time.monotonic()
            output.log(f"{done:,} of {self._count:,} utterances written")
