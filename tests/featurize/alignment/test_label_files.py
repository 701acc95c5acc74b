"""Where an alignment ends, and which `.lab` files are alignments: the limits, to the last digit."""

from __future__ import annotations

import pytest

from headrace.featurize.alignment import label_files


@pytest.mark.parametrize(
    ("end_s", "duration_s", "speech_s"),
    [
        (1.0, 1.0, 1.0),
        (0.96, 1.0, 0.96),
        (1.04, 1.0, 1.04),
        (0.05, 0.1, 0.05),  # as far away as it may be, exactly
        (0.0499, 0.1, 0.1),
        (0.5, 1.0, 1.0),
    ],
)
def test_an_alignment_that_ends_near_the_audio_ends_with_it(end_s: float, duration_s: float, speech_s: float) -> None:
    encoded = label_files.to_json("a.lab", [label_files.Interval(0.0, end_s, "AY1")], [])
    alignment = label_files.from_json(encoded, duration_s)
    assert alignment.duration_s == speech_s
    assert alignment.phones.ends_s == [end_s]


@pytest.mark.parametrize(
    ("lab", "timed"),
    [
        ("0 50000 a\n50000 100000 b\n", True),  # 10 ms, in units of 100 ns
        ("0 50000 a\n60000 99999 b\n", False),
        ("0 50000 a\n50000 99999 b\n", True),  # in whatever unit: one begins where the other ends
        ("0 100000 a\n100000 200000 b\n", True),
        ("0 0.1 a\n0.1 0.2 b\n", True),
        ("1 2 buckle\n3 4 knock\n", False),
        ("0 100000 a\n", True),
        ("0 99999 a\n", False),
    ],
)
def test_whole_numbers_below_ten_milliseconds_are_words(lab: str, timed: bool) -> None:
    assert label_files.has_times(lab) is timed
