"""Words that are skipped or repeated: how they are named, and what is said again until they are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result

from headrace.cli.train import main
from headrace.featurize.features.derived import SILENT
from headrace.featurize.forced_alignment.hmm_aligner import HmmAlign
from headrace.featurize.forced_alignment.word_graph import NO_WORD, Stretch
from headrace.featurize.text.languages.frontend import Reading
from headrace.featurize.text.symbols import TABLES
from headrace.store.errors import StoreError
from headrace.train.checkpoints import trained_models
from headrace.train.inference import speech_check, synthesis, torch_voice
from headrace.train.inference.speech_check import PhoneModels, SpeechCheck, describe
from headrace.train.inference.voice_networks import Faults
from headrace.train.models import gpt_config
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import tiny
from tests.helpers.speech.made_up import HOP, Said, part_of, say
from tests.helpers.training_store import build

HELLO = Reading(
    "hello, old mill.", ("HH", "OW1", ",", "OW1", "L", "M", "L", "."), (2, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 2, 0, 0, 0, 1)
)
OLD, MILL = 7, 11


def said(*words: int) -> list[Stretch]:
    return [Stretch(word, 50 * n, 50 * n + 40) for n, word in enumerate(words)]


@pytest.mark.parametrize(
    ("words", "count", "text"),
    [
        ((0, OLD, MILL), 0, ""),
        ((0, MILL), 1, 'it seems to skip "old"'),
        ((0,), 2, 'it seems to skip "old mill"'),
        ((OLD,), 2, 'it seems to skip "hello", and to skip "mill"'),
        ((0, OLD, OLD, MILL), 1, 'it seems to repeat "old"'),
        ((0, OLD, 0, OLD, MILL), 2, 'it seems to repeat "hello, old"'),
        ((0, NO_WORD, MILL), 2, 'it seems to skip "old", and to say something else for 0.4 s after "hello"'),
        ((NO_WORD, 0, OLD, MILL), 1, "it seems to say something else for 0.4 s at the beginning"),
        ((OLD, 0, MILL), 1, "it seems to say the words in another order"),
    ],
)
def test_what_is_wrong_is_named(words: tuple[int, ...], count: int, text: str) -> None:
    assert describe(said(*words), HELLO) == Faults(count, text)


def test_long_runs_of_words_are_cut_short() -> None:
    count = 40
    reading = Reading("long " * count, ("L",) * count, (1, 0, 0, 0, 0) * count)
    assert describe(said(0), reading).text == f'it seems to skip "{("long " * count)[:59]}…"'


@pytest.fixture(scope="module")
def models() -> PhoneModels:
    """Phone models of made-up speech of two speakers."""
    random = np.random.default_rng(0)
    part = part_of([say(random, 3 + n % 5) for n in range(40)])
    return PhoneModels(Path("STORE"), part.specs, HmmAlign().learn([part], SILENT))


def reading_of(one: Said) -> Reading:
    """A text whose words are letters."""
    count = int(one.words[one.words < 100].max()) + 1
    counts = [int((one.words % 100 == word).sum()) for word in range(count)]
    names = tuple(TABLES["headrace-ipa"][phone] for phone in one.phones)
    text = "".join(f"{chr(97 + word)} " for word in range(count))
    return Reading(text, names, tuple(number for pair in zip(counts, [0] * count, strict=True) for number in pair))


@pytest.mark.parametrize("speaker", ["speaker0", ""])
def test_faults_of_speech_are_found_in_a_known_and_in_an_unknown_voice(models: PhoneModels, speaker: str) -> None:
    reference = say(np.random.default_rng(7), 8).wave.reshape(-1)
    check = SpeechCheck(models, speaker, reference)
    for seed in range(200, 204):
        one = say(np.random.default_rng(seed), 5)
        wave, word = one.wave.reshape(-1) / np.float32(32768), seed % 4
        start, stop = one.times[one.words == word][[0, -1], [0, 1]]
        reading, name = reading_of(one), chr(97 + word)
        assert check.faults(wave, reading) == Faults(0, "")
        cut = check.faults(np.concatenate((wave[:start], wave[stop:])), reading)
        twice = check.faults(np.concatenate((wave[:stop], wave[start:])), reading)
        assert cut == Faults(1, f'it seems to skip "{name}"') and twice == Faults(1, f'it seems to repeat "{name}"')
    assert len(reference) % HOP == 0


def test_phones_that_were_not_learned_cannot_be_checked(models: PhoneModels) -> None:
    assert SpeechCheck(models, "speaker0", np.zeros(0, np.int16)).faults(np.zeros(16_000, np.float32), HELLO) is None


class Bench:
    """The command with small models, whose speech a scripted check judges attempt by attempt."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(1)
        generator, decoder = SynthesizerTrn(tiny()).eval(), Text2SemanticDecoder(gpt_config.tiny()).eval()
        monkeypatch.setattr(trained_models, "load_sovits", lambda *_: generator)
        monkeypatch.setattr(trained_models, "load_gpt", lambda *_: decoder)
        monkeypatch.setattr(synthesis, "scorer", lambda: None)
        monkeypatch.setattr(torch_voice, "text_to_semantic", self.generate)
        self.folder, self.said, self.verdicts = folder, list[int](), list[Faults | None]()
        soundfile.write(folder / "r.wav", 0.3 * np.sin(np.arange(96_000) / 30), 32_000)

    def generate(self, *_: object, **__: object) -> torch.Tensor:
        self.said.append(len(self.said) + 3)
        return torch.full((self.said[-1],), 3)

    def sample(self, *words: object) -> Result:
        always = ("--sovits", "x", "--gpt", "y", "--device", "cpu", "--out", self.folder / "x.wav")
        return CliRunner().invoke(main, ["sample", *map(str, (*always, "--text", "Hello there. All is well.", *words))])


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


