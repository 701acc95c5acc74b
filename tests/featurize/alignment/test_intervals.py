"""The alignment law, and TextGrids as Praat and aligners write them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import parselmouth
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parselmouth.praat import call

from headrace.featurize.alignment import intervals, textgrid
from headrace.featurize.alignment.intervals import Alignment, Tier
from headrace.featurize.text import symbols
from headrace.store.alignment import Segments
from headrace.store.errors import Rejected
from tests.helpers.textgrids import Intervals, write_textgrid


def alignment(intervals: Intervals, duration_s: float) -> Alignment:
    starts, ends, labels = zip(*intervals, strict=True) if intervals else ((), (), ())
    tier = Tier(tuple(labels), np.asarray(starts, float), np.asarray(ends, float))
    return Alignment(tier, Tier((), np.empty(0), np.empty(0)), duration_s)


phones_and_frames = st.lists(st.floats(1e-4, 0.4), min_size=1, max_size=60).flatmap(
    lambda lengths: st.tuples(
        st.just(np.cumsum(lengths)),
        st.integers(max(1, round(sum(lengths) * 50) - 3), round(sum(lengths) * 50) + 3),
    )
)


@given(phones_and_frames, st.sampled_from([(32_000, 640), (22_050, 256), (16_000, 160), (44_100, 441)]))
def test_durations_sum_to_frames_and_err_by_half_a_hop(
    drawn: tuple[np.ndarray, int], rate_hop: tuple[int, int]
) -> None:
    ends_s, at_50_hz = drawn
    rate, hop = rate_hop
    frames = max(1, at_50_hz * rate // (50 * hop))
    phone_end, phone_frames = intervals.phone_boundaries(ends_s, sample_rate=rate, hop=hop, frames=frames)
    assert phone_end.dtype == phone_frames.dtype == np.int32
    assert phone_frames.sum() == frames and (phone_frames >= 0).all()
    assert (np.diff(phone_end) >= 0).all() and phone_end[-1] == frames * hop
    assert np.abs(np.cumsum(phone_frames) * hop - phone_end).max() <= hop / 2
    inside = ends_s[:-1] * rate < frames * hop
    assert np.abs(phone_end[:-1] - ends_s[:-1] * rate)[inside].max(initial=0) <= 0.5 + 1e-6


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50))
def test_the_two_indices_invert_each_other(durations: list[int]) -> None:
    phone_frames = np.asarray(durations, np.int32)
    segments = Segments(np.arange(len(durations)), np.cumsum(phone_frames), phone_frames)
    owner, bounds = segments.phone_of_frame(), segments.frames_of_phone()
    assert len(owner) == phone_frames.sum()
    for phone, (start, stop) in enumerate(bounds):
        assert (owner[start:stop] == phone).all()
        assert (owner == phone).sum() == stop - start
    for frame, phone in enumerate(owner):
        assert bounds[phone, 0] <= frame < bounds[phone, 1]


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=40), st.sampled_from([16_000, 22_050, 32_000, 44_100]))
def test_times_on_samples_come_back_exactly(lengths: list[int], rate: int) -> None:
    ends = np.cumsum(lengths)
    phone_end, _ = intervals.phone_boundaries(ends / rate, sample_rate=rate, hop=1, frames=int(ends[-1]))
    assert (phone_end == ends).all()


def test_gaps_and_rests_are_silence() -> None:
    names, ends = intervals.symbols_and_ends(alignment([(0.2, 0.3, "HH"), (0.3, 0.5, "AY1"), (0.7, 0.8, "sil")], 1.0))
    assert names == ["SP", "HH", "AY1", "SP"]
    assert ends.tolist() == [0.2, 0.3, 0.5, 1.0]


def test_rounding_makes_no_silence() -> None:
    names, _ = intervals.symbols_and_ends(alignment([(0.0, 0.1, "M"), (0.10004, 0.2, "IY1")], 0.20003))
    assert names == ["M", "IY1"]


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("AH0", ["AH0"]),
        ("ah0", ["AH0"]),
        ("AE", ["AE0"]),
        ("er", ["ER0"]),
        ("th", ["TH"]),
        ("sil", ["SP"]),
        ("<eps>", ["SP"]),
        ("spn", ["SP"]),
        ("", ["SP"]),
        ("tʃ", ["CH"]),
        ("ˈiː", ["IY1"]),
        ("aj", ["AY0"]),
        ("ɫ", ["L"]),
        ("pʰ", ["P"]),
        ("j", ["Y"]),
        ("ˈaɪɚ", ["AY1", "ER0"]),
    ],
)
def test_labels(label: str, names: list[str]) -> None:
    found, ends = intervals.symbols_and_ends(alignment([(0.0, 0.3, label), (0.3, 0.4, "K")], 0.4))
    assert found == [*names, "K"]
    assert ends == pytest.approx([*(0.3 * (n + 1) / len(names) for n in range(len(names))), 0.4])
    assert len(symbols.ids(found)) == len(found)


def test_no_pause_is_after_the_end() -> None:
    """A pause in what is shorter than a frame at the end, which no store has, would have no time at all."""
    names, ends = intervals.symbols_and_ends(alignment([(0.0, 0.3, "M"), (0.3, 0.31, "sil")], 0.3))
    assert names == ["M"] and ends.tolist() == [0.3]


def test_a_label_of_no_phone_is_refused() -> None:
    for label in ("ʘ", "hello!", "ni3"):
        with pytest.raises(Rejected, match=label) as caught:
            intervals.symbols_and_ends(alignment([(0.0, 0.3, label)], 0.3))
        assert caught.value.stage == "align"


def test_silence_alone_is_refused() -> None:
    with pytest.raises(Rejected, match="only silence"):
        intervals.symbols_and_ends(alignment([(0.0, 0.3, "sil")], 1.0))
    with pytest.raises(Rejected, match="only silence"):
        intervals.symbols_and_ends(alignment([], 1.0))


@given(st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_symbols_have_no_gaps(lengths: list[float], random: object) -> None:
    bounds = np.cumsum([0.0, *lengths]).tolist()
    kept = [n for n in range(len(lengths)) if random.random() < 0.7]  # type: ignore[attr-defined]
    kept = kept or [0]
    tier = [(bounds[n], bounds[n + 1], "B") for n in kept]
    names, ends = intervals.symbols_and_ends(alignment(tier, bounds[-1]))
    assert len(names) == len(ends) and (np.diff(ends) > 0).all()
    assert ends[-1] == bounds[-1]
    assert names.count("B") == len(kept)
    assert not any(a == b == "SP" for a, b in pairwise(names))


TIMES = [(0.0, 0.1 + 0.2, "HH"), (0.1 + 0.2, 1 / 3, "AY1"), (1 / 3, 0.734567890123456, "")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("name", ["phones", "Phone", "PHONEMES", "anna - phones"])
def test_textgrids_come_back_exactly(tmp_path: Path, encoding: str, name: str) -> None:
    tiers = {"words": [(0.0, 1 / 3, "hé"), (1 / 3, TIMES[-1][1], "")], name: TIMES}
    path = write_textgrid(tmp_path / "a.TextGrid", tiers, TIMES[-1][1], encoding=encoding)
    path.write_bytes({"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"") + path.read_bytes())
    read = textgrid.read_textgrid(path, 0.0, TIMES[-1][1])
    assert read.phones.labels == ("HH", "AY1")
    assert read.phones.starts_s.tolist() == [0.0, 0.1 + 0.2]
    assert read.phones.ends_s.tolist() == [0.1 + 0.2, 1 / 3]
    assert read.words.labels == ("hé",)
    assert textgrid.read_transcript(path) == "hé"
    assert intervals.symbols_and_ends(read)[1].tolist() == [0.1 + 0.2, 1 / 3, TIMES[-1][1]]


@pytest.mark.parametrize("command", ["save_as_text_file", "save_as_short_text_file", "save_as_binary_file"])
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16"])
def test_every_form_that_praat_writes(tmp_path: Path, command: str, encoding: str) -> None:
    grid = call("Create TextGrid", 0.0, 1.0, "words phones", "")
    call(grid, "Insert boundary", 2, 0.4)
    call(grid, "Set interval text", 2, 1, "ˈɑː")
    call(grid, "Set interval text", 1, 1, 'a "quoted" ! word')
    path = tmp_path / "p.TextGrid"
    parselmouth.praat.run(f'Text writing preferences: "{encoding}"')
    getattr(grid, command)(str(path))
    if "binary" in command:
        with pytest.raises(Rejected, match="save it as"):
            textgrid.read_textgrid(path, 0.0, 1.0)
        return
    assert (path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")) == (encoding == "UTF-16")
    read = textgrid.read_textgrid(path, 0.0, 1.0)
    assert intervals.symbols_and_ends(read)[0] == ["AA1", "SP"]
    assert read.words.labels == ('a "quoted" ! word',)


def test_a_textgrid_that_begins_later(tmp_path: Path) -> None:
    """Times count from the start that the caller names."""
    path = write_textgrid(tmp_path / "a.TextGrid", {"phones": [(2.0, 2.5, "M"), (2.5, 3.0, "IY1")]}, 3.0)
    path.write_text(path.read_text().replace("xmin = 0\n", "xmin = 2\n"))
    read = textgrid.read_textgrid(path, 2.0, 3.0)
    assert read.phones.starts_s.tolist() == [0.0, 0.5]
    assert read.duration_s == 1.0


GOOD = [(0.0, 0.5, "M"), (0.5, 1.0, "IY1")]


@pytest.mark.parametrize(
    ("tiers", "stop_s", "reason"),
    [
        ({"notes": GOOD, "words": GOOD}, 1.0, "no tier of phones.*notes, words"),
        ({}, 1.0, "no tier of phones.*none"),
        ({"phones": GOOD, "phonemes": GOOD}, 1.0, "2 tiers"),
        ({"phones": [(0.0, 0.6, "M"), (0.5, 1.0, "IY1")]}, 1.0, "overlap"),
        ({"phones": GOOD, "words": [(0.0, 0.6, "me"), (0.5, 1.0, "too")]}, 1.0, "overlap"),
        ({"phones": [(-1.0, 0.5, "M"), (0.5, 1.0, "IY1")]}, 1.0, "outside"),
        ({"phones": [(0.0, 0.5, "M"), (0.5, 3.0, "IY1")]}, 1.0, "outside"),
        ({"phones": [(0.5, 0.0, "M"), (0.5, 1.0, "IY1")]}, 1.0, "runs from 0.5 to 0 s"),
        ({"phones": [(0.5, 1.0, "IY1"), (0.0, 0.5, "M")]}, 1.0, "overlap"),
        ({"phones": GOOD}, 1.06, "runs from 0.000 to 1.060 s, the audio from 0.000 to 1.000 s"),
        ({"phones": GOOD}, 0.94, "0.940"),
    ],
)
def test_bad_textgrids(tmp_path: Path, tiers: dict[str, Intervals], stop_s: float, reason: str) -> None:
    path = write_textgrid(tmp_path / "bad.TextGrid", tiers, stop_s)
    with pytest.raises(Rejected, match=reason) as caught:
        textgrid.read_textgrid(path, 0.0, 1.0)
    assert caught.value.stage == "align" and "bad.TextGrid" in caught.value.reason
    assert "\n" not in caught.value.reason


def test_within_tolerance(tmp_path: Path) -> None:
    for stop_s in (0.96, 1.04):
        path = write_textgrid(tmp_path / "near.TextGrid", {"phones": [(0.0, 0.5, "M"), (0.5, stop_s, "IY1")]}, stop_s)
        _, ends = intervals.symbols_and_ends(textgrid.read_textgrid(path, 0.0, 1.0))
        phone_end, phone_frames = intervals.phone_boundaries(ends, sample_rate=16_000, hop=160, frames=100)
        assert phone_end[-1] == 16_000 and phone_frames.sum() == 100


def test_a_tier_of_points_is_no_tier_of_phones(tmp_path: Path) -> None:
    path = write_textgrid(tmp_path / "points.TextGrid", {"words": GOOD}, 1.0, points="phones")
    with pytest.raises(Rejected, match="no tier of phones; its tiers of intervals: words"):
        textgrid.read_textgrid(path, 0.0, 1.0)


@pytest.mark.parametrize(
    "content", [b"", b"nothing of the kind", b'File type = "ooTextFile"\nObject class = "TextGrid"\n']
)
def test_what_is_no_textgrid(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "not.TextGrid"
    path.write_bytes(content)
    for read in (lambda: textgrid.read_textgrid(path, 0, 1), lambda: textgrid.read_transcript(path)):
        with pytest.raises(Rejected, match=r"not\.TextGrid cannot be read"):
            read()
    parselmouth.Sound(np.zeros(100)).save(str(path), parselmouth.SoundFileFormat.WAV)
    with pytest.raises(Rejected, match="neither UTF-8 nor UTF-16"):
        textgrid.read_textgrid(path, 0, 1)
    with pytest.raises(Rejected, match="cannot be read"):
        textgrid.read_textgrid(tmp_path / "missing.TextGrid", 0, 1)
