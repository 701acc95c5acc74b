"""A store's alignment as TextGrids: what is written is what our own reader reads, and Praat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace import store
from headrace.cli.store import main
from headrace.featurize.alignment import intervals, textgrid
from headrace.featurize.exchange import export_textgrid
from headrace.featurize.exchange.export_textgrid import Interval, textgrid_names
from headrace.store import alignment
from tests.helpers import training_store
from tests.helpers.commands import add, build, call
from tests.helpers.corpora import make_tree
from tests.helpers.textgrids import write_textgrid


def test_times_come_back_exactly(tmp_path: Path) -> None:
    corpus = training_store.build(tmp_path / "store")
    done = call(main, "export", tmp_path / "store", "--to", "textgrid", "--out", tmp_path / "out")
    assert done.exit_code == 0 and f"{len(corpus)} utterances" in done.output
    for number, id in enumerate(corpus.ids):
        seconds = int(corpus.frames[number]) * corpus.hop / corpus.sample_rate
        read = textgrid.read_textgrid(tmp_path / "out" / f"{id}.TextGrid", 0.0, seconds)
        ends = np.rint(read.phones.ends_s * corpus.sample_rate).astype(int)
        assert ends.tolist() == corpus.read("phone_end", number).tolist()
        assert read.phones.ends_s.tolist() == (ends / corpus.sample_rate).tolist()


def test_words_of_a_learned_alignment(tmp_path: Path) -> None:
    assert build(make_tree(tmp_path / "corpus", 8), tmp_path / "S", "--features", "wave,phones").exit_code == 0
    nothing = call(main, "export", tmp_path / "S", "--to", "textgrid", "--out", tmp_path / "out")
    assert nothing.exit_code == 1 and "featurize add" in nothing.output and not (tmp_path / "out").exists()
    assert add(tmp_path / "S", "align").exit_code == 0
    assert call(main, "export", tmp_path / "S", "--to", "textgrid", "--out", tmp_path / "out").exit_code == 0
    corpus = store.open(tmp_path / "S")
    for path in (tmp_path / "out").rglob("*.TextGrid"):
        number = corpus.find(next(id for id in corpus.ids if id.startswith(f"{path.parent.name}/{path.stem}.")))
        read = textgrid.read_textgrid(path, 0.0, int(corpus.frames[number]) * corpus.hop / corpus.sample_rate)
        times = corpus.read("align", number)
        lasting = times[times[:, 1] > times[:, 0]] / corpus.sample_rate
        assert np.array_equal(np.stack([read.phones.starts_s, read.phones.ends_s], 1), lasting)
        assert " ".join(read.words.labels) == corpus.texts[number].rstrip(".")
        assert set(read.words.starts_s) <= set(read.phones.starts_s)
    assert len(list((tmp_path / "out").rglob("*.TextGrid"))) == sum(
        alignment.read_segments(corpus, n) is not None for n in range(len(corpus))
    )


def test_a_store_of_the_exported_is_the_same(tmp_path: Path) -> None:
    tiers = {"phones": [(0.05, 0.2, "HH"), (0.2, 0.41, "AY1"), (0.41, 0.5, ","), (0.5, 0.7, "B"), (0.7, 0.9, "AY1")]}
    for name in ("one", "again"):
        (tmp_path / name / "anna").mkdir(parents=True)
        wave = np.random.default_rng(0).normal(0, 0.1, 32_000)
        soundfile.write(tmp_path / name / "anna" / "1.wav", wave, 32_000, subtype="PCM_16")
        (tmp_path / name / "anna" / "1.txt").write_text("hi, bye")
    write_textgrid(tmp_path / "one" / "anna" / "1.TextGrid", tiers, 1.0)
    assert build(tmp_path / "one", tmp_path / "S", "--features", "wave,phones").exit_code == 0
    assert call(main, "export", tmp_path / "S", "--to", "textgrid", "--out", tmp_path / "out").exit_code == 0
    (tmp_path / "out" / "anna" / "1.TextGrid").rename(tmp_path / "again" / "anna" / "1.TextGrid")
    assert build(tmp_path / "again", tmp_path / "T", "--features", "wave,phones").exit_code == 0
    one, again = store.open(tmp_path / "S"), store.open(tmp_path / "T")
    for name in ("phones", "phone_end", "phone_frames"):
        assert np.array_equal(one.read(name, 0), again.read(name, 0))


labels = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)


@example([(0, 100, '"'), (50, 100, 'a""b')], 16_000)
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 9000), labels), min_size=1, max_size=8),
    st.sampled_from([16_000, 22_050, 44_100]),
)
def test_any_label_comes_back_and_any_sample(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, str]], rate: int
) -> None:
    bounds = np.cumsum([(gap, length) for gap, length, _ in drawn]).reshape(-1, 2)
    times = zip((bounds / rate).tolist(), drawn, strict=True)
    intervals = [Interval(start, end, label) for (start, end), (_, _, label) in times]
    seconds = float(bounds[-1, 1] + 10) / rate
    path = tmp_path_factory.mktemp("grid") / "a.TextGrid"
    path.write_text(export_textgrid.textgrid({"words": intervals, "phones": intervals}, seconds), encoding="utf-8")
    read = textgrid.read_textgrid(path, 0.0, seconds)
    for tier in (read.words, read.phones):
        found = np.stack([tier.starts_s, tier.ends_s], 1)
        assert np.array_equal(np.rint(found * rate), bounds) and np.abs(found - bounds / rate).max() < 1e-15
        assert tier.labels == tuple(interval.label for interval in intervals)


def test_names() -> None:
    ids = (
        "anna/1.wav",
        "anna/1.flac",
        "a.wav#0-100",
        "a.wav#100-200",
        "/x/../../y.wav",
        "utt",
        "2.5",
        "..",
        "v.1/é.WAV",
    )
    one, other, *names = textgrid_names(ids)
    assert one != other and one.startswith("anna/1~") and other.startswith("anna/1~")
    assert names == [
        "a#0-100.TextGrid",
        "a#100-200.TextGrid",
        "x/y.TextGrid",
        "utt.TextGrid",
        "2.5.TextGrid",
        "...TextGrid",
        "v.1/é.TextGrid",
    ]


def test_a_mark_of_a_tier_is_itself() -> None:
    assert intervals.label_symbols(",") == (",",) and intervals.label_symbols("SP") == ("SP",)
