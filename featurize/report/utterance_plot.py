"""Plot single utterances of a store."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import matplotlib
import numpy as np

from headrace.featurize.files.folders import AUDIO_SUFFIXES
from headrace.store import alignment
from headrace.store.errors import StoreError, UsageError
from headrace.store.file_names import portable_name
from headrace.store.storage.output_files import output_file

matplotlib.use("Agg")
from matplotlib import font_manager
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from headrace.store.alignment import Segments
    from headrace.store.reader import Store
    from headrace.store.schema import FeatureSpec

INK, PALE, CURVE = "#1b3a57", "#c8553d", "#2fb5e0"
FONTS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "PingFang SC",
    "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Noto Sans",
)  # fmt: skip
"""Fonts, by preference, as far as they are installed. The first one has neither Han nor Hangul."""
FORMATS = ("png", "jpg", "jpeg", "pdf", "svg", "webp", "tif", "tiff")

Drawer: TypeAlias = "Callable[[Axes, Store, int, float], None]"
"""Draws a feature of an utterance into a panel: axes, store, number of the utterance, and its length in seconds."""


def draw_utterance(store: Store, number: int, target: Path) -> None:
    """Plot an utterance over time: waveform, mel, curves and phone boundaries, as far as the store has them.

    Args:
        number: of the utterance.
        target: the image; its suffix is the format.
    Raises:
        UsageError: the suffix is that of another kind of file.
        StoreError: the store has no feature that can be plotted over time.
    """
    drawers: dict[str, Drawer] = {"wave": _draw_wave, "mel": _draw_mel, "mfcc": _draw_mfcc}
    drawers |= {spec.name: _draw_curve(spec.name) for spec in store.features.values() if _is_curve(spec)}
    if "mel" in store.features:
        drawers.pop("f0", None)  # it is drawn over the mel
    present = [name for name in drawers if name in store.features]
    if not present:
        raise StoreError(f"{store.path} holds {', '.join(store.features)}: nothing that can be drawn over time.")
    seconds = store.frames[number] * store.hop / store.sample_rate
    figure, axes = plt.subplots(
        len(present),
        squeeze=False,
        sharex=True,
        figsize=(min(24, max(8, 3 * seconds)), 1.2 + 1.9 * len(present)),
        layout="constrained",
    )
    for axis, name in zip(axes[:, 0], present, strict=True):
        drawers[name](axis, store, number, seconds)
    segments = alignment.read_segments(store, number)
    if segments:
        _draw_phones(axes[:, 0], store, number, segments)
    axes[-1, 0].set_xlabel("seconds")
    axes[-1, 0].set_xlim(0, seconds)
    text = str(store.texts[number])
    title = f"{store.ids[number]}   {store.speakers[number]}, {store.languages[number]}"
    full_title = f"{title}\n{text if len(text) < 120 else text[:117] + '...'}"
    figure.suptitle(full_title, fontsize=10, parse_math=False, family=_installed(FONTS))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a missing glyph is drawn as a box
        with output_file(target) as draft:
            figure.savefig(draft, dpi=110, format=_image_format(target))
    plt.close(figure)


def plot_name(id: str) -> Path:
    """Return the name of an utterance's plot in the current folder."""
    stem = id.replace("/", "_")
    for suffix in AUDIO_SUFFIXES:
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    return Path(portable_name(f"{stem}.png"))


def _image_format(target: Path) -> str:
    """Return the format that a file's suffix names, PNG without one.

    Raises:
        UsageError: it is no format of images.
    """
    suffix = target.suffix.removeprefix(".").lower() or "png"
    if suffix not in FORMATS:
        raise UsageError(f"--out {target} is no image: give it one of the suffixes {', '.join(FORMATS)}.")
    return suffix


def _installed(families: Iterable[str]) -> list[str]:
    available = set(font_manager.get_font_names())
    return [family for family in families if family in available]


def _draw_wave(axis: Axes, store: Store, number: int, seconds: float) -> None:
    wave = store.read("wave", number).ravel() / 32768
    axis.plot(np.arange(len(wave)) / store.sample_rate, wave, color=INK, linewidth=0.4)
    axis.set_ylabel("wave")
    axis.set_ylim(-1, 1)


def _draw_mel(axis: Axes, store: Store, number: int, seconds: float) -> None:
    """Draw the mel spectrogram, with F0 on a scale of its own at the right, as in Praat."""
    _draw_image(axis, store.read("mel", number), seconds, "mel band")
    if "f0" in store.features:
        f0_axis = axis.twinx()
        _draw_curve("f0")(f0_axis, store, number, seconds)
        f0_axis.set_ylim(0, 1.5 * max(1, store.read("f0", number).max()))


def _draw_mfcc(axis: Axes, store: Store, number: int, seconds: float) -> None:
    """Draw MFCC without the first coefficient, the level, whose range would hide the others."""
    _draw_image(axis, store.read("mfcc", number)[:, 1:], seconds, "MFCC")


def _is_curve(spec: FeatureSpec) -> bool:
    """Return whether a feature is one number a frame, such as F0 or energy."""
    return spec.axis == "frames" and spec.channels is None


def _draw_curve(name: str) -> Drawer:
    def draw(axis: Axes, store: Store, number: int, seconds: float) -> None:
        values = store.read(name, number).astype(np.float32)
        values[values == 0] = np.nan  # unvoiced
        axis.plot((np.arange(len(values)) + 0.5) * store.hop / store.sample_rate, values, color=CURVE, marker=".", ms=3)
        axis.set_ylabel(name)

    return draw


def _draw_image(axis: Axes, rows: np.ndarray, seconds: float, label: str) -> None:
    extent = (0, seconds, 0, rows.shape[1])
    axis.imshow(rows.T.astype(np.float32), origin="lower", aspect="auto", extent=extent, cmap="magma")
    axis.set_ylabel(label)


def _draw_phones(axes: np.ndarray, store: Store, number: int, segments: Segments) -> None:
    """Draw phone and word boundaries into every panel, and phones and words above the first."""
    from headrace.featurize.alignment.words import spoken_words
    from headrace.featurize.text.symbols import TABLES

    sounds = segments.phones != alignment.SILENCE
    starts, ends = segments.starts[sounds] / store.sample_rate, segments.ends[sounds] / store.sample_rate
    words = spoken_words(store, number)
    edges = {edge for word in words for edge in (word.first, word.stop)}
    for n, phone in enumerate(store.read("phones", number).tolist()):
        for axis in axes:
            axis.axvline(starts[n], color=PALE, linewidth=1.4 if n in edges else 0.6, alpha=0.8)
        _write_label(axes[0], (starts[n] + ends[n]) / 2, TABLES["headrace-ipa"][phone], height=1.02)
    for word in words:
        _write_label(axes[0], (starts[word.first] + ends[word.stop - 1]) / 2, word.label, height=1.12)


def _write_label(axis: Axes, seconds: float, label: str, *, height: float) -> None:
    """Write a label above a panel; `height` is relative to the panel's."""
    style: dict[str, Any] = {"ha": "center", "fontsize": 7, "color": PALE, "parse_math": False}
    axis.text(seconds, height, label, transform=axis.get_xaxis_transform(), family=_installed(FONTS), **style)
