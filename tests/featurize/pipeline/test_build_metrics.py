"""Metrics of a build, by what its observers are told."""

from __future__ import annotations

from unittest import mock

import pytest

from headrace.featurize.pipeline.build_metrics import BuildMetrics
from headrace.featurize.pipeline.observer import CompositeBuildObserver, SilentObserver
from headrace.featurize.pipeline.part_worker import PartReport
from headrace.store.schema import Reject
from tests.helpers.metrics.scrapes import page_of, value, values

REJECT = Reject(id="a", stage="decode", reason="empty")


def report(number: int, utterances: int = 4, rejects: int = 1) -> PartReport:
    return PartReport(
        number=number,
        utterances=utterances,
        audio_seconds=30.0,
        rejects=(REJECT,) * rejects,
        seconds={"decode": 2.0, "write": 0.5},
        cpu_seconds=3.0,
    )


@pytest.fixture
def metrics() -> BuildMetrics:
    return BuildMetrics({"out": "STORE"})


def test_before_anything_is_known_there_is_a_page(metrics: BuildMetrics) -> None:
    text = page_of([metrics])
    assert value(text, "headrace_build_progress_total") == 0
    assert value(text, "headrace_build_utterances_total", result="stored") == 0


def test_parts_are_counted_once_and_features_are_not_utterances(metrics: BuildMetrics) -> None:
    metrics.scanning(9, 1)
    metrics.scanning(18, 2)
    metrics.planned(5, 2, 1.0, 0.4)
    metrics.workers(3)
    metrics.part_done(report(2))
    metrics.part_done(report(3, rejects=0))
    text = page_of([metrics])
    assert values(text, "headrace_build_scanned_utterances_total") == {
        (("result", "usable"),): 18,
        (("result", "rejected"),): 2,
    }
    assert values(text, "headrace_build_tasks") == {(("state", "sealed"),): 4, (("state", "pending"),): 1}
    stored = {(("result", "stored"),): 8, (("result", "rejected"),): 1}
    assert values(text, "headrace_build_utterances_total") == stored
    assert value(text, "headrace_build_audio_seconds_total") == 60
    assert value(text, "headrace_build_planned_audio_seconds") == 3600
    assert value(text, "headrace_build_workers") == 3
    assert value(text, "headrace_build_stage_seconds_total", stage="decode") == 4
    metrics.planned(5, 0, 1.0, 0.0)
    metrics.part_done(report(0))
    text = page_of([metrics])
    assert values(text, "headrace_build_utterances_total") == stored
    assert value(text, "headrace_build_audio_seconds_total") == 60
    assert values(text, "headrace_build_tasks") == {(("state", "sealed"),): 1, (("state", "pending"),): 4}
    assert value(text, "headrace_build_cpu_seconds_total") == 9


def test_all_but_workers_is_progress(metrics: BuildMetrics) -> None:
    def progress() -> float | None:
        return value(page_of([metrics]), "headrace_build_progress_total")

    metrics.workers(2)
    assert progress() == 0
    for call in (
        lambda: metrics.note("engine"),
        lambda: metrics.scanning(1, 0),
        lambda: metrics.planned(2, 0, 1.0, 0.0),
        lambda: metrics.part_done(report(0)),
        lambda: metrics.learning("semantic", 1, 4, "clusters"),
    ):
        before = progress()
        call()
        assert progress() == (before or 0) + 1
    assert value(page_of([metrics]), "headrace_build_learned_ratio", feature="semantic") == 0.25


def test_a_composite_observer_passes_everything_on() -> None:
    names = [name for name in vars(SilentObserver) if not name.startswith("_")]
    observers = mock.Mock(spec=SilentObserver), mock.Mock(spec=SilentObserver)
    composite = CompositeBuildObserver(*observers)
    arguments = {"note": ("a",), "workers": (1,), "scanning": (1, 2), "planned": (1, 2, 3.0, 4.0),
                 "part_done": (report(0),), "learning": ("f", 1.0, 2.0, "s")}  # fmt: skip
    assert set(names) == arguments.keys()
    for name in names:
        getattr(composite, name)(*arguments[name])
        for observer in observers:
            getattr(observer, name).assert_called_once_with(*arguments[name])
