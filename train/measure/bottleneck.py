"""Measure whether a model waits for data: the rates of data alone, of the model alone, and of both together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from headrace import store as stores
from headrace.store.reader import Store
from headrace.train.config import RunConfig
from headrace.train.data.batch import Batch
from headrace.train.data.batch_plan import Position
from headrace.train.data.stream import Stream
from headrace.train.measure.throughput import drop_page_cache, local_folders, reason_never_warm
from headrace.train.monitoring import metrics
from headrace.train.monitoring.observer import Observer
from headrace.train.stages.stage import Stage, check_ids
from headrace.train.trainer.setup import TrainingSetup, set_up

WAIT_SHARE_LIMIT = 0.05
"""Data is the bottleneck where waiting for it takes more than this share of the time. Step times vary by less."""
DATA_SECONDS = 2.0
"""Data without a model is streamed for at least this many seconds."""
WARM_UP = 2
"""First steps that do not count: the model allocates and tries algorithms, the stream has not read ahead yet."""

Update = Sequence[Batch]
"""The batches of one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The pace at which steps were made or batches delivered."""

    seconds: float
    steps: int
    frames_per_s: float
    """Without padding."""
    utterances_per_s: float

    @classmethod
    def of(cls, steps: Sequence[tuple[int, int]], seconds: float) -> Pace:
        """Compute the pace of steps.

        Args:
            steps: frames and utterances of each step.
        """
        frames, utterances = (sum(column) / seconds for column in zip(*steps, strict=True))
        return cls(seconds=seconds, steps=len(steps), frames_per_s=frames, utterances_per_s=utterances)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The paces of data, of a model and of both together."""

    data: Pace
    """Data without a model."""
    model: Pace
    """The model without reading: with the batches of `together` in memory."""
    together: Pace
    """The model while it reads data."""
    waits_s: tuple[float, ...]
    """Seconds that each step of `together` waited for data."""

    @property
    def wait_share(self) -> float:
        """Share of the time of `together` that the model waited for data, 0 to 1."""
        return sum(self.waits_s) / self.together.seconds

    @property
    def bottleneck(self) -> str:
        """The side that limits training: `data` or `model`."""
        return "data" if self.wait_share > WAIT_SHARE_LIMIT else "model"

    def verdict(self, remedy: str) -> str:
        """Return the result in one sentence.

        Args:
            remedy: what to do where data is the bottleneck.
        """
        offered, model_alone, used = (f"{pace.frames_per_s:,.0f}" for pace in (self.data, self.model, self.together))
        if self.bottleneck == "model":
            return f"data is not the bottleneck: {offered} frames/s offered, {used} used"
        return (
            f"data is the bottleneck: {offered} frames/s offered, the model could use {model_alone}, and waits "
            f"{self.wait_share:.0%} of the time; {remedy}"
        )


def compare(stage: Stage, open_stream: Callable[[], Stream], steps: int, check: Callable[[Batch], None]) -> Comparison:
    """Measure data, model and both together.

    The stream of `together` begins with nothing read ahead, so one that is too slow shows from the first steps.

    Args:
        open_stream: opens a stream of the same batches each time.
        steps: number of steps of the model that are measured.
        check: called once with each batch that the model reads.
    """
    with open_stream() as stream:
        data = _data_alone(_updates(stage, stream), steps)
    with open_stream() as stream:
        updates = list(islice(_updates(stage, stream), WARM_UP + steps))
    for update in updates:
        for batch in update:
            check(batch)
    model = _model_alone(stage, updates)
    del updates
    with open_stream() as stream:
        together, waits = _together(stage, stream, steps)
    return Comparison(data=data, model=model, together=together, waits_s=waits)


