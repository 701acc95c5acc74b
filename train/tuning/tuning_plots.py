"""Pictures of a tuning: its trials, or the lineage of its population."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.store.storage.output_files import output_file
from headrace.train.tuning.population import Segment, lineage
from headrace.train.tuning.search_space import Parameter


def draw_trials(
    rows: Sequence[Mapping[str, Any]], space: Sequence[Parameter], metric: str, path: Path, *, maximise: bool
) -> None:
    """Draw the values of trials in order, and their options as parallel coordinates, as a PNG.

    Args:
        rows: of `Study.rows`.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    rows = [row for row in rows if row[metric] is not None]
    figure = Figure(figsize=(11, 7), layout="constrained")
    history, options = figure.subplots(2, 1, height_ratios=(1, 1.2))
    best, so_far = [], []
    for row in rows:
        if row["state"] == "complete":
            best.append(row[metric])
        so_far.append((max if maximise else min)(best) if best else None)
    for state, style in (("complete", "o"), ("pruned", "x")):
        of_state = [row for row in rows if row["state"] == state]
        history.plot([r["trial"] for r in of_state], [r[metric] for r in of_state], style, label=state)
    drawn = [(row["trial"], value) for row, value in zip(rows, so_far, strict=True) if value is not None]
    history.plot(*zip(*drawn, strict=True), "-", drawstyle="steps-post", linewidth=1, label="best") if drawn else None
    history.set(xlabel="trial", ylabel=metric)
    history.legend(fontsize="small")

    ranks = {row["trial"]: rank for rank, row in enumerate(sorted(rows, key=lambda r: _rank(r, metric, maximise)))}
    for row in sorted(rows, key=lambda row: -ranks[row["trial"]]):  # the best one on top
        shares = [parameter.share_of(row["options"][parameter.name]) for parameter in space]
        done = row["state"] == "complete"
        color = colormaps["viridis"](ranks[row["trial"]] / max(1, len(rows) - 1))
        options.plot(shares, color=color, linewidth=2 if done else 0.8, alpha=1 if done else 0.6)
    names = [f"{p.high:.3g}\n\n{p.name}" for p in space]
    options.set_xticks(range(len(space)), [f"{p.low:.3g}\n{p.name}" for p in space])
    options.secondary_xaxis("top").set_xticks(range(len(space)), [name.split("\n")[0] for name in names])
    options.set(yticks=[], title="dark: better; thin: pruned", ylim=(-0.02, 1.02))
    for place in range(len(space)):
        options.axvline(place, color="grey", linewidth=0.5)
    with output_file(path) as draft:
        figure.savefig(draft, dpi=80)


def draw_lineage(
    segments: Sequence[Segment], best: Segment, space: Sequence[Parameter], metric: str, path: Path
) -> None:
    """Draw the metric of each member over steps, who continued from whom, and an option of all, as a PNG.

    Args:
        best: whose lineage is drawn thick.
    """
    from matplotlib.figure import Figure

    at = {(segment.generation, segment.member): segment for segment in segments}
    ancestors = {(segment.generation, segment.member) for segment in lineage(best, segments)}
    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    shown = space[0].name
    for segment in segments:
        parent = None if segment.parent is None else at[segment.generation - 1, segment.parent]
        style = {
            "color": f"C{segment.member}",
            "linewidth": 3 if (segment.generation, segment.member) in ancestors else 1,
            "linestyle": "--" if segment.is_copy else "-",
        }
        begin = parent.step if parent else 0
        panels[1].plot([begin, segment.step], [segment.options[shown]] * 2, **style)
        if parent is not None and segment.is_copy:
            panels[1].plot([begin] * 2, [parent.options[shown], segment.options[shown]], **style | {"linewidth": 0.6})
        if segment.value is None:
            continue
        panels[0].plot(segment.step, segment.value, "o", color=style["color"], markersize=4)
        if parent is not None and parent.value is not None:
            panels[0].plot([parent.step, segment.step], [parent.value, segment.value], **style)
    for member in sorted({segment.member for segment in segments}):
        panels[0].plot([], [], color=f"C{member}", label=f"member {member}")
    panels[0].plot([], [], color="black", linestyle="--", label="copied another one")
    panels[0].plot([], [], color="black", linewidth=3, label="lineage of the best")
    panels[0].set_ylabel(metric)
    panels[0].legend(fontsize="small")
    panels[1].set(xlabel="step", ylabel=shown, yscale="log" if space[0].log else "linear")
    with output_file(path) as draft:
        figure.savefig(draft, dpi=80)


def _rank(row: Mapping[str, Any], metric: str, maximise: bool) -> tuple[bool, int, float]:
    """Return what orders trials from the best to the worst: those that came further first."""
    return row["state"] != "complete", -row["validations"], row[metric] * (-1 if maximise else 1)
