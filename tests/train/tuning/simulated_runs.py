"""A stand-in for the runs of a tuning: as quick as a function of their options, and it can be killed anywhere."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headrace.train.config import RunConfig, write_config
from headrace.train.tuning.trial_process import Outcome


class Killed(BaseException):
    """The process was killed: nothing that follows is done."""


class SimulatedRuns:
    """A `Train` whose losses fall with steps, and lie the lower the nearer the learning rate is to 0.03.

    A checkpoint is a text that names the members, or trials, whose steps it has; one that continues adds itself.
    """

    def __init__(
        self, killed_at: int = -1, fails: Callable[[RunConfig], str] = lambda _: "", refused: str = ""
    ) -> None:
        """
        Args:
            killed_at: the validation, counted over all runs, after which all is killed.
            fails: returns the reason for which a run fails, empty for none.
        """
        self.killed_at, self.fails, self.refused = killed_at, fails, refused
        self.validations, self.environments, self._lock = 0, list[Mapping[str, str]](), threading.Lock()

    def __call__(
        self,
        config: RunConfig,
        metric: str,
        validated: Callable[[int, float], bool],
        stop: threading.Event,
        environment: Mapping[str, str],
    ) -> Outcome:
        self.environments.append(environment)
        if self.refused:
            return Outcome("refused", self.refused)
        checkpoints = config.out / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_config(config, config.out)
        (config.out / "metrics.jsonl").touch()
        steps = [int(path.stem.removeprefix("step-")) for path in checkpoints.iterdir()]
        begin, every = max(steps, default=0), config.schedule.validate_every
        history = (checkpoints / f"step-{begin:08d}.pt").read_text() if begin else ""
        for step in range(begin + every, config.schedule.max_steps + 1, every):
            if reason := self.fails(config):
                return Outcome("failed", reason)
            goes_on = validated(step, loss(config, step))
            with self._lock:
                self.validations += 1
                if self.validations == self.killed_at:
                    raise Killed
            history += f"{config.out.parent.parent.name}/{config.out.parent.name} "
            (checkpoints / f"step-{step:08d}.pt").write_text(history)
            if not goes_on:
                return Outcome("pruned")
        return Outcome("complete")


def loss(config: RunConfig, step: int) -> float:
    """Return the loss of a run at a step."""
    return abs(math.log((config.optim.learning_rate or 0.01) / 0.03)) + (config.model.dropout or 0) + 1 / step


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Return the rows of trials.jsonl of a tuning."""
    return [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
