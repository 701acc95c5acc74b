"""Seconds that metrics add to a training step.

    python -m benchmarks.telemetry FOLDER [--pairs N] [--preset NAME]

One run trains on utterances of one length, so that all its steps have the same work, and blocks of steps alternate:
without metrics, and with a port that another process scrapes every 15 seconds, and a file that is written as often. CPU
seconds are those of all threads of the process, so what answers a scrape counts too. The cost of one scrape, of one
line and of one change of phase are then measured by themselves.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile

from benchmarks import demo, report
from headrace.cli.metrics_options import machine_collectors
from headrace.featurize.telemetry.exporter import MetricsConfig, MetricsExporter, common_labels
from headrace.train.config import RunConfig
from headrace.train.distributed.phases import COMPUTING, PHASES, TRAINING
from headrace.train.monitoring.run_metrics import RunMetrics
from headrace.train.trainer import loop

PORT = 9487
BLOCK = 6
"""Steps of a block; the first of each is not counted, since metrics begin or end in it."""
SECONDS = 3
SCRAPER = """
import contextlib, time, urllib.request
while True:
    with contextlib.suppress(OSError):
        urllib.request.urlopen("http://127.0.0.1:{}/metrics", timeout=5).read()
    time.sleep(15)
"""
HEAD = ("", "without", "with", "ratio of pairs, median", "95 % of the median")


class Alternating:
    """An observer that has metrics in every other block of steps."""

    def __init__(self, out: Path) -> None:
        self.blocks: list[tuple[float, float]] = []
        """Wall and CPU seconds of a step in each block; those with metrics are the odd ones."""
        self._out, self._steps, self._stack = out, 0, ExitStack()
        self._metrics: RunMetrics | None = None
        self._since = (0.0, 0.0)
        self.lines: list[dict[str, Any]] = []

    def log(self, line: str) -> None: ...

    def started(self, *_: Any) -> None: ...

    def samples_written(self, *_: Any) -> None: ...

    def recorded(self, record: dict[str, Any]) -> None:
        """Pass a line on, and begin or end metrics where a block ends."""
        if self._metrics is not None:
            self._metrics.recorded(record)
        self.lines.append(record)
        self._steps += 1
        now = time.perf_counter(), time.process_time()
        if self._steps % BLOCK == 0:
            if self._steps > BLOCK:  # the first block warms up
                self.blocks.append(((now[0] - self._since[0]) / (BLOCK - 1), (now[1] - self._since[1]) / (BLOCK - 1)))
            self._switch()
        if self._steps % BLOCK == 1:
            self._since = time.perf_counter(), time.process_time()

    def _switch(self) -> None:
        self._stack.close()
        self._metrics = None
        if len(self.blocks) % 2:
            self._metrics = RunMetrics(self._out, common_labels(self._out), 0)
            config = MetricsConfig(port=PORT, file=self._out / "run.prom")
            opened = self._stack.enter_context(MetricsExporter(config, click.echo))
            opened.add(self._metrics, *machine_collectors("train run", self._out))


def equal_utterances(folder: Path) -> Path:
    """Write a store of utterances that differ in their noise alone, and return its path."""
    corpus, draw = folder / "corpus", np.random.default_rng(0)
    corpus.mkdir(parents=True)
    for number in range(64):
        samples = draw.normal(scale=0.1, size=SECONDS * 32000) * np.hanning(SECONDS * 32000)
        soundfile.write(corpus / f"{number}.wav", samples, 32000)
        (corpus / f"{number}.lab").write_text("The same words are said each time.", encoding="utf-8")
    demo.call("featurize", "build", corpus, "--out", folder / "STORE", "--language", "en")
    return folder / "STORE"


def median_interval(values: Sequence[float]) -> str:
    """Return an interval that has the median in 95 of 100 samples like this one."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return f"{medians[50]:.4f} to {medians[-51]:.4f}"


def each(call: Callable[[], object], times: int) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times


def single_costs(out: Path, line: dict[str, Any]) -> dict[str, float]:
    """Return the CPU seconds of a scrape, of a line, and of a change of phase."""
    metrics = RunMetrics(out, common_labels(out), 0)
    with MetricsExporter(MetricsConfig(port=PORT), click.echo) as opened:
        opened.add(metrics, *machine_collectors("train run", out))

        def scrape() -> None:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics").read()

        costs = {"a scrape, with the client's share": each(scrape, 200)}
    costs["a line of metrics.jsonl"] = each(lambda: metrics.recorded(line), 5000)

    def change() -> None:
        with PHASES.enter(COMPUTING):
            pass

    PHASES.move(TRAINING)
    return costs | {"a phase that begins and ends": each(change, 5000)}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--pairs", default=15, show_default=True)
@click.option("--preset", default="tiny", show_default=True)
def main(folder: Path, pairs: int, preset: str) -> None:
    """Measure, print and save the table."""
    store, folder = equal_utterances(folder), folder / "RUN"
    watched = Alternating(folder)
    steps = BLOCK * (2 * pairs + 1)
    config = RunConfig.from_options(store=store, out=folder, preset=preset, batch_frames=400, max_steps=steps)
    with subprocess.Popen([sys.executable, "-c", SCRAPER.format(PORT)]) as scraper:
        try:
            loop.start(config.with_options(validate_every=0, checkpoint_every=steps, device="cpu"), watched)
        finally:
            scraper.kill()
    rows = []
    for place, name in enumerate(("wall seconds of a step", "CPU seconds of a step")):
        values = [block[place] for block in watched.blocks]
        without, with_metrics = values[0::2], values[1::2]
        ratios = [one / other for one, other in zip(with_metrics, without, strict=False)]
        medians = statistics.median(without), statistics.median(with_metrics), statistics.median(ratios)
        rows.append((name, *medians, median_interval(ratios)))
    costs = single_costs(folder, watched.lines[-1])
    markdown = report.table(HEAD, rows) + "\n\n" + report.table(("by itself", "CPU milliseconds"), [
        (name, 1000 * seconds) for name, seconds in costs.items()
    ])  # fmt: skip
    step = statistics.median(block[1] for block in watched.blocks[0::2])
    scrape = costs["a scrape, with the client's share"]
    markdown += f"\n\nOne scrape every 15 s is {scrape / 15:.3%} of one core. A step has {step * 1000:.4g} CPU ms."
    click.echo(markdown)
    with contextlib.suppress(OSError):
        report.save("telemetry", markdown, {"blocks": watched.blocks, "costs": costs})


if __name__ == "__main__":
    main()
