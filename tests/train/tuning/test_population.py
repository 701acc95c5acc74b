"""Population-based training: who is replaced, by whom, and with which options."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.store.errors import RunError
from headrace.train.tuning.population import (
    Ledger,
    Origin,
    Segment,
    best_first,
    first_generation,
    lineage,
    next_generation,
)
from headrace.train.tuning.search_space import Parameter

RATE = Parameter(name="learning_rate", low=1e-6, high=1e6, default=1.0)
DROPOUT = Parameter(name="dropout", low=0, high=1, default=0.5, log=False)


def generation(values: list[float | None], number: int = 0) -> list[Segment]:
    """Return a generation whose members have these values, and learning rates of 1, 2, 3 ..."""
    return [
        Segment(
            generation=number, member=member, parent=None, options={"learning_rate": member + 1.0, "dropout": 0.5},
            step=10, value=value, reason="" if value is not None else "out of memory",
        )
        for member, value in enumerate(values)
    ]  # fmt: skip


def follow(values: list[float | None], *, maximise: bool = False, seed: int = 0) -> list[Origin]:
    return next_generation(generation(values), (RATE, DROPOUT), maximise=maximise, seed=seed)


@pytest.mark.parametrize(
    "values, maximise, parents",
    [
        ([0.3, 0.1, 0.2, 0.4], False, [0, 1, 2, 1]),
        ([0.3, 0.1, 0.2, 0.4], True, [0, 3, 2, 3]),
        ([0.2, 0.1], False, [1, 1]),
        ([0.1, None, 0.2, 0.3], False, [0, 0, 2, 0]),
        ([None, None, None, 0.3], False, [3, 3, 3, 3]),
        ([0.1, 0.2, None], False, [0, 0, 0]),
    ],
)
def test_the_worst_continue_from_the_best_and_the_others_as_they_are(
    values: list[float | None], maximise: bool, parents: list[int]
) -> None:
    origins = follow(values, maximise=maximise)
    assert [origin.parent for origin in origins] == parents
    for member, (parent, origin) in enumerate(zip(parents, origins, strict=True)):
        rate, dropout = origin.options["learning_rate"], origin.options["dropout"]
        if parent == member:
            assert (rate, dropout) == (member + 1, 0.5)
        else:
            assert rate == pytest.approx((parent + 1) * 0.8) or rate == pytest.approx((parent + 1) * 1.2)
            assert dropout == pytest.approx(0.4) or dropout == pytest.approx(0.6)


def test_of_eight_the_worst_two_copy_one_of_the_best_two() -> None:
    parents = {tuple(o.parent for o in follow([8, 7, 1, 6, 2, 5, 4, 3], seed=seed)) for seed in range(20)}
    assert {p[2:] for p in parents} == {(2, 3, 4, 5, 6, 7)}
    assert {p[:2] for p in parents} == {(2, 2), (2, 4), (4, 2), (4, 4)}


def test_options_go_up_and_down_and_follow_from_the_seed() -> None:
    found = [follow([0.1, 0.2, 0.3, 0.4], seed=seed)[3].options for seed in range(20)]
    assert {(o["learning_rate"], o["dropout"]) for o in found} == {(0.8, 0.4), (0.8, 0.6), (1.2, 0.4), (1.2, 0.6)}
    assert found == [follow([0.1, 0.2, 0.3, 0.4], seed=seed)[3].options for seed in range(20)]


def test_a_generation_that_failed_ends_it_with_the_reasons() -> None:
    with pytest.raises(RunError, match="All runs of a generation failed") as caught:
        follow([None, None])
    assert caught.value.details == ("out of memory",)


def test_the_first_member_begins_with_the_defaults_and_the_others_elsewhere() -> None:
    origins = first_generation((RATE, DROPOUT), 5, seed=3)
    assert origins[0].options == {"learning_rate": 1.0, "dropout": 0.5}
    assert len({origin.options["learning_rate"] for origin in origins}) == 5
    assert origins == first_generation((RATE, DROPOUT), 5, seed=3) != first_generation((RATE, DROPOUT), 5, seed=4)
    assert all(origin.parent is None for origin in origins)


def test_the_ledger_survives_and_knows_lineages(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "population.jsonl")
    for segment in generation([0.4, 0.1]):
        ledger.add(segment)
    copy = Segment(generation=1, member=0, parent=1, options={}, step=20, value=0.05)
    own = Segment(generation=1, member=1, parent=1, options={}, step=20, value=None, reason="gone")
    for segment in (own, copy):
        ledger.add(segment)
    again = Ledger(tmp_path / "population.jsonl")
    assert again.segments == ledger.segments and again.generation(1) == [copy, own]
    assert [(one.generation, one.member) for one in lineage(copy, again.segments)] == [(0, 1), (1, 0)]
    assert copy.is_copy and not own.is_copy and not again.segments[0].is_copy
    assert [row["state"] for row in again.rows("loss")] == ["continued", "continued", "copied", "failed"]
    assert best_first(again.generation(0), maximise=False)[0].member == 1
    (tmp_path / "population.jsonl").write_text('{"generation": 0}\n')
    with pytest.raises(RunError, match="is damaged"):
        Ledger(tmp_path / "population.jsonl")
