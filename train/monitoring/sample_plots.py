"""Pictures of speech that a model made, beside the recording that it should be like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from headrace.train.monitoring.evaluation_samples import Heard

PATH = "#2fb5e0"


def draw_heard(heard: Heard) -> Figure:
    """Log-mels of recording and speech over seconds; below, where there is one, which phones the frames look at, and
    where the store is aligned, which phone is spoken."""
    from matplotlib.figure import Figure  # a second to import

    panels = 2 + (heard.sight is not None)
    figure = Figure(figsize=(min(20, max(7, 3 * heard.seconds)), 2.2 * panels), layout="constrained")
    recorded, made, *rest = figure.subplots(panels, 1, sharex=True)
    low, high = np.quantile(heard.mel_recorded, (0.01, 1))
    for axes, mel, name in ((recorded, heard.mel_recorded, "recorded"), (made, heard.mel_made, "made")):
        _image(axes, mel, heard, cmap="magma", vmin=low, vmax=high)
        axes.set_ylabel(f"{name}, mel band")
    for axes in rest:
        _image(axes, heard.sight, heard, cmap="Greys")
        axes.set_ylabel("phone looked at")
        if heard.phone_ends is not None:
            ends = np.append(0, heard.phone_ends) * heard.frame_s
            axes.stairs(np.arange(len(heard.phone_ends)), ends, baseline=None, color=PATH)
    (rest[-1] if rest else made).set_xlabel("seconds")
    recorded.set_title(heard.name, fontsize=9, parse_math=False)
    return figure


def _image(axes: Any, rows: np.ndarray | None, heard: Heard, **look: Any) -> None:
    assert rows is not None
    extent = (0, len(rows) * heard.frame_s, -0.5, rows.shape[1] - 0.5)
    axes.imshow(rows.T, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **look)
