"""Ranks of other speeds: given or measured, recorded with the position, and taken over only where that is due."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from headrace.store.errors import UsageError
from headrace.train import distributed, speeds
from headrace.train.config import RunConfig
from headrace.train.data.batch import Batch
from headrace.train.data.batch_plan import Position, Stretch
from headrace.train.distributed.phases import PHASES, READING, REDUCING
from headrace.train.distributed.work_time import WorkTimer
from headrace.train.trainer.rank_speeds import RankSpeeds, check_speeds, describe

CPU = torch.device("cpu")


def batch(frames: int) -> Batch:
    lengths = torch.tensor([frames, frames])
    return Batch(numbers=np.arange(2), frames=lengths, phones_n=lengths, tensors={})


class Clock:
    """A clock that the test moves, and two ranks: what the other one has measured is given."""

    def __init__(self) -> None:
        self.now = 0.0
        self.other: float | None = None
        self.exchanges = 0

    def all_gather(self, value: float | None) -> list[float | None]:
        self.exchanges += 1
        return [value, self.other]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr("headrace.train.distributed.work_time.time.perf_counter", lambda: clock.now)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather", clock.all_gather)
    yield clock
    assert PHASES.on_wait is None


def advance(clock: Clock, measured: RankSpeeds, position: Position, updates: int, seconds: float) -> Position:
    """Make updates that take so many seconds a frame, and wait for the other rank for a second each time."""
    for _ in range(updates):
        with measured.measure([batch(50)]):
            clock.now += 60 * seconds
            with PHASES.enter(REDUCING):
                clock.now += 1
            with PHASES.enter(READING):
                clock.now += 40 * seconds
        position = measured.follow(position, position.after_step())
    return position


def test_the_first_steps_of_a_stretch_decide_without_what_was_waited(clock: Clock) -> None:
    measured, clock.other = RankSpeeds("auto", CPU, 2), 0.02
    position = measured.begin(Position.start())
    assert position == Position.start(2)
    position = advance(clock, measured, position, 19, 0.009)
    assert clock.exchanges == 0 and position.speeds == ()
    position = advance(clock, measured, position, 1, 0.009)
    assert position.history == (Stretch(2, 20), Stretch(2, 0, (100, 45)))
    position = advance(clock, measured, position, 60, 0.02)
    assert clock.exchanges == 1, "one comparison of a stretch, and the next one in the next epoch"
    assert RankSpeeds("auto", CPU, 2).begin(Position.from_json(position.to_json())) == position


def test_an_epoch_begins_with_what_the_last_one_measured(clock: Clock) -> None:
    measured, clock.other = RankSpeeds("auto", CPU, 2), 0.02
    position = advance(clock, measured, Position.start(2, speeds=(100, 45)), 12, 0.01)
    assert measured.follow(position, position.next_epoch()) == Position.start(2, epoch=1, speeds=(100, 50))
    position = advance(clock, measured, Position.start(2, speeds=(100, 45)), 12, 0.0092)
    assert measured.follow(position, position.next_epoch()).speeds == (100, 45), "46 is as good as 45"
    position = advance(clock, measured, Position.start(2, speeds=(100, 45)), 12, 0.02)
    assert measured.follow(position, position.next_epoch()).speeds == ()


def test_too_few_measurements_change_nothing(clock: Clock) -> None:
    measured, clock.other = RankSpeeds("auto", CPU, 2), 0.02
    position = advance(clock, measured, Position.start(2, speeds=(100, 45)), 7, 1.0)
    assert measured.follow(position, position.next_epoch()).speeds == (100, 45)
    clock.other = None  # of the other rank
    position = advance(clock, measured, position, 30, 1.0)
    assert measured.follow(position, position.next_epoch()).speeds == (100, 45)


def test_given_speeds_are_not_measured(clock: Clock) -> None:
    given = RankSpeeds("1,0.45", CPU, 2)
    position = given.begin(Position.start(2).after_step())
    assert position.history == (Stretch(2, 1), Stretch(2, 0, (100, 45)))
    assert advance(clock, given, position, 40, 1.0).speeds == (100, 45) and clock.exchanges == 0
    assert RankSpeeds("equal", CPU, 2).begin(position) == Position.start(2).after_step()


def test_speeds_of_another_number_of_ranks_are_refused(clock: Clock) -> None:
    check_speeds("1,0.45", 2), check_speeds("auto", 2), check_speeds("equal", 2)
    with pytest.raises(UsageError, match=r"--speeds 1,0\.45,1 has 3 numbers, and this run has 2 processes: "):
        check_speeds("1,0.45,1", 2)


@pytest.mark.parametrize("text", ["", "fast", "1,", "1,0", "1,-1", "nan,1", "1,inf"])
def test_what_are_no_speeds(text: str) -> None:
    with pytest.raises(UsageError, match="give auto, equal, or a number greater than 0 for each process"):
        RunConfig.from_options(store="STORE", out="RUN", speeds=text)


def test_speeds_are_relative_to_the_fastest() -> None:
    assert speeds.parse_speeds("2,0.9,0.001") == (100, 45, 1)
    assert speeds.parse_speeds("3,3") == speeds.parse_speeds("0.45") == speeds.parse_speeds("equal") == ()
    assert speeds.parse_speeds("auto") is None
    assert describe((100, 45), 2) == "rank 0 1.00 (69.0%), rank 1 0.45 (31.0%)"
    assert speeds.shares((), 4) == [0.25] * 4


def test_a_timer_runs_in_its_context_only(clock: Clock) -> None:
    timer = WorkTimer(CPU)
    with PHASES.enter(REDUCING):
        clock.now += 5
    with timer.running():
        clock.now += 1
        with PHASES.enter(REDUCING):
            clock.now += 7
    clock.now += 5
    assert timer.seconds() == 1