def bench(config: RunConfig, *, steps: int, cold: bool | None, observer: Observer) -> dict[str, Any]:
    """Measure whether a run would wait for data.

    Args:
        config: `out` is not used.
        steps: number of steps of the model, alone and with data.
        cold: whether the store is dropped from memory before each measurement; None for the state that later epochs
            find it in.
    Returns:
        data, model, together (each a `Pace`), waits_s, wait_share, bottleneck, verdict, and how it was measured.
    Raises:
        UsageError, StoreError, RunError: as `headrace.train.trainer.loop.start`.
    """
    setup = set_up(config.with_options(fp32_steps=0), observer)
    store, stage = setup.data.store, setup.stage
    if cold is None:
        reason = reason_never_warm(store, stage.features)
        cold, why = bool(reason), reason or "as from the second epoch on"
        observer.log(f"{'cold' if cold else 'warm'}: {why}")
    if not cold:
        _read_all(setup)

    def open_stream() -> Stream:
        if cold:
            drop_page_cache(store)
        return _reopened(setup).stream(Position.start())

    found = compare(stage, open_stream, steps, lambda batch: check_ids(stage, store, batch))
    return _settings(setup) | {
        "cold": cold,
        **asdict(found),
        "wait_share": found.wait_share,
        "bottleneck": found.bottleneck,
        "verdict": found.verdict(remedy(store, cold)),
    }


def _settings(setup: TrainingSetup) -> dict[str, Any]:
    """Return what was measured: the store, the model and the batches."""
    config, stage = setup.config, setup.stage
    return {
        "store": str(config.store),
        "stage": config.model.stage,
        "preset": config.model.preset,
        "device": str(setup.device),
        "precision": setup.precision.name,
        "batch_frames": config.data.batch_frames,
        "max_utterances": config.data.max_utterances,
        "grad_accum": stage.optim.grad_accum,
        "features": list(stage.features),
        "reading": setup.data.store.read_method,
    }


def remedy(store: Store, cold: bool) -> str:
    """Return what to do where data is the bottleneck."""
    if len(local_folders(store)) < len(store.members):
        return "copy the store to a disk of this machine"
    if any(member.attributes.get("compression", "none") != "none" for member in store.members):
        return "build the store with --compression none"
    if cold:
        return "put the store on a faster disk, or train where it fits into half of the memory"
    return "look for what else keeps this machine's memory and processors busy"


def _reopened(setup: TrainingSetup) -> TrainingSetup:
    """Return the setup with its store reopened: what another stream has mapped stays in memory."""
    return replace(setup, data=replace(setup.data, store=stores.open(setup.config.store)))


def _read_all(setup: TrainingSetup) -> None:
    """Read an epoch, so that the store is in memory as far as it fits."""
    with _reopened(setup).stream(Position.start()) as stream:
        while stream.position.epoch == 0:
            next(stream)


def _updates(stage: Stage, stream: Stream) -> Iterator[Update]:
    """Yield the batches of each update, without end."""
    while True:
        yield [next(stream) for _ in range(stage.optim.grad_accum)]


def _data_alone(updates: Iterator[Update], steps: int) -> Pace:
    """Return the pace of data without a model."""
    start, amounts = time.perf_counter(), list[tuple[int, int]]()
    while len(amounts) < steps or time.perf_counter() - start < DATA_SECONDS:
        amounts.append(_amounts(next(updates)))
    return Pace.of(amounts, time.perf_counter() - start)


def _model_alone(stage: Stage, updates: Sequence[Update]) -> Pace:
    """Return the pace of a model whose batches are in memory."""
    seconds = [_step_seconds(stage, update) for update in updates]
    return Pace.of([_amounts(update) for update in updates[WARM_UP:]], sum(seconds[WARM_UP:]))


def _together(stage: Stage, stream: Stream, steps: int) -> tuple[Pace, tuple[float, ...]]:
    """Return the pace of a model that reads data, and the seconds that each step waited."""
    updates, amounts, seconds, waits = _updates(stage, stream), list[tuple[int, int]](), list[float](), list[float]()
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        update = next(updates)
        waits.append(time.perf_counter() - start)
        seconds.append(waits[-1] + _step_seconds(stage, update))
        amounts.append(_amounts(update))
    return Pace.of(amounts[WARM_UP:], sum(seconds[WARM_UP:])), tuple(waits[WARM_UP:])


def _step_seconds(stage: Stage, update: Update) -> float:
    """Make a step and return the seconds that it took."""
    start = time.perf_counter()
    metrics.to_floats(stage.step(update))  # synchronises with the device
    return time.perf_counter() - start


def _amounts(update: Update) -> tuple[int, int]:
    """Return the frames and the utterances of an update."""
    return sum(int(batch.frames.sum()) for batch in update), sum(map(len, update))
