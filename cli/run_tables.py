"""What `train run` and `train plan` end with."""

from __future__ import annotations

from typing import Any

from headrace.cli import output
from headrace.store.units import format_duration


def print_run(summary: dict[str, Any]) -> None:
    """The result of `train run`, on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_row("run", summary["run"])
    table.add_row("trained", f"{summary['steps']} steps, in epoch {summary['epochs']}")
    for name in summary["tracked_metrics"]:
        table.add_row(output.metric_label(name), _course(summary, name))
    if summary["skipped"]:
        table.add_row("left out", f"{summary['skipped']} updates whose gradients were not finite")
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
    Console(highlight=False, markup=False).print(table)


def print_forecast(found: dict[str, Any]) -> None:
    """The result of `train plan`, on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, count in found["parameters"].items():
        table.add_row(name, f"{count / 1e6:.1f} M parameters")
    table.add_row("weights and optimiser", f"{found['state_gib']:.2f} GiB")
    table.add_row("a step", f"{found['step_gib']:.2f} GiB more, of the largest batch, in {found['precision']}")
    table.add_row("steps", f"{found['steps_per_epoch']:,} an epoch, {found['step_s']:.3f} s each on {found['device']}")
    table.add_row(f"{found['epochs']} epochs", format_duration(3600 * found["hours"]))
    for card, frames in found["room"].items():
        table.add_row(f"room on {card}", f"{frames:,} frames" if frames else "none")
    Console(highlight=False, markup=False).print(table)


def _course(summary: dict[str, Any], name: str) -> str:
    """A term at first, at last and on what was held out."""
    first, last, validation = (summary[f"{name}_{when}"] for when in ("first", "last", "validation"))
    if last is None:
        return "was never finite: try --precision fp32"
    held = "" if validation is None else f", {validation:.3g} on {summary['validation_utterances']} held out"
    return f"{first:.3g} at first, {last:.3g} at last{held}"
