"""Charts of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from headrace.store.storage.output_files import output_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DARK, LIGHT = "#1b3a57", "#c8553d"


def draw_rates(found: dict[str, Any], target: Path) -> None:
    """Draw the result of `store bench` as a PNG: the rates delivered, and the best that memory and disk can do."""
    rates = {state: found[state]["gb_per_s"] for state in ("warm", "cold") if found[state]}
    limits = {"memory copies": found.get("copy_gb_per_s"), "disk": found.get("disk_gb_per_s")}
    bars = rates | {name: rate for name, rate in limits.items() if rate}
    figure = Figure(figsize=(8, 1 + 0.6 * len(bars)), layout="constrained")
    axes = figure.subplots()
    _bars(axes, list(bars), list(bars.values()), "{:.2f}", [LIGHT if name in rates else DARK for name in bars])
    axes.set(xlabel="GB/s", title=f"{found['utterances']:,} utterances, {', '.join(found['features'])}")
    with output_file(target) as draft:
        figure.savefig(draft, dpi=110, format="png")


def draw_bottleneck(found: dict[str, Any], target: Path) -> None:
    """Draw the result of `train bench` as a PNG: three rates, and a histogram of how long steps waited."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    bars, waits = figure.subplots(2, 1, height_ratios=(2, 3))
    names = ("data", "model", "together")
    rates = [found[name]["frames_per_s"] for name in names]
    _bars(bars, ["data alone", "model alone", "together"], rates, "{:,.0f}", (DARK, DARK, LIGHT))
    bars.set(xscale="log", xlim=(min(rates) / 3, max(rates) * 5), xlabel="frames/s")
    waits.hist([1000 * wait for wait in found["waits_s"]], bins=30, color=LIGHT)
    waits.set(xlabel="ms that a step waited for data", ylabel="steps")
    step = found["together"]["seconds"] / found["together"]["steps"]
    waits.set_title(f"{found['wait_share']:.2%} of the time; a step takes {1000 * step:.0f} ms", fontsize="medium")
    figure.suptitle(found["verdict"], wrap=True)
    with output_file(target) as draft:
        figure.savefig(draft, dpi=110, format="png")


def _bars(axes: Axes, names: Sequence[str], values: Sequence[float], form: str, colours: Sequence[str]) -> None:
    """Draw horizontal bars from top to bottom, each labelled with its value."""
    drawn = axes.barh(names, values, color=colours)
    axes.bar_label(drawn, [form.format(value) for value in values], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.15)
