"""Does the model wait for data? Data alone, the model alone, both together, and the answer in a sentence."""

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
from headrace.train.measure.throughput import drop, folders_of, never_warm
from headrace.train.monitoring import metrics
from headrace.train.monitoring.observer import Observer
from headrace.train.stages import registry
from headrace.train.stages.registry import Stage
from headrace.train.trainer.setup import TrainingSetup, set_up

WAITING = 0.05
"""Share of the time from which on waiting makes data the bottleneck: steps differ by less."""
DATA_SECONDS = 2.0
"""That data alone is streamed for, at least."""
WARM_UP = 2
"""Steps at first that do not count: the model allocates and tries algorithms, the stream has nothing read ahead."""

Update = Sequence[Batch]
"""The batches of one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    seconds: float
    steps: int
    frames_per_s: float
    """Padding not counted."""
    utterances_per_s: float

    @classmethod
    def of(cls, steps: Sequence[tuple[int, int]], seconds: float) -> Pace:
        """
        Args:
            steps: frames and utterances of each.
        """
        frames, utterances = (sum(column) / seconds for column in zip(*steps, strict=True))
        return cls(seconds=seconds, steps=len(steps), frames_per_s=frames, utterances_per_s=utterances)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    data: Pace
    """Alone: nobody used it."""
    model: Pace
    """Alone: with batches in memory, those of `together`."""
    together: Pace
    waits_s: tuple[float, ...]
    """What each step of `together` waited for data."""

    @property
    def wait_share(self) -> float:
        return sum(self.waits_s) / self.together.seconds

    @property
    def bottleneck(self) -> str:
        """`data` or `model`."""
        return "data" if self.wait_share > WAITING else "model"

    def verdict(self, remedy: str) -> str:
        """One sentence.

        Args:
            remedy: what to do where data is the bottleneck.
        """
        offered, alone, used = (f"{pace.frames_per_s:,.0f}" for pace in (self.data, self.model, self.together))
        if self.bottleneck == "model":
            return f"data is not the bottleneck: {offered} frames/s offered, {used} used"
        return (
            f"data is the bottleneck: {offered} frames/s offered, the model could use {alone}, and waits "
            f"{self.wait_share:.0%} of the time; {remedy}"
        )


def compare(stage: Stage, open_stream: Callable[[], Stream], steps: int, check: Callable[[Batch], None]) -> Comparison:
    """Measure data, model and both together.

    The reader of `together` begins with nothing read ahead, so one that is too slow shows from the first steps on.

    Args:
        open_stream: to the same batches each time.
        steps: that count, with the model.
        check: called with each batch that the model is to see, once.
    """
    with open_stream() as stream:
        data = _data_alone(_updates(stage, stream), steps)
    with open_stream() as stream:
        held = list(islice(_updates(stage, stream), WARM_UP + steps))
    for update in held:
        for batch in update:
            check(batch)
    taken = [_timed(stage, update) for update in held]
    model = Pace.of([_amounts(update) for update in held[WARM_UP:]], sum(taken[WARM_UP:]))
    del held
    amounts, seconds, waits = [], [], []
    with open_stream() as stream:
        updates = _updates(stage, stream)
        for _ in range(WARM_UP + steps):
            begun = time.perf_counter()
            update = next(updates)
            waits.append(time.perf_counter() - begun)
            seconds.append(waits[-1] + _timed(stage, update))
            amounts.append(_amounts(update))
    together = Pace.of(amounts[WARM_UP:], sum(seconds[WARM_UP:]))
    return Comparison(data=data, model=model, together=together, waits_s=tuple(waits[WARM_UP:]))


def bench(config: RunConfig, *, steps: int, cold: bool | None, observer: Observer) -> dict[str, Any]:
    """Tell whether a run would wait for data.

    Args:
        config: `out` is not used.
        steps: that the model makes, alone and together with the stream.
        cold: whether nothing of the store is in memory before each measurement; None chooses what epochs after the
            first one find.
    Returns:
        data, model, together (each a `Pace`), waits_s, wait_share, bottleneck, verdict, and how it was measured.
    Raises:
        UsageError, StoreError, RunError: as `headrace.train.trainer.loop.start`.
    """
    setup = set_up(config.with_options(fp32_steps=0), observer)
    store, stage = setup.data.store, setup.stage
    if cold is None:
        reason = never_warm(store, stage.features)
        cold, why = bool(reason), reason or "as from the second epoch on"
        observer.log(f"{'cold' if cold else 'warm'}: {why}")
    if not cold:
        _read_all(setup)

    def open_stream() -> Stream:
        if cold:
            drop(store)
        return _afresh(setup).stream(Position.start())

    found = compare(stage, open_stream, steps, lambda batch: registry.check_ids(stage, store, batch))
    return {
        "store": str(config.store),
        "stage": config.model.stage,
        "preset": config.model.preset,
        "device": str(setup.device),
        "precision": setup.precision.name,
        "batch_frames": setup.config.data.batch_frames,
        "max_utterances": setup.config.data.max_utterances,
        "accumulate": stage.optim.accumulate,
        "features": list(stage.features),
        "reading": store.read_method,
        "cold": cold,
        **asdict(found),
        "wait_share": found.wait_share,
        "bottleneck": found.bottleneck,
        "verdict": found.verdict(remedy(store, cold)),
    }


def remedy(store: Store, cold: bool) -> str:
    """What to do where data is the bottleneck."""
    if len(folders_of(store)) < len(store.members):
        return "copy the store to a disk of this machine"
    if any(member.attributes.get("compression", "none") != "none" for member in store.members):
        return "build the store with --compression none"
    if cold:
        return "put the store on a faster disk, or train where it fits into half of the memory"
    return "look for what else keeps this machine's memory and processors busy"


def _afresh(setup: TrainingSetup) -> TrainingSetup:
    """With the store opened anew: what another stream has mapped stays in memory."""
    return replace(setup, data=replace(setup.data, store=stores.open(setup.config.store)))


def _read_all(setup: TrainingSetup) -> None:
    with _afresh(setup).stream(Position.start()) as stream:
        while stream.position.epoch == 0:
            next(stream)


def _updates(stage: Stage, stream: Stream) -> Iterator[Update]:
    while True:
        yield [next(stream) for _ in range(stage.optim.accumulate)]


def _data_alone(updates: Iterator[Update], steps: int) -> Pace:
    begun, amounts = time.perf_counter(), list[tuple[int, int]]()
    while len(amounts) < steps or time.perf_counter() - begun < DATA_SECONDS:
        amounts.append(_amounts(next(updates)))
    return Pace.of(amounts, time.perf_counter() - begun)


def _timed(stage: Stage, update: Update) -> float:
    begun = time.perf_counter()
    metrics.to_floats(stage.step(update))  # here the device is waited for
    return time.perf_counter() - begun


def _amounts(update: Update) -> tuple[int, int]:
    return sum(int(batch.frames.sum()) for batch in update), sum(map(len, update))
