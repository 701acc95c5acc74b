"""The demo's corpus: the same bytes again, exact times, nothing in it that the featurizer refuses."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import sentences, speak
from headrace.featurize.alignment import intervals, textgrid
from headrace.featurize.corpus import scanner
from headrace.featurize.text import espeak, g2p, symbols
from headrace.featurize.text.languages.english import lexicon
from headrace.store.schema import Utterance

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [str(argument) for argument in arguments]
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.speak", *words], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("spoken") / "corpus"
    done = run(out, "--minutes", 4, "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and "spoke 4." in done.stdout
    return out


@pytest.fixture(scope="module")
def utterances(spoken: Path) -> list[Utterance]:
    found = list(scanner.scan(spoken))
    assert all(isinstance(item, Utterance) for item in found), "the corpus is clean"
    return [item for item in found if isinstance(item, Utterance)]


def test_the_same_arguments_give_the_same_bytes(spoken: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "again", "--minutes", 4, "--seed", 3).returncode == 0
    first = {path.relative_to(spoken): path.read_bytes() for path in spoken.rglob("*.*")}
    again = {path.relative_to(tmp_path / "again"): path.read_bytes() for path in (tmp_path / "again").rglob("*.*")}
    assert first == again


def test_another_seed_gives_other_sentences(utterances: list[Utterance], tmp_path: Path) -> None:
    assert run(tmp_path / "other", "--minutes", 1, "--seed", 4).returncode == 0
    others = {item.text for item in scanner.scan(tmp_path / "other") if isinstance(item, Utterance)}
    assert others.isdisjoint({utterance.text for utterance in utterances if len(utterance.text) > 40})


def test_it_is_varied(utterances: list[Utterance], spoken: Path) -> None:
    seconds = [utterance.seconds for utterance in utterances]
    assert 4 * 60 <= sum(seconds) < 5 * 60
    assert speak.SHORTEST_S <= min(seconds) < 2 and 12 < max(seconds) <= speak.LONGEST_S
    assert {u.speaker for u in utterances} == {speaker.name for speaker in speak.SPEAKERS}
    assert {(u.audio[-4:], u.sample_rate) for u in utterances} >= {(".wav", 22_050), ("flac", 44_100)}
    assert {soundfile.info(spoken / u.audio).channels for u in utterances} == {1, 2}
    words = {word.strip(",.!?;:").lower() for u in utterances for word in u.text.split()}
    assert any(word not in lexicon.pronunciations() and word.isalpha() for word in words), (
        "names that no dictionary holds"
    )
    assert any(word[0].isdigit() for word in words if word)


def test_every_utterance_is_aligned(utterances: list[Utterance], spoken: Path) -> None:
    """TextGrid, recording and text agree, and times are whole samples of the voice's rate."""
    all_frames = []
    for utterance in utterances:
        found = textgrid.read_textgrid(spoken / utterance.alignment, 0.0, utterance.seconds)
        assert found.duration_s == utterance.seconds
        assert textgrid.read_transcript(spoken / utterance.alignment) == utterance.text
        at_voice_rate = found.phones.ends_s * 22_050
        assert np.abs(at_voice_rate - np.rint(at_voice_rate)).max() < 1e-6
        names, ends = intervals.symbols_and_ends(found)
        assert set(names) <= {*symbols.SYMBOLS} and names.count("SP") < len(names) / 3
        frames = int(utterance.seconds * 32_000) // 640
        _, phone_frames = intervals.phone_boundaries(ends, sample_rate=32_000, hop=640, frames=frames)
        assert phone_frames.sum() == frames
        all_frames.append(phone_frames)
    assert (np.concatenate(all_frames) == 0).mean() < 0.03, "phones shorter than half a hop are rare"


def test_words_begin_and_end_with_phones(utterances: list[Utterance], spoken: Path) -> None:
    for utterance in utterances:
        found = textgrid.read_textgrid(spoken / utterance.alignment, 0.0, utterance.seconds)
        assert set(found.words.starts_s) <= set(found.phones.starts_s)
        assert set(found.words.ends_s) <= set(found.phones.ends_s)


def test_phones_are_those_of_the_text(utterances: list[Utterance], spoken: Path) -> None:
    """Two ways to the phones of a sentence, the voice's and the featurizer's: mostly the same consonants."""
    shares = []
    for utterance in utterances:
        said = textgrid.read_textgrid(spoken / utterance.alignment, 0.0, utterance.seconds).phones.labels
        read = g2p.phonemise(utterance.text, "en").phones
        counts = [
            np.asarray([phones.count(name) for name in ("S", "K", "M", "N", "P", "F", "W")]) for phones in (said, read)
        ]
        shares.append(np.minimum(*counts).sum() / max(1, np.maximum(*counts).sum()))
    assert np.mean(shares) > 0.9


def test_pauses_are_silent_in_the_recordings(utterances: list[Utterance], spoken: Path) -> None:
    """Tier and sound are not shifted against each other, whatever the file's format and rate."""
    dry = {speaker.name for speaker in speak.SPEAKERS if not speaker.voice.endswith(("+f2", "+f4"))}  # those echo
    checked = 0
    for utterance in (u for u in utterances if u.speaker in dry):
        samples, rate = soundfile.read(spoken / utterance.audio, always_2d=True)
        phones = textgrid.read_textgrid(spoken / utterance.alignment, 0.0, utterance.seconds).phones
        for end, start in zip(phones.ends_s, phones.starts_s[1:], strict=False):
            if start - end > 0.02:
                inner = samples[round((end + 0.002) * rate) : round((start - 0.002) * rate)]
                assert np.abs(inner).max() < 2e-3, (utterance.id, end, start)
                assert np.abs(samples[round(start * rate) :][: rate // 100]).max() > 2e-3, (utterance.id, start)
                checked += 1
    assert checked > 20


def test_intervals_tile_the_speech() -> None:
    speech = espeak.speak("The end of every wheel: fire, careful! It is 10:30.", "en-us+m3")
    stop = len(speech.samples)
    marks = [*speak.closures(speech), espeak.Mark("", stop)]
    for found in (speak.phone_intervals(marks), speak.word_intervals(speech, marks)):
        tiled = list(speak.with_pauses(found, stop))
        assert tiled[0].start == 0 and tiled[-1].stop == stop
        assert all(a.stop == b.start for a, b in pairwise(tiled))
        assert all(interval.stop > interval.start for interval in tiled)
        assert [interval for interval in tiled if interval.label] == found


def test_sentences_are_many() -> None:
    drawn = random.Random(0)
    said = [sentences.sentence(drawn) for _ in range(2000)]
    assert len({sentence for sentence in said if len(sentence) > 30}) > 1500
    assert all(sentence[0].isupper() or not sentence[0].isalpha() for sentence in said)
    assert all(sentence[-1] in ".!?" and "{" not in sentence for sentence in said)
    assert {len(sentence.split()) for sentence in said} >= set(range(5, 40))


def test_what_is_there_is_not_overwritten(spoken: Path, tmp_path: Path) -> None:
    again = run(spoken, "--minutes", 4, "--seed", 3)
    assert again.returncode == 0 and "already" in again.stdout
    (tmp_path / "precious").write_text("mine")
    for out in (tmp_path, spoken):
        refused = run(out, "--minutes", 9)
        assert refused.returncode == 2 and "holds something else" in refused.stderr
    assert (tmp_path / "precious").read_text() == "mine"
