"""The training loop.

RUN/
  config.json       what the run was told, and what it chose
  metrics.jsonl     a line a step, and a line a validation
  checkpoints/      the newest three, and the one that validated best
  samples/          what validations spoke, if asked for
  tensorboard/      curves, sound and pictures, if asked for
  curves.png        drawn at the end
  profile.txt       where steps went, and trace.json, if asked for
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from headrace.store.errors import Interrupted, RunError
from headrace.train import distributed
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.config import RunConfig, resumed
from headrace.train.monitoring.observer import Observer
from headrace.train.trainer.profiling import profiled
from headrace.train.trainer.run import Run


def start(config: RunConfig, observer: Observer) -> dict[str, Any] | None:
    """Train from scratch.

    Returns:
        `Run.summary`; of several ranks the first alone has one.
    Raises:
        UsageError: a choice that this machine does not have.
        StoreError: the store is not one that this model can be trained on.
        RunError: `config.out` holds a run already, a checkpoint cannot be written, or training diverged.
        Interrupted: SIGTERM or SIGINT came; a checkpoint was saved.
    """
    if Checkpoints(config.out / "checkpoints").steps():
        raise RunError(f"{config.out} holds a run: go on with it by --resume, or choose another --out.")
    with distributed.joined():
        return _train(Run(config, None, observer))


def resume(out: Path, given: Mapping[str, Any], observer: Observer) -> dict[str, Any] | None:
    """Go on with the run in `out` as if it had not stopped.

    Args:
        given: fields of `RunConfig` to change.
    Returns, Raises:
        As `start`. RunError too where `out` holds no run, `given` would make it another one, or its store has changed.
    """
    config = resumed(out, given)
    checkpoints = Checkpoints(out / "checkpoints")
    state = None
    if checkpoints.steps():
        state, damaged = checkpoints.load_newest()
        for line in damaged:
            observer.say(line)
        observer.say(f"going on after step {state['step']}")
    else:
        observer.say(f"{out} has no checkpoint yet: beginning at step 0")
    with distributed.joined():
        return _train(Run(config, state, observer))


def _train(run: Run) -> dict[str, Any] | None:
    profiling = profiled(run.config.out, 0 if distributed.rank() else run.config.monitoring.profile, run.observer.say)
    watching = run.log or nullcontext(), run.board or nullcontext()
    with run.stream, watching[0], watching[1], profiling as profile_step, stop_signals() as stop:
        while not run.finished:
            run.train_step()
            profile_step()
            if run.finished or run.due(run.config.schedule.validate_every):
                run.validate()
            # Asked once: a signal that comes after this line has its turn after the next step.
            caught = [number for numbers in distributed.gathered(list(stop)) for number in numbers]
            if run.finished or caught or run.due(run.config.schedule.checkpoint_every):
                run.save()
            if caught and not run.finished:
                raise Interrupted(run.farewell(caught[0]))
    return run.summary() if distributed.rank() == 0 else None


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGINT and SIGTERM, so that a step can be finished. The second one interrupts at once."""
    caught: list[signal.Signals] = []

    def note(number: int, _: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number))

    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may install handlers
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
