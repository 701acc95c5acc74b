"""The picture of a comparison: what voices cost against what they lose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.store.storage.output_files import output_file

QUALITIES = {
    "mel_distance_to_recordings": "log-mel distance to the recordings",
    "loss": "loss of codes",
}
"""What is drawn upwards, of voices that have it: less is better."""


def draw_comparison(found: Mapping[str, Any], path: Path) -> None:
    """Draw size and speed of each voice against what it loses, as a PNG.

    Args:
        found: what `voice_comparison.compare_voices` returns.
    """
    from matplotlib.figure import Figure

    voices = found["voices"]
    qualities = {name: words for name, words in QUALITIES.items() if any(one[name] is not None for one in voices)}
    figure = Figure(figsize=(11, 1 + 4 * len(qualities)), layout="constrained")
    panels = figure.subplots(len(qualities), 2, squeeze=False)
    costs = {"MB": [one["bytes"] / 1e6 for one in voices]}
    costs["seconds of speech in a CPU-second, one thread"] = [one["costs"][0]["speech_per_cpu_s"] for one in voices]
    for row, (name, words) in zip(panels, qualities.items(), strict=True):
        for axes, (cost, values) in zip(row, costs.items(), strict=True):
            for number, (one, value) in enumerate(zip(voices, values, strict=True)):
                if one[name] is not None:
                    axes.plot(value, one[name], "o", color=f"C{number}", label=f"{one['voice']} ({one['runtime']})")
            axes.set(xscale="log", xlabel=cost, ylabel=words)
            axes.margins(0.15)
    panels[0][1].legend(fontsize="small")
    with output_file(path) as draft:
        figure.savefig(draft, dpi=90, format="png")
