"""One command from a corpus to a store that both stages train on; killed at any moment, the same command completes it
to the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result

from headrace import store
from headrace.cli.progress import BuildProgress
from headrace.cli.train import main as train
from headrace.featurize.features import codebooks, kmeans
from headrace.featurize.text.symbols import SYMBOLS, TABLES
from headrace.store.errors import UsageError
from headrace.store.integrity.verify import verify
from headrace.train.checkpoints import trained_models, upstream_files
from headrace.train.config_sections import ModelConfig
from headrace.train.models import gpt_config, sovits_config
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.precision import Precision
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.stages.gpt_stage import GptStage
from tests.helpers.commands import build, call
from tests.helpers.corpora import make_tree

CPU = torch.device("cpu")
WORDS = ("--features", "wave,mel,mfcc,f0,content,semantic,align", "--codes", 40, "--part-hours", 0.002)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("whole") / "corpus", 8, seconds=2.5)


@pytest.fixture(scope="module")
def built(corpus: Path) -> Path:
    root = corpus.parent / "STORE"
    assert build(corpus, root, *WORDS).exit_code == 0 and not list(verify(root))
    return root


def all_bytes(root: Path) -> dict[str, bytes]:
    """Of every file but `build.json`, which says how long it took."""
    files = (file for file in sorted(root.rglob("*")) if file.is_file() and file.name not in ("build.json", ".lock"))
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_what_one_build_makes_both_stages_train_on(built: Path, tmp_path: Path, stage: str) -> None:
    opened = store.open(built)
    assert {"phones", "align", "semantic", "content"} <= opened.features.keys(), "what is needed comes along"
    words = ("--stage", stage, "--preset", "tiny", "--max-steps", 2, "--batch-frames", 600, "--device", "cpu")
    trained = call(train, "run", built, "--out", tmp_path / "RUN", *words)
    assert trained.exit_code == 0, trained.stderr
    assert (tmp_path / "RUN" / "checkpoints" / "step-00000002.pt").exists()


class TestCodebooks:
    """Two models speak together if the codes of one are those of the other. Equal numbers of codes do not suffice."""

    TINY = ("--preset", "tiny", "--max-steps", 1, "--batch-frames", 600, "--device", "cpu")

    @pytest.fixture(scope="class")
    @staticmethod
    def folder(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Both models of one store, and a decoder of a store that learned as many codes of its own."""
        folder = tmp_path_factory.mktemp("codebooks")
        other = make_tree(folder / "corpus", 6, seconds=1.5)
        assert build(other, folder / "OTHER", "--features", "wave,mfcc,phones,semantic", "--codes", 40).exit_code == 0
        for name, stage, root in (
            ("sovits", "sovits", built),
            ("gpt", "gpt", built),
            ("other", "gpt", folder / "OTHER"),
        ):
            trained = call(train, "run", root, "--stage", stage, "--out", folder / name, *TestCodebooks.TINY)
            assert trained.exit_code == 0, trained.stderr
            assert stage == "gpt" or "codebook store: its 40 codes are those that gpt is trained on" in trained.stderr
        return folder

    def speak(self, folder: Path, built: Path, sovits: str, gpt: str, *more: str) -> Result:
        (folder / "hi.wav").unlink(missing_ok=True)
        words: tuple[object, ...] = (
            "--store",
            built,
            "--utterance",
            0,
            "--text",
            "Hi.",
            "--out",
            folder / "hi.wav",
            "--device",
            "cpu",
        )
        return call(
            train, "sample", "--sovits", folder / sovits, "--gpt", folder / gpt, *words, "--attempts", "1", *more
        )

    def test_models_of_one_store_speak_together(self, folder: Path, built: Path) -> None:
        spoken = self.speak(folder, built, "sovits", "gpt")
        assert spoken.exit_code == 0 and "not known" not in spoken.stderr
        semantic = store.open(built).features["semantic"]
        generator = trained_models.load_sovits(folder / "sovits")
        assert generator.config.codebook_size == 40 and semantic.codebook in generator.codebooks
        assert trained_models.load_gpt(folder / "gpt").codebook == semantic.codebook != ""

    def test_models_of_two_stores_do_not(self, folder: Path, built: Path) -> None:
        spoken = self.speak(folder, built, "sovits", "other")
        assert spoken.exit_code == 2 and spoken.stderr.count("on codes by k-means ") == 2
        told = [line for line in spoken.stderr.splitlines() if not line.startswith("weights of ")]
        assert len(told) == 1 and not (folder / "hi.wav").exists()
        mixed = self.speak(folder, built, "sovits", "other", "--mixed-origins")
        assert mixed.exit_code == 0 and "models use one codebook" in mixed.stderr and (folder / "hi.wav").exists()

    def test_samples_of_a_run_are_spoken_by_a_voice_of_the_same_codes(self, folder: Path, tmp_path: Path) -> None:
        words = ("run", folder / "OTHER", "--stage", "gpt", "--out", tmp_path / "run", "--samples", 1, *self.TINY)
        words += ("--voice", folder / "sovits")
        refused = call(train, *words)
        assert refused.exit_code == 2 and refused.stderr.count("on codes by k-means ") == 2
        mixed = call(train, *words, "--mixed-origins")
        assert mixed.exit_code == 0, mixed.stderr

    def test_weights_that_do_not_record_it_are_spoken_with_and_told_of(self, folder: Path, built: Path) -> None:
        old = shutil.copytree(folder / "gpt", folder / "old")
        path = old / "checkpoints" / "step-00000001.pt"
        state = torch.load(path, weights_only=True)
        del state["codebook"]
        torch.save(state, path)
        spoken = self.speak(folder, built, "sovits", "old")
        assert spoken.exit_code == 0 and "it is not known whether both models use one codebook" in spoken.stderr

    def test_a_decoder_of_other_codes_is_nothing_to_begin_with(self, tmp_path: Path) -> None:
        sizes, file = gpt_config.tiny(), tmp_path / "s1.ckpt"
        weights = {f"model.{name}": value for name, value in Text2SemanticDecoder(sizes).state_dict().items()}
        upstream_files.write(file, weights, {}, "", codebook="aa")
        model, precision = ModelConfig(stage="gpt", preset="tiny", init=file), Precision.choose("fp32", CPU)
        for codebook, said in (("aa", []), ("", ["it is not known whether"])):
            stage = GptStage(sizes, precision=precision, device=CPU, optim=GptOptimConfig(), codebook=codebook)
            assert [line[:23] for line in stage.load_pretrained(model)[1:]] == said
        stage = GptStage(sizes, precision=precision, device=CPU, optim=GptOptimConfig(), codebook="bb")
        with pytest.raises(UsageError, match=r"of another codebook \(aa\) than those of the store \(bb\)"):
            stage.load_pretrained(model)

    def test_a_generator_is_not_trained_on_codes_that_are_not_its_own(self, folder: Path, built: Path) -> None:
        """The codes of a run have the digest of its quantiser, the same in its export."""
        root = shutil.copytree(folder / "OTHER", folder / "CODED")
        own = call(train, "run", root, "--codebook", "own", *self.TINY, "--out", folder / "own")
        assert own.exit_code == 0 and "codebook own: asked for" in own.stderr
        generator = trained_models.load_sovits(folder / "own")
        assert generator.config.codebook_size == 64 and len(generator.codebooks) == 1
        weights = {**generator.state_dict(), **SynthesizerTrn(generator.config).enc_q.state_dict(prefix="enc_q.")}
        upstream_files.write(folder / "s2G.pth", weights, {}, "")
        begun = call(train, "run", root, "--init", folder / "s2G.pth", *self.TINY, "--out", folder / "from")
        assert begun.exit_code == 0 and "a gpt that is trained on them cannot speak with this model" in begun.stderr


