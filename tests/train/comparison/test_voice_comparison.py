"""What is compared, and what is told of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from headrace import store as stores
from headrace.cli.train import main
from headrace.featurize.quality import dnsmos
from headrace.featurize.text import espeak
from headrace.store.errors import StoreError
from headrace.store.reader import Store
from headrace.train.comparison import voice_comparison, word_errors
from headrace.train.comparison.fresh_process import Cost, VoiceResult
from headrace.train.data import batch_plan
from headrace.train.models import gpt_config, sovits_config
from tests.helpers.training_store import build

RATE = 32_000
TEXTS = ("la la la", "one two")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("compared") / "store", frames=range(20, 80))


def result(path: Path, threads: int) -> VoiceResult:
    """A voice as it would be measured: `small` says everything at half the level, `text` says nothing."""
    level = {"whole": 0.2, "small": 0.1, "text": 0.0}[path.name]
    random = np.random.default_rng(0)
    said = [level * random.standard_normal(size).astype(np.float32) for size in (40 * 640, 30 * 640)]
    has_sound, has_codes = path.name != "text", path.name != "small"
    cost = Cost(
        threads=threads,
        sovits_cpu_s=0.5 * level if has_sound else None,
        gpt_cpu_s=0.3 if has_codes else None,
        seconds=0.4,
        first_sound_s=2.0 if has_sound else None,
        peak_bytes=10**8,
    )
    return VoiceResult(
        runtime="torch fp32",
        size=4_000_000,
        parameters=10**6,
        sovits=sovits_config.tiny() if has_sound else None,
        gpt=gpt_config.tiny() if has_codes else None,
        cost=cost,
        waves=said if has_sound else [],
        loss=2.5 if has_codes else None,
        accuracy=0.25 if has_codes else None,
    )


@pytest.fixture
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Voices and recordings that are not measured, but known."""
    compared = [
        voice_comparison.Compared(id=f"u{number}", text=text, recorded=np.zeros(640 * 40, np.float32), arrays={})
        for number, text in enumerate(TEXTS)
    ]
    monkeypatch.setattr(voice_comparison, "read_utterances", lambda *given: compared)
    monkeypatch.setattr(
        voice_comparison, "measure_alone", lambda path, at, arrays, codebook, threads: result(path, threads)
    )
    monkeypatch.setattr(dnsmos, "scorer", lambda: lambda wave, rate: {"mos": 1 + float(wave.std() * 10)})
    monkeypatch.setattr(word_errors, "is_installed", lambda: True)
    monkeypatch.setattr(word_errors, "Recogniser", Hears)
    monkeypatch.setattr(voice_comparison.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)


def _hold_out(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    monkeypatch.setattr(voice_comparison, "held_out", lambda ids: np.isin(np.arange(len(ids)), numbers))


class Hears:
    """Hears `la` in everything that is no silence."""

    def words(self, wave_S: np.ndarray, rate: int) -> list[str]:
        return ["la"] if wave_S.any() else []


@pytest.mark.usefixtures("_measured")
def test_distances_are_from_the_first_voice(store: Store) -> None:
    found = voice_comparison.compare_voices([Path("whole"), Path("small"), Path("text")], store.path)
    whole, small, text = found["voices"]
    assert found["utterances"] == ["u0", "u1"] and found["seconds"] == 2 * 640 * 40 / RATE
    assert whole["mel_distance"] == 0 and small["mel_distance"] == pytest.approx(np.log(2), rel=0.02)
    of_two = found["mel_distance_of_two_utterances"]
    assert 0.2 < of_two < 1.5 and small["mel_share"] == small["mel_distance"] / of_two
    assert whole["mel_distance_to_recordings"] > small["mel_distance_to_recordings"] > 1
    assert text["mel_distance"] is text["mel_distance_to_recordings"] is text["mos"] is text["word_errors"] is None
    assert [one["loss"] for one in found["voices"]] == [2.5, None, 2.5]
    assert found["recordings"] == {"mos": 1.0, "word_errors": 1.0}
    assert whole["word_errors"] == (2 + 2) / 5 and whole["mos"] > small["mos"] > 1
    assert [cost["threads"] for cost in whole["costs"]] == [1, 3]
    assert whole["costs"][0]["speech_per_cpu_s"] == pytest.approx(1 / 0.4)
    assert small["costs"][1]["speech_per_cpu_s"] == pytest.approx(1 / 0.05)


@pytest.mark.usefixtures("_measured")
def test_the_command_prints_a_table_and_writes_files(store: Store, tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "found.json"), "--plot", str(tmp_path / "found.png")]
    done = CliRunner().invoke(main, ["compare", "whole", "small", "text", "--store", str(store.path), *files])
    assert done.exit_code == 0, done.output
    rows = {line[:29].strip(): line[29:].split() for line in done.stdout.splitlines()}
    assert rows["speech s/CPU s, 1 thread"] == ["2.50", "20.00", "3.33"] and rows["peak MB, 3 threads"] == ["100"] * 3
    assert rows["codes in the 3 likeliest"] == ["25.0%", "25.0%"]
    assert rows["word errors"] == ["100.0%", "80.0%", "80.0%"]
    assert json.loads((tmp_path / "found.json").read_text())["voices"][1]["voice"] == "small"
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_measured")
def test_voices_of_different_models_are_refused(store: Store) -> None:
    done = CliRunner().invoke(main, ["compare", "small", "text", "--store", str(store.path)])
    assert done.exit_code == 2 and "small is sovits and text is gpt" in done.stderr


