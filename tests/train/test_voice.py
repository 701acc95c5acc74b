"""`train voice`: from a list of stores to a voice that speaks; whatever stops it, the same command continues."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from click.testing import Result

from headrace import store
from headrace.cli import train as cli
from headrace.featurize.text.symbols import TABLES
from headrace.store.errors import UsageError
from headrace.store.integrity.verify import verify
from headrace.train import voice
from headrace.train.checkpoints import trained_models
from headrace.train.checkpoints.checkpoint import Checkpoints
from tests.helpers.commands import add, build, call, part_bytes
from tests.helpers.corpora import make_tree
from tests.helpers.runs import assert_same_run

TEXTS = {
    "en": ["The river runs down.", "Seven dogs jump over a fox.", "It is late."],
    "zh": ["今天天气很好。", "我们去河边走走。", "他不来了。"],
    "ja": ["今日はいい天気です。", "川まで歩きましょう。", "もう遅いです。"],
    "de": ["Der Fluss ist breit.", "Sieben Hunde springen.", "Es ist schon spät."],
}
TABLE = {"en": "gpt-sovits-v2", "zh": "gpt-sovits-v2", "ja": "gpt-sovits-v2", "de": "headrace-ipa"}
KILLS, STEPS, POLL_SECONDS = 10, 3, 0.02
"""Of the long test: how often it is killed, and steps of each model."""
STAGES = ("align", "codes", "sovits", "gpt", "samples")


def corpora(folder: Path, languages: list[str], count: int, table: str | None = None) -> Path:
    """A corpus and a store of each language, all with the same names; a list of the stores."""
    for number, language in enumerate(languages):
        corpus = make_tree(folder / f"corpus-{language}", count, seconds=2 + 0.25 * number, rates=(32_000,))
        for place, file in enumerate(sorted(corpus.rglob("*.txt"))):
            file.write_text(TEXTS[language][place % 3] + "\n", encoding="utf-8")
        words = ("--features", "wave,mfcc,phones", "--language", language, "--symbols", table or TABLE[language])
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


@pytest.mark.parametrize("flag", [(), ("--mixed-origins",)])
def test_published_weights_of_gpt_may_be_trained_on_clusters(
    flag: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[voice.VoiceConfig] = []

    def stop(config: voice.VoiceConfig, *_: object) -> None:
        configs.append(config)
        raise UsageError("seen.")

    monkeypatch.setattr(voice, "train_voice", stop)
    call(cli.main, "voice", tmp_path, "--out", tmp_path / "VOICE", *flag)
    assert configs[0].run("gpt").model.mixed_origins is bool(flag)
    assert not configs[0].run("sovits").model.mixed_origins


@pytest.mark.parametrize(
    ("init", "of_store", "weights", "error"),
    [
        (False, "store", ("", ""), ""),
        (False, "own", ("", ""), "sovits would learn a codebook of its own"),
        (True, "aa", ("aa", "bb"), ""),
        (True, "bb", ("aa", "bb"), ""),
        (True, "cc", ("aa", "bb"), "are not known to be those of"),
        (True, "", ("", ""), "are not known to be those of"),
    ],
)
def test_both_models_get_one_codebook(
    monkeypatch: pytest.MonkeyPatch, init: bool, of_store: str, weights: tuple[str, str], error: str
) -> None:
    monkeypatch.setattr(voice, "choose_codebook", lambda *_: (of_store, "it was asked for"))
    monkeypatch.setattr(voice, "codebook_of", lambda _: of_store)
    known = SimpleNamespace(codebooks=frozenset(weights) - {""})
    monkeypatch.setattr(voice.initial_weights, "read", lambda *_: known)
    config = SimpleNamespace(model=SimpleNamespace(init=Path("s2G.pth") if init else None, at="best"))
    joined = SimpleNamespace(path=Path("STORE"), features={})
    if not error:
        voice._check_codebook(config, joined)  # type: ignore[arg-type]
        return
    with pytest.raises(UsageError, match=f"{error}.*run featurize drop STORE semantic, and the same command again"):
        voice._check_codebook(config, joined)  # type: ignore[arg-type]


@pytest.mark.soak
def test_four_corpora_killed_at_ten_random_moments_become_the_same_voice(tmp_path: Path) -> None:
    """Four languages, all files with the same names and in one table of symbols. Phones and codes are learned over all.

    Two of the moments are for each stage: within half the time that it took undisturbed, after it begins or goes on.
    What goes on has less left to do, so that a second moment may fall into the next stage.
    """
    process = server().Process(target=int)  # the server's imports count for no stage
    process.start()
    process.join()
    stores, random = corpora(tmp_path / "stores", [*TEXTS], 4, "headrace-ipa"), np.random.default_rng(14)
    killed = shutil.copytree(tmp_path / "stores", tmp_path / "killed") / "all.txt"
    durations = watch(stores)
    check_voice(stores.parent / "VOICE", stores)
    died = [kill(killed, stage, random.uniform(0, durations[stage] / 2)) for stage in STAGES for _ in range(KILLS // 5)]
    watch(killed)
    print("undisturbed", {stage: round(took, 1) for stage, took in durations.items()}, "s; killed in", died)
    assert len(died) == KILLS and {*died} == {*STAGES}
    check_voice(killed.parent / "VOICE", killed)
    for stage in ("sovits", "gpt"):
        assert_same_run(killed.parent / "VOICE" / stage, stores.parent / "VOICE" / stage, steps=STEPS)
    for language in TEXTS:
        assert part_bytes(killed.parent / language) == part_bytes(stores.parent / language)
    voices = [json.loads((one.parent / "VOICE" / "voice.json").read_text()) for one in (stores, killed)]
    assert voices[0]["utterance"] == voices[1]["utterance"]
    spoken = [sorted((one.parent / "VOICE" / "samples").iterdir()) for one in (stores, killed)]
    assert len(spoken[0]) == 4 and [one.read_bytes() for one in spoken[0]] == [one.read_bytes() for one in spoken[1]]


def check_voice(voice: Path, stores: Path) -> None:
    """Both models speak in the codes of the stores, and every store has the same phones and codes."""
    sovits, gpt = trained_models.load_sovits(voice), trained_models.load_gpt(voice)
    joined = store.open(stores)
    assert gpt.codebook == joined.features["semantic"].codebook != "" and gpt.codebook in sovits.codebooks
    assert {"align", "semantic"} <= joined.features.keys()
    members = [stores.parent / name for name in stores.read_text().split()]
    assert not [problem for member in members for problem in verify(member)]
    assert len({store.open(member).features["align"].fingerprint for member in members}) == 1


def server() -> ForkServerContext:
    """Return what forks processes from one that has all imports."""
    context = multiprocessing.get_context("forkserver")
    rooms = ("headrace.featurize.pipeline.build", "headrace.train.voice")
    context.set_forkserver_preload([__name__, "distributed", *rooms])
    return context


def start(stores: Path) -> BaseProcess:
    """Make the voice in a process of its own. Workers are its threads."""
    process = server().Process(target=make_voice, args=(stores,))
    process.start()
    return process


def make_voice(stores: Path) -> None:
    """Run both commands."""

    def add_codes(config: object, codes: int, quiet: bool) -> None:
        assert add(stores, "semantic", "--codes", codes).exit_code == 0

    cli._add_codes = add_codes  # type: ignore[assignment]
    aligned = add(stores, "align")
    assert aligned.exit_code == 0, aligned.stderr
    trained = call(cli.main, "voice", stores, "--out", stores.parent / "VOICE", *words(STEPS))
    assert trained.exit_code == 0, trained.stderr


def watch(stores: Path) -> dict[str, float]:
    """Make the voice undisturbed. How long each stage took, in seconds."""
    process, durations, before = start(stores), dict.fromkeys(STAGES, 0.0), time.monotonic()
    while process.is_alive():
        process.join(POLL_SECONDS)
        now = time.monotonic()
        durations[stage_of(stores)] += now - before
        before = now
    assert process.exitcode == 0
    return durations


def kill(stores: Path, stage: str, delay: float) -> str:
    """Make the voice, and kill it so long after a stage began or was continued. The stage in which it died."""
    process = start(stores)
    while process.is_alive() and STAGES.index(stage_of(stores)) < STAGES.index(stage):
        process.join(POLL_SECONDS)
    process.join(delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return stage_of(stores)


def stage_of(stores: Path) -> str:
    """Which stage a voice is in, by its files."""
    voice, last = stores.parent / "VOICE", stores.parent / stores.read_text().split()[-1]
    if not (voice / "voice.json").exists():
        return "codes" if b'"name": "align"' in (last / "zarr.json").read_bytes() else "align"
    if not (voice / "gpt").exists():
        return "sovits"
    return "samples" if Checkpoints(voice / "gpt" / "checkpoints").path(STEPS).exists() else "gpt"
