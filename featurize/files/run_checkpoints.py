"""The checkpoints of a training run, and which of them its weights are taken from.

The trainer and the features that are computed by a run's network choose here, so that both take the same one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from headrace.store.errors import RunError, UsageError
from headrace.store.storage import read_file

FOLDER, METRICS = "checkpoints", "metrics.jsonl"
BEST, NEWEST = "best", "newest"
COMPARED = ("loss_mel", "loss")
"""The loss by which validations are compared: the first of these that a line of metrics.jsonl has."""


class Choice(NamedTuple):
    """A checkpoint that may be taken."""

    step: int
    reason: str
    """Why it is taken, in words."""


def step_of(name: str) -> int | None:
    """Return the step of the checkpoint of this name; None if no checkpoint has it."""
    found = re.fullmatch(r"step-([0-9]{8,18})\.pt", name)
    return int(found[1]) if found else None


def path_of(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step in a folder of checkpoints."""
    return folder / f"step-{step:08d}.pt"


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints that are in a folder, ascending."""
    found = {step_of(path.name) for path in folder.glob("step-*.pt")}
    return sorted(step for step in found if step is not None and path_of(folder, step).is_file())


def check_at(at: str) -> str:
    """Return which checkpoint is asked for, or raise UsageError: `best`, `newest`, a step, or nothing of these."""
    if at in ("", BEST, NEWEST) or re.fullmatch("[0-9]{1,18}", at):
        return at
    raise UsageError(f"--at is {at!r}; give {BEST}, {NEWEST}, or the step of a checkpoint.")


def validated(run: Path, steps: Iterable[int]) -> dict[int, float]:
    """Return the validation loss of those of these steps at which the run was validated."""
    try:
        lines = read_file(run / METRICS).splitlines()
    except OSError:  # without it nothing is known of validations
        return {}
    wanted, losses = set(steps), dict[int, float]()
    for line in lines:
        if b'"validation"' not in line:
            continue
        try:
            record = json.loads(line)
            found = next(record[name] for name in COMPARED if name in record)
            if record["split"] == "validation" and record["step"] in wanted and isfinite(found):
                losses[record["step"]] = float(found)
        except (ValueError, KeyError, TypeError, RecursionError, StopIteration, OverflowError):
            continue  # a damaged line, or the loss was not finite
    return losses


def best_of(run: Path, steps: Iterable[int]) -> int:
    """Return that one of these steps which was validated with the lowest loss, the earliest of equals; 0 for none."""
    losses = validated(run, steps)
    return min(losses, key=lambda step: (losses[step], step), default=0)


def choices(run: Path, at: str = "") -> list[Choice]:
    """Return the checkpoints whose weights may be taken, the first one first; others stand in where it is damaged.

    Args:
        at: `best`, `newest`, or a step. Empty takes the best one, or the newest where none was validated.
    Raises:
        UsageError: `at` is something else.
        RunError: there is no checkpoint, or not this one.
    """
    check_at(at)
    steps = steps_in(run / FOLDER)
    if not steps:
        raise RunError(f"{run} has no checkpoint yet: train it, or name another run.")
    newest = [Choice(step, "the newest" if step == steps[-1] else "an older one") for step in reversed(steps)]
    if at == NEWEST:
        return newest
    if at not in ("", BEST):
        if int(at) in steps:
            return [Choice(int(at), "asked for")]
        raise RunError(f"{run} has no checkpoint of step {int(at)}: it has those of {', '.join(map(str, steps))}.")
    losses = validated(run, steps)
    if at == BEST and not losses:
        raise RunError(f"No checkpoint of {run} was validated: give --at {NEWEST}, or the step of one.")
    ranked = sorted(losses, key=lambda step: (losses[step], step))
    places = ["the best", *(f"number {place}" for place in range(2, len(ranked) + 1))]
    best = [
        Choice(step, f"{place} of {len(ranked)} validated, loss {losses[step]:.4g}")
        for place, step in zip(places, ranked, strict=False)
    ]
    return best + [choice for choice in newest if choice.step not in losses]
