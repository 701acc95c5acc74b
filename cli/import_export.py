"""`store import` and `store export`: what others have prepared becomes a store, and a store what others read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output
from headrace.cli.progress import PLAIN_EVERY

if TYPE_CHECKING:
    from headrace.store.storage import StoragePath

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")


@click.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", type=output.PLACE, required=True, help="Folder of the store.")
@click.option(
    "--features", default="", metavar="NAMES", help="Of those there, and mel, mfcc to compute; else all there."
)
@click.option("--list", "list_file", type=click.Path(path_type=Path), help="Upstream's .list: speakers and languages.")
@click.option("--workers", type=click.IntRange(1), help="Processes; else one per CPU.")
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler whose workers do the work.")
@click.option("--strict", is_flag=True, help="Exit with 3 where anything was rejected.")
@json_option
@output.command
def import_prepared(folder: Path, out: StoragePath, features: str, strict: bool, as_json: bool, **options: Any) -> int:
    """Make a store of DIR, which GPT-SoVITS' own preparation wrote, or finish it: wave, phones, content, bert, semantic
    and speaker_vector as they are. What is sealed is skipped."""
    from headrace.cli.progress import BuildProgress
    from headrace.cli.tables import print_build
    from headrace.featurize.exchange.import_gpt_sovits import ImportConfig, take

    names = tuple(name.strip() for name in features.split(",") if name.strip())
    with BuildProgress(quiet=as_json) as progress:
        account = take(ImportConfig(folder=folder, out=out, features=names, **options), progress)
    if as_json:
        output.emit_json(account)
    else:
        print_build(out, account)
        _print_rest(out, account["features"])
    return output.STRICT_EXIT if strict and account["rejects"] else 0


def _print_rest(out: StoragePath, features: list[str]) -> None:
    """What the store has not, and how it comes in."""
    absent = [name for name in ("mel", "mfcc") if name not in features]
    if absent:
        taken = ",".join([*features, *absent])
        click.echo(f"without {' and '.join(absent)}; with them: store import DIR --out OTHER --features {taken}")
    click.echo(f"f0: featurize add {out} f0")


@click.command()
@click.argument("path", metavar="STORE", type=output.PLACE)
@click.option(
    "--to", "form", type=click.Choice(["gpt-sovits", "lhotse", "textgrid"]), required=True, help="Who is to read it."
)
@click.option("--out", type=output.HERE, required=True, help="Folder; it must not be there.")
@json_option
@output.command
def export(path: StoragePath, form: str, out: Path, as_json: bool) -> None:
    """Write STORE as GPT-SoVITS' prepared directory, as Lhotse's manifests with their recordings and arrays, or what is
    said when in it as TextGrids for Praat."""
    from headrace import store
    from headrace.featurize.exchange import export_gpt_sovits, export_lhotse, export_textgrid

    opened = store.open(path)
    give = {"gpt-sovits": export_gpt_sovits.give, "lhotse": export_lhotse.give, "textgrid": export_textgrid.give}[form]
    account = give(opened, out, _Said(len(opened), quiet=as_json))
    if as_json:
        output.emit_json(account)
        return
    click.echo(f"{out}: {account['utterances']:,} utterances, {output.hours(account['hours'])}")
    click.echo(f"with {', '.join(account['features'])}")
    if account.get("missing"):
        click.echo(f"without {', '.join(account['missing'])}: the store has none")
    if account.get("unaligned"):
        click.echo(f"{account['unaligned']:,} utterances without times: featurize add {path} align")


class _Said:
    """Says now and then how many utterances are written."""

    def __init__(self, count: int, *, quiet: bool) -> None:
        self._count, self._quiet, self._printed = count, quiet, time.monotonic()

    def __call__(self, done: int) -> None:
        if not self._quiet and time.monotonic() - self._printed >= PLAIN_EVERY:
            self._printed = time.monotonic()
            output.say(f"{done:,} of {self._count:,} utterances written")
