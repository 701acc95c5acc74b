"""What sharing out a step by speed gains where two processes differ in speed.

    python -m benchmarks.distributed.speeds

Two processes train the tiny gpt model together, over gloo. Forward and backward pass of each of them take as long as a
device of its speed would need for the frames of its batch: 1 for the first, 0.45 for the second. Real computation is
faster, and the process sleeps for what is left. The ideal step takes what all of its frames would take both devices
together. Of each run, the steps from the second epoch on are counted, when speeds have been measured.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import report
from benchmarks.distributed import run_pair

SPEEDS = (1.0, 0.45)
SECONDS_PER_FRAME = 1.5e-3
"""Of the device of speed 1."""
UTTERANCES, EPOCHS, FIRST_COUNTED = 200, 3, 1
HEAD = ("--speeds", "steps", "s per step", "ideal", "of the ideal", "frames of the slow process", "utterances an epoch")


def work(store: Path, out: Path, setting: str) -> None:
    """Train as one of the two processes, and write what each of its steps took."""
    from headrace.train.config import RunConfig
    from headrace.train.distributed import GradientBuckets
    from headrace.train.stages.gpt_stage import GptStage
    from headrace.train.trainer import loop
    from headrace.train.trainer.run import Run

    rank, ends = int(os.environ["RANK"]), [0.0]
    steps: list[dict[str, float]] = []
    compute, finish, train_step = GptStage.step, GradientBuckets.finish, Run.train_step

    def begun(self: GptStage, batches: Any) -> Any:
        frames = sum(len(batch) * int(batch.frames.max()) for batch in batches)
        steps.append({"frames": frames, "utterances": sum(map(len, batches))})
        ends[0] = time.perf_counter() + frames * SECONDS_PER_FRAME / SPEEDS[rank]
        return compute(self, batches)

    def computed(self: GradientBuckets) -> None:
        time.sleep(max(0.0, ends[0] - time.perf_counter()))
        finish(self)

    def timed(self: Run, *given: Any) -> int:
        epoch, start = self.stream.position.epoch, time.perf_counter()
        caught = train_step(self, *given)
        steps[-1] |= {"seconds": time.perf_counter() - start, "epoch": epoch}
        return caught

    GptStage.step, GradientBuckets.finish, Run.train_step = begun, computed, timed  # type: ignore[method-assign]
    config = RunConfig.from_options(
        store=store,
        out=out / "run",
        device="cpu",
        stage="gpt",
        preset="tiny",
        grad_accum=1,
        batch_frames=3200,
        max_utterances=10,
        max_epochs=EPOCHS,
        validate_every=0,
        speeds=setting,
    )
    loop.start(config)
    (out / f"rank-{rank}.json").write_text(json.dumps(steps))


def measure(store: Path, out: Path, setting: str) -> tuple[Any, ...]:
    """Train with this setting, and return its row of the table."""
    out.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    run_pair("benchmarks.distributed.speeds", ("--worker", str(store), str(out), setting), "127.0.0.1", port, [(), ()])
    ranks = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)]
    first, second = ([step for step in rank if step["epoch"] >= FIRST_COUNTED] for rank in ranks)
    frames = np.array([[step["frames"] for step in rank] for rank in (first, second)])
    taken = [max(one["seconds"], other["seconds"]) for one, other in zip(first, second, strict=True)]
    ideals = frames.sum(0) * SECONDS_PER_FRAME / sum(SPEEDS)
    ratio = statistics.median(seconds / ideal for seconds, ideal in zip(taken, ideals.tolist(), strict=True))
    counted = sum(step["utterances"] for step in (*first, *second)) / (EPOCHS - FIRST_COUNTED)
    share = frames[1].sum() / frames.sum()
    medians = statistics.median(taken), float(np.median(ideals))
    return setting, len(first), *medians, f"{ratio:.2f}", f"{share:.1%}", f"{counted:g}"


@click.command()
@click.option("--worker", nargs=3, hidden=True)
def main(worker: tuple[str, str, str] | None) -> None:
    """Measure, print and save the table. Medians."""
    if worker:
        work(Path(worker[0]), Path(worker[1]), worker[2])
        return
    from tests.helpers.training_store import build

    with tempfile.TemporaryDirectory() as folder:
        frames = np.random.default_rng(0).integers(60, 200, UTTERANCES)
        store = build(Path(folder) / "store", frames=frames.tolist()).path
        assert isinstance(store, Path)
        settings = ("equal", ",".join(f"{speed:g}" for speed in SPEEDS), "auto")
        rows = [measure(store, Path(folder) / str(number), setting) for number, setting in enumerate(settings)]
    markdown = report.table(HEAD, rows)
    click.echo(markdown)
    report.save("speeds", markdown, {"speeds": SPEEDS, "rows": [dict(zip(HEAD, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