def test_a_quantiser_of_clusters_gives_the_same_codes() -> None:
    random = torch.Generator().manual_seed(3)
    content, means = torch.randn(500, 24, generator=random), torch.randn(9, 24, generator=random)
    weight, bias, entries = codebooks.from_means(means, 12)
    made = F.conv1d(content.unflatten(1, (2, 12)).flatten(0, 1).T[None], weight, bias, stride=2)[0].T
    assert torch.equal(kmeans.nearest(made, entries), kmeans.nearest(content, means))
    wide = codebooks.from_means(means, 40)
    assert not wide.weight.any() and torch.equal(
        torch.cdist(wide.entries, wide.entries) > 3, torch.cdist(means, means) > 3
    )


def test_a_language_beyond_upstreams_phones_trains_both_stages_too(tmp_path: Path) -> None:
    """A model that begins from nothing has room for all symbols of our table. Upstream has no such model."""
    corpus, root = make_tree(tmp_path / "corpus", 4, seconds=2.5), tmp_path / "STORE"
    features = ("--features", "wave,mfcc,semantic,phones", "--codes", 40)
    assert build(corpus, root, *features, "--symbols", "headrace-ipa", "--language", "de").exit_code == 0
    opened = store.open(root)
    assert max(opened.read("phones", n).max() for n in range(len(opened))) >= len(SYMBOLS)
    for stage, made in (("sovits", trained_models.load_sovits), ("gpt", trained_models.load_gpt)):
        run = tmp_path / stage
        words = ("--stage", stage, "--preset", "tiny", "--max-steps", 1, "--batch-frames", 600, "--device", "cpu")
        assert call(train, "run", root, "--out", run, *words).exit_code == 0
        assert made(run).config.symbols == len(TABLES["headrace-ipa"])
        assert call(train, "run", root, "--out", run, "--resume", "--max-steps", 2).exit_code == 0
        refused = call(train, "export", run, "--out", tmp_path / "weights.pth")
        assert refused.exit_code == 2 and "upstream's own table of phones" in refused.stderr
    begun = call(train, "run", root, "--out", tmp_path / "init", "--init", tmp_path / "s2G.pth", "--preset", "v2")
    assert begun.exit_code != 0 and "headrace-ipa" in begun.stderr
    assert {name: len(table) for name, table in TABLES.items()} == sovits_config.SYMBOLS


