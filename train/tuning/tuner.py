"""Tuning: train many runs, and keep the options of the best one."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from headrace import store as stores
from headrace.store.errors import Interrupted, RunError, UsageError
from headrace.store.storage.local import atomic_file, make_folder
from headrace.store.storage.output_files import output_folder
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.config import RunConfig, read_config, write_config, write_options
from headrace.train.trainer import auto_settings, loop
from headrace.train.tuning import tuning_plots
from headrace.train.tuning.population import (
    Ledger,
    Origin,
    Segment,
    best_first,
    first_generation,
    next_generation,
    segment_row,
)
from headrace.train.tuning.search_space import Parameter, search_space, without_fixed
from headrace.train.tuning.study import RUNGS, Study, Trial, import_optuna
from headrace.train.tuning.trial_process import Outcome, Train, environment_of, train_in_process
from headrace.train.tuning.tuning_config import TuneConfig, tuning_folder

BEST = "best.toml"


class TuneObserver(Protocol):
    """Receives the events of a tuning. Several threads may call it."""

    def log(self, line: str) -> None:
        """Receive a message for the user."""

    def ended(self, row: Mapping[str, Any], done: int, of: int) -> None:
        """Receive a trial, or a run of a population, that has ended.

        Args:
            row: as it is in trials.jsonl.
            done: how many have ended.
            of: how many there will be.
        """


def tune(config: TuneConfig, observer: TuneObserver, train: Train = train_in_process) -> dict[str, Any]:
    """Search for the options of a run, or continue to do so.

    Returns:
        The result: the best run and its metric, that of the defaults, and the files.
    Raises:
        UsageError: Optuna is not installed, `config.out` holds other things, or nothing can be searched so.
        RunError: another command is writing `config.out`, it was begun with other options, or all runs failed.
        Interrupted: SIGTERM or SIGINT came; the same command continues.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("train tune starts its processes itself: run it once, with --jobs.")
    if not config.population:
        import_optuna()
    stores.open(config.store)
    batch_frames = _batch_frames(config.run)
    space = search_space(config.run, batch_frames, config.search)
    if config.population:
        space = without_fixed(space, config.search)
    for parameter in space:
        observer.log(
            f"{parameter.name}: {parameter.low:.3g} to {parameter.high:.3g}, by default {parameter.default:.3g}"
        )
    with tuning_folder(config, space):
        kind = _Population if config.population else _Search
        return kind(config, space, batch_frames, observer, train).run()


