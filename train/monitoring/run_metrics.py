"""Metrics of a training run, for Prometheus.

What every process has is read from `PHASES` when it is asked for. What the run has as a whole comes from lines of
metrics.jsonl, which are on the host: no step synchronises with the device for it. Counters begin at 0 with each
process, also of a run that is resumed; its step and its epoch go on.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from headrace.featurize.files import run_checkpoints
from headrace.featurize.telemetry.metric_set import MetricSet
from headrace.train.distributed.phases import PHASES, READING, STEP_BOUNDS
from headrace.train.monitoring.metrics import Record

if TYPE_CHECKING:
    from headrace.train.monitoring.evaluation_samples import Sample

RECENT = 20
"""Steps over which the time that is left is estimated."""
_COUNTED = {
    "frames": "Frames that were trained on, by all processes.",
    "utterances": "Utterances that were trained on, by all processes.",
    "skipped": "Updates that were left out, since their gradients were not finite.",
    "exploded": "Updates that were scaled down, since their gradients were far larger than usual.",
}
"""Fields of a line that are summed, with the meaning of their sums."""
_STAGES = {"planned": "plan_s", "read": "read_s", "copied": "copy_s", "waited": "wait_s"}
"""What is done with a batch, and the field of a line that has the seconds."""
_NAMES = {"skipped": "updates_left_out", "exploded": "updates_scaled_down"}
_GAUGES = {
    "epoch": ("epoch", "The epoch that is trained, from 1."),
    "lr": ("learning_rate", "Learning rate of the last step."),
    "loss_scale": ("loss_scale", "What fp16 multiplies losses by; 1 in other precisions."),
    "padding": ("padding_ratio", "Share of padded frames in the last step, 0 to 1."),
    "quarantined": ("quarantined_utterances", "Utterances that are left out, since they led to gradients not finite."),
}
"""Fields of a line that are shown as they are: the name of the metric, and its meaning."""


class RunMetrics:
    """The metrics of one process of a run. An `Observer`, on the first rank, and a collector of prometheus-client."""

    def __init__(self, out: Path, labels: Mapping[str, str], rank: int) -> None:
        """
        Args:
            out: folder of the run.
            labels: are those of all metrics of this process.
        """
        self._out, self._labels, self._rank = out, labels, rank
        self._started = time.time()
        self._last_step: int | None = None
        self._newest: dict[str, Record] = {}
        self._sums, self._seconds = Counter[str](), Counter[str]()
        self._recent: deque[float] = deque(maxlen=RECENT)

    def log(self, line: str) -> None:
        """Ignore messages for the user."""

    def started(self, step: int, last_step: int | None, tracked: Sequence[str]) -> None:
        """Note where training stops."""
        self._last_step = last_step

    def recorded(self, record: Record) -> None:
        """Add a line of metrics.jsonl."""
        self._newest[record["split"]] = record
        if record["split"] == "train":
            self._recent.append(record["step_s"])
            for name in _COUNTED:
                self._sums[name] += record[name]
            for stage, name in _STAGES.items():
                self._seconds[stage] += record[name]

    def samples_written(self, step: int, samples: Sequence[Sample]) -> None:
        """Ignore samples."""

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        process = MetricSet({**self._labels, "rank": str(self._rank)})
        self._add_process(process)
        yield from process
        if self._rank == 0:
            run = MetricSet(self._labels)
            self._add_run(run)
            self._add_losses(run)
            self._add_checkpoint(run)
            yield from run

    def _add_process(self, metrics: MetricSet) -> None:
        """Add what each process has, whichever its rank."""
        seconds = PHASES.seconds()
        metrics.gauge("headrace_train_step", "Steps that are done, since the run began.", PHASES.step)
        meaning = "Grows whenever a process gets on, also within a step or a validation."
        metrics.counter("headrace_train_progress_total", meaning, PHASES.changes)
        meaning = "Seconds that this process has waited for batches."
        metrics.counter("headrace_train_wait_seconds_total", meaning, seconds.get(READING, 0.0))
        for phase, spent in seconds.items():
            meaning = "Seconds that this process has spent in each phase of its work."
            metrics.counter("headrace_train_phase_seconds_total", meaning, spent, phase=phase)
        name, meaning = "headrace_train_step_seconds", "Seconds that a step took, waiting included."
        metrics.histogram(name, meaning, tuple(PHASES.step_counts), STEP_BOUNDS, PHASES.step_seconds)

    def _add_run(self, metrics: MetricSet) -> None:
        """Add what the run has as a whole."""
        for name, meaning in _COUNTED.items():
            metrics.counter(f"headrace_train_{_NAMES.get(name, name)}_total", meaning, self._sums[name])
        for stage in _STAGES:
            meaning = "Seconds that batches of the first process took: to plan, to read, to copy, and to wait for."
            metrics.counter("headrace_train_stream_seconds_total", meaning, self._seconds[stage], stage=stage)
        newest = self._newest.get("train", {})
        for name, (metric, meaning) in _GAUGES.items():
            metrics.gauge(f"headrace_train_{metric}", meaning, newest.get(name))
        meaning = "Step at which the run stops, where that is known."
        metrics.gauge("headrace_train_planned_steps", meaning, self._last_step)
        steps, recent = self._last_step, tuple(self._recent)
        if steps is not None and recent:
            meaning = "Seconds to the last step, by the steps before."
            left = max(0, steps - newest["step"]) * sum(recent) / len(recent)
            metrics.gauge("headrace_train_remaining_seconds", meaning, left)

    def _add_losses(self, metrics: MetricSet) -> None:
        """Add losses and norms of gradients of the last step, and what the last validation found."""
        for split, record in tuple(self._newest.items()):
            for name, value in record.items():
                if name == "loss" or (name.startswith("loss_") and name != "loss_scale"):
                    meaning = "Losses of the last step, and of the last validation."
                    loss = name.removeprefix("loss_")
                    metrics.gauge("headrace_train_loss", meaning, value, loss=loss, split=split)
                elif name.startswith("grad_norm"):
                    meaning = "Norm of the gradients of the last step, before it was clipped."
                    network = name.removeprefix("grad_norm").strip("_") or "gpt"
                    metrics.gauge("headrace_train_gradient_norm", meaning, value, network=network)
            meaning = "Share of semantic tokens among the three most probable, 0 to 1; of gpt."
            metrics.gauge("headrace_train_accuracy_ratio", meaning, record.get("accuracy"), split=split)
        meaning = "Opinion score of the samples of the last validation, by DNSMOS, 1 to 5."
        metrics.gauge("headrace_train_opinion_score", meaning, self._newest.get("validation", {}).get("mos"))

    def _add_checkpoint(self, metrics: MetricSet) -> None:
        """Add the newest checkpoint that is on disk."""
        folder = self._out / run_checkpoints.FOLDER
        step, written = 0, self._started
        for found in sorted(run_checkpoints.steps_in(folder), reverse=True):
            try:
                step, written = found, run_checkpoints.path_of(folder, found).stat().st_mtime
            except OSError:  # it was deleted meanwhile
                continue
            break
        meaning = "Step of the newest checkpoint; 0 where there is none."
        metrics.gauge("headrace_train_checkpoint_step", meaning, step)
        meaning = "Unix time of the newest checkpoint; of the start, where there is none."
        metrics.gauge("headrace_train_checkpoint_timestamp_seconds", meaning, written)
