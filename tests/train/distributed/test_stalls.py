"""Which rank is said to stand still, for what the ranks of a job say of themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.train.distributed.phases import (
    COMPUTING,
    ENDED,
    FIRST_STEPS,
    READING,
    REDUCING,
    SAVING,
    STARTING,
    SYNCHRONISING,
    VALIDATING,
    Phases,
)
from headrace.train.distributed.stalls import RankState, Verdict, find_stalled

NAMES = [f"rank {n} of 4 on HOST" for n in range(4)]


def state(rank: int, phase: str = REDUCING, idle_s: float = 90, **changes: float) -> RankState:
    made = RankState(rank=rank, step=7, phase=phase, collectives=30, idle_s=idle_s, limit_s=60)
    return replace(made, **changes)  # type: ignore[arg-type]


def judged(*states: RankState) -> tuple[list[int], list[int], list[int], list[int]] | None:
    """Numbers by kind of verdict, in any order of the states."""
    verdict, again = (find_stalled(order, silence_s=45) for order in (states, states[::-1]))
    assert verdict == again
    if verdict is None:
        return None
    groups = (verdict.silent, verdict.busy, verdict.behind, verdict.deadlocked)
    return tuple([s.rank for s in group] for group in groups)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "states, want",
    [
        # One is at work and does not come on, while the others wait for it.
        ([state(0), state(1, READING), state(2)], ([], [1], [], [])),
        ([state(0, READING), state(1), state(2)], ([], [0], [], [])),
        ([state(0), state(1, READING), state(2, COMPUTING)], ([], [1, 2], [], [])),
        ([state(0, SYNCHRONISING), state(1, COMPUTING), state(2)], ([], [1], [], [])),
        # One works, and still makes progress, or may take longer: it comes.
        ([state(0, VALIDATING, 5), state(1), state(2)], None),
        ([state(0, SAVING, 500, limit_s=600), state(1), state(2)], None),
        ([state(0, SAVING, 601, limit_s=600), state(1), state(2)], ([], [0], [], [])),
        ([state(0, READING), state(1, COMPUTING, 3), state(2)], None),
        ([state(0, READING, 60), state(1), state(2)], None),
        # One says nothing any more.
        ([state(0), state(1, silent_s=46), state(2)], ([1], [], [], [])),
        ([state(0), state(1, silent_s=45), state(2)], ([], [], [], [0, 1, 2])),
        ([state(0), state(1, COMPUTING, 0, silent_s=50), state(2)], ([1], [], [], [])),
        ([state(0, SAVING, 5), state(1, silent_s=50), state(2)], ([1], [], [], [])),
        ([state(0), state(1, silent_s=50), state(2, READING)], ([1], [2], [], [])),
        ([state(0), state(1, silent_s=50), state(2, READING, 5)], ([1], [], [], [])),
        # All wait: for one that has just come, for one that is behind, for one that has ended, for one another.
        ([state(0, idle_s=1), state(1), state(2)], None),
        ([state(0), state(1, step=6), state(2)], ([], [], [1], [])),
        ([state(0), state(1, collectives=29), state(2)], ([], [], [1], [])),
        ([state(0), state(1, step=8, collectives=2), state(2)], ([], [], [0, 2], [])),
        ([state(0), state(1, ENDED, silent_s=500), state(2)], ([], [], [1], [])),
        ([state(0), state(1), state(2)], ([], [], [], [0, 1, 2])),
        # Nobody is left to wait.
        ([state(0, ENDED), state(1, ENDED)], None),
        ([], None),
    ],
)
def test_the_rank_that_the_others_wait_for_stands_still(
    states: list[RankState], want: tuple[list[int], ...] | None
) -> None:
    assert judged(*states) == want


def test_a_line_names_rank_host_device_phase_and_step() -> None:
    stuck = Verdict(busy=(state(2, READING, device="cuda:1"),))  # type: ignore[arg-type]
    assert stuck.describe(NAMES) == "rank 2 of 4 on HOST, cuda:1, stands still in reading at step 8 for 90 s"
    gone = Verdict(silent=tuple(state(n) for n in range(4)), busy=(state(0), state(1)))
    line = gone.describe(NAMES)
    assert "\n" not in line and line.endswith("; and 2 more") and line.count("does not answer") == 4


def test_long_phases_first_steps_and_slow_steps_may_take_longer() -> None:
    at = Phases()
    assert at.phase == STARTING and at.limit(60, 600) == 600
    at.move(COMPUTING)
    for step in range(1, FIRST_STEPS):
        at.finish_step(step, 1.0)
        assert at.limit(60, 600) == 600
    at.finish_step(FIRST_STEPS, 1.0)
    assert at.limit(60, 600) == 60
    for step in range(60):
        at.finish_step(step, 8.0)
    assert at.limit(60, 600) == 80
    with at.enter(SAVING):
        assert at.limit(60, 600) == 600
    assert at.phase == COMPUTING
