"""`train voice`: from a list of stores to a voice that speaks; whatever stops it, the same command continues."""

from __future__ import annotations

import json
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
import soundfile
from click.testing import Result

from headrace import store
from headrace.cli import train as cli
from headrace.featurize.text.symbols import TABLES
from headrace.train.checkpoints import trained_models
from headrace.train.checkpoints.checkpoint import Checkpoints
from tests.helpers.commands import add, build, call
from tests.helpers.corpora import make_tree
from tests.helpers.runs import assert_same_run

TEXTS = {
    "en": ["The river runs down.", "Seven dogs jump over a fox.", "It is late."],
    "zh": ["今天天气很好。", "我们去河边走走。", "他不来了。"],
    "ja": ["今日はいい天気です。", "川まで歩きましょう。", "もう遅いです。"],
    "de": ["Der Fluss ist breit.", "Sieben Hunde springen.", "Es ist schon spät."],
}
TABLE = {"en": "gpt-sovits-v2", "zh": "gpt-sovits-v2", "ja": "gpt-sovits-v2", "de": "headrace-ipa"}


def corpora(folder: Path, languages: list[str], count: int) -> Path:
    """A corpus and a store of each language, all with the same names; a list of the stores."""
    for number, language in enumerate(languages):
        corpus = make_tree(folder / f"corpus-{language}", count, seconds=2 + 0.25 * number, rates=(32_000,))
        for place, file in enumerate(sorted(corpus.rglob("*.txt"))):
            file.write_text(TEXTS[language][place % 3] + "\n", encoding="utf-8")
        words = ("--features", "wave,mfcc,phones", "--language", language, "--symbols", TABLE[language])
        assert build(corpus, folder / language, *words).exit_code == 0
    (folder / "all.txt").write_text("\n".join(languages) + "\n")
    return folder / "all.txt"


def words(steps: int) -> tuple[object, ...]:
    numbers = ("--sovits-steps", steps, "--gpt-steps", steps, "--checkpoint-every", 1, "--batch-frames", 400)
    return ("--preset", "tiny", "--codes", 40, "--device", "cpu", *numbers)


class TestTwoCorpora:
    @pytest.fixture(scope="class")
    @staticmethod
    def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return corpora(tmp_path_factory.mktemp("voice"), ["en", "de"], 6)

    @pytest.fixture
    def quick(self, stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Codes are added by the worker of the tests."""

        def add_codes(config: object, codes: int, quiet: bool) -> None:
            assert add(stores, "semantic", "--codes", codes).exit_code == 0

        monkeypatch.setattr(cli, "_add_codes", add_codes)

    def train(self, stores: Path, out: Path, *more: object) -> Result:
        return call(cli.main, "voice", stores, "--out", out, *words(2), *more)

    def test_it_is_trained_and_speaks(
        self, stores: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = self.train(stores, tmp_path / "VOICE", "--json")
        assert done.exit_code == 0, done.stderr
        summary = json.loads(done.stdout)
        assert summary["codebook"] == store.open(stores).features["semantic"].codebook
        assert {said["language"] for said in summary["samples"]} == {"en", "de"}
        assert all(soundfile.info(said["file"]).samplerate == 32_000 for said in summary["samples"])
        assert trained_models.load_sovits(tmp_path / "VOICE").config.symbols == len(TABLES["headrace-ipa"])
        spoken = tmp_path / "hello.wav"
        said = call(
            cli.main, "sample", "--voice", tmp_path / "VOICE", "--text", "Hi.", "--out", spoken, "--device", "cpu"
        )
        assert said.exit_code == 0 and spoken.exists() and "not known" not in said.stderr
        exported = call(cli.main, "export", tmp_path / "VOICE", "--out", tmp_path)
        assert exported.exit_code == 2 and "No published version has the sizes" in exported.stderr

        saved, save = [0], Checkpoints.save

        def killed(*given: object, **more: object) -> Path:
            made = save(*given, **more)  # type: ignore[arg-type]
            saved[0] += 1
            if saved[0] in (1, 3):  # after the first step of either stage
                raise KeyboardInterrupt
            return made

        monkeypatch.setattr(Checkpoints, "save", killed)
        codes = [self.train(stores, tmp_path / "KILLED").exit_code for _ in range(3)]
        assert codes[0] and codes[1] and not codes[2]
        for stage in ("sovits", "gpt"):
            assert_same_run(tmp_path / "KILLED" / stage, tmp_path / "VOICE" / stage, steps=2)
        for one in (tmp_path / "VOICE" / "samples").iterdir():
            assert one.read_bytes() == (tmp_path / "KILLED" / "samples" / one.name).read_bytes()

    def test_what_cannot_become_a_voice_is_refused_at_once(self, stores: Path, quick: None, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "thesis.txt").touch()
        refused = self.train(stores, tmp_path / "other")
        assert refused.exit_code == 2 and "holds no voice ('thesis.txt' is there)" in refused.stderr
        unfit = self.train(stores, tmp_path / "big", "--preset", "v2")
        assert unfit.exit_code == 2 and "featurize drop" in unfit.stderr and not (tmp_path / "big" / "sovits").exists()
        said = call(cli.main, "sample", "--voice", tmp_path, "--text", "Hi.", "--out", tmp_path / "x.wav")
        assert said.exit_code == 1 and "is not a voice" in said.stderr


@pytest.mark.soak
def test_four_corpora_killed_at_ten_random_moments_become_the_same_voice(tmp_path: Path) -> None:
    """Four languages, all files with the same names. Codes are learned over all of them."""
    stores, random = corpora(tmp_path / "stores", ["en", "zh", "ja", "de"], 8), np.random.default_rng(14)
    copied = shutil.copytree(tmp_path / "stores", tmp_path / "again") / "all.txt"
    align = [sys.executable, "-m", "headrace.featurize", "add", stores, "content,energy", "--workers", "1"]
    assert subprocess.run([*map(str, align)], capture_output=True).returncode == 0
    assert subprocess.run([str(copied) if word == stores else str(word) for word in align]).returncode == 0
    begun = time.monotonic()
    assert run(stores, tmp_path / "VOICE") == 0
    took, killed = time.monotonic() - begun, 0
    while killed < 10:
        code = run(copied, tmp_path / "KILLED", kill_after=random.uniform(3, took))
        killed += code == -signal.SIGKILL
        if code == 0 and killed < 10:
            shutil.rmtree(tmp_path / "KILLED")
    assert run(copied, tmp_path / "KILLED") == 0
    for stage in ("sovits", "gpt"):
        assert_same_run(tmp_path / "KILLED" / stage, tmp_path / "VOICE" / stage, steps=6)
    voices = [json.loads((tmp_path / name / "voice.json").read_text()) for name in ("VOICE", "KILLED")]
    assert voices[0]["utterance"] == voices[1]["utterance"]
    samples = [sorted((tmp_path / name / "samples").iterdir()) for name in ("VOICE", "KILLED")]
    assert len(samples[0]) == 4 and [one.read_bytes() for one in samples[0]] == [one.read_bytes() for one in samples[1]]


def run(stores: Path, out: Path, kill_after: float = 3600.0) -> int:
    """The command as a process of its own; killed with all its own after so many seconds. Its exit code."""
    command = [sys.executable, "-m", "headrace.train", "voice", stores, "--out", out, *words(6)]
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, said = process.communicate(timeout=kill_after)
        assert process.returncode == 0, said.decode()
    except subprocess.TimeoutExpired:
        workers = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        psutil.wait_procs(workers, timeout=30)
    return process.returncode
