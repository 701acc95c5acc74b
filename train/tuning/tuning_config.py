"""Configuration of a tuning, and its folder.

TUNING/
  tuning.json     what is tuned: a command that continues must ask for the same
  journal.log     the study of a search, Optuna's
  population.jsonl    a line for each run of a population that has ended
  trials/, members/   the runs; checkpoints of those that nothing needs any more are removed
  trials.jsonl    a line for each trial, or run of a population
  best.toml       options of the best one, for train run --config
  tuning.png, lineage.png
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.store.errors import RunError, UsageError
from headrace.store.names import LOCK_FILE
from headrace.store.storage import StoragePath, read_file
from headrace.store.storage.local import DRAFT_FILE, atomic_file, clear_drafts, folder_lock, make_folder
from headrace.train.config import RunConfig
from headrace.train.stages.gpt_optimizer import falls_to_its_end
from headrace.train.tuning.search_space import Parameter
from headrace.train.tuning.study import RUNGS

METRICS = {"sovits": ("loss_mel", "loss_kl"), "gpt": ("loss", "accuracy")}
"""Metrics of validations, by stage; the first one is the default."""
MAXIMISED = ("accuracy",)
FILE = "tuning.json"
FEWEST_MEMBERS = 2


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """A tuning: what is trained, and how the options are searched."""

    store: StoragePath
    out: Path
    """Folder of the tuning."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of all runs, by name, as for `RunConfig.with_options`; `max_steps` is that of a run with the default
    batch."""
    trials: int = 20
    """Runs in all. With a population, each generation has one of each member."""
    metric: str = ""
    """Metric of validations to compare runs by. Empty takes the loss of the stage."""
    search: str = ""
    """Options to search, as for `search_space`. Empty for all of the stage."""
    jobs: int = 1
    """Runs at a time."""
    population: int = 0
    """Members of a population. 0 searches by trials."""

    def __post_init__(self) -> None:
        run, metrics = self.run, METRICS[self.run.model.stage]
        if self.metric and self.metric not in metrics:
            raise UsageError(
                f"metric is {self.metric!r}; validations of the stage {run.model.stage} have {', '.join(metrics)}."
            )
        if run.schedule.max_epochs or run.schedule.patience or run.optim.grow_batch:
            raise UsageError(
                "max_epochs, patience and grow_batch: leave them out, every run of a tuning has its steps."
            )
        if run.schedule.checkpoint_to or run.schedule.save_every:
            raise UsageError("checkpoint_to and save_every: leave them out, few checkpoints of a tuning are kept.")
        if run.schedule.max_steps < RUNGS:
            raise UsageError(f"max_steps is {run.schedule.max_steps}; a run of a tuning needs at least {RUNGS}.")
        if self.population:
            self._check_population()

    def _check_population(self) -> None:
        if self.population < FEWEST_MEMBERS:
            raise UsageError(f"population is {self.population}; it must be at least {FEWEST_MEMBERS}.")
        if self.trials % self.population or self.generations < 2:
            raise UsageError(
                f"trials is {self.trials}; with a population of {self.population} it must be a multiple of that, and "
                "twice as many at least: one run of each member in each generation."
            )
        if falls_to_its_end(self.run):
            raise UsageError(
                "warmup_steps and adamw make the learning rate of gpt fall to the end of a run, and a population "
                "prolongs its runs: leave them out, or search without --population."
            )

    @property
    def run(self) -> RunConfig:
        """The config of a run with the default options."""
        return RunConfig.from_options(store=self.store, out=self.out / "RUN", **self.options)

    @property
    def measured(self) -> str:
        """The metric that runs are compared by."""
        return self.metric or METRICS[self.run.model.stage][0]

    @property
    def maximises(self) -> bool:
        """Whether larger values of it are better."""
        return self.measured in MAXIMISED

    @property
    def generations(self) -> int:
        """Generations of a population."""
        return self.trials // self.population

    def identity(self, space: Sequence[Parameter]) -> dict[str, Any]:
        """Return what a tuning keeps for life, as a JSON object. A search may get more trials, a population not."""
        options = {name: str(v) if isinstance(v, Path) else v for name, v in self.run.options().items()}
        return {
            "store": str(self.store.resolve()),
            "metric": self.measured,
            "population": self.population,
            "generations": self.generations if self.population else 0,
            "space": {parameter.name: parameter.to_json() for parameter in space},
            "options": options,
        }


@contextmanager
def tuning_folder(config: TuneConfig, space: Sequence[Parameter]) -> Iterator[None]:
    """Hold the folder of a tuning for as long as the context lasts, one that is new, or of the same tuning.

    Raises:
        UsageError: it holds other things.
        RunError: another command is writing it, or it was begun with other options.
    """
    out = config.out
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give the tuning a folder by --out.")
    names = os.listdir(out) if out.exists() else []
    names = [name for name in names if name != LOCK_FILE and not DRAFT_FILE.fullmatch(name)]
    if names and FILE not in names:
        raise UsageError(f"{out} is not empty and holds no tuning ({min(names)!r} is there): give another --out.")
    make_folder(out)
    with folder_lock(out, RunError):
        clear_drafts(out)
        identity = config.identity(space)
        if (out / FILE).exists():
            _check_same(out, identity)
        else:
            with atomic_file(out / FILE) as file:
                file.write((json.dumps(identity, indent=1) + "\n").encode())
        yield


def _check_same(out: Path, identity: Mapping[str, Any]) -> None:
    """Raise RunError if the tuning in a folder was begun with other options."""
    try:
        before = json.loads(read_file(out / FILE))
        flat, now = _flat(before), _flat(identity)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise RunError(f"{out / FILE} is damaged: begin a new tuning with another --out.") from error
    changed = sorted(name for name in flat.keys() | now.keys() if flat.get(name) != now.get(name))
    if changed:
        raise RunError(
            f"{out} was begun with another {' and '.join(changed)}: leave that as it was to continue, or give another "
            "--out.",
            *(f"{name}: {flat.get(name)} in {out}, {now.get(name)} now" for name in changed),
        )


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity with its options and ranges beside the rest."""
    ranges = {f"range of {name}": value for name, value in identity["space"].items()}
    return {**{k: v for k, v in identity.items() if k not in ("space", "options")}, **identity["options"], **ranges}