class _Tuning:
    """What a search and a population have in common: jobs, and what they leave."""

    def __init__(
        self,
        config: TuneConfig,
        space: Sequence[Parameter],
        batch_frames: int,
        observer: TuneObserver,
        train: Train,
    ) -> None:
        self.config, self.space, self.batch_frames = config, space, batch_frames
        self.observer, self.train = observer, train
        self.base, self.metric = config.run, config.measured
        self.environments = [environment_of(job, config.jobs) for job in range(config.jobs)]

    def in_jobs(self, work: Callable[[Mapping[str, str], threading.Event], None]) -> None:
        """Do the same work in each job, until it is done or a signal comes.

        Args:
            work: gets the variables of its process, and an event that ends it.
        Raises:
            Interrupted: SIGTERM or SIGINT came.
        """
        stop = threading.Event()
        with loop.catch_stop_signals() as caught, ThreadPoolExecutor(self.config.jobs) as pool:
            futures = [pool.submit(work, environment, stop) for environment in self.environments]
            try:
                while not _all_done(futures):
                    if caught:
                        stop.set()
            finally:
                stop.set()  # of the others, when one has failed
        if caught:
            raise Interrupted(f"{caught[0].name} came: what was finished is kept. The same command continues.")

    def follow(
        self,
        run: RunConfig,
        validated: Callable[[int, float], bool],
        stop: threading.Event,
        environment: Mapping[str, str],
    ) -> Outcome:
        """Train a run. Raises UsageError if it is refused: the others would be too."""
        outcome = self.train(run, self.metric, validated, stop, environment)
        if outcome.state == "refused":
            raise UsageError(outcome.reason)
        return outcome

    def leave(self, best: RunConfig, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the options of the best run, and the table of all."""
        write_options(best.options(), self.config.out / BEST)
        with atomic_file(self.config.out / "trials.jsonl") as file:
            file.writelines(json.dumps(row).encode() + b"\n" for row in rows)

    def result(self, run: RunConfig, picture: str, **values: Any) -> dict[str, Any]:
        """Return the result of the tuning."""
        out = self.config.out
        return {
            "tuning": str(out),
            "stage": self.base.model.stage,
            "metric": self.metric,
            **values,
            "run": str(run.out),
            "config": str(out / BEST),
            "table": str(out / "trials.jsonl"),
            "picture": str(out / picture),
        }


class _Search(_Tuning):
    """A search by trials."""

    def run(self) -> dict[str, Any]:
        """Train the trials that are missing, and return the result."""
        out, config = self.config.out, self.config
        seed = self.base.model.seed
        self.study = Study(out / "journal.log", self.space, maximise=config.maximises, seed=seed)
        self.in_jobs(self._work)
        rows = self.study.rows(self.metric)
        best = self._best(rows)
        if best is None:
            reasons = sorted({row["reason"] for row in rows if row["reason"]})
            raise RunError(f"No trial of {out} was completed: change the options that they have in common.", *reasons)
        run = self._trial_config(best["trial"], best["options"])
        self.leave(run, rows)
        tuning_plots.draw_trials(rows, self.space, self.metric, out / "tuning.png", maximise=config.maximises)
        states = [row["state"] for row in rows]
        counts = {state: states.count(state) for state in ("complete", "pruned", "failed")}
        return self.result(
            run, "tuning.png", trials=len(rows), **counts, best=best["trial"], value=best[self.metric],
            default=rows[0][self.metric] if rows[0]["state"] == "complete" else None, options=best["options"],
        )  # fmt: skip

    def _work(self, environment: Mapping[str, str], stop: threading.Event) -> None:
        """Train one trial after another."""
        while not stop.is_set() and (trial := self.study.take(self.config.trials)) is not None:
            self._train(trial, environment, stop)

    def _train(self, trial: Trial, environment: Mapping[str, str], stop: threading.Event) -> None:
        run = self._trial_config(trial.number, trial.options)
        every = run.schedule.validate_every
        outcome = self.follow(run, lambda step, value: trial.report(step // every, value), stop, environment)
        if outcome.state == "stopped":
            return
        trial.finish(outcome.state, outcome.reason)
        rows = self.study.rows(self.metric)
        self._remove_checkpoints(rows)
        done = [row for row in rows if row["state"] != "running"]
        self.observer.ended(rows[trial.number], len(done), max(self.config.trials, len(done)))

    def _trial_config(self, number: int, options: Mapping[str, Any]) -> RunConfig:
        """Return the config of a trial: it reads as much as one with the default batch in `max_steps` steps."""
        batch = options.get("batch_frames", self.batch_frames)
        every = max(1, round(self.base.schedule.max_steps / RUNGS * self.batch_frames / batch))
        return self.base.with_options(
            **options,
            max_steps=RUNGS * every,
            validate_every=every,
            checkpoint_every=every,
            out=self.config.out / "trials" / f"{number:04d}" / "run",
        )

    def _remove_checkpoints(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Remove the checkpoints of all trials that have ended, but those of the best one."""
        best = self._best(rows)
        for row in rows:
            if row["state"] != "running" and (best is None or row["trial"] != best["trial"]):
                run = self._trial_config(row["trial"], row["options"]).out
                shutil.rmtree(run / "checkpoints", ignore_errors=True)

    def _best(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """Return the best trial that was completed; None if none was."""
        complete = [row for row in rows if row["state"] == "complete"]
        sign = -1 if self.config.maximises else 1
        return min(complete, key=lambda row: sign * row[self.metric], default=None)


class _Population(_Tuning):
    """Population-based training."""

    def run(self) -> dict[str, Any]:
        """Train the generations that are missing, and return the result."""
        out, config = self.config.out, self.config
        self.ledger = Ledger(out / "population.jsonl")
        self.every = max(1, round(self.base.schedule.max_steps / config.generations))
        self.lock = threading.Lock()
        for generation in range(config.generations):
            self._generation(generation)
        segments = self.ledger.segments
        ranked = best_first(self.ledger.generation(config.generations - 1), maximise=config.maximises)
        if not ranked:
            raise RunError(
                f"All runs of the last generation of {out} failed.", *{one.reason for one in segments if one.reason}
            )
        best = ranked[0]
        run = self._segment_config(best.generation, best.member, best.options)
        for loser in ranked[1:]:
            shutil.rmtree(self._out(loser.generation, loser.member) / "checkpoints", ignore_errors=True)
        self.leave(run, self.ledger.rows(self.metric))
        tuning_plots.draw_lineage(segments, best, self.space, self.metric, out / "lineage.png")
        defaults = self._undisturbed_defaults()
        return self.result(
            run, "lineage.png", generations=config.generations, population=config.population,
            copies=sum(segment.is_copy for segment in segments), failed=sum(s.value is None for s in segments),
            best=best.member, value=best.value, default=defaults, options=dict(best.options),
        )  # fmt: skip

    def _generation(self, number: int) -> None:
        """Train what is missing of a generation, and remove the checkpoints that nothing needs any more."""
        config, before = self.config, self.ledger.generation(number - 1)
        done = {segment.member for segment in self.ledger.generation(number)}
        if len(done) < config.population:
            seed = self.base.model.seed
            origins = (
                next_generation(before, self.space, maximise=config.maximises, seed=seed)
                if number
                else first_generation(self.space, config.population, seed)
            )
            missing = iter([member for member in range(config.population) if member not in done])
            self.in_jobs(lambda environment, stop: self._work(number, origins, missing, environment, stop))
        for segment in before:
            shutil.rmtree(self._out(number - 1, segment.member) / "checkpoints", ignore_errors=True)

    def _work(
        self,
        generation: int,
        origins: Sequence[Origin],
        missing: Iterator[int],
        environment: Mapping[str, str],
        stop: threading.Event,
    ) -> None:
        """Train one member after another."""
        while not stop.is_set():
            with self.lock:
                member = next(missing, None)
            if member is None:
                return
            origin = origins[member]
            run = self._segment_config(generation, member, origin.options)
            if origin.parent is not None and not run.out.exists():
                self._adopt(self._out(generation - 1, origin.parent), run, origin.options)
            values: dict[int, float] = {}
            outcome = self.follow(run, partial(_note, values), stop, environment)
            if outcome.state == "stopped":
                return
            step = run.schedule.max_steps
            complete = outcome.state == "complete" and step in values
            segment = Segment(
                generation=generation,
                member=member,
                parent=origin.parent,
                options=origin.options,
                step=step,
                value=values[step] if complete else None,
                reason="" if complete else outcome.reason,
            )
            with self.lock:
                self.ledger.add(segment)
                done = len(self.ledger.segments)
            self.observer.ended(segment_row(segment, self.metric), done, self.config.trials)

    def _segment_config(self, generation: int, member: int, options: Mapping[str, Any]) -> RunConfig:
        """Return the config of a member in a generation: its run lasts from the first step to the end of that."""
        return self.base.with_options(
            **options,
            max_steps=(generation + 1) * self.every,
            validate_every=self.every,
            checkpoint_every=self.every,
            out=self._out(generation, member),
        )

    def _out(self, generation: int, member: int) -> Path:
        return self.config.out / "members" / f"{member}" / f"{generation:04d}" / "run"

    def _adopt(self, parent: Path, run: RunConfig, options: Mapping[str, Any]) -> None:
        """Make the folder of a run that continues from the checkpoint of another one, with options of its own."""
        make_folder(run.out.parent)
        saved, steps = read_config(parent), run.schedule.max_steps
        with output_folder(run.out) as draft:
            checkpoints = Checkpoints(draft / "checkpoints")
            checkpoints.folder.mkdir()
            shutil.copyfile(
                Checkpoints(parent / "checkpoints").path(steps - self.every), checkpoints.path(steps - self.every)
            )
            shutil.copyfile(parent / "metrics.jsonl", draft / "metrics.jsonl")
            write_config(saved.with_options(**options, max_steps=steps, out=run.out), draft)

    def _undisturbed_defaults(self) -> float | None:
        """Return the metric of the member that began with the defaults, if it kept them to the end."""
        last = self.ledger.generation(self.config.generations - 1)[0]
        kept = not any(segment.member == 0 and segment.is_copy for segment in self.ledger.segments)
        return last.value if kept else None


def _note(values: dict[int, float], step: int, value: float) -> bool:
    """Note the value of a validation. The run goes on."""
    values[step] = value
    return True


def _all_done(futures: Sequence[Future[None]]) -> bool:
    """Wait a moment for jobs, and return whether all have ended. Raises what one of them has raised."""
    done, left = wait(futures, timeout=0.2)
    for future in done:
        future.result()
    return not left


def _batch_frames(run: RunConfig) -> int:
    """Return the batch that a run with default options has."""
    device, _ = auto_settings.choose_device(run.compute.device)
    return auto_settings.choose_batch_frames(run.data.batch_frames, device)[0]
