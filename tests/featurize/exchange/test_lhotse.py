"""A store as Lhotse's cuts: Lhotse reads its own numbers with nothing of ours, and a store can come of them."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest

from headrace import store
from headrace.cli.store import main
from headrace.featurize.exchange import export_lhotse
from tests.helpers import training_store
from tests.helpers.commands import build, call
from tests.helpers.corpora import make_tree

lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed: pip install -e '.[bench]'")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuts")
    assert build(make_tree(folder / "corpus", 8), folder / "store").exit_code == 0
    return folder / "store"


@pytest.fixture(scope="module")
def written(built: Path) -> Path:
    out = built.parent / "lhotse"
    done = call(main, "export", built, "--to", "lhotse", "--out", out)
    assert done.exit_code == 0 and "8 utterances" in done.output
    return out


def test_lhotse_reads_our_numbers(built: Path, written: Path) -> None:
    corpus, cuts = store.open(built), lhotse.CutSet.from_file(written / "cuts.jsonl.gz")
    assert [cut.id for cut in cuts] == corpus.ids.tolist()
    for number, cut in enumerate(cuts):
        lhotse.validate(cut)
        assert cut.num_frames == corpus.frames[number]
        assert np.array_equal(cut.load_features(), corpus.read("mel", number))
        assert np.array_equal(cut.load_audio(), corpus.read("wave", number).reshape(1, -1) / np.float32(32768))
        assert np.array_equal(cut.load_mfcc(), corpus.read("mfcc", number))
        assert np.array_equal(cut.load_phones(), corpus.read("phones", number))
        (said,) = cut.supervisions
        assert (said.text, said.speaker, said.language) == (
            corpus.texts[number],
            corpus.speakers[number],
            corpus.languages[number],
        )


def test_a_window_of_a_cut_is_a_window_of_its_frames(built: Path, written: Path) -> None:
    corpus, cut = store.open(built), lhotse.CutSet.from_file(written / "cuts.jsonl.gz")[3]
    window = cut.truncate(offset=0.2, duration=0.3)
    assert np.array_equal(window.load_features(), corpus.read("mel", 3)[10:25])
    assert np.array_equal(window.load_mfcc(), corpus.read("mfcc", 3)[10:25])


def test_the_other_manifests_say_the_same(written: Path) -> None:
    sets = {
        "recordings": lhotse.RecordingSet,
        "supervisions": lhotse.SupervisionSet,
        "features": lhotse.FeatureSet,
    }
    one = lhotse.CutSet.from_manifests(
        **{name: kind.from_file(written / f"{name}.jsonl.gz") for name, kind in sets.items()}
    )
    cuts = lhotse.CutSet.from_file(written / "cuts.jsonl.gz")
    assert [cut.recording for cut in one] == [cut.recording for cut in cuts]
    assert [cut.supervisions for cut in one] == [cut.supervisions for cut in cuts]
    assert [cut.features for cut in one] == [cut.features for cut in cuts]


@pytest.mark.parametrize("preset", ["gpt-sovits-v2", "hifigan-22k"])
def test_frames_count_the_same_at_any_rate(tmp_path: Path, preset: str) -> None:
    from headrace.featurize.pipeline.presets import PRESETS

    frames = (4, 5, 7, 9, 33, 99, 100, 101, 250, 333)
    training_store.build(tmp_path / "store", frames, PRESETS[preset])
    assert call(main, "export", tmp_path / "store", "--to", "lhotse", "--out", tmp_path / "out").exit_code == 0
    for cut, count in zip(lhotse.CutSet.from_file(tmp_path / "out" / "cuts.jsonl.gz"), frames, strict=True):
        assert len(cut.load_mfcc()) == count
        assert cut.load_audio().shape == (1, count * PRESETS[preset].spectral.hop)


def test_alignments_come_along(tmp_path: Path) -> None:
    corpus = training_store.build(tmp_path / "store")
    assert call(main, "export", tmp_path / "store", "--to", "lhotse", "--out", tmp_path / "out").exit_code == 0
    cut = lhotse.CutSet.from_file(tmp_path / "out" / "cuts.jsonl.gz")[5]
    phones = cut.supervisions[0].alignment["phone"]
    ends = [round(item.end * corpus.sample_rate) for item in phones]
    assert ends == corpus.read("phone_end", 5).tolist() and phones[0].start == 0


def test_a_store_of_exported_cuts_has_the_same_utterances(built: Path, written: Path, tmp_path: Path) -> None:
    done = build(written / "cuts.jsonl.gz", tmp_path / "again", "--features", "wave,phones")
    assert done.exit_code == 0, done.output
    one, other = store.open(built), store.open(tmp_path / "again")
    assert one.frames.tolist() == other.frames.tolist() and one.texts.tolist() == other.texts.tolist()
    assert one.speakers.tolist() == other.speakers.tolist()


def test_an_export_is_there_whole_or_not_at_all(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: io.BytesIO) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(export_lhotse.Path, "write_bytes", full)
    done = call(main, "export", built, "--to", "lhotse", "--out", tmp_path / "out")
    assert done.exit_code == 1 and "No space left on the device" in done.output and not list(tmp_path.iterdir())
