"""The rows of an added feature, where it fails on some utterances, on all, or on no single one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.pipeline.feature_rows import compute_rows
from headrace.store.schema import Axis, FeatureSpec

COLUMNS = {"id": ["a", "b", "c"], "frames": [2, 1, 3], "phones_n": [1, 4, 2]}


@dataclass(frozen=True, kw_only=True)
class Length(Derived):
    """The number of frames of an utterance, in each of its rows; -1 where it fails."""

    name, needs, axis, dtype, missing = "length", (), "frames", "float32", -1
    fails: str = ""
    """Ids of the utterances on which it fails; of several, it fails only where all of them are there."""
    together: bool = False

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        ids = part.strings("id")
        assert ids, "it is asked for the rows of no utterance"
        if self.together and set(self.fails) <= set(ids):
            raise ValueError("they are odd together")
        for id, frames in zip(ids, part.strings("frames"), strict=True):
            if id in self.fails and not self.together:
                raise ValueError(f"{id} is odd")
            part.counts[id] += 1
            yield np.full((frames, 2), frames, np.float32)


def part_of(only: Sequence[int] | None, count: int = 3, axis: Axis = "frames") -> Part:
    numbers = range(count) if only is None else only
    spec = FeatureSpec(name="length", axis=axis, dtype="float32", channels=2)
    return Part({"length": spec}, lambda _: (), strings=lambda name: [COLUMNS[name][n] for n in numbers])


def test_a_feature_that_fails_nowhere_is_made_once_of_the_whole_part() -> None:
    rows, reasons, made_of = compute_rows(Length(), part_of)
    assert rows.tolist() == [[2, 2]] * 2 + [[1, 1]] + [[3, 3]] * 3 and rows.dtype == np.float32 and reasons == {}
    assert made_of.counts == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("fails", ["a", "b", "c", "ab", "ac", "bc"])
def test_utterances_on_which_it_fails_have_the_missing_value_and_all_others_their_own(fails: str) -> None:
    rows, reasons, made_of = compute_rows(Length(fails=fails), part_of)
    expected = [-1 if id in fails else n for id, n in zip("abc", COLUMNS["frames"], strict=True) for _ in range(n)]  # type: ignore[arg-type]
    assert rows.tolist() == [[value, value] for value in expected]
    assert reasons.keys() == set(fails) and all(f"{id} is odd" in reason for id, reason in reasons.items())
    assert made_of.strings("id") == [id for id in "abc" if id not in fails]
    assert made_of.counts == {id: 1 for id in "abc" if id not in fails}


@pytest.mark.parametrize("feature", [Length(fails="abc"), Length(fails="ab", together=True)], ids=["all", "none alone"])
def test_what_is_the_fault_of_no_utterance_is_raised_as_it_is(feature: Length) -> None:
    for count in (2, 3):
        with pytest.raises(ValueError, match="odd"):
            compute_rows(feature, lambda only, count=count: part_of(only, count))


def test_the_only_utterance_of_a_part_may_be_without() -> None:
    rows, reasons, made_of = compute_rows(Length(fails="a"), lambda only: part_of(only, 1))
    assert rows.tolist() == [[-1, -1]] * 2 and reasons.keys() == {"a"} and not made_of.counts


@pytest.mark.parametrize(("axis", "count"), [("frames", 1), ("phones", 4), ("utterance", 1)])
def test_an_utterance_without_has_as_many_rows_as_its_axis_counts(axis: Axis, count: int) -> None:
    rows = compute_rows(Length(fails="b"), lambda only: part_of(only, axis=axis))[0]
    assert (rows == -1).all(axis=1).sum() == count
