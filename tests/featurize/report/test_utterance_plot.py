"""`store show` draws what a store has, and says so where that is nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from headrace import store
from headrace.featurize.report import utterance_plot
from headrace.featurize.report.utterance_plot import draw_utterance
from headrace.store import layout
from headrace.store.errors import StoreError
from headrace.store.reader import Store
from headrace.store.schema import FeatureSpec
from headrace.store.writer import Part, create_store, write_part

SPECS = {
    "wave": FeatureSpec(name="wave", axis="frames", dtype="int16", channels=640),
    "mel": FeatureSpec(name="mel", axis="frames", dtype="float16", channels=128),
    "mfcc": FeatureSpec(name="mfcc", axis="frames", dtype="float32", channels=20),
    "f0": FeatureSpec(name="f0", axis="frames", dtype="float32", channels=None),
    "phones": FeatureSpec(name="phones", axis="phones", dtype="int16", channels=None),
    "phone_end": FeatureSpec(name="phone_end", axis="phones", dtype="int32", channels=None),
}


def make_store(root: Path, *names: str, phones: int = 2, text: str = "costs $5 or 六 $") -> Store:
    specs = [SPECS[name] for name in names]
    values = {
        "wave": np.random.default_rng(0).integers(-9000, 9000, (100, 640), np.int16),
        "mel": np.random.default_rng(1).normal(size=(100, 128)).astype(np.float16),
        "f0": np.where(np.arange(100) < 40, 0, 120).astype(np.float32),
        "mfcc": np.random.default_rng(2).normal(5, 100.0 / np.arange(1, 21) ** 2, (100, 20)).astype(np.float32),
        "phones": np.resize(np.array([10, 77, 741, 1330], np.int16), phones),
        "phone_end": np.linspace(0, 64_000, phones + 1).astype(np.int32)[1:],
    }
    attributes = {"format": layout.FORMAT, "preset": "gpt-sovits-v2", "sample_rate": 32_000, "hop": 640}
    attributes["plan"] = {"parts": 1, "utterances": 1, "digest": ""}
    create_store(root, attributes | {"features": [spec.to_json() for spec in specs]})
    columns = {"frames": 100, "phones_n": phones, "aligned": 1}
    write_part(
        root,
        Part(
            number=0,
            specs=specs,
            arrays={name: values[name] for name in names},
            lengths={name: np.array([value], np.int32) for name, value in columns.items()},
            strings={"id": ["a.wav"], "speaker": ["안나"], "language": ["en"], "text": [text]},
        ),
    )
    return store.open(root)


def panels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels of the panels of every figure that is saved from now on."""
    seen: list[str] = []
    save = Figure.savefig

    def note(figure: Figure, *args: object, **kwargs: object) -> None:
        seen.extend(axis.get_ylabel() for axis in figure.axes)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", note)
    return seen


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("names", [("wave", "f0"), ("wave", "mel", "f0")])
def test_every_feature_over_time_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    seen = panels(monkeypatch)
    draw_utterance(make_store(tmp_path / "S", *names, "phones", "phone_end"), 0, tmp_path / "a.png")
    assert seen == ["mel band" if name == "mel" else name for name in names]
    assert image.imread(tmp_path / "a.png").std() > 0.05, "the picture is not empty"


def test_a_store_of_phones_alone_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing that can be drawn"):
        draw_utterance(make_store(tmp_path / "S", "phones", "phone_end"), 0, tmp_path / "a.png")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved from now on."""
    seen: list[Figure] = []
    save = Figure.savefig

    def note(figure: Figure, *args: object, **kwargs: object) -> None:
        save(figure, *args, **kwargs)
        seen.append(figure)

    monkeypatch.setattr(Figure, "savefig", note)
    return seen


@pytest.mark.filterwarnings("error::UserWarning")
def test_labels_do_not_overlap(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_utterance(make_store(tmp_path / "S", "wave", "phones", "phone_end", phones=60), 0, tmp_path / "a.png")
    [figure] = drawn
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(boxes) == 60
    assert not [1 for n, box in enumerate(boxes) for other in boxes[:n] if box.overlaps(other)]
    title = figure._suptitle.get_window_extent(renderer)
    assert not any(title.overlaps(box) for box in boxes)


@pytest.mark.filterwarnings("error::UserWarning")
def test_text_that_no_font_has_is_shown_by_its_phones(
    tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    only = {"DejaVu Sans": utterance_plot.font_manager.findfont("DejaVu Sans")}
    monkeypatch.setattr(utterance_plot, "_upright_fonts", lambda: only)
    for cached in (utterance_plot._families, utterance_plot._characters):
        cached.cache_clear()
    try:
        assert utterance_plot.readable("a六$") == "aU+516D $" and utterance_plot.readable("六", "l iu4") == "l iu4"
        assert utterance_plot.readable("Привет ř ʃ") == "Привет ř ʃ"
        draw_utterance(make_store(tmp_path / "S", "wave", "phones", "phone_end", text="六"), 0, tmp_path / "a.png")
    finally:
        utterance_plot._families.cache_clear()
    assert "六" not in drawn[0].get_suptitle() and "AE2" not in drawn[0].get_suptitle().splitlines()[0]
    assert len(drawn[0].get_suptitle().splitlines()[1].split()) == 2
    assert not capfd.readouterr().err


def test_every_coefficient_has_a_scale_of_its_own(tmp_path: Path, drawn: list[Figure]) -> None:
    """The last one varies 400 times less than the first."""
    draw_utterance(make_store(tmp_path / "S", "mfcc", "phones", "phone_end"), 0, tmp_path / "a.png")
    shown = np.asarray(drawn[0].axes[0].images[0].get_array())
    assert shown.shape == (19, 100) and np.allclose(shown.std(1), 1, atol=0.01)
