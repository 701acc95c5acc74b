"""The training loop.

RUN/
  config.json       what the run was told, and what it chose
  metrics.jsonl     a line a step, and a line a validation
  checkpoints/      the newest three
  curves.png        drawn at the end
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store.errors import Interrupted, RunError
from train.checkpoint import Checkpoints
from train.config import RunConfig, resumed
from train.run import Observer, Run


def start(config: RunConfig, observer: Observer) -> dict[str, Any]:
    """Train from scratch.

    Returns:
        `Run.summary`.
    Raises:
        UsageError: a choice that this machine does not have.
        StoreError: the store is not one that this model can be trained on.
        RunError: `config.out` holds a run already, a checkpoint cannot be written, or training diverged.
        Interrupted: SIGTERM or SIGINT came; a checkpoint was saved.
    """
    if Checkpoints(config.out / "checkpoints").steps():
        raise RunError(f"{config.out} holds a run: go on with it by --resume, or choose another --out.")
    return _train(Run(config, None, observer))


def resume(out: Path, given: Mapping[str, Any], observer: Observer) -> dict[str, Any]:
    """Go on with the run in `out` as if it had not stopped.

    Args:
        given: fields of `RunConfig` to change.
    Returns, Raises:
        As `start`. RunError too where `out` holds no run, `given` would make it another one, or its store has changed.
    """
    config = resumed(out, given)
    checkpoints = Checkpoints(out / "checkpoints")
    if not checkpoints.steps():
        observer.say(f"{out} has no checkpoint yet: beginning at step 0")
        return _train(Run(config, None, observer))
    state, damaged = checkpoints.load_newest()
    for line in damaged:
        observer.say(line)
    observer.say(f"going on after step {state['step']}")
    return _train(Run(config, state, observer))


def _train(run: Run) -> dict[str, Any]:
    with run.stream, run.log, stop_signals() as stop:
        while not run.finished:
            run.train_step()
            if run.finished or run.due(run.config.validate_every):
                run.validate()
            stopping = bool(stop)  # read once: a signal that comes after this line has its turn after the next step
            if run.finished or stopping or run.due(run.config.checkpoint_every):
                run.save()
            if stopping and not run.finished:
                raise Interrupted(run.farewell(stop[0]))
    return run.summary()


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
