"""Metrics of a build, for Prometheus. They come from what the build tells its observers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from headrace.featurize.telemetry.metric_set import MetricSet

if TYPE_CHECKING:
    from headrace.featurize.pipeline.part_worker import PartReport


class BuildMetrics:
    """The metrics of a build. A `BuildObserver`, and a collector of prometheus-client.

    A build makes parts first and then adds features to them, one after the other: the tasks are those of what it is at.
    Counters begin at 0 with each process, also of a build that is resumed.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        """
        Args:
            labels: are those of all metrics of this process.
        """
        self._labels = labels
        self._scanned: dict[str, int] = {}
        self._plans = self._parts = self._sealed = self._workers = self._changes = 0
        self._planned_seconds, self._learned = 0.0, dict[str, float]()
        self._utterances = Counter[str](stored=0, rejected=0)
        self._audio_seconds = self._cpu_seconds = 0.0
        self._stage_seconds: dict[str, float] = {}

    def note(self, line: str) -> None:
        """Count a message as progress."""
        self._changes += 1

    def workers(self, count: int) -> None:
        """Note how many workers are connected. That is no progress."""
        self._workers = count

    def scanning(self, utterances: int, rejects: int) -> None:
        """Note what was scanned."""
        self._scanned = {"usable": utterances, "rejected": rejects}
        self._changes += 1

    def planned(self, parts: int, sealed: int, hours: float, hours_sealed: float) -> None:
        """Note the tasks of what is done next."""
        self._plans += 1
        self._parts, self._sealed, self._planned_seconds = parts, sealed, hours * 3600
        self._changes += 1

    def part_done(self, report: PartReport) -> None:
        """Add the report of a task."""
        self._sealed += 1
        self._changes += 1
        self._cpu_seconds += report.cpu_seconds
        added = {stage: self._stage_seconds.get(stage, 0.0) + spent for stage, spent in report.seconds.items()}
        self._stage_seconds = self._stage_seconds | added
        if self._plans == 1:  # later ones add features to the same utterances
            self._utterances.update(stored=report.utterances, rejected=len(report.rejects))
            self._audio_seconds += report.audio_seconds

    def learning(self, feature: str, done: float, total: float, status: str) -> None:
        """Note how far a feature is with learning."""
        self._learned = self._learned | {feature: done / total if total else 0.0}
        self._changes += 1

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        metrics = MetricSet(self._labels)
        meaning = "Grows whenever the build gets on: with what is scanned, learned and made."
        metrics.counter("headrace_build_progress_total", meaning, self._changes)
        for result, count in self._scanned.items():
            meaning = "Utterances of the corpus that were scanned."
            metrics.counter("headrace_build_scanned_utterances_total", meaning, count, result=result)
        for result in ("stored", "rejected"):
            meaning = "Utterances of the parts that this process had made."
            metrics.counter("headrace_build_utterances_total", meaning, self._utterances[result], result=result)
        meaning = "Audio of the parts that this process had made."
        metrics.counter("headrace_build_audio_seconds_total", meaning, self._audio_seconds)
        metrics.gauge("headrace_build_planned_audio_seconds", "Audio of all parts.", self._planned_seconds)
        for state, count in (("sealed", self._sealed), ("pending", self._parts - self._sealed)):
            meaning = "Tasks of what the build is at: parts to make, or to add a feature to."
            metrics.gauge("headrace_build_tasks", meaning, count, state=state)
        metrics.gauge("headrace_build_workers", "Workers that are connected.", self._workers)
        for stage, spent in self._stage_seconds.items():
            meaning = "Seconds that workers spent in each stage of their tasks."
            metrics.counter("headrace_build_stage_seconds_total", meaning, spent, stage=stage)
        meaning = "CPU seconds of the workers, in their tasks."
        metrics.counter("headrace_build_cpu_seconds_total", meaning, self._cpu_seconds)
        for feature, share in self._learned.items():
            meaning = "Share of a feature's learning from all parts that is done, 0 to 1."
            metrics.gauge("headrace_build_learned_ratio", meaning, share, feature=feature)
        yield from metrics
