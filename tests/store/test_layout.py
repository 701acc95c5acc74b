"""How a corpus is cut into parts, and how the numbers of parts are written."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from headrace.store import layout


def test_parts_partition_the_corpus_in_order_of_length() -> None:
    random = np.random.default_rng(0)
    for count in (1, 2, 17, 1000):
        seconds = random.lognormal(1.6, 0.6, count).round(2)
        order, bounds = layout.plan_parts(seconds, 60.0)
        assert sorted(order) == list(range(count)) and bounds[0] == 0 and bounds[-1] == count
        assert (np.diff(seconds[order]) >= 0).all() and (np.diff(bounds) > 0).all()
        sums = [seconds[order[a:b]].sum() for a, b in itertools.pairwise(bounds)]
        assert max(sums) <= 60 + seconds.max()


@pytest.mark.parametrize("part_seconds", [3.6e-297, 5e-324])
def test_parts_of_next_to_nothing_are_planned_as_others(part_seconds: float) -> None:
    order, bounds = layout.plan_parts(np.array([3.0, 1.0, 2.0]), part_seconds)
    assert order.tolist() == [1, 2, 0] and bounds.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("numbers", "ranges"),
    [
        ([], []),
        ([0], [[0, 1]]),
        ([7], [[7, 8]]),
        ([0, 1, 2], [[0, 3]]),
        ([3, 4, 5, 6], [[3, 7]]),
        ([0, 2, 4], [[0, 1], [2, 3], [4, 5]]),
        ([0, 1, 2, 5, 7, 8], [[0, 3], [5, 6], [7, 9]]),
        ([1, 2, 10, 11, 12, 99999], [[1, 3], [10, 13], [99999, 100000]]),
    ],
)
def test_consecutive_numbers_become_one_range(numbers: list[int], ranges: list[list[int]]) -> None:
    assert layout.to_ranges(numbers) == ranges


def test_ranges_are_as_few_as_can_be_and_expand_to_the_same_numbers() -> None:
    """For every subset of ten numbers: the range before another one ends, with a gap, where that begins."""
    for mask in range(1 << 10):
        numbers = [n for n in range(10) if mask >> n & 1]
        ranges = layout.to_ranges(numbers)
        assert layout.expand_ranges(ranges) == numbers
        assert all(first < stop for first, stop in ranges)
        assert all(stop < first for (_, stop), (first, _) in itertools.pairwise(ranges))
