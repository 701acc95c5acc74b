"""Recordings cut at pauses: nothing that is said is lost, doubled or cut; each piece has its own words and times."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st

from headrace import store
from headrace.cli.store import main
from headrace.featurize.alignment import label_files
from headrace.featurize.alignment.intervals import Alignment, Tier
from headrace.featurize.corpus import split_at_pauses
from headrace.featurize.corpus.split_at_pauses import MIN_PAUSE_S, split
from headrace.store.errors import Rejected
from headrace.store.integrity.verify import verify
from headrace.store.schema import Reject, Utterance
from tests.helpers.commands import build, call, part_bytes
from tests.helpers.corpora import buzz
from tests.helpers.textgrids import write_textgrid

RATE = 16_000
PHONES = ("DH", "AH0", "K", "W", "IH1")


def tier(rows: list[tuple[float, float, str]]) -> Tier:
    starts, ends, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Tier(tuple(labels), np.asarray(starts, float), np.asarray(ends, float))


def said(lengths: list[tuple[float, float]]) -> tuple[Utterance, Alignment]:
    """Words of so many seconds, each after a pause of so many; two phones a word; every second pause has a mark."""
    words, phones, now = [], [], 0.0
    for number, (pause, length) in enumerate(lengths):
        if number % 2:
            words.append((now, now + pause, "sil" if number % 3 else ""))
            phones.append((now, now + pause, ","))
        now += pause
        words.append((now, now + length, f"w{number}"))
        phones += [(now, now + length / 3, PHONES[number % 5]), (now + length / 3, now + length, "T")]
        now += length
    text = "; ".join(f"W{number}" for number in range(len(lengths))) + "!"
    utterance = Utterance(
        id="a.wav#800-x", audio="a.wav", start=800, stop=800 + round((now + 1) * RATE), sample_rate=RATE, size=1,
        speaker="s", language="en", text=text, alignment="a.TextGrid",
    )  # fmt: skip
    return utterance, Alignment(tier(phones), tier(words), now + 1)


LENGTHS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.05, 0.19, 0.25, 0.6, 3.0]), st.floats(0.05, 2.5)), min_size=1, max_size=40
)


@given(LENGTHS, st.sampled_from([1.0, 2.5, 8.0]))
@example([(0.0, 1.0), (0.0, 1.0), (0.25, 2.5), (0.25, 1.0)], 2.5)  # a piece that the limit leaves no pause
def test_all_that_is_said_is_in_one_piece(lengths: list[tuple[float, float]], longest_s: float) -> None:
    utterance, alignment = said(lengths)
    pieces = list(split(utterance, alignment, longest_s))
    bounds = [tuple(map(int, piece.id.partition("#")[2].split("-"))) for piece in pieces]
    assert bounds[0][0] >= utterance.start and bounds[-1][1] <= utterance.stop
    assert all(stop <= start for (_, stop), (start, _) in pairwise(bounds)), "in order, and none overlaps another"
    words = list(zip(alignment.words.starts_s, alignment.words.ends_s, alignment.words.labels, strict=True))
    spoken = np.array([(start, end) for start, end, label in words if label.startswith("w")])
    samples = 800 + np.rint(spoken * RATE)
    owners = [[n for n, (start, stop) in enumerate(bounds) if start <= a and b <= stop] for a, b in samples]
    assert all(len(owner) == 1 for owner in owners), "every word is whole in one piece"
    for (_, stop), (start, _) in pairwise(bounds):
        nearest = [b for _, b in samples if b <= start][-1], next(a for a, _ in samples if a >= stop)
        assert nearest[0] <= stop <= start <= nearest[1] and nearest[1] - nearest[0] >= MIN_PAUSE_S * RATE - 1
    assert list(split(utterance, alignment, longest_s)) == pieces
    for piece, (start, stop) in zip(pieces, bounds, strict=True):
        own = [n for n, (a, b) in enumerate(samples) if start <= a and b <= stop]
        if isinstance(piece, Reject):
            gaps = [samples[n + 1, 0] - samples[n, 1] for n in own[:-1]]
            assert (
                max(gaps, default=0) <= MIN_PAUSE_S * RATE + 1
                and samples[own[-1], 1] - samples[own[0], 0] > longest_s * RATE - 2
            )
            assert piece.stage == "align" and f"from {start / RATE:.2f} to" in piece.reason
            continue
        assert (piece.start, piece.stop) == (start, stop) and stop - start <= longest_s * RATE
        held = label_files.from_json(piece.alignment, piece.seconds)
        kept = [label for label in held.phones.labels if label != ","]
        assert kept == [name for n in own for name in (PHONES[n % 5], "T")]
        at = (800 - start) / RATE
        assert np.allclose(held.words.starts_s[label_files.word_indices(held.words)], spoken[own, 0] + at, atol=1e-4)
        assert [held.words.labels[n] for n in label_files.word_indices(held.words)] == [f"w{n}" for n in own]
    if all(isinstance(piece, Utterance) for piece in pieces):
        marks = sum(piece.alignment.count('","]') for piece in pieces)
        assert marks == len(lengths) // 2, "a mark is of one piece"
        assert " ".join(piece.text for piece in pieces) == utterance.text


def test_the_longest_pause_is_cut() -> None:
    """Of those that leave half a limit or more."""
    utterance, alignment = said([(0.5, 1), (2.0, 1), (0.3, 1), (0.8, 1), (0.3, 1), (0.9, 1)])
    pieces = [piece for piece in split(utterance, alignment, 8.0) if isinstance(piece, Utterance)]
    assert [piece.text for piece in pieces] == ["W0; W1; W2;", "W3; W4; W5!"]
    assert pieces[0].stop == pieces[1].start == 800 + round(6.2 * RATE), "a short pause is shared"
    assert pieces[1].stop == utterance.stop - RATE // 2, "a long one is not kept whole"


def test_a_text_of_other_words_is_not_shared_out() -> None:
    utterance, alignment = said([(0.5, 1), (0.5, 1)])
    for text in ("Something else.", "W0; W1; and W2.", "W0"):
        pieces = split(
            Utterance(**{**{key: getattr(utterance, key) for key in utterance.__slots__}, "text": text}), alignment, 2.0
        )
        assert [piece.text for piece in pieces if isinstance(piece, Utterance)] == ["w0", "w1"]
    assert split_at_pauses._word_texts("我们，走！", ["我们", "走"]) == ["我们，", "走！"]


def test_without_words_nothing_is_split() -> None:
    utterance, alignment = said([(0.5, 3)])
    with pytest.raises(Rejected, match="names no words"):
        list(split(utterance, Alignment(alignment.phones, tier([]), 4.5), 2.0))
    noise = Alignment(tier([(0, 1, "AA1"), (2, 3, "spn")]), tier([(0, 1, "ah")]), 4.5)
    _, lost = split(utterance, noise, 2.0)
    assert isinstance(lost, Reject) and "marks speech there, but names no word" in lost.reason


def long_recording(corpus: Path, name: str, words: int, pause_s: float) -> np.ndarray:
    """Of words of 0.6 s, with their TextGrid."""
    corpus.mkdir(exist_ok=True)
    step = 0.6 + pause_s
    sound = buzz(words * step + 0.3, RATE, 0)
    soundfile.write(corpus / f"{name}.wav", sound, RATE, subtype="PCM_16")
    spans = [(round(0.2 + n * step, 3), round(0.8 + n * step, 3)) for n in range(words)]
    phones = [row for a, b in spans for row in ((a, a + 0.2, "K"), (a + 0.2, b, "AE1"))]
    names = ["cat", "dog", "sun"]
    grid = {"words": [(a, b, names[n % 3]) for n, (a, b) in enumerate(spans)], "phones": phones}
    write_textgrid(corpus / f"{name}.TextGrid", grid, words * step + 0.3)
    (corpus / f"{name}.txt").write_text(" ".join(names[n % 3].title() + "," for n in range(words)))
    return soundfile.read(corpus / f"{name}.wav", dtype="int16")[0]


def test_a_store_of_pieces(tmp_path: Path) -> None:
    corpus, root = tmp_path / "corpus", tmp_path / "STORE"
    sound = long_recording(corpus, "long", 20, 0.4)
    long_recording(corpus, "short", 3, 0.4)
    long_recording(corpus, "breathless", 12, 0.0)
    soundfile.write(corpus / "untimed.wav", buzz(8, RATE, 1), RATE)
    (corpus / "untimed.txt").write_text("nobody knows where")
    words = ("--features", "wave,phones", "--preset", "whisper-16k", "--max-segment", 6, "--max-duration", 15)
    done = build(corpus, root, *words, "--json")
    assert done.exit_code == 0 and not list(verify(root))
    opened = store.open(root)
    pieces = sorted(
        (int(name.split("#")[1].split("-")[0]), n) for n, name in enumerate(opened.ids) if "long.wav#" in name
    )
    assert "short.wav" in list(opened.ids) and len(pieces) == len(opened) - 1 >= 4
    assert " ".join(opened.texts[n] for _, n in pieces) == (corpus / "long.txt").read_text()
    assert sum(int((opened.read("phones", n) >= 0).sum()) for _, n in pieces) > 40
    for start, n in pieces:
        wave = opened.read("wave", n).reshape(-1)
        assert np.array_equal(wave, sound[start:][: len(wave)]) and len(wave) <= 6 * RATE
        assert opened.read("phone_frames", n).sum() == opened.frames[n]
    rejects = {line["id"]: line for line in map(json.loads, (root / "rejects.jsonl").read_text().splitlines())}
    assert "cannot be split without an alignment" in rejects.pop("untimed.wav")["reason"]
    ((name, reject),) = rejects.items()
    assert name.startswith("breathless.wav#") and "there is no pause of 0.2 s" in reject["reason"]
    before = part_bytes(root)
    again = build(corpus, root, *words, "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["parts_built"] == 0 and part_bytes(root) == before


def test_pieces_are_no_longer_than_an_utterance_may_be(tmp_path: Path) -> None:
    long_recording(tmp_path / "corpus", "a", 3, 0.4)
    refused = build(tmp_path / "corpus", tmp_path / "S", "--max-segment", 30, "--max-duration", 20)
    assert refused.exit_code == 2 and "--max-segment 30 exceeds the 20 s of --max-duration" in refused.stderr


@pytest.mark.slow
def test_what_has_no_times_is_aligned_first_then_split(tmp_path: Path) -> None:
    """By what is learned from it: built, aligned, exported, and built again from the same recordings."""
    corpus, root = tmp_path / "corpus", tmp_path / "STORE"
    for name, words in (("a", 14), ("b", 9), ("c", 11)):
        sound = long_recording(corpus, name, words, 0.4)
        (corpus / f"{name}.TextGrid").unlink()
        time = np.arange(len(sound)) / RATE
        spoken = (time - 0.2) % 1.0 < 0.6
        soundfile.write(corpus / f"{name}.wav", (sound * (spoken & (time > 0.2))).astype(np.int16), RATE)
    words = ("--features", "wave,phones", "--preset", "whisper-16k")
    assert build(corpus, root, *words, "--features", "wave,phones,align").exit_code == 0
    assert call(main, "export", root, "--to", "textgrid", "--out", tmp_path / "grids").exit_code == 0
    done = build(corpus, tmp_path / "PIECES", *words, "--max-segment", 5, "--alignments", tmp_path / "grids")
    assert done.exit_code == 0, done.output
    opened = store.open(tmp_path / "PIECES")
    assert len(opened) >= 8 and opened.frames.max() * opened.hop <= 5 * RATE
    for name in "abc":
        pieces = sorted((int(id.split("#")[1].split("-")[0]), n) for n, id in enumerate(opened.ids) if id[0] == name)
        assert " ".join(opened.texts[n] for _, n in pieces) == (corpus / f"{name}.txt").read_text()
        for start, _ in pieces[1:]:
            assert (start / RATE - 0.2) % 1.0 > 0.6, "in a pause that is there"
