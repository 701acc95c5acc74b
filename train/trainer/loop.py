"""The training loop.

RUN/
  config.json       options of the run, automatic ones with what was chosen
  metrics.jsonl     a line for each step and each validation
  checkpoints/      the newest three, the one that validated best, and those of --save-every
  samples/          synthesised held-out utterances, with --samples
  tensorboard/      curves, audio and pictures, with --tensorboard
  curves.png        drawn at the end
  profile.txt       time by operation, and trace.json, with --profile
  hangs/            stacks of all ranks at a step at which one stood still
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from headrace.store.errors import Interrupted, RunError, UsageError
from headrace.train import distributed
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.checkpoints.copies import CHECKPOINTS, copies_of
from headrace.train.config import RunConfig, config_path, read_config, resumed
from headrace.train.distributed.phases import PHASES, TRAINING
from headrace.train.monitoring.observer import CompositeObserver, Observer
from headrace.train.stages.gpt_optimizer import describe_new_end
from headrace.train.trainer.profiling import profile_steps
from headrace.train.trainer.run import Run
from headrace.train.trainer.run_folder import run_folder


def start(config: RunConfig, observer: Observer | None = None) -> dict[str, Any] | None:
    """Start a training run, and train until it is finished.

    Args:
        observer: receives the events of the run; None for none.
    Returns:
        `Run.summary` on the first rank, None on the others.
    Raises:
        UsageError: this machine does not support a setting, or `config.out` holds other things than a run.
        StoreError: the store is not one that this model can be trained on.
        RunError: another run is writing `config.out`, or it holds one already; a checkpoint cannot be written, or
            training diverged.
        Interrupted: SIGTERM or SIGINT came; a checkpoint was saved.
    """
    observer = observer or CompositeObserver()
    copied_to = config.schedule.checkpoint_to
    with distributed.process_group(), run_folder(config.out, resume=False, log=observer.log, copied_to=copied_to):
        return _train(Run(config, None, observer))


def resume(out: Path, given: Mapping[str, Any], observer: Observer | None = None) -> dict[str, Any] | None:
    """Continue the run in `out` as if it had not stopped.

    Args:
        given: options to change, by name, as for `RunConfig.with_options`.
    Returns, Raises:
        As `start`. RunError too where `out` holds no run, `given` would make it another one, or its store has changed.
    """
    log = (observer or CompositeObserver()).log
    copied_to = str(given.get("checkpoint_to", ""))
    with distributed.process_group(), run_folder(out, resume=True, log=log, copied_to=copied_to):
        observer = (observer if distributed.rank() == 0 else None) or CompositeObserver()
        state = _newest_checkpoint(out, observer)
        saved = _saved_config(out, state, observer)
        config = resumed(out, given, saved)
        if told := describe_new_end(saved, config, state["step"] if state else 0):
            observer.log(told)
        return _train(Run(config, state, observer))


def start_or_resume(
    config: RunConfig, given: Mapping[str, Any], observer: Observer | None = None
) -> dict[str, Any] | None:
    """Continue the run in `config.out` if it, or the place of its copies, has a checkpoint, and start it otherwise.

    Args:
        config: the run to start.
        given: options to change in the run that is continued, by name.
    Returns, Raises:
        As `start` and `resume`.
    """
    with distributed.process_group():
        # The first rank decides: on a shared disk the others may not see yet what it sees.
        if distributed.on_first_rank(lambda: _has_checkpoint(config)):
            return resume(config.out, given, observer)
        return start(config, observer)


def _has_checkpoint(config: RunConfig) -> bool:
    """Return whether the folder of a run, or the place of its copies, has a checkpoint."""
    copies = copies_of(config.out, config.schedule.checkpoint_to)
    return bool(Checkpoints(config.out / CHECKPOINTS).steps() or (copies is not None and copies.steps()))


def _newest_checkpoint(out: Path, observer: Observer) -> dict[str, Any] | None:
    """Load the newest intact checkpoint of a run; None if it has none yet. Logs which newer ones are damaged."""
    checkpoints = Checkpoints(out / CHECKPOINTS)
    if not checkpoints.steps():
        observer.log(f"{out} has no checkpoint yet: starting at step 0")
        return None
    state, damaged = checkpoints.load_newest()
    for line in damaged:
        observer.log(line)
    observer.log(f"continuing after step {state['step']}")
    return state


def _saved_config(out: Path, state: Mapping[str, Any] | None, observer: Observer) -> RunConfig:
    """Return what a run was started with: its config.json or, where that is damaged, what its checkpoint says."""
    try:
        return read_config(out)
    except RunError as error:
        if state is None:
            raise
        try:
            saved = RunConfig.from_json(state["config"])
        except (ValueError, KeyError, TypeError, UsageError):
            raise error from None
    observer.log(f"{config_path(out)} is missing or damaged: the options are those of the checkpoint")
    return saved


def _train(run: Run) -> dict[str, Any] | None:
    schedule, steps = run.config.schedule, 0 if distributed.rank() else run.config.monitoring.profile
    profiling = profile_steps(run.config.out, steps, run.observer.log)
    working = PHASES.enter(TRAINING)
    with working, closing(run), run.recorder, profiling as profile_step, catch_stop_signals() as stop, run.saving:
        if run.begins_with_weights:
            run.validate()
        while not run.finished:
            caught = run.train_step(stop)
            run.saving.check()
            profile_step()
            if run.finished or run.is_due(schedule.validate_every):
                run.validate()
                caught = distributed.maximum(max(stop, default=0))  # a validation may take minutes
            if run.is_due(run.config.distributed.check_weights_every):
                run.check_weights()
            if run.finished or caught or run.is_due(schedule.checkpoint_every) or run.is_to_be_kept:
                run.save()
            if caught and not run.finished:
                run.saving.wait()
                raise Interrupted(run.interruption_message(signal.Signals(caught)))
    return run.summary() if distributed.rank() == 0 else None


@contextmanager
def catch_stop_signals() -> Iterator[list[signal.Signals]]:
    """Collect SIGINT and SIGTERM, so that a step can be finished. Another SIGINT interrupts at once.

    Another SIGTERM does not: Slurm sends it to all processes of a job, and torchrun passes on its own.
    """
    caught: list[signal.Signals] = []

    def handle(number: int, _: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number))

    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may install handlers
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
