"""The learned aligner: phones whose times are known are found again, and wrong texts are told from right ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace import store
from headrace.featurize.features.derived import SILENT, Derived, LearningLog, Part
from headrace.featurize.forced_alignment import hmm, hmm_aligner, rooms
from headrace.featurize.forced_alignment.hmm_aligner import FEW_MINUTES, HmmAlign, HmmConfidence, scarcity
from headrace.featurize.text.symbols import FIRST_IPA_COUNT, SYMBOLS, TABLES, ids
from headrace.store import added_arrays, alignment
from headrace.store.errors import StoreError, UsageError
from headrace.store.integrity.verify import verify
from tests.helpers.commands import add, build
from tests.helpers.corpora import make_tree
from tests.helpers.speech.made_up import HOP, RATE, Said, part_of, say


@pytest.fixture(scope="module")
def said() -> list[Said]:
    random = np.random.default_rng(0)
    return [say(random, 3 + n % 5) for n in range(40)]


@pytest.fixture(scope="module")
def learned(said: list[Said]) -> dict[str, np.ndarray]:
    return HmmAlign().learn(
        [part_of(said[:25]), part_of(said[25:])], LearningLog(step=lambda *step: STEPS.append(step))
    )


def made(feature: Derived, part: Part) -> list[np.ndarray]:
    return list(feature.rows(part))


def errors_s(times: np.ndarray, one: Said) -> np.ndarray:
    """Of the boundaries of phones that sound; a mark takes all of the pause that it stands in."""
    sounding = np.array([SYMBOLS[phone] != "," for phone in one.phones])
    return abs(times - one.times)[sounding].reshape(-1) / RATE


STEPS: list[tuple[float, float, str]] = []
"""What `learned` told about its progress."""


@pytest.mark.usefixtures("learned")
def test_learning_tells_how_far_it_is() -> None:
    """In phases: the parts that are read, and the rounds, of which later ones have more Gaussians to count for."""
    reading, rounds = STEPS[:3], STEPS[3:]
    assert reading == [(n, 2, f"{n}/2 parts read") for n in range(3)]
    assert len(rounds) == 23 and rounds[0] == (0, 80, "0/22 rounds") and rounds[-1][0] == 80
    assert [done for done, _, _ in rounds[7:10]] == [7, 8, 10]
    fits = [float(status.rpartition(" ")[2]) for _, _, status in rounds[1:]]
    assert rounds[22][2] == f"22/22 rounds, the log-likelihood of a frame is {fits[-1]:.2f}" and fits[-1] > fits[0]


def test_phones_are_found_where_they_are(said: list[Said], learned: dict[str, np.ndarray]) -> None:
    times = made(HmmAlign(), part_of(said, learned=learned))
    errors = np.concatenate([errors_s(own, one) for own, one in zip(times, said, strict=True)])
    assert np.median(errors) <= 0.01 and (errors <= 0.03).mean() > 0.95


def test_speech_that_was_not_learned_from_is_aligned_too(learned: dict[str, np.ndarray]) -> None:
    fresh = [say(np.random.default_rng(99), 6)]
    (times,) = made(HmmAlign(), part_of(fresh, learned=learned))
    assert np.median(errors_s(times, fresh[0])) <= 0.01


def test_the_same_utterances_give_the_same_models(said: list[Said], learned: dict[str, np.ndarray]) -> None:
    again = HmmAlign().learn([part_of(said[:25]), part_of(said[25:])], SILENT)
    assert again.keys() == learned.keys() and all(np.array_equal(again[name], learned[name]) for name in again)


def in_room(one: Said, seed: int, seconds: float = 1.0) -> Said:
    """The same, in a room that sounds on after the end: noise that decays by 60 dB, as loud as the direct sound."""
    random, dry = np.random.default_rng(seed), one.wave.reshape(-1).astype(np.float64)
    response = random.normal(size=round(seconds * RATE)) * 10 ** (-3 * np.linspace(0, 1, round(seconds * RATE)))
    response[:48] = 0
    response /= np.sqrt(response @ response)
    response[0] = 1
    size = 1 << (len(dry) + len(response)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(response, size), size)
    wet = wet[: (len(dry) + len(response)) // HOP * HOP]
    return replace(one, wave=np.rint(wet / abs(wet).max() * 16_000).astype(np.int16).reshape(-1, HOP))


def test_the_last_phone_ends_before_the_room_does(said: list[Said]) -> None:
    """Without the decays that were learned it would last as long as the room sounds."""
    wet = [in_room(one, seed) for seed, one in enumerate(said)]
    learned = HmmAlign().learn([part_of(wet)], SILENT)
    assert [learned[rooms.DECAY + f"speaker{n}"].shape for n in range(2)] == [(8,), (8,)]
    times = made(HmmAlign(), part_of(wet, learned=learned))
    deaf = {name: array for name, array in learned.items() if not name.startswith(rooms.DECAY)}
    late, later = (
        np.median([errors_s(own, one)[-1] for own, one in zip(found, wet, strict=True)])
        for found in (times, made(HmmAlign(), part_of(wet, learned=deaf)))
    )
    assert late <= 0.3 and later >= 0.7
    marks = [own[-1, 1] == one.wave.size for own, one in zip(times, wet, strict=True) if SYMBOLS[one.phones[-1]] == ","]
    assert marks and all(marks)
    confidence = np.ravel(made(HmmConfidence(), part_of(wet, learned=learned, align=times)))
    assert np.median(confidence) > -3


def test_dry_speakers_have_no_room(learned: dict[str, np.ndarray]) -> None:
    assert not [name for name in learned if name.startswith(rooms.DECAY)]


def test_texts_of_other_recordings_are_told_apart(said: list[Said], learned: dict[str, np.ndarray]) -> None:
    swapped = [
        Said(one.wave, other.phones, other.words, other.times)
        for one, other in zip(said, [*said[5:], *said[:5]], strict=True)
    ]
    scores = []
    for some in (said, swapped):
        times = made(HmmAlign(), part_of(some, learned=learned))
        scores.append(np.concatenate(made(HmmConfidence(), part_of(some, learned=learned, align=times))))
    assert (scores[1] < np.percentile(scores[0], 5)).mean() > 0.95 and scores[0].max() <= 0


def test_without_words_pauses_are_at_marks_alone(said: list[Said], learned: dict[str, np.ndarray]) -> None:
    for one, times in zip(said, made(HmmAlign(), part_of(said, words=False, learned=learned)), strict=True):
        gaps = np.flatnonzero(times[1:, 0] > times[:-1, 1])
        assert not len(gaps), "every pause in between belongs to a mark"
        assert (times[:, 1] >= times[:, 0]).all() and times[-1, 1] <= one.wave.size


def test_what_does_not_fit_is_counted_and_gets_no_times(said: list[Said], learned: dict[str, np.ndarray]) -> None:
    strange = ids(["B", "AA1"])
    short = Said(said[0].wave[:5], said[0].phones, said[0].words, said[0].times)
    odd = Said(said[0].wave, strange, np.zeros(2, np.int16), said[0].times[:2])
    part = part_of([short, odd], learned=learned)
    times = made(HmmAlign(), part)
    assert all((some == -1).all() for some in times) and part.failed == {
        0: hmm_aligner.UNALIGNABLE,
        1: hmm_aligner.UNSEEN_PHONES,
    }
    part = part_of([short, odd], learned=learned, align=times)
    assert np.concatenate(made(HmmConfidence(), part)).tolist() == [hmm_aligner.UNALIGNED_CONFIDENCE] * 2


def test_times_of_the_source_are_kept(said: list[Said], learned: dict[str, np.ndarray]) -> None:
    ends = [np.linspace(100, one.wave.size, len(one.phones)).astype(np.int32) for one in said]
    for times, own in zip(made(HmmAlign(), part_of(said, learned=learned, phone_end=ends)), ends, strict=True):
        assert times[:, 1].tolist() == own.tolist() and times[1:, 0].tolist() == own[:-1].tolist() and times[0, 0] == 0


def test_less_is_learned_from_where_less_is_asked_for(said: list[Said]) -> None:
    lines: list[str] = []
    hours = sum(one.wave.size for one in said) / RATE / 3600
    HmmAlign(hours=hours / 3.5).learn([part_of(said)], LearningLog(lines.append))
    assert "learns little" in lines[0] and "from 10 utterances" in lines[1] and "8 Gaussians" in lines[-1]
    with pytest.raises(UsageError, match="0 hours"):
        HmmAlign(hours=0)
    nothing = Said(said[0].wave[:4], said[0].phones, said[0].words, said[0].times)
    with pytest.raises(StoreError, match="none that fit"):
        HmmAlign().learn([part_of([nothing])], LearningLog(lines.append))


def test_too_little_speech_is_told_before_it_is_learned_from(said: list[Said], monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    seconds = sum(one.wave.size for one in said[:2]) / RATE

    class Begun(Exception):
        pass

    def begin(*_: object) -> None:
        raise Begun

    assert not scarcity(60 * FEW_MINUTES) and "little from" in scarcity(60 * FEW_MINUTES - 1)
    monkeypatch.setattr(hmm_aligner, "read_utterances", begin)
    for few, warnings in ((seconds / 60 - 0.01, 0), (seconds / 60 + 0.01, 1)):
        monkeypatch.setattr(hmm_aligner, "FEW_MINUTES", few)
        with pytest.raises(Begun):
            HmmAlign().learn([part_of(said[:1]), part_of(said[1:2])], LearningLog(line=lines.append))
        assert len(lines) == warnings
    assert "align learns little from" in lines[0] and "\n" not in lines[0]


def test_every_symbol_has_a_class_or_none() -> None:
    class_of = hmm_aligner.phone_classes([ids(["AA1", "AA0", "K", ",", "SP", "[", "a1", "a"])])
    number = {name: class_of[TABLES["headrace-ipa"].index(name)] for name in (*SYMBOLS, "/ˈa/", "/a/", "/a\u0303/")}
    assert number["AA1"] == number["AA0"] == number["AA2"] == number["AA"] != number["K"]
    assert number[","] == number["SP"] == number["…"] == hmm.PAUSE and number["["] == hmm_aligner.SOUNDLESS
    assert number["a1"] == number["a5"] == number["a"] == number["/ˈa/"] and number["ZH"] == hmm_aligner.UNKNOWN


def test_models_that_know_the_first_symbols_only_still_align(said: list[Said], learned: dict[str, np.ndarray]) -> None:
    """The table of symbols has grown since they were learned; what came later counts as not learned."""
    first = learned | {"class_of": learned["class_of"][:FIRST_IPA_COUNT]}
    for times, now in zip(
        made(HmmAlign(), part_of(said, learned=first)), made(HmmAlign(), part_of(said, learned=learned)), strict=True
    ):
        assert np.array_equal(times, now)
    later = Said(said[0].wave, np.full(3, FIRST_IPA_COUNT + 40, np.int16), np.zeros(3, np.int16), said[0].times[:3])
    part = part_of([later], learned=first)
    assert (made(HmmAlign(), part)[0] == -1).all() and part.failed == {0: hmm_aligner.UNSEEN_PHONES}


def test_marks_of_sounds_have_no_sound_of_their_own() -> None:
    class_of = hmm_aligner.phone_classes([ids(["/t/", "/\u0303/", "/ʰ/", "/r\u031d/", "/3/"], "headrace-ipa")])
    table = TABLES["headrace-ipa"]
    kinds = {symbol: class_of[table.index(symbol)] for symbol in ("/t/", "/\u0303/", "/ʰ/", "/r\u031d/", "/3/")}
    assert kinds["/\u0303/"] == kinds["/ʰ/"] == kinds["/3/"] == hmm_aligner.SOUNDLESS
    assert 0 < kinds["/t/"] != kinds["/r\u031d/"] > 0


def test_segments_hold_the_alignment_law(said: list[Said]) -> None:
    for one in said:
        found = alignment.segments_of_times(one.times, frames=len(one.wave), hop=HOP)
        assert (
            found.frames.sum() == len(one.wave) and found.ends[-1] == one.wave.size and (np.diff(found.ends) >= 0).all()
        )
        assert found.phones[found.phones >= 0].tolist() == list(range(len(one.phones)))
        own = found.phones >= 0
        assert np.array_equal(np.stack([found.starts, found.ends], 1)[own], one.times)
        of_frame = found.phone_of_frame()
        for phone, (start, stop) in enumerate(found.frames_of_phone()):
            assert (of_frame[start:stop] == phone).all() and (of_frame == phone).sum() == stop - start
        cuts = [0, len(one.wave) // 3, len(one.wave) // 2, len(one.wave)]
        within = [found.phones_within(start, stop) for start, stop in pairwise(cuts)]
        assert [stop for _, stop in within[:-1]] == [start for start, _ in within[1:]]
        assert within[0][0] == 0 and within[-1][1] == len(one.phones)


def test_a_store_is_aligned_by_one_command(tmp_path: Path) -> None:
    root = tmp_path / "STORE"
    built = build(
        make_tree(tmp_path / "corpus", 8), root, "--features", "wave,phones,confidence", "--part-hours", 0.001
    )
    assert built.exit_code == 0, built.stderr
    opened = store.open(root)
    assert {"align", "confidence"} <= set(opened.features) and not list(verify(root))
    for number in range(len(opened)):
        found = alignment.read_segments(opened, number)
        assert found is not None and found.frames.sum() == opened.frames[number]
    before = opened.fingerprint
    assert add(root, "align,confidence").exit_code == 0 and store.open(root).fingerprint == before


def test_times_that_do_not_follow_one_another_are_found(tmp_path: Path) -> None:
    root = tmp_path / "STORE"
    assert build(make_tree(tmp_path / "corpus", 3), root, "--features", "wave,phones,align").exit_code == 0
    (problem,) = _broken(root, lambda times: times.__setitem__((1, 0), times[0, 1] - 1))
    assert problem.array == "align" and "follow one another" in problem.what


def _broken(root: Path, change: Any) -> list[Any]:
    """What verify says of an alignment that was sealed with a mistake in it."""
    spec = store.open(root).features["align"]
    times = np.concatenate([store.open(root).read("align", n) for n in range(3)])
    change(times)
    inputs = added_arrays.read_seal(root, "align", 0)["inputs"]  # type: ignore[index]
    shutil.rmtree(root / "parts" / "00000" / "align")
    added_arrays.write(root, 0, spec, times, inputs, "none")
    added_arrays.publish(root, spec, [0])
    return list(verify(root))
