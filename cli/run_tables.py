"""Results of `train run` and `train plan` as tables on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.cli.output import make_table, metric_label, print_tables
from headrace.store.units import format_duration, format_size


def print_run(summary: dict[str, Any]) -> None:
    """Print the result of `train run`."""
    table = make_table()
    table.add_row("run", summary["run"])
    table.add_row("trained", f"{summary['steps']} steps, in epoch {summary['epochs']}")
    for name in summary["tracked_metrics"]:
        table.add_row(metric_label(name), _course(summary, name))
    if summary["skipped"]:
        table.add_row("skipped", f"{summary['skipped']} updates whose gradients were not finite")
    if summary["quarantined"]:
        table.add_row("quarantined", ", ".join(summary["quarantined"]))
    table.add_row(
        "speed",
        f"{summary['step_s']:.3f} s per step, {summary['utterances_per_s']:,.1f} utterances/s, "
        f"{summary['frames_per_s']:,.0f} frames/s",
    )
    table.add_row("waiting for data", f"{summary['wait_share']:.2%} of the time")
    table.add_row("padding", f"{summary['padding']:.1%} of all frames")
    table.add_row("checkpoint", summary["checkpoint"])
    print_tables(table)


def print_checkpoints(checkpoints: Sequence[dict[str, Any]]) -> None:
    """Print the result of `train list`."""
    table = make_table()
    for number, one in enumerate(checkpoints):
        loss = "not validated" if one["loss"] is None else f"loss {one['loss']:.4g}"
        last = number + 1 == len(checkpoints) or checkpoints[number + 1]["stage"] != one["stage"]
        names = ", ".join(name for name, holds in (("best", one["best"]), ("newest", last)) if holds)
        size, age = format_size(one["bytes"]), f"{format_duration(one['age_s'])} old"
        table.add_row(f"{one['stage']} step {one['step']:,}", f"{loss}, {age}, {size}{names and ': '}{names}")
    if not checkpoints:
        table.add_row("checkpoints", "none yet")
    print_tables(table)


def print_pruned(runs: Sequence[dict[str, Any]]) -> None:
    """Print the result of `train prune`."""
    table = make_table()
    for run in runs:
        before, after = (run[name] / 1e6 for name in ("parameters_before", "parameters"))
        table.add_row(run["stage"], f"{after:.2f} M parameters, of {before:.2f} M: {run['run']}")
    print_tables(table)


def print_forecast(forecast: dict[str, Any]) -> None:
    """Print the result of `train plan`."""
    table = make_table()
    for name, count in forecast["parameters"].items():
        table.add_row(name, f"{count / 1e6:.1f} M parameters")
    table.add_row("weights and optimiser", f"{forecast['state_gib']:.2f} GiB")
    if forecast["teacher_gib"]:
        table.add_row("teacher", f"{forecast['teacher_gib']:.2f} GiB")
    step = f"{forecast['step_gib']:.2f} GiB more, for the largest batch, in {forecast['precision']}"
    table.add_row("step", step)
    if graphs := forecast["graphs"]:
        pool, inputs = (f"{graphs[name] / 2**30:.2f}" for name in ("pool", "inputs"))
        found = f"{pool} for the largest, {inputs} for inputs of {graphs['passes']} sizes of batches, and gradients"
        table.add_row("CUDA graphs", f"{graphs['gib']:.2f} GiB more on a GPU: {found}")
    steps = f"{forecast['steps_per_epoch']:,} per epoch, {forecast['step_s']:.3f} s each on {forecast['device']}"
    table.add_row("steps", steps)
    table.add_row(f"{forecast['epochs']} epochs", format_duration(3600 * forecast["hours"]))
    for rank, share in enumerate(forecast.get("shares", ())):
        speed, frames = forecast["speeds"][rank] / 100, forecast["rank_frames"][rank]
        table.add_row(f"rank {rank}, speed {speed:.2f}", f"{share:.1%} of the frames, {frames:,} at most in a batch")
    for card, frames in forecast["room"].items():
        table.add_row(f"room on {card}", f"{frames:,} frames" if frames else "none")
    for row in forecast.get("clusters", ()):
        table.add_row(f"{row['cards']} {row['parallel']}", _describe_cluster(row))
    print_tables(table)


def _describe_cluster(row: dict[str, Any]) -> str:
    """Describe what a form takes on a cluster."""
    if not row["fits"]:
        return f"does not fit: {row['state_gib']:.2f} GiB for the model, room for {row['room']:,} frames"
    times = f"{row['update_s']:.3f} s an update (computes {row['compute_s']:.3f}, sends {row['sent_s']:.3f})"
    best = ": the fastest" if row["fastest"] else ""
    return f"{times}, {row['state_gib']:.2f} GiB for the model, {format_duration(3600 * row['hours'])}{best}"


def _course(summary: dict[str, Any], name: str) -> str:
    """Describe a metric at first, at last and in the last validation."""
    first, last, validation = (summary[f"{name}_{when}"] for when in ("first", "last", "validation"))
    if last is None:
        return "was never finite: try --precision fp32"
    held_out = "" if validation is None else f", {validation:.3g} on {summary['validation_utterances']} held out"
    return f"{first:.3g} at first, {last:.3g} at last{held_out}"
