"""Plots of synthesised speech beside the recording of the same utterance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from headrace.train.monitoring.evaluation_samples import Sample

ALIGNMENT_COLOUR = "#2fb5e0"


def draw_sample(sample: Sample) -> Figure:
    """Draw log-mels of the recording and of the synthesised speech.

    Below them is the attention of frames to phones if the model has it, with aligned phones if the store has them.
    """
    from matplotlib.figure import Figure  # takes a second to import

    panels = 2 + (sample.attention is not None)
    figure = Figure(figsize=(min(20, max(7, 3 * sample.seconds)), 2.2 * panels), layout="constrained")
    recorded, generated, *rest = figure.subplots(panels, 1, sharex=True)
    low, high = np.quantile(sample.mel_recorded, (0.01, 1))
    for axes, mel, name in (
        (recorded, sample.mel_recorded, "recorded"),
        (generated, sample.mel_generated, "generated"),
    ):
        _image(axes, mel, sample, cmap="magma", vmin=low, vmax=high)
        axes.set_ylabel(f"{name}, mel band")
    for axes in rest:
        _image(axes, sample.attention, sample, cmap="Greys")
        axes.set_ylabel("phone attended to")
        if sample.phone_ends is not None:
            ends = np.append(0, sample.phone_ends) * sample.frame_s
            axes.stairs(np.arange(len(sample.phone_ends)), ends, baseline=None, color=ALIGNMENT_COLOUR)
    (rest[-1] if rest else generated).set_xlabel("seconds")
    recorded.set_title(sample.name, fontsize=9, parse_math=False)
    return figure


def _image(axes: Any, rows: np.ndarray | None, sample: Sample, **style: Any) -> None:
    """Draw one value per frame and row as an image over seconds."""
    assert rows is not None
    extent = (0, len(rows) * sample.frame_s, -0.5, rows.shape[1] - 0.5)
    axes.imshow(rows.T, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **style)
