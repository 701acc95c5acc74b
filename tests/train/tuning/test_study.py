"""The study of a search: what is pruned, and that a kill changes nothing of what it proposes."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.train.tuning.search_space import Parameter
from headrace.train.tuning.study import RUNGS, Study, Trial

SPACE = (
    Parameter(name="learning_rate", low=0.001, high=1, default=0.01),
    Parameter(name="warmup_steps", low=0, high=50, default=0, log=False, whole=True),
)


def study(folder: Path, *, maximise: bool = False, seed: int = 0) -> Study:
    return Study(folder / "journal.log", SPACE, maximise=maximise, seed=seed)


def take(of: Study, most: int = 100) -> Trial:
    trial = of.take(most)
    assert trial is not None
    return trial


def test_trials_that_are_worse_are_pruned_at_rungs_only(tmp_path: Path) -> None:
    """At validations 1 and 3: whoever is in the best third of those that came as far goes on."""
    made = study(tmp_path)
    first = take(made)
    assert all(first.report(rung, 10 - rung) for rung in range(1, RUNGS + 1))
    first.finish("complete")
    worse = take(made)
    assert not worse.report(1, 9.5)
    worse.finish("pruned")
    better = take(made)
    assert better.report(1, 8.5) and better.report(2, 99.0), "no rung"
    assert not better.report(3, 7.5)
    better.finish("pruned")
    as_good = take(made)
    assert as_good.report(1, 8.5) and as_good.report(2, 8) and as_good.report(3, 7)
    rows = made.rows("loss")
    assert [row["state"] for row in rows] == ["complete", "pruned", "pruned", "running"]
    assert [row["loss"] for row in rows] == [1, 9.5, 7.5, 7]


def test_of_a_metric_that_rises_the_lower_ones_are_pruned(tmp_path: Path) -> None:
    made = study(tmp_path, maximise=True)
    first, lower, higher = take(made), take(made), take(made)
    assert first.report(1, 0.5) and not lower.report(1, 0.4) and higher.report(1, 0.6)


def test_the_first_trial_has_the_defaults(tmp_path: Path) -> None:
    assert take(study(tmp_path)).options == {"learning_rate": 0.01, "warmup_steps": 0}


def propose(folder: Path, count: int, *, anew: bool, seed: int = 0) -> list[dict[str, float]]:
    """Return the options of trials; with `anew`, the study is opened again and again, as after kills."""
    made, options = study(folder, seed=seed), []
    for number in range(count):
        trial = take(made)
        if anew:
            made = study(folder, seed=seed)
            again = take(made)
            assert (again.number, again.options) == (trial.number, trial.options), "the trial that was running"
            trial = again
        options.append(trial.options)
        trial.report(1, abs(trial.options["learning_rate"] - 0.1))
        if anew:
            made = study(folder, seed=seed)
            trial = take(made)
            assert trial.number == number
        if number == 3:
            trial.finish("failed", "out of memory")
        else:
            trial.finish("complete")
    return options


def test_a_study_that_continues_proposes_what_it_would_have_proposed(tmp_path: Path) -> None:
    for name in ("one", "killed", "other"):
        (tmp_path / name).mkdir()
    undisturbed = propose(tmp_path / "one", 14, anew=False)  # Optuna proposes from the 11th on, and draws before
    assert propose(tmp_path / "killed", 14, anew=True) == undisturbed
    assert propose(tmp_path / "other", 3, anew=False, seed=1)[1] != undisturbed[1]
    assert len({str(options) for options in undisturbed}) == 14
    row = study(tmp_path / "one").rows("loss")[3]
    assert (row["state"], row["reason"], row["loss"]) == ("failed", "out of memory", None)


def test_there_are_no_more_trials_than_asked_for(tmp_path: Path) -> None:
    made = study(tmp_path)
    taken = [made.take(2), made.take(2)]
    assert made.take(2) is None and [trial.number for trial in taken if trial] == [0, 1]
    again = study(tmp_path)
    assert [take(again, 2).number, take(again, 2).number] == [0, 1] and again.take(2) is None


def test_what_a_kill_leaves_in_the_journal_does_no_harm(tmp_path: Path) -> None:
    take(study(tmp_path)).report(1, 0.5)
    whole = (tmp_path / "journal.log").read_bytes()
    (tmp_path / "journal.log").write_bytes(whole + whole.splitlines()[-1][:20])
    (tmp_path / "journal.log.lock").touch()
    trial = take(study(tmp_path))
    assert trial.report(1, 0.5)
    trial.finish("complete")
    assert [(row["trial"], row["loss"]) for row in study(tmp_path).rows("loss")] == [(0, 0.5)]


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_trial_that_continues_is_told_again_to_go_on(tmp_path: Path, killed_after: int) -> None:
    """Its run may begin at a checkpoint before the validation that was reported last."""
    trial = take(study(tmp_path))
    for rung in range(1, killed_after + 1):
        trial.report(rung, 1 / rung)
    again = take(study(tmp_path))
    assert all(again.report(rung, 1 / rung) for rung in range(1, RUNGS + 1))
    assert again.finish("complete")["validations"] == RUNGS
