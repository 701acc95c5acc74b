"""`store report`: the quality of a corpus as an HTML page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output
from headrace.cli.options import LOCAL_PATH, json_option, option, store_argument
from headrace.store.units import format_size

if TYPE_CHECKING:
    from headrace.featurize.quality.corpus_statistics import Appraisal
    from headrace.featurize.report.measures import Filter, Worst
    from headrace.store.reader import Store
    from headrace.store.storage import StoragePath


@click.command()
@store_argument
@option("--out", type=LOCAL_PATH, metavar="FILE", required=True, help="Write this HTML file, which needs no other.")
@option(
    "--max-recordings",
    "listen",
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
def report(path: StoragePath, out: Path, listen: int, mos: int, worst: int, as_json: bool) -> None:
    """Report the quality of STORE as an HTML page.

    It shows outliers, to look at and to listen to, and the --where conditions that exclude them from training.
    """
    from headrace import store
    from headrace.cli.progress import PartsProgress
    from headrace.featurize.quality.corpus_statistics import appraise
    from headrace.featurize.report import page
    from headrace.featurize.report.measures import conditions, worst_lists

    opened = store.open(path)
    with PartsProgress("read", quiet=as_json) as watch:
        found = appraise(opened, listen, watch)
    with PartsProgress("judged", quiet=as_json, what="recordings") as watch:
        _judge(opened, found, mos, watch)
    filters, lists = conditions(opened, found), worst_lists(found, worst)
    with PartsProgress("drawn", quiet=as_json, what="lists") as watch:
        page.write(out, opened, found, filters, lists, watch)
    if as_json:
        output.print_json(_summary(opened, found, filters, lists, out))
    else:
        click.echo(f"{out}: {format_size(out.stat().st_size)}, {len(opened):,} utterances, {len(lists)} lists")


def _judge(opened: Store, found: Appraisal, most: int, watch: Callable[[int, int], None]) -> None:
    """Opinions on some of those heard become a column, where the store has none."""
    import numpy as np

    from headrace.featurize.quality import dnsmos

    count = min(most, len(found.heard))
    if "mos" in found.columns or not count or not dnsmos.is_installed():
        return
    column = np.full(len(opened), np.nan, np.float32)
    for done, number in enumerate(found.heard[np.linspace(0, len(found.heard) - 1, count).astype(int)].tolist(), 1):
        column[number] = dnsmos.first_window_mos(opened.read("wave", number), opened.sample_rate)
        watch(done, count)
    found.columns["mos"] = column


def _summary(opened: Store, found: Appraisal, filters: list[Filter], lists: list[Worst], out: Path) -> dict[str, Any]:
    import numpy as np

    from headrace.featurize.report.measures import MEASURES, known

    values = {one.name: known(found, one) for one in MEASURES}
    return {
        "page": str(out),
        "bytes": out.stat().st_size,
        "utterances": len(opened),
        "hours": opened.hours,
        "heard": len(found.heard),
        "measures": {
            name: {"known": len(some), "quartiles": np.quantile(some, [0.25, 0.5, 0.75]).round(6).tolist()}
            for name, some in values.items()
            if len(some)
        },
        "same_text": len(found.same_text),
        "near_text": len(found.near_text[0]),
        "near_sound": len(found.near_sound[0]),
        "filters": [
            {"title": one.title, "where": one.where, "remark": one.remark}
            | (one.selection.to_json() if one.selection else {})
            for one in filters
        ],
        "lists": {one.title: len(one.listed) for one in lists},
    }
