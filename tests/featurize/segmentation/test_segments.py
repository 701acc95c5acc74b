"""Segments are within their bounds, and no speech is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.featurize.segmentation.segments import TOO_LONG, TOO_SHORT, Bounds, Segment, cut
from headrace.store.errors import UsageError

BOUNDS = Bounds(pause=0.5, shortest=1.0, longest=10.0, silence=0.1)


def of(*runs: tuple[int, int], frames: int = 10_000, bounds: Bounds = BOUNDS) -> list[Segment]:
    return [*cut(np.array(runs, np.int64).reshape(-1, 2), frames, bounds)]


def test_a_pause_ends_a_segment_and_a_shorter_silence_does_not() -> None:
    assert of((100, 300), (349, 500)) == [Segment(90, 510)]
    assert of((100, 300), (350, 500)) == [Segment(90, 310), Segment(340, 510)]


def test_silence_at_the_ends_is_at_most_half_of_what_there_is() -> None:
    wide = Bounds(pause=0.5, silence=0.4)
    assert of((4, 300), (350, 500), frames=510, bounds=wide) == [Segment(0, 325), Segment(325, 510)]
    assert of((100, 300), frames=300, bounds=wide) == [Segment(60, 300)]


def test_a_phrase_too_long_is_cut_at_its_longest_silence_until_it_fits() -> None:
    assert of((0, 600), (630, 900), (925, 1500)) == [Segment(0, 610), Segment(620, 1510)]
    # 980 frames and twice 10 of silence are just as many as fit.
    assert of((0, 480), (520, 980)) == [Segment(0, 990)]
    assert of((0, 480), (520, 981)) == [Segment(0, 490), Segment(510, 991)]
    assert of((0, 500), (540, 1100), (1135, 1700)) == [Segment(0, 510), Segment(530, 1110), Segment(1125, 1710)]


def test_a_closure_is_no_silence_to_cut_at() -> None:
    assert of((0, 700), (719, 1400)) == [Segment(0, 1410, TOO_LONG)]
    assert of((0, 700), (720, 1400)) == [Segment(0, 710), Segment(710, 1410)]


def test_a_phrase_too_short_is_joined_with_the_nearer_neighbour_if_both_fit() -> None:
    assert of((0, 200), (280, 379), (440, 600)) == [Segment(0, 210), Segment(270, 610)]
    assert of((0, 200), (260, 359), (440, 600)) == [Segment(0, 369), Segment(430, 610)]
    assert of((0, 900), (951, 1049), (1120, 1300)) == [Segment(0, 910), Segment(941, 1310)]
    assert of((0, 200), (260, 360), (440, 600)) == [Segment(0, 210), Segment(250, 370), Segment(430, 610)]


def test_a_phrase_too_short_is_dropped_where_nothing_is_near() -> None:
    assert of((0, 200), (301, 399), (500, 700)) == [Segment(0, 210), Segment(291, 409, TOO_SHORT), Segment(490, 710)]
    assert of((0, 200), (300, 399), (500, 700)) == [Segment(0, 409), Segment(490, 710)]
    assert of((0, 990), (1050, 1100)) == [Segment(0, 1000, TOO_LONG), Segment(1040, 1110, TOO_SHORT)]
    assert of() == []


def test_bounds_that_nothing_can_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--pause 0\.1 s"):
        Bounds(pause=0.1)
    with pytest.raises(UsageError, match="--min-length"):
        Bounds(shortest=5, longest=5, silence=0.1)
    Bounds(shortest=4, longest=5, silence=0.5)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 1500)), max_size=40),
    st.integers(0, 80),
    st.sampled_from([0.0, 0.05, 0.3]),
)
def test_all_speech_is_in_one_segment_and_all_that_are_used_are_in_bounds(
    runs: list[tuple[int, int]], tail: int, silence: float
) -> None:
    bounds = Bounds(pause=0.4, shortest=0.8, longest=8.0, silence=silence)
    edges = np.cumsum(np.array(runs, np.int64).reshape(-1)).reshape(-1, 2)
    frames = int(edges[-1, 1] if len(edges) else 0) + tail
    segments = [*cut(edges, frames, bounds)]
    holders = [[n for n, s in enumerate(segments) if s.start < stop and start < s.stop] for start, stop in edges]
    assert all(len(holder) == 1 for holder in holders)
    for (start, stop), (holder,) in zip(edges.tolist(), holders, strict=True):
        assert segments[holder].start <= start
        assert stop <= segments[holder].stop
    ends = [0] + [edge for segment in segments for edge in segment[:2]] + [frames]
    assert ends == sorted(ends)
    for segment in segments:
        length = segment.stop - segment.start
        assert length <= 800 or segment.dropped
        assert length >= 80 or segment.dropped
