"""Plot single utterances of a store."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import matplotlib
import numpy as np

from headrace.featurize.files.folders import AUDIO_SUFFIXES
from headrace.store import alignment
from headrace.store.errors import StoreError, UsageError
from headrace.store.storage.file_names import portable_name
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
LABEL_POINTS, ROW_POINTS, LABEL_GAP = 7, 10, 0.5
"""Size of labels, distance of their rows, and the gap between two labels relative to their size."""
MARGIN_POINTS = 110
"""Width of the picture that the panels leave to their scales."""
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
    axes[-1, 0].set_xlabel("seconds")
    axes[-1, 0].set_xlim(0, seconds)
    segments = alignment.read_segments(store, number)
    if segments:
        _draw_phones(axes[:, 0], store, number, segments)
    title = _title(store, number)
    figure.suptitle(title, fontsize=10, parse_math=False, family=_families(title))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a missing glyph is drawn as a box
        with output_file(target) as draft:
            figure.savefig(draft, dpi=110, format=_image_format(target))
    plt.close(figure)


def _title(store: Store, number: int) -> str:
    """Return the name of an utterance, who speaks in which language, and its text, as far as a line has room."""
    from headrace.featurize.text.symbols import TABLES

    phones = store.read("phones", number) if "phones" in store.features else ()
    spoken = " ".join(TABLES["headrace-ipa"][id].strip("/") for id in phones)
    id, speaker, language = (readable(str(names[number])) for names in (store.ids, store.speakers, store.languages))
    shown = (f"{id}   {speaker}, {language}", readable(str(store.texts[number]), spoken))
    return "\n".join(line if len(line) < 120 else line[:117] + "..." for line in shown)


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
    available = _upright_fonts()
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
    """Draw MFCC without the first coefficient, the level, and each of the others on a scale of its own.

    The low ones vary so much more that the high ones would be of one colour.
    """
    rows = store.read("mfcc", number)[:, 1:].astype(np.float32)
    spread = rows.std(0)
    _draw_image(axis, (rows - rows.mean(0)) / np.where(spread > 0, spread, 1), seconds, "MFCC")


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
    from headrace.featurize.text.symbols import MARKS, TABLES

    sounds = segments.phones != alignment.SILENCE
    starts, ends = segments.starts[sounds] / store.sample_rate, segments.ends[sounds] / store.sample_rate
    words, names = spoken_words(store, number), [TABLES["headrace-ipa"][id] for id in store.read("phones", number)]
    edges = {edge for word in words for edge in (word.first, word.stop)}
    for n, start in enumerate(starts.tolist()):
        for axis in axes:
            axis.axvline(start, color=PALE, linewidth=1.4 if n in edges else 0.6, alpha=0.8)
    names = [f"◌{name.strip('/')}" if name in MARKS else name.strip("/") or name for name in names]
    middles = [(starts[word.first] + ends[word.stop - 1]) / 2 for word in words]
    spelled = [readable(word.label, "".join(names[word.first : word.stop])) for word in words]
    phone_rows = _write_labels(axes[0], ((starts + ends) / 2).tolist(), names, first_row=0)
    _write_labels(axes[0], middles, spelled, first_row=phone_rows)


def _write_labels(axis: Axes, seconds: Sequence[float], labels: Sequence[str], *, first_row: int) -> int:
    """Write labels above a panel, in as many rows as keep them apart. Returns the row above them.

    Args:
        axis: whose limits are those of the picture.
        seconds: where the middles of the labels are, ascending.
        first_row: the lowest row, 0 at the panel.
    """
    style: dict[str, Any] = {"ha": "center", "fontsize": LABEL_POINTS, "color": PALE, "parse_math": False}
    points = (axis.figure.bbox.width / axis.figure.dpi * 72 - MARGIN_POINTS) / axis.get_xlim()[1]
    ends = list[float]()
    for second, label in zip(seconds, labels, strict=True):
        half = LABEL_POINTS * (sum(map(_width, label)) + LABEL_GAP) / 2
        row = next((row for row, end in enumerate(ends) if end <= second * points - half), len(ends))
        ends[row : row + 1] = [second * points + half]
        above = (0, 2 + ROW_POINTS * (first_row + row))
        axis.annotate(
            label, (second, 1), above, axis.get_xaxis_transform(), "offset points", family=_families(label), **style
        )
    return first_row + len(ends)


def _width(char: str) -> float:
    """Return how wide a character is at most, relative to the size of the font."""
    if unicodedata.combining(char):
        return 0
    return 1.05 if unicodedata.east_asian_width(char) in "WF" or char in "mwMW@…◌" else 0.8


def readable(text: str, spoken: str = "") -> str:
    """Return a text as a picture can show it.

    Args:
        spoken: its phones, to be shown in its place where no installed font has its characters.
    Returns:
        The text; or its phones; or, without phones, the text with U+XXXX for what no font has.
    """
    missing = set(text) - set().union(*map(_characters, _families(text)))
    missing = {char for char in missing if char.isprintable() and not char.isspace()}
    if not missing:
        return text
    return spoken or "".join(f"U+{ord(char):04X} " if char in missing else char for char in text).strip()


@cache
def _families(text: str) -> list[str]:
    """Return the fonts for a text by preference: those of FONTS, and one more that has what all of these lack."""
    families = _installed(FONTS)
    lacking = {char for char in text if char.isprintable()}.difference(*map(_characters, families))
    if lacking:
        having = ((len(lacking & _characters(name)), name) for name in sorted(_upright_fonts()))
        count, best = max(having, default=(0, ""))
        families = [*families, *([best] if count else [])]
    return families


@cache
def _characters(family: str) -> frozenset[str]:
    """Return the characters that an installed font has."""
    file = _upright_fonts().get(family)
    try:
        return frozenset(map(chr, font_manager.get_font(file).get_charmap())) if file else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


def _upright_fonts() -> dict[str, str]:
    """Return the files of the installed fonts of normal style and weight, by family: asking for others logs a line."""
    fonts = font_manager.fontManager.ttflist
    return {font.name: font.fname for font in fonts if font.style == "normal" and font.weight in (400, "normal")}