@pytest.mark.usefixtures("_measured")
def test_what_is_not_installed_is_told_and_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnsmos, "scorer", lambda: None)
    monkeypatch.setattr(word_errors, "is_installed", lambda: False)
    lines: list[str] = []
    found = voice_comparison.compare_voices([Path("whole")], store.path, log=lines.append)
    assert found["recordings"] == {"mos": None, "word_errors": None}
    assert any("headrace[mos]" in line for line in lines) and any("headrace[words]" in line for line in lines)


def test_held_out_utterances_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (only,) = voice_comparison.read_utterances(store, store.path, 8)
    assert [store.number_of(only.id)] == np.flatnonzero(batch_plan.held_out(store.own_ids)).tolist()
    _hold_out(monkeypatch, 31, 3, 17, 5)
    found = voice_comparison.read_utterances(store, store.path, 2)
    numbers = [store.number_of(one.id) for one in found]
    assert numbers == [3, 31]
    for one, number in zip(found, numbers, strict=True):
        assert one.text == "la" and len(one.recorded) == store.frames[number] * 640 and abs(one.recorded).max() <= 1
        assert one.arrays["codes"].tolist() == store.read("semantic", number)[: store.frames[number] // 2].tolist()
        assert one.arrays["phones"].tolist() == store.read("phones", number).tolist()
        assert one.arrays["spec"].shape == (1025, store.frames[number]) and "speaker" not in one.arrays


def test_long_utterances_are_left_out_while_there_are_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _hold_out(monkeypatch, 31, 3, 17, 5)
    monkeypatch.setattr(voice_comparison, "MAX_SECONDS", float(store.frames[17]) * 640 / RATE)
    found = voice_comparison.read_utterances(store, store.path, 8)
    assert [store.number_of(one.id) for one in found] == [3, 5, 17]
    monkeypatch.setattr(voice_comparison, "MAX_SECONDS", 0.1)
    assert len(voice_comparison.read_utterances(store, store.path, 8)) == 4


def test_stores_without_codes_or_utterances_are_refused(store: Store, tmp_path: Path) -> None:
    one = build(tmp_path / "one", frames=(20,), parts=1)
    with pytest.raises(StoreError, match="holds 1 utterances, and voices are compared on one that is held out"):
        voice_comparison.read_utterances(one, one.path, 8)
    opened: Any = stores.open(store.path)
    opened.features = {name: spec for name, spec in opened.features.items() if name != "semantic"}
    with pytest.raises(StoreError, match="holds no semantic, and voices are compared on them: featurize add"):
        voice_comparison.read_utterances(opened, store.path, 8)


def test_other_languages_are_not_read_by_an_english_recogniser(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = stores.open(store.path)
    monkeypatch.setattr(opened, "languages", np.array(["zh"] * len(opened)))
    _hold_out(monkeypatch, 3, 4)
    assert {one.text for one in voice_comparison.read_utterances(opened, store.path, 2)} == {""}


@pytest.mark.parametrize(
    ("heard", "said", "errors"),
    [("", "a b", 2), ("a b", "a b", 0), ("a x b", "a b", 1), ("b", "a b c", 2), ("x y", "", 2), ("b a", "a b", 2)],
)
def test_word_errors_are_the_fewest_changes(heard: str, said: str, errors: int) -> None:
    assert word_errors.word_errors(heard.split(), said.split()) == errors


def test_words_are_those_of_a_text_without_signs() -> None:
    assert word_errors.words_of("It’s Mr. O'Neil's - 3 'quoted' words!") == "it's mr o'neil's quoted words".split()


@pytest.mark.slow
def test_a_recogniser_hears_words() -> None:
    pytest.importorskip("pocketsphinx")
    assert word_errors.is_installed()
    speech = espeak.speak("please enter your number followed by the pound key", rate_wpm=140)
    wave, hears = speech.samples / np.float32(32768), word_errors.Recogniser()
    heard = hears.words(wave, speech.sample_rate)
    assert 4 < len(heard) < 18 and "your" in heard, heard
    assert len(hears.words(0 * wave, speech.sample_rate)) < 3


def test_a_voice_of_one_model_says_only_its_cost() -> None:
    cost = result(Path("whole"), 1).cost
    assert replace(cost, gpt_cpu_s=None).speech_per_cpu_s == pytest.approx(10)
    assert replace(cost, sovits_cpu_s=None).speech_per_cpu_s == pytest.approx(1 / 0.3)
