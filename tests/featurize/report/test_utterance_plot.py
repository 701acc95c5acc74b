"""`store show` draws what a store has, and says so where that is nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from headrace import store
from headrace.featurize.report.utterance_plot import draw_utterance
from headrace.store import layout
from headrace.store.errors import StoreError
from headrace.store.reader import Store
from headrace.store.schema import FeatureSpec
from headrace.store.writer import Part, create_store, write_part

SPECS = {
    "wave": FeatureSpec(name="wave", axis="frames", dtype="int16", channels=640),
    "mel": FeatureSpec(name="mel", axis="frames", dtype="float16", channels=128),
    "f0": FeatureSpec(name="f0", axis="frames", dtype="float32", channels=None),
    "phones": FeatureSpec(name="phones", axis="phones", dtype="int16", channels=None),
    "phone_end": FeatureSpec(name="phone_end", axis="phones", dtype="int32", channels=None),
}


def make_store(root: Path, *names: str) -> Store:
    specs = [SPECS[name] for name in names]
    values = {
        "wave": np.random.default_rng(0).integers(-9000, 9000, (100, 640), np.int16),
        "mel": np.random.default_rng(1).normal(size=(100, 128)).astype(np.float16),
        "f0": np.where(np.arange(100) < 40, 0, 120).astype(np.float32),
        "phones": np.array([10, 77], np.int16),
        "phone_end": np.array([30_000, 64_000], np.int32),
    }
    attributes = {"format": layout.FORMAT, "preset": "gpt-sovits-v2", "sample_rate": 32_000, "hop": 640}
    attributes["plan"] = {"parts": 1, "utterances": 1, "digest": ""}
    create_store(root, attributes | {"features": [spec.to_json() for spec in specs]})
    columns = {"frames": 100, "phones_n": 2, "aligned": 1}
    write_part(
        root,
        Part(
            number=0,
            specs=specs,
            arrays={name: values[name] for name in names},
            lengths={name: np.array([value], np.int32) for name, value in columns.items()},
            strings={"id": ["a.wav"], "speaker": ["안나"], "language": ["en"], "text": ["costs $5 or 六 $"]},
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


@pytest.mark.filterwarnings("error")
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
