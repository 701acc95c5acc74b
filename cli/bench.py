"""`store bench` and `train bench`: how fast this machine reads a store, and whether a model on it waits for data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output
from headrace.cli.options import COUNT, FILE, POSITIVE, json_option, option, split_names, store_argument, without_none
from headrace.cli.run_options import BENCH, run_options
from headrace.store.units import format_hours

if TYPE_CHECKING:
    from headrace.store.storage import StoragePath

png_option = option("--png", type=FILE, metavar="FILE", help="Plot the results into this PNG file too.")


@click.command("bench")
@store_argument
@option(
    "--features",
    default="",
    metavar="NAMES",
    show_default="all of STORE",
    help="Read these features, separated by commas.",
)
@option(
    "--batch-frames",
    type=COUNT,
    metavar="FRAMES",
    default=9600,
    show_default=True,
    help="Put at most this many frames into a batch, padding included.",
)
@option(
    "--seconds",
    type=POSITIVE,
    metavar="SECONDS",
    default=3,
    show_default=True,
    help="Read for this many seconds in each measurement.",
)
@option(
    "--cold/--warm",
    default=None,
    show_default="both",
    help="Measure only with an empty page cache, or only with the whole of STORE in it.",
)
@png_option
@json_option
@output.handle_errors
def bench_store(
    path: StoragePath,
    features: str,
    batch_frames: int,
    seconds: float,
    cold: bool | None,
    png: Path | None,
    as_json: bool,
) -> None:
    """Measure how fast batches are read from STORE.

    The rates are compared with those of plain memory copies and of the disk itself.
    """
    from headrace.store.storage.output_files import check_output_file
    from headrace.train.measure.throughput import bench

    if png:
        check_output_file(png)
    found = bench(
        path,
        split_names(features),
        batch_frames=batch_frames,
        seconds=seconds,
        warm=cold is not True,
        cold=cold is not False,
        log=(lambda _: None) if as_json else output.log,
    )
    if png:
        from headrace.train.measure.charts import draw_rates

        draw_rates(found, png)
    if as_json:
        output.print_json(found)
    else:
        _print_rates(found)


@click.command("bench")
@store_argument
@option("--steps", type=COUNT, metavar="STEPS", default=20, show_default=True, help="Measure this many steps.")
@option(
    "--cold/--warm",
    default=None,
    show_default="as from the second epoch on",
    help="Empty the page cache of STORE first, or fill it.",
)
@run_options(*BENCH)
@png_option
@json_option
@output.handle_errors
def bench_training(
    path: StoragePath, steps: int, cold: bool | None, png: Path | None, as_json: bool, **options: Any
) -> None:
    """Measure whether training on STORE waits for data.

    Reading alone, the model alone and both together are measured.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded, as in `train run`

    from headrace.cli.run_progress import TrainProgress
    from headrace.store.storage.output_files import check_output_file
    from headrace.train.config import RunConfig
    from headrace.train.measure.bottleneck import bench

    config = RunConfig.from_options(store=path, out=Path("RUN"), **without_none(options))
    if png:
        check_output_file(png)
    with TrainProgress(quiet=as_json) as progress:
        found = bench(config, steps=steps, cold=cold, observer=progress)
    if png:
        from headrace.train.measure.charts import draw_bottleneck

        draw_bottleneck(found, png)
    if as_json:
        output.print_json(found)
    else:
        _print_bottleneck(found)


def _print_rates(found: dict[str, Any]) -> None:
    states = [state for state in ("warm", "cold") if found[state]]
    table = output.make_table("", *states, numbers=True)
    for heading, key, form in (
        ("first batch", "first_batch_s", "{:.3f} s"),
        ("utterances/s", "utterances_per_s", "{:,.0f}"),
        ("frames/s", "frames_per_s", "{:,.0f}"),
        ("hours of audio/s", "hours_per_s", "{:,.2f}"),
        ("GB/s", "gb_per_s", "{:.2f}"),
        ("padding", "padding", "{:.1%}"),
        ("of memory copies' rate", "of_copies", "{:.0%}"),
        ("of the disk's rate", "of_disk", "{:.0%}"),
        ("read from the disk", "fetched", "{:.0%}"),
    ):
        values = [found[state].get(key) for state in states]
        if any(value is not None for value in values):
            table.add_row(heading, *("" if value is None else form.format(value) for value in values))
    head = output.make_table()
    head.add_row("store", f"{found['store']}: {found['utterances']:,} utterances, {format_hours(found['hours'])}")
    head.add_row("features", ", ".join(found["features"]))
    head.add_row("read", found["reading"])
    head.add_row("batches", f"of {found['batch_frames']:,} frames and {found['max_utterances']} utterances at most")
    if found["warm"]:
        head.add_row("memory copies", f"{found['copy_gb_per_s']:.2f} GB/s, of the same sizes, one thread")
    if "disk_gb_per_s" in found:
        how = "O_DIRECT" if found["disk_direct"] else "through the page cache, since O_DIRECT is not available"
        head.add_row("disk", f"{found['disk_gb_per_s']:.2f} GB/s, sequentially, {how}")
    output.print_tables(head, table)


def _print_bottleneck(found: dict[str, Any]) -> None:
    table = output.make_table("", "frames/s", "utterances/s", "s per step", numbers=True)
    for name, heading in (("data", "data alone"), ("model", "model alone"), ("together", "together")):
        pace = found[name]
        step = f"{pace['seconds'] / pace['steps']:.4f}"
        table.add_row(heading, f"{pace['frames_per_s']:,.0f}", f"{pace['utterances_per_s']:,.1f}", step)
    head = output.make_table()
    head.add_row("store", f"{found['store']}, {', '.join(found['features'])}")
    head.add_row("read", found["reading"])
    output.print_tables(head, table)
    click.echo(f"waiting for data: {found['wait_share']:.2%} of the time")
    click.echo(found["verdict"])
