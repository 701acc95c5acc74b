"""How a corpus is cut into parts, and how the numbers of parts are written."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from headrace.store import layout, names


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


@pytest.mark.parametrize(
    "name, number",
    [
        ("00000", 0),
        ("99999", 99_999),
        ("100000", 100_000),
        ("2147483647", 2**31 - 1),
        ("2147483648", None),
        ("9999999999", None),
        ("0", None),
        ("1234", None),
        ("000000", None),
        ("099999", None),
        ("-0001", None),
        ("00001\n", None),
        ("0000\u0663", None),
    ],
)
def test_names_of_parts(name: str, number: int | None) -> None:
    assert names.part_number(name) == number


def test_names_that_are_printed_are_short() -> None:
    assert names.shown("x" * 78) == f"'{'x' * 78}'"
    assert names.shown("x" * 79) == f"'{'x' * 75}..." and len(names.shown("x" * 79)) == 79
    assert names.shown("\x1b[2J\n") == "'\\x1b[2J\\n'"


def test_names_of_features_are_at_most_as_long_as_they_may_be() -> None:
    assert names.is_name("a" * names.MAX_NAME_LENGTH) and not names.is_name("a" * (names.MAX_NAME_LENGTH + 1))
    assert not any(map(names.is_name, ("", "A", "a/b", "..", "a\n", 1, None)))


@pytest.mark.parametrize("path", ["zarr.json", "mel/zarr.json", "c/0", "mel/c/0/12"])
def test_files_that_headrace_writes(path: str) -> None:
    assert names.is_own_file(path)


@pytest.mark.parametrize(
    "path", ["", "c", "c/x", "mel", "mel/c", "../zarr.json", "a/b/zarr.json", "zarr.json\n", "mel/c/0/"]
)
def test_files_that_it_does_not_write(path: str) -> None:
    assert not names.is_own_file(path)


@pytest.mark.parametrize("path", ["mel", "c", "c/0", "mel/c", "mel/c/0"])
def test_folders_of_arrays(path: str) -> None:
    assert names.is_own_folder(path)
    assert not names.is_own_folder(f"{path}/") and not names.is_own_folder(f"../{path}")
