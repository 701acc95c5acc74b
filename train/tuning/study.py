"""The study of a search: trials that Optuna proposes, and prunes, in a journal on disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.store.errors import UsageError
from headrace.train.tuning.search_space import Parameter

if TYPE_CHECKING:
    import optuna

RUNGS = 9
"""Validations of a trial."""
REDUCTION = 3
"""After 1 and 3 of the `RUNGS` validations, a trial goes on if it is in the best third of those that came as far."""


class Study:
    """Trials of a search, in a journal. What it proposes depends on the seed and on the trials before, not on kills.

    Several threads may use it, and one process at a time.
    """

    def __init__(self, journal: Path, space: Sequence[Parameter], *, maximise: bool, seed: int) -> None:
        """
        Args:
            journal: file; it is made, or continued.
            maximise: whether larger values are better.
        Raises:
            UsageError: Optuna is not installed.
        """
        optuna = import_optuna()
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        _repair(journal)
        backend = JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
        self._optuna, self._space, self._seed = optuna, space, seed
        self._lock, self._taken = threading.RLock(), set[int]()
        self._study = optuna.create_study(
            storage=JournalStorage(backend),
            study_name="tuning",
            direction="maximize" if maximise else "minimize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION),
            load_if_exists=True,
        )
        if not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial({parameter.name: parameter.default for parameter in space})

    def take(self, most: int) -> Trial | None:
        """Return a trial to train: one that was running when the study was killed, or a new one.

        Args:
            most: trials of the study; None is returned when there are so many.
        """
        with self._lock:
            states = self._optuna.trial.TrialState
            trials = self._study.get_trials(deepcopy=False)
            left = [t for t in trials if t.state == states.RUNNING and t.number not in self._taken]
            if not left and sum(t.state != states.WAITING for t in trials) >= most:
                return None
            number = left[0].number if left else sum(t.state != states.WAITING for t in trials)
            # A sampler of its own for each trial: a study that continues proposes what it would have proposed.
            seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
            self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
            of_study = self._optuna.trial.Trial(self._study, left[0]._trial_id) if left else self._study.ask()
            self._taken.add(of_study.number)
            return Trial(self._study, of_study, self._lock, {p.name: _suggest(of_study, p) for p in self._space})

    def rows(self, metric: str) -> list[dict[str, Any]]:
        """Return a row for each trial that was begun: its number, state, value, validations, options and reason."""
        with self._lock:
            trials = self._study.get_trials(deepcopy=False)
        return [_row(trial, metric) for trial in trials if trial.state.name != "WAITING"]


class Trial:
    """A trial that is being trained."""

    def __init__(self, study: Any, trial: Any, lock: threading.RLock, options: dict[str, float]) -> None:
        self._study, self._trial, self._lock = study, trial, lock
        self.options = options
        """Of the run, by name."""
        self.number: int = trial.number

    def report(self, rung: int, value: float) -> bool:
        """Record the value of a validation, counted from 1. Returns whether the trial is to go on."""
        with self._lock:
            trial = self._study.get_trials(deepcopy=False)[self.number]
            if rung in trial.intermediate_values:  # of a trial that continues: what followed is decided
                return rung != trial.user_attrs.get("pruned_at")
            self._trial.report(value, rung)
            if rung == RUNGS or not self._trial.should_prune():
                return True
            self._trial.set_user_attr("pruned_at", rung)
            return False

    def finish(self, state: str, reason: str = "") -> dict[str, Any]:
        """Record how the trial ended: `complete`, `pruned` or `failed`. Its value is the last one that it reported."""
        with self._lock:
            states = import_optuna().trial.TrialState
            reported = self._study.get_trials(deepcopy=False)[self.number].intermediate_values
            if reason:
                self._trial.set_user_attr("reason", reason)
            if state == "complete":
                self._study.tell(self._trial, reported[max(reported)])
            else:
                self._study.tell(self._trial, state=states.PRUNED if state == "pruned" else states.FAIL)
            return _row(self._study.get_trials(deepcopy=False)[self.number], "value")


def import_optuna() -> Any:
    """Import Optuna. Raises UsageError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            f"train tune needs a package that is not there ({error.name}): pip install 'headrace[tune]'."
        ) from error
    return optuna


def _suggest(trial: optuna.trial.Trial, parameter: Parameter) -> float:
    low, high, log = parameter.low, parameter.high, parameter.log
    if parameter.whole:
        return trial.suggest_int(parameter.name, int(low), int(high), log=log)
    return trial.suggest_float(parameter.name, low, high, log=log)


def _row(trial: optuna.trial.FrozenTrial, metric: str) -> dict[str, Any]:
    values = trial.intermediate_values
    state = {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())
    return {
        "trial": trial.number,
        "state": state,
        metric: values[max(values)] if values and state != "failed" else None,
        "validations": len(values),
        "options": dict(trial.params),
        "reason": trial.user_attrs.get("reason", ""),
    }


def _repair(journal: Path) -> None:
    """Drop what a killed process left: half a last line, and a lock. The folder's own lock keeps others out."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
