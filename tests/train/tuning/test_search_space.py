"""What is searched: ranges about the defaults, that a run accepts from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headrace.store.errors import UsageError
from headrace.train.config import RunConfig
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.tuning.search_space import NAMES, Parameter, search_space, without_fixed


def config(stage: str = "sovits", preset: str = "tiny", **options: Any) -> RunConfig:
    options = {"max_steps": 100, **options}
    return RunConfig.from_options(store=Path("STORE"), out=Path("RUN"), stage=stage, preset=preset, **options)


@pytest.mark.parametrize("stage", NAMES)
@pytest.mark.parametrize("preset", ["tiny", "v2", "v2Pro"])
def test_a_run_accepts_both_ends_and_the_default_lies_between(stage: str, preset: str) -> None:
    space = search_space(config(stage, preset), 1600)
    assert [parameter.name for parameter in space] == list(NAMES[stage])
    for end in (0.0, 1.0):
        options = {parameter.name: parameter.at(end) for parameter in space}
        assert config(stage, preset).with_options(**options).options().items() >= options.items()
        assert all(type(options[p.name]) is (int if p.whole else float) for p in space)
    for parameter in space:
        assert parameter.low <= parameter.default <= parameter.high
        assert parameter.at(parameter.share_of(parameter.default)) == pytest.approx(parameter.default)


def test_defaults_are_those_that_a_run_has() -> None:
    """An option that is given is the default, and the learning rate of gpt the one of its schedule."""
    by_name = {p.name: p for p in search_space(config(learning_rate=0.5, mel_weight=20, dropout=0.25), 800)}
    assert by_name["learning_rate"].default == 0.5 and by_name["learning_rate"].high == pytest.approx(5)
    assert (by_name["mel_weight"].default, by_name["kl_weight"].default, by_name["dropout"].default) == (20, 1, 0.25)
    assert (by_name["batch_frames"].low, by_name["batch_frames"].high, by_name["warmup_steps"].high) == (400, 1600, 50)
    for preset in ("tiny", "v2"):
        (rate,) = search_space(config("gpt", preset), 800, "learning_rate")
        own = GptOptimConfig.from_config(config("gpt", preset))
        given = GptOptimConfig.from_config(config("gpt", preset, learning_rate=rate.default))
        assert [given.rate(update) for update in range(1, 300)] == [own.rate(update) for update in range(1, 300)]


def test_ranges_that_are_given() -> None:
    space = search_space(config(), 1600, "learning_rate=1e-4:1e-2, batch_frames=100:200,dropout")
    assert [(p.name, p.low, p.high) for p in space[:2]] == [("learning_rate", 1e-4, 1e-2), ("batch_frames", 100, 200)]
    assert space[1].default == 200, "the nearest in the range"


@pytest.mark.parametrize(
    "search, says",
    [
        ("seed", "'seed' cannot be searched for the stage gpt; choose from learning_rate, warmup_steps"),
        ("kl_weight", "'kl_weight' cannot be searched"),
        ("dropout=0.5", "dropout=0.5 is no range: give two numbers as LOW:HIGH"),
        ("dropout=a:b", "is no range"),
        ("dropout=nan:1", "is no range"),
        ("dropout=0.5:0.2", "give the lower end first"),
        ("dropout=0.2:1.0", "dropout is 1.0; it must be from 0 to less than 1"),
        ("learning_rate=0:1", "give the lower end first, more than 0"),
        ("warmup_steps=0:2.5", "give two whole numbers"),
        ("warmup_steps=-1:2", "at least 0"),
    ],
)
def test_what_cannot_be_searched_is_told_in_a_line(search: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        search_space(config("gpt"), 1600, search)
    assert says in caught.value.message and "\n" not in caught.value.message


def test_a_population_searches_only_what_may_change() -> None:
    space = search_space(config(), 1600)
    assert {p.name for p in space} - {p.name for p in without_fixed(space, "")} == {"warmup_steps", "batch_frames"}
    with pytest.raises(UsageError, match="warmup_steps cannot change while a run lasts"):
        without_fixed(search_space(config(), 1600, "warmup_steps"), "warmup_steps")


def test_options_change_a_little_and_stay_in_their_range() -> None:
    rate = Parameter(name="learning_rate", low=0.01, high=1.0, default=0.1)
    assert (rate.changed(0.1, up=True), rate.changed(0.1, up=False)) == pytest.approx((0.12, 0.08))
    assert (rate.changed(0.9, up=True), rate.changed(0.011, up=False)) == (1.0, 0.01)
    dropout = Parameter(name="dropout", low=0, high=0.3, default=0, log=False)
    assert (dropout.changed(0, up=True), dropout.changed(0, up=False)) == (pytest.approx(0.03), 0)