def test_stopped_at_one_event_after_the_other_it_ends_in_the_same_bytes(
    corpus: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are what its user is told: of parts, of features, and of learning while it lasts."""
    root, stops, result = tmp_path / "STORE", 0, None
    while result is None or result.exit_code:
        stops += 1
        result = stopped_at(3 * stops, corpus, root, monkeypatch)
    assert stops > 6 and all_bytes(root) == all_bytes(built)


def stopped_at(count: int, corpus: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """A build that is interrupted when it tells something for the n-th time."""
    told = 0

    def tell(*_: object) -> None:
        nonlocal told
        told += 1
        if told == count:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for event in ("note", "planned", "part_done", "learning"):
            patch.setattr(BuildProgress, event, tell)
        return build(corpus, root, *WORDS)


@pytest.mark.soak
def test_killed_at_twenty_random_moments_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """Moments are spread over the whole of an undisturbed build, also over what is learned. What is left is gone on
    with until it is complete; then another store is begun."""
    corpus, random = make_tree(tmp_path / "corpus", 30, seconds=2.5), np.random.default_rng(6)
    begun = time.monotonic()
    assert run(corpus, tmp_path / "undisturbed") == 0
    took, whole, root = time.monotonic() - begun, all_bytes(tmp_path / "undisturbed"), tmp_path / "STORE"
    killed = 0
    while killed < 20:
        code = run(corpus, root, kill_after=random.uniform(0, took))
        killed += code == -signal.SIGKILL
        if code == 0:
            assert all_bytes(root) == whole
            shutil.rmtree(root)
    assert run(corpus, root) == 0
    assert all_bytes(root) == whole and not list(verify(root))


def run(corpus: Path, root: Path, kill_after: float = 3600.0) -> int:
    """The command with two workers, as a process of its own; killed with all its own after so many seconds. Its exit
    code."""
    command = [sys.executable, "-m", "headrace.featurize", "build", corpus, "--out", root, "--workers", 2, *WORDS]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, start_new_session=True)
    try:
        process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        workers = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        psutil.wait_procs(workers, timeout=30)
    return process.returncode