class TestCommand:
    def judged(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, *verdicts: Faults | None) -> Result:
        left = list(verdicts)
        monkeypatch.setattr(PhoneModels, "of_store", lambda *_: PhoneModels(Path("S"), {}, {}))
        monkeypatch.setattr(SpeechCheck, "faults", lambda *_: left.pop(0))
        result = bench.sample("--reference", bench.folder / "r.wav", "--phone-models", "S")
        assert result.exit_code == 0 and not left, result.output
        return result

    def test_a_sentence_is_said_again_until_its_words_are_right(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result = self.judged(bench, monkeypatch, Faults(2, "two"), Faults(1, "one"), Faults(0, ""), Faults(0, ""))
        assert "; said" not in result.stderr
        samples = len(soundfile.read(bench.folder / "x.wav")[0])
        assert samples == (5 + 6) * 1280 + 9600 and bench.said == [3, 4, 5, 6]

    def test_the_best_attempt_stays_and_the_words_are_named(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad = (Faults(3, "a"), Faults(1, 'it seems to skip "well"'), Faults(1, "b"), Faults(2, "c"))
        result = self.judged(bench, monkeypatch, Faults(0, ""), *bad)
        named = 'sentence 2 (All is well.): it seems to skip "well"; said 4 times'
        assert result.stderr.splitlines()[0] == named
        assert len(soundfile.read(bench.folder / "x.wav")[0]) == (3 + 5) * 1280 + 9600

    def test_what_cannot_be_checked_is_told_once(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        result = self.judged(bench, monkeypatch, None, None)
        told = [line for line in result.stderr.splitlines() if "was not checked" in line]
        assert told == [
            "it was not checked whether words were skipped or repeated: 'Hello there.': phones that align has not "
            "learned are in it"
        ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "store", frames=[40, 45]).path


class TestPhoneModels:
    """Where they come from, and what is told where there are none."""

    def test_without_any_it_is_told_once_how_to_make_them(self, bench: Bench, store: Path) -> None:
        result = bench.sample("--reference", bench.folder / "r.wav")
        (told,) = (line for line in result.stderr.splitlines() if "was not checked" in line)
        assert told.endswith("name a store with phone models by --phone-models; featurize add STORE align makes them")
        result = bench.sample("--store", store, "--utterance", "utt0")
        (told,) = (line for line in result.stderr.splitlines() if "was not checked" in line)
        assert told.endswith(f"{store} has no phone models: featurize add {store} align makes them")

    def test_a_store_that_is_named_must_have_them(self, bench: Bench, store: Path) -> None:
        for named, message in (
            (store, "has no phone models: featurize add"),
            (bench.folder, "is not a Headrace store"),
        ):
            result = bench.sample("--reference", bench.folder / "r.wav", "--phone-models", named)
            assert result.exit_code == 2 and f"--phone-models: {named} {message}" in result.stderr
            assert len(result.stderr.splitlines()) == 1 and not bench.said

    def test_those_of_the_voice_or_of_a_run_are_found(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, store: Path
    ) -> None:
        asked: list[Any] = []

        def of_store(location: Any, rate: int) -> PhoneModels:
            asked.append(location)
            if location == "of sovits":
                return PhoneModels(store, {}, {"speaker s": np.zeros(1)})
            raise StoreError(f"{location} has none")

        found: list[str] = []
        monkeypatch.setattr(speech_check.PhoneModels, "of_store", of_store)
        monkeypatch.setattr(trained_models, "store_of", lambda path, stage: f"of {stage}")
        monkeypatch.setattr(SpeechCheck, "faults", lambda check, *_: found.append(check._name) or Faults(0, ""))
        assert "was not checked" not in bench.sample("--store", store, "--utterance", "utt1").stderr
        assert asked == [store, "of gpt", "of sovits"] and found == ["s", "s"]
        assert "was not checked" not in bench.sample("--reference", bench.folder / "r.wav").stderr
        assert asked[3:] == ["of gpt", "of sovits"] and found[2:] == [speech_check.UNKNOWN_VOICE] * 2
